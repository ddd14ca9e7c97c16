//! Good keys in files that others may read, in directories that others may change, and twice.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::home::{Home, entries_in, today, write};
use crate::support::{Key, Process, policy};

/// Lets `change` change the directory beside a server, and checks that the server then serves what
/// `change` returns, reports the problems (code, file, reason) and no other, and leaves every file
/// alone.
fn assert_outcome(
    change: impl FnOnce(&Home) -> Vec<String>,
    problems: &[(&'static str, &str, &str)],
) {
    let home = Home::new();
    let mut process = Process::start(home.path(), policy(None), today());
    assert_eq!((process.kids(), home.problems()), (home.kids.clone(), vec![]));
    let kids = change(&home);
    let before = entries_in(home.path());
    process.look();
    assert_eq!(process.kids(), kids);
    let expected = problems.iter();
    let expected: Vec<_> = expected
        .map(|(code, file, reason)| (*code, PathBuf::from(file), (*reason).to_owned()))
        .collect();
    assert_eq!(home.problems(), expected);
    assert_eq!(process.degraded(), problems.iter().map(|(code, ..)| *code).collect());
    let after = entries_in(home.path());
    for (path, entry) in before {
        assert_eq!(after.get(&path), Some(&entry), "{}", path.display());
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// What is served if the home has one more key, which comes last.
fn with(home: &Home, key: &Key) -> Vec<String> {
    [home.kids.clone(), vec![key.kid()]].concat()
}

#[test]
fn a_private_key_that_others_may_read_is_served_and_reported_and_its_mode_is_left() {
    for (mode, is_exposed) in
        [(0o600, false), (0o400, false), (0o604, true), (0o640, true), (0o644, true), (0o666, true)]
    {
        let reason = format!("holds a private key that others may read (mode 0{mode:o}, not 0600)");
        let problem = |file| is_exposed.then_some(("exposed_private_key", file, &*reason));
        let current = |home: &Home| {
            set_mode(&home.private_key(), mode);
            home.kids.clone()
        };
        assert_outcome(current, problem("private_key.pem").as_slice());
        for file in ["next_key.pem", "keys/hostile.pem"] {
            let put = |home: &Home| {
                let key = Key::new();
                write(&home.path().join(file), key.pkcs8());
                set_mode(&home.path().join(file), mode);
                with(home, &key)
            };
            assert_outcome(put, problem(file).as_slice());
        }
    }
    // A public key is for everybody.
    let public = |home: &Home| {
        set_mode(&home.keys().join("good.pem"), 0o666);
        home.kids.clone()
    };
    assert_outcome(public, &[]);
}

#[test]
fn a_directory_that_anybody_may_change_is_served_and_reported() {
    let reason = "a directory that anybody may write to (mode 0777)";
    for (dir, mode, problem) in [
        ("", 0o777, Some(reason)),
        ("keys", 0o777, Some(reason)),
        // Nobody can replace another's file there.
        ("", 0o1777, None),
        ("keys", 0o755, None),
    ] {
        let change = |home: &Home| {
            set_mode(&home.path().join(dir), mode);
            home.kids.clone()
        };
        let problem = problem.map(|reason| ("exposed_directory", dir, reason));
        assert_outcome(change, problem.as_slice());
    }
}

#[test]
fn a_key_in_two_files_is_served_once() {
    let twice = |home: &Home| {
        let key = Key::new();
        write(&home.keys().join("private.pem"), key.sec1());
        write(&home.keys().join("public.pem"), key.spki());
        with(home, &key)
    };
    assert_outcome(twice, &[]);
    let current_dropped = |home: &Home| {
        fs::copy(home.private_key(), home.keys().join("copy.pem")).unwrap();
        home.kids.clone()
    };
    assert_outcome(current_dropped, &[]);
    let dropped_is_next = |home: &Home| {
        let key = Key::new();
        write(&home.keys().join("hostile.pem"), key.sec1());
        write(&home.path().join("next_key.pem"), key.pkcs8());
        with(home, &key)
    };
    assert_outcome(dropped_is_next, &[]);
    let current_is_next = |home: &Home| {
        fs::copy(home.private_key(), home.path().join("next_key.pem")).unwrap();
        home.kids.clone()
    };
    let reason = "holds the current key; no rotation comes of it";
    assert_outcome(current_is_next, &[("next_is_current", "next_key.pem", reason)]);
    let record_twice = |home: &Home| {
        let names = crate::support::names(home.keys());
        let record = names.iter().find(|name| name.to_str().unwrap().starts_with("20")).unwrap();
        fs::copy(home.keys().join(record), home.keys().join("copy.pem")).unwrap();
        home.kids.clone()
    };
    let reason = "another record of a key that has one already, and does not count";
    assert_outcome(record_twice, &[("second_record", "keys/copy.pem", reason)]);
}
