//! The table, tried in each place: beside a server that runs, and when it starts again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::home::{Entry, Home, entries_in, problems_in, remove, today, write};
use crate::support::{Key, Process, policy};
use crate::table::{Case, KID, PUBLIC_ONLY, Verdict, cases, kinds};

const MINUTES: Duration = Duration::from_secs(300);
const MONTH: Duration = Duration::from_secs(30 * 24 * 3_600);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    PrivateKey,
    NextKey,
    Keys,
    /// In place of the record of the retired key.
    Record,
}

impl Place {
    fn file(self, home: &Home) -> PathBuf {
        match self {
            Self::PrivateKey => home.private_key(),
            Self::NextKey => home.path().join("next_key.pem"),
            Self::Keys => home.keys().join("hostile.pem"),
            Self::Record => {
                let suffix = format!("-{}.pem", home.kids[1]);
                let names = crate::support::names(home.keys());
                let name = names.iter().find(|name| name.to_str().unwrap().ends_with(&suffix));
                home.keys().join(name.unwrap())
            }
        }
    }

    /// The kid that the case has here, or the reason for which it is refused.
    fn verdict(self, case: &Case) -> Result<&str, &str> {
        match (&case.verdict, self) {
            (Verdict::Refused(reason), _) => Err(reason),
            (_, Self::Record) => Err("no key record, although the file has the name of one"),
            (Verdict::Public(_), Self::PrivateKey | Self::NextKey) => Err(PUBLIC_ONLY),
            (Verdict::Private(kid) | Verdict::Public(kid), _) => Ok(kid),
        }
    }

    /// What is served once a good key lies here as well.
    fn kids_with(self, home: &Home, kid: &str) -> Vec<String> {
        let mut kids = home.kids.clone();
        match self {
            Self::PrivateKey => kids.insert(0, kid.to_owned()),
            Self::NextKey | Self::Keys => kids.push(kid.to_owned()),
            Self::Record => {}
        }
        kids
    }

    /// Whether a restart knows what was promised all the same.
    fn kids_after_a_restart(self, home: &Home) -> Vec<String> {
        let mut kids = home.kids.clone();
        if self == Self::Record {
            // The file was the only one that knew of this key.
            kids.remove(1);
        }
        kids
    }
}

/// Tries one case in one place; the test fails if it gets another verdict, or does any harm.
fn try_case(place: Place, case: &Case) {
    let home = Home::new();
    let file = place.file(&home);
    let what = format!("{} as {place:?}", case.what);
    let mut process = Process::start(home.path(), policy(None), today());
    let served = process.snapshot.load();
    assert_eq!(process.kids(), home.kids, "{what}");
    assert_eq!(process.degraded().len(), 0, "{what}");

    let good = fs::read(&file).ok();
    if good.is_some() {
        remove(&file);
    }
    (case.make)(&file);
    let before = entries_in(home.path());
    process.look();
    let reason = match place.verdict(case) {
        Ok(kid) => {
            assert_eq!(process.kids(), place.kids_with(&home, kid), "{what}");
            assert_eq!((process.degraded().len(), home.problems()), (0, vec![]), "{what}");
            assert_left_alone(&what, &before, &home);
            return;
        }
        Err(reason) => reason,
    };

    // While the server runs, for a while.
    let name = file.strip_prefix(home.path()).unwrap().to_owned();
    let problem = [("refused_file", name, reason.to_owned())];
    assert_eq!(home.problems(), problem, "{what}");
    for () in [process.wait(Duration::ZERO), process.wait(MINUTES)] {
        assert_eq!(*process.snapshot.load(), *served, "{what}");
        assert_eq!(process.degraded().into_iter().collect::<Vec<_>>(), ["refused_file"], "{what}");
    }
    assert_eq!(entries_in(home.path()), before, "{what}");

    // When it starts again; on a schedule, which would have a next key made, but for this file.
    let wall = process.wall;
    drop(process);
    let rotate_every = (place == Place::NextKey).then_some(MONTH);
    let mut process = Process::start(home.path(), policy(rotate_every), wall);
    process.wait(MINUTES);
    assert_eq!(process.kids(), place.kids_after_a_restart(&home), "{what}");
    assert_eq!(home.problems(), problem, "{what}");
    assert_eq!(entries_in(home.path()), before, "{what}");

    // A good file in the same place is taken again.
    remove(&file);
    let key = Key::new();
    match (place, good) {
        (Place::NextKey, _) => write(&file, key.pkcs8()),
        (Place::Keys, _) => write(&file, key.spki()),
        (_, good) => write(&file, good.unwrap()),
    }
    process.look();
    let kids = match place {
        Place::PrivateKey | Place::Record => home.kids.clone(),
        Place::NextKey | Place::Keys => place.kids_with(&home, &key.kid()),
    };
    assert_eq!((process.kids(), process.degraded().len()), (kids, 0), "{what}");
}

