//! Files that change while they are looked at. What is found is one of the states that there were, as
//! a whole: what was checked is what is read.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use jwks_server::key::KeyFormat;
use jwks_server::store::Store;
use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::home::today;
use crate::support::{Key, eventually, paths};

/// One outcome of a look at a file: the kid of its key, or why it is refused.
fn outcome(store: &mut Store, name: &str) -> String {
    let (seen, problems) = store.look(today());
    let kid = seen.dropped.get(OsStr::new(name)).copied().flatten().map(|key| key.kid());
    let problem = problems
        .into_iter()
        .find(|problem| problem.file.as_ref().is_some_and(|file| file.ends_with(name)));
    match (kid, problem) {
        (Some(kid), None) => kid.to_string(),
        (None, Some(problem)) => problem.reason,
        (None, None) => "missing".to_owned(),
        (Some(kid), Some(problem)) => panic!("{kid} and {problem}"),
    }
}

/// Lets `change` change a file over and over while it is looked at, until each of the `likely` states
/// was found; and fails if anything is found but these and the `rare` ones.
fn assert_states(dir: &Path, change: impl Fn() + Sync, likely: &[&str], rare: &[&str]) {
    let mut store = Store::new(paths(dir), KeyFormat::Sec1);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                change();
            }
        });
        let mut found = BTreeSet::new();
        let mut looks = 0;
        // Whatever happens, the other thread is to end.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually("each state is found", || {
                let outcome = outcome(&mut store, "hostile.pem");
                assert!([likely, rare].concat().contains(&&*outcome), "{outcome}");
                found.insert(outcome);
                looks += 1;
                (looks >= 1_000 && likely.iter().all(|state| found.contains(*state))).then_some(())
            });
        }));
        stop.store(true, Ordering::Relaxed);
        outcome.unwrap_or_else(|_| panic!("found {found:?} of {likely:?} in {looks} looks"));
    });
}

#[test]
fn a_file_that_is_swapped_between_check_and_use_is_one_or_the_other() {
    let dir = crate::support::dir();
    let keys = dir.path().join("keys");
    fs::create_dir(&keys).unwrap();
    let (one, two, elsewhere) = (Key::new(), Key::new(), Key::new());
    fs::write(dir.path().join("elsewhere.pem"), elsewhere.spki()).unwrap();
    let place = |make: &dyn Fn(&Path)| {
        let new = keys.join(".new");
        make(&new);
        fs::rename(new, keys.join("hostile.pem")).unwrap();
    };
    let change = || {
        place(&|new| fs::write(new, one.spki()).unwrap());
        place(&|new| mknodat(CWD, new, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap());
        place(&|new| fs::write(new, two.spki()).unwrap());
        place(&|new| symlink("../elsewhere.pem", new).unwrap());
        place(&|new| fs::write(new, one.spki()).unwrap());
        place(&|new| File::create(new).unwrap().set_len(1 << 30).unwrap());
    };
    change();
    let states = [
        &*one.kid(),
        &two.kid(),
        "a FIFO, not a regular file",
        "a symbolic link that leads out of its directory",
        "larger than 16 KiB",
    ];
    assert_states(dir.path(), change, &states, &[]);
}

#[test]
fn a_file_that_grows_while_it_is_read_is_a_key_only_when_it_is_whole() {
    let dir = crate::support::dir();
    let keys = dir.path().join("keys");
    fs::create_dir(&keys).unwrap();
    let key = Key::new();
    let pem = key.spki();
    let change = || {
        let mut file = File::create(keys.join("hostile.pem")).unwrap();
        for part in pem.as_bytes().chunks(10) {
            file.write_all(part).unwrap();
        }
        for _ in 0..40 {
            file.write_all(&[b'\n'; 1_000]).unwrap();
        }
    };
    change();
    let kid = key.kid();
    let likely = [&*kid, "no END line; the file may be written in part"];
    let rare =
        ["no PEM block in it", "a BEGIN line that is not a line of its own", "larger than 16 KiB"];
    assert_states(dir.path(), change, &likely, &rare);
}