/// All that a person put there is as it was.
fn assert_left_alone(what: &str, before: &BTreeMap<PathBuf, Entry>, home: &Home) {
    let after = entries_in(home.path());
    let is_record = |path: &Path| path.file_name().unwrap().to_str().unwrap().contains("Z-");
    for (path, entry) in before.iter().filter(|(path, _)| !is_record(path)) {
        assert_eq!(after.get(path), Some(entry), "{what}: {}", path.display());
    }
}

#[test]
fn as_private_key_each_gets_its_verdict_and_does_no_harm() {
    let cases = cases();
    assert!(cases.len() > 120, "{}", cases.len());
    for case in cases {
        try_case(Place::PrivateKey, &case);
    }
}

#[test]
fn as_next_key_each_gets_its_verdict_and_does_no_harm() {
    for case in cases() {
        try_case(Place::NextKey, &case);
    }
}

#[test]
fn in_keys_each_gets_its_verdict_and_does_no_harm() {
    for case in cases() {
        try_case(Place::Keys, &case);
    }
}

#[test]
fn in_place_of_a_record_each_kind_of_file_is_refused_and_does_no_harm() {
    for case in kinds() {
        try_case(Place::Record, &case);
    }
}

#[test]
fn in_place_of_a_lock_each_kind_of_file_is_left_alone_and_takes_no_key_away() {
    for (name, degraded) in [(".lock", "write_failed"), (".server", "read_only")] {
        for case in kinds() {
            let home = Home::new();
            let file = home.keys().join(name);
            // The server that was here before left one.
            let _ = fs::remove_file(&file);
            (case.make)(&file);
            let entries = || {
                let metadata = fs::symlink_metadata(&file).unwrap();
                (metadata.file_type(), metadata.len(), entries_in(home.path()))
            };
            let before = entries();
            let mut process = Process::start(home.path(), policy(None), today());
            process.wait(MINUTES);
            let what = format!("{} as {name}", case.what);
            assert_eq!(process.kids(), home.kids, "{what}");
            // What can be opened can be locked, whatever it is.
            let found = process.degraded();
            let is_locked = name == ".lock" && found.is_empty();
            assert!(is_locked || found == BTreeSet::from([degraded]), "{what}: {found:?}");
            assert_eq!(entries(), before, "{what}");
        }
    }
}

#[test]
fn at_a_first_start_each_private_key_is_served_or_ends_it_and_is_left_alone() {
    for case in cases() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("private_key.pem");
        (case.make)(&file);
        fs::create_dir(dir.path().join("keys")).unwrap();
        let before = entries_in(dir.path());
        let started = Process::try_start(dir.path(), policy(None), today());
        match Place::PrivateKey.verdict(&case) {
            Ok(kid) => {
                let process = started.unwrap_or_else(|error| panic!("{}: {error}", case.what));
                assert_eq!((process.kids(), process.degraded().len()), (vec![kid.to_owned()], 0));
                assert_eq!(problems_in(dir.path()), [], "{}", case.what);
            }
            Err(reason) => {
                let error = started.err().unwrap_or_else(|| panic!("started with {}", case.what));
                let line = format!("{}: {reason}", file.display());
                assert_eq!(error.to_string(), line, "{}", case.what);
                assert_eq!(entries_in(dir.path()), before, "{}", case.what);
            }
        }
    }
}

/// A case of the table with another verdict than it deserves.
fn misjudged(what: &str, verdict: Verdict) -> Case {
    let mut case = cases().into_iter().find(|case| case.what == what).unwrap();
    assert_ne!(case.verdict, verdict);
    case.verdict = verdict;
    case
}

#[test]
#[should_panic(expected = "a FIFO as Keys")]
fn a_case_that_is_refused_but_was_to_be_accepted_fails_the_test() {
    try_case(Place::Keys, &misjudged("a FIFO", Verdict::Private(KID.to_owned())));
}

#[test]
#[should_panic(expected = "CRLF as PrivateKey")]
fn a_case_that_is_accepted_but_was_to_be_refused_fails_the_test() {
    let verdict = Verdict::Refused("no PEM block in it".to_owned());
    try_case(Place::PrivateKey, &misjudged("CRLF", verdict));
}

#[test]
#[should_panic(expected = "nothing as NextKey")]
fn a_case_that_is_refused_for_another_reason_fails_the_test() {
    let verdict = Verdict::Refused("larger than 16 KiB".to_owned());
    try_case(Place::NextKey, &misjudged("nothing", verdict));
}

#[test]
#[should_panic(expected = "rfc7517.pem as Keys")]
fn a_case_that_is_accepted_as_another_key_fails_the_test() {
    try_case(Place::Keys, &misjudged("rfc7517.pem", Verdict::Private(KID.to_owned())));
}
