//! One look at the directory: which files there are, and what each holds.
//!
//! What a file held is remembered with its stamp, so that a look at files that have not changed
//! costs a `stat` each. A file that must be read again, because it may have changed, is not parsed
//! again if it has not: deriving a public key costs more than all the rest. What a look found is
//! handed out again as long as it is the same.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::carried::Carried;
use super::exposure::{report_exposure, report_writable_by_others};
use super::manifest::{self, Manifest, ManifestError};
use super::{Dir, Os, PUBLIC_ONLY, Paths, Problem, ReadError, Stamp, record};
use crate::jwk::{Jwk, KeyId};
use crate::key::{KeyFormat, PemKey, digest_of_secret, parse_pem};
use crate::lifecycle::{Listing, Record, Seen, Slot, Time};

/// A file that changed this recently is read again at the next look: another change within the same
/// tick of the file system's clock would leave the stamp as it is.
const UNSETTLED_SECS: i64 = 2;

/// What is remembered between looks.
#[derive(Debug, Default)]
pub(super) struct Scan {
    root: HashMap<OsString, Remembered>,
    /// The files in `keys/`, by name.
    keys: Vec<(OsString, Remembered)>,
    key_format: Option<KeyFormat>,
    record_files: BTreeMap<KeyId, Vec<OsString>>,
    /// The files in `keys/` that are there and are no good.
    refused: BTreeSet<OsString>,
    /// The stamp of the manifest that was found to be this client's.
    ours: Option<Stamp>,
    /// What the last look found.
    seen: Arc<Seen>,
    /// The names in `keys/` in the order in which the last look was told them, unless it failed.
    listed: Option<Vec<OsString>>,
    /// What the last look found wrong with the files in `keys/`.
    key_problems: Vec<Problem>,
    /// What was dropped in directories that are gone.
    carried: Carried,
}

#[derive(Debug)]
struct Remembered {
    stamp: Stamp,
    /// When it was read, in seconds of the wall clock.
    read_at: i64,
    /// The SHA-256 of what was read; it tells nothing of a private key in it.
    digest: [u8; 32],
    content: Content,
}

/// What a file holds.
#[derive(Debug, Clone)]
enum Content {
    Record(Box<Record>),
    Key { key: Jwk, private: Option<KeyFormat> },
    Refused(String),
}

impl Scan {
    pub(super) fn key_format(&self) -> Option<KeyFormat> {
        self.key_format
    }

    /// The files that have a record of `kid`; the one that counts first.
    pub(super) fn record_files(&self, kid: KeyId) -> &[OsString] {
        self.record_files.get(&kid).map_or(&[], Vec::as_slice)
    }

    /// What the last look found.
    pub(super) fn seen(&self) -> &Seen {
        &self.seen
    }

    /// Whether `keys/` has a file of this name that is no good.
    pub(super) fn is_refused(&self, name: &OsStr) -> bool {
        self.refused.contains(name)
    }

    /// Reads what has changed since the last look. If nothing has, what is returned is the very
    /// same as then.
    pub(super) fn look(
        &mut self,
        os: &dyn Os,
        paths: &Paths,
        now: Time,
    ) -> (Arc<Seen>, Vec<Problem>) {
        let mut problems = Vec::new();
        let (private_key, next_key) = self.look_at_root(os, paths, now, &mut problems);
        let keys = self.look_at_keys(os, paths, now, &mut problems);
        problems.extend(self.key_problems.iter().cloned());
        let before = &self.seen;
        match keys {
            None if (before.private_key, before.next_key) == (private_key, next_key) => {}
            None => self.seen = Arc::new(Seen { private_key, next_key, ..(**before).clone() }),
            Some(keys) => self.seen = Arc::new(Seen { private_key, next_key, ..keys }),
        }
        (Arc::clone(&self.seen), problems)
    }

    /// What the two private key files hold: `private_key.pem`, `next_key.pem`.
    fn look_at_root(
        &mut self,
        os: &dyn Os,
        paths: &Paths,
        now: Time,
        problems: &mut Vec<Problem>,
    ) -> (Slot, Slot) {
        let root = paths.root();
        let mut before = std::mem::take(&mut self.root);
        self.key_format = None;
        let dir = match os.open_dir(root) {
            Ok(dir) => dir,
            Err(error) => {
                problems.push(Problem::of("unreadable_directory", root, unreadable(&error)));
                return (Slot::Refused, Slot::Refused);
            }
        };
        report_writable_by_others(&*dir, root, problems);
        let mut slot = |name: &OsStr| {
            let found = self::file(&*dir, name, before.remove(name), now);
            let path = paths.private_key.with_file_name(name);
            let Some(remembered) = found.transpose() else {
                return (Slot::Missing, None);
            };
            let remembered = match remembered {
                Ok(remembered) => remembered,
                Err(reason) => {
                    problems.push(Problem::of("refused_file", path, reason));
                    return (Slot::Refused, None);
                }
            };
            let outcome = match &remembered.content {
                Content::Key { key, private: Some(format) } => {
                    report_exposure(&path, &remembered.stamp, problems);
                    (Slot::Holds(*key), Some(*format))
                }
                Content::Key { private: None, .. } | Content::Record(_) => {
                    problems.push(Problem::of("refused_file", path, PUBLIC_ONLY));
                    (Slot::Refused, None)
                }
                Content::Refused(reason) => {
                    problems.push(Problem::of("refused_file", path, reason));
                    (Slot::Refused, None)
                }
            };
            self.root.insert(name.to_owned(), remembered);
            outcome
        };
        let (private_key, key_format) = slot(paths.private_key_name());
        let (next_key, _) = slot(&paths.next_key_name());
        self.key_format = key_format;
        (private_key, next_key)
    }

    /// What is in `keys/`; `None` if that is the same as at the last look. What is wrong with the
    /// files goes to `key_problems`, what is wrong with the directory to `problems`.
    fn look_at_keys(
        &mut self,
        os: &dyn Os,
        paths: &Paths,
        now: Time,
        problems: &mut Vec<Problem>,
    ) -> Option<Seen> {
        let keys_dir = &paths.keys_dir;
        let mut seen = Seen::default();
        let opened = os.open_dir(keys_dir);
        let listed = opened.and_then(|dir| Ok((pem_names(&*dir)?, dir.identity()?, dir)));
        let (names, directory, dir) = match listed {
            Ok(listed) => listed,
            Err(error) => {
                self.listed = None;
                self.key_problems.clear();
                if error.kind() == ErrorKind::NotFound {
                    self.record_files.clear();
                    self.refused.clear();
                } else {
                    let reason = unreadable(&error);
                    problems.push(Problem::of("unreadable_directory", keys_dir, reason));
                }
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) {
                    self.carried.is_gone(&self.seen.records);
                    problems.extend(self.carried.problem(keys_dir));
                    self.carried.add_to(&mut seen.dropped);
                } else {
                    seen.listing = Listing::Failed;
                }
                return Some(seen);
            }
        };
        if let Err(error) = self.check_manifest(os, &*dir, paths) {
            seen.listing = Listing::Failed;
            problems.push(manifest_problem(&error));
            self.listed = None;
            self.key_problems.clear();
            return Some(seen);
        }
        report_writable_by_others(&*dir, keys_dir, problems);
        let is_same = self.carried.is_listed(&directory, &names, &self.seen.records);
        problems.extend(self.carried.problem(keys_dir));
        if is_same && self.is_unchanged(&*dir, &names, now) {
            return None;
        }
        self.listed = Some(names.clone());
        let mut problems = Vec::new();
        let mut names = names;
        names.sort_unstable();
        // A directory that changes while it is listed may name a file twice.
        names.dedup();
        let mut before = std::mem::take(&mut self.keys).into_iter().peekable();
        self.record_files.clear();
        let mut refused = BTreeSet::new();
        let mut dropped = BTreeMap::new();
        for name in names {
            // Both are in order, so what was remembered of a file is next, or not there.
            while before.next_if(|(known, _)| *known < name).is_some() {}
            let known = before.next_if(|(known, _)| *known == name).map(|(_, known)| known);
            let path = || keys_dir.join(&name);
            let mut refuse = |reason: &str| {
                problems.push(Problem::of("refused_file", path(), reason));
                refused.insert(name.clone());
                match record::kid_of_name(&name) {
                    Some(kid) => drop(seen.refused_records.insert(kid)),
                    None => drop(dropped.insert(name.clone(), None)),
                }
            };
            let remembered = match file(&*dir, &name, known, now) {
                Ok(Some(remembered)) => remembered,
                Ok(None) => continue,
                Err(reason) => {
                    refuse(&reason);
                    seen.unread_records.extend(record::kid_of_name(&name));
                    continue;
                }
            };
            match &remembered.content {
                Content::Refused(reason) => refuse(reason),
                Content::Record(record) => {
                    self.note_record(&name, record, &mut seen.records);
                }
                Content::Key { key, private } => {
                    if private.is_some() {
                        report_exposure(&path(), &remembered.stamp, &mut problems);
                    }
                    dropped.insert(name.clone(), Some(*key));
                }
            }
            self.keys.push((name, remembered));
        }
        self.refused = refused;
        self.carried.note(&dropped);
        self.carried.add_to(&mut dropped);
        seen.dropped = dropped;
        for name in self.record_files.values().flat_map(|names| &names[1..]) {
            let reason = "another record of a key that has one already, and does not count";
            problems.push(Problem::of("second_record", keys_dir.join(name), reason));
        }
        self.key_problems = problems;
        Some(seen)
    }

    /// Refuses a directory that is another client's.
    fn check_manifest(
        &mut self,
        os: &dyn Os,
        dir: &dyn Dir,
        paths: &Paths,
    ) -> Result<(), ManifestError> {
        let stamp = dir.stat(OsStr::new(manifest::FILE)).ok();
        if stamp.is_none() || stamp != self.ours {
            Manifest::read_in(os, dir, paths)?;
            self.ours = stamp;
        }
        Ok(())
    }

    /// Whether `keys/` has the files of the last look, each of them as it was then.
    fn is_unchanged(&self, dir: &dyn Dir, names: &[OsString], now: Time) -> bool {
        // What could not be read is not among the keys, and is to be tried again.
        self.keys.len() == names.len()
            && self.listed.as_deref() == Some(names)
            && self.keys.iter().all(|(_, known)| known.is_settled(now))
            && self
                .keys
                .iter()
                .all(|(name, known)| dir.stat(name).is_ok_and(|stamp| stamp == known.stamp))
    }

    /// Notes that the file `name` has `record`. Of two records of a key the tombstone counts,
    /// otherwise the one under the name that the server gives.
    fn note_record(
        &mut self,
        name: &OsStr,
        record: &Record,
        records: &mut BTreeMap<KeyId, Record>,
    ) {
        let kid = record.kid();
        let files = self.record_files.entry(kid).or_default();
        let rank = |record: &Record, name: &OsStr| {
            (record.is_revoked(), *name == *record::file_name(record))
        };
        let outranked = records.get(&kid).zip(files.first());
        if outranked.is_none_or(|(known, file)| rank(record, name) > rank(known, file)) {
            files.insert(0, name.to_owned());
            records.insert(kid, record.clone());
        } else {
            files.push(name.to_owned());
        }
    }
}

fn manifest_problem(error: &ManifestError) -> Problem {
    let code = match error {
        ManifestError::Foreign { .. } => "foreign_directory",
        ManifestError::Newer { .. } => "newer_format",
        ManifestError::Unread { .. } => "unreadable_directory",
    };
    // The reason names the directory.
    Problem { code, file: None, reason: crate::error::chain(error) }
}

/// The file `name`, read again only if it may have changed since `before`; `None` if there is none.
fn file(
    dir: &dyn Dir,
    name: &OsStr,
    before: Option<Remembered>,
    now: Time,
) -> Result<Option<Remembered>, String> {
    let refused = |error: ReadError| match error {
        ReadError::Missing => Ok(None),
        error => Err(error.to_string()),
    };
    if let Some(known) = &before
        && known.is_settled(now)
    {
        match dir.stat(name) {
            Ok(stamp) if stamp == known.stamp => return Ok(before),
            Ok(_) => {}
            Err(error) => return refused(error),
        }
    }
    match dir.read(name) {
        Ok((bytes, stamp)) => {
            let digest = if record::is_record(&bytes) {
                Sha256::digest(&*bytes).into()
            } else {
                digest_of_secret(&bytes)
            };
            let content = match before {
                Some(before) if before.digest == digest => before.content,
                _ => Content::of(name, &bytes),
            };
            Ok(Some(Remembered { stamp, read_at: now.timestamp(), digest, content }))
        }
        Err(error) => refused(error),
    }
}

impl Remembered {
    /// Whether the file had been left alone for a while when it was read.
    fn is_settled(&self, now: Time) -> bool {
        let left_alone = self.read_at - self.stamp.changed.0;
        // A change in the future, by this clock, tells nothing; nor does a clock that went back.
        left_alone >= UNSETTLED_SECS && now.timestamp() >= self.read_at
    }
}

impl Content {
    fn of(name: &OsStr, bytes: &[u8]) -> Self {
        if record::is_record(bytes) || record::kid_of_name(name).is_some() {
            return match record::parse_record(bytes) {
                Ok(record) => Self::Record(Box::new(record)),
                Err(error) => Self::Refused(error.to_string()),
            };
        }
        match parse_pem(bytes) {
            Ok(PemKey::Private { key, format }) => {
                Self::Key { key: *key.jwk(), private: Some(format) }
            }
            Ok(PemKey::Public(key)) => Self::Key { key, private: None },
            Err(error) => Self::Refused(error.to_string()),
        }
    }
}

/// The names that end in `.pem`. Hidden files are editors' and copiers' own.
fn pem_names(dir: &dyn Dir) -> std::io::Result<Vec<OsString>> {
    let is_pem =
        |name: &OsString| name.as_bytes().ends_with(b".pem") && !name.as_bytes().starts_with(b".");
    let mut names = dir.names()?;
    names.retain(is_pem);
    Ok(names)
}

fn unreadable(error: &std::io::Error) -> String {
    format!("cannot be read: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Native;

    #[test]
    fn only_what_changed_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let paths =
            Paths { private_key: dir.path().join("private_key.pem"), keys_dir: dir.path().into() };
        let pem = include_bytes!("../../tests/fixtures/keys/accepted/spki.pem");
        let write = |names: &[&str]| {
            for name in names {
                std::fs::write(dir.path().join(name), pem).unwrap();
            }
        };
        write(&["b.pem", "c.pem", "d.pem", "e.pem"]);
        let mut scan = Scan::default();
        let mut read_at_look = |at: Time| {
            let (seen, problems) = scan.look(&Native, &paths, at);
            assert_eq!((seen.dropped.len(), problems), (scan.keys.len(), vec![]));
            let read = |(name, known): &(OsString, Remembered)| {
                (known.read_at == at.timestamp()).then(|| name.to_str().unwrap().to_owned())
            };
            scan.keys.iter().filter_map(read).collect::<Vec<_>>()
        };
        assert_eq!(read_at_look(at(0)), ["b.pem", "c.pem", "d.pem", "e.pem"]);

        // One before the others, one between them, one gone, one replaced.
        write(&["a.pem", "bb.pem", "new"]);
        std::fs::remove_file(dir.path().join("c.pem")).unwrap();
        std::fs::rename(dir.path().join("new"), dir.path().join("d.pem")).unwrap();
        assert_eq!(read_at_look(at(1)), ["a.pem", "bb.pem", "d.pem"]);
        assert_eq!(read_at_look(at(2)), [""; 0]);
    }

    /// A directory of each kind of file, in both places.
    fn all_kinds() -> (tempfile::TempDir, Paths) {
        let dir = tempfile::tempdir().unwrap();
        let keys_dir = dir.path().join("keys");
        let paths = Paths { private_key: dir.path().join("private_key.pem"), keys_dir };
        std::fs::create_dir(&paths.keys_dir).unwrap();
        let public = include_bytes!("../../tests/fixtures/keys/accepted/spki.pem");
        let private = include_bytes!("../../tests/fixtures/keys/accepted/sec1.pem");
        std::fs::write(&paths.private_key, private).unwrap();
        std::fs::write(paths.keys_dir.join("b.pem"), public).unwrap();
        std::fs::write(paths.keys_dir.join("a.pem"), "no key").unwrap();
        std::fs::write(paths.keys_dir.join("c.pem"), private).unwrap();
        (dir, paths)
    }

    fn at(secs: i64) -> Time {
        // Far enough in the future that every file has been left alone for a while.
        chrono::DateTime::from_timestamp(10_000_000_000 + secs, 0).unwrap()
    }

    /// Something done to the directory.
    type Change = fn(&Paths);

    #[test]
    fn a_look_is_the_same_as_a_first_one_and_as_the_last_only_if_nothing_changed() {
        let changes: &[(&str, Change)] = &[
            ("a file replaced", |paths| {
                std::fs::write(paths.keys_dir.join("new"), "no key either").unwrap();
                std::fs::rename(paths.keys_dir.join("new"), paths.keys_dir.join("b.pem")).unwrap();
            }),
            ("a file written in place", |paths| {
                std::fs::write(paths.keys_dir.join("b.pem"), "no key either").unwrap();
            }),
            ("a file put in", |paths| {
                std::fs::copy(paths.keys_dir.join("b.pem"), paths.keys_dir.join("d.pem")).unwrap();
            }),
            ("a directory put in", |paths| {
                std::fs::create_dir(paths.keys_dir.join("e.pem")).unwrap();
            }),
            ("a file renamed", |paths| {
                let dir = &paths.keys_dir;
                std::fs::rename(dir.join("b.pem"), dir.join("z.pem")).unwrap();
            }),
            ("a file deleted", |paths| std::fs::remove_file(paths.keys_dir.join("b.pem")).unwrap()),
            ("a link that leads nowhere", |paths| {
                std::fs::remove_file(paths.keys_dir.join("b.pem")).unwrap();
                std::os::unix::fs::symlink("gone", paths.keys_dir.join("b.pem")).unwrap();
            }),
            ("the private key gone", |paths| std::fs::remove_file(&paths.private_key).unwrap()),
            ("a next key", |paths| {
                std::fs::copy(&paths.private_key, paths.next_key()).unwrap();
            }),
        ];
        for (what, change) in changes {
            let (_dir, paths) = all_kinds();
            let mut scan = Scan::default();
            let before = scan.look(&Native, &paths, at(0));
            let again = scan.look(&Native, &paths, at(1));
            assert_eq!(before, again, "{what}");
            assert!(Arc::ptr_eq(&before.0, &again.0), "{what}");

            change(&paths);
            for secs in [2, 3] {
                let after = scan.look(&Native, &paths, at(secs));
                assert_eq!(after, Scan::default().look(&Native, &paths, at(secs)), "{what}");
                assert!(!Arc::ptr_eq(&before.0, &after.0), "{what}");
            }
        }
    }

    #[test]
    fn what_was_dropped_stays_when_the_directory_goes_and_until_it_is_taken_out_of_its_own() {
        let goes: &[(&str, Change)] = &[
            ("no directory", |_| {}),
            ("a file in its place", |paths| std::fs::write(&paths.keys_dir, "").unwrap()),
            ("a link that leads nowhere", |paths| {
                std::os::unix::fs::symlink("gone", &paths.keys_dir).unwrap();
            }),
            ("another directory", |paths| std::fs::create_dir(&paths.keys_dir).unwrap()),
        ];
        for (what, go) in goes {
            let (_dir, paths) = all_kinds();
            let mut scan = Scan::default();
            let before = scan.look(&Native, &paths, at(0));
            assert_eq!(before.0.dropped.len(), 3);
            let away = paths.keys_dir.with_extension("away");
            std::fs::rename(&paths.keys_dir, &away).unwrap();
            go(&paths);
            for secs in [1, 2] {
                let (seen, problems) = scan.look(&Native, &paths, at(secs));
                assert_eq!(seen.dropped, before.0.dropped, "{what}");
                let told = problems.iter().map(|problem| problem.code);
                let told: Vec<_> = told.filter(|code| code.ends_with("_directory")).collect();
                let file_in_place = *what == "a file in its place";
                let expected = ["unreadable_directory", "replaced_directory"];
                assert_eq!(told, expected[usize::from(!file_in_place)..], "{what}");
            }
            if paths.keys_dir.is_dir() {
                // A name that is there and goes is gone, and only that one.
                let file = paths.keys_dir.join("b.pem");
                std::fs::copy(away.join("c.pem"), &file).unwrap();
                assert_eq!(scan.look(&Native, &paths, at(3)).0.dropped.len(), 3);
                std::fs::remove_file(&file).unwrap();
                let names: Vec<_> =
                    scan.look(&Native, &paths, at(4)).0.dropped.keys().cloned().collect();
                assert_eq!(names, ["a.pem", "c.pem"]);
                std::fs::remove_dir(&paths.keys_dir).unwrap();
            } else {
                let _ = std::fs::remove_file(&paths.keys_dir);
            }
            std::fs::remove_file(away.join("c.pem")).unwrap();
            std::fs::rename(&away, &paths.keys_dir).unwrap();
            let back = scan.look(&Native, &paths, at(5));
            assert_eq!(back, Scan::default().look(&Native, &paths, at(5)), "{what}");
            assert_eq!(back.0.dropped.len(), 2, "{what}: gone from its own directory");
        }
    }

    #[test]
    fn what_was_read_by_a_clock_that_went_back_is_read_again() {
        let (_dir, paths) = all_kinds();
        let dir = Native.open_dir(&paths.keys_dir).unwrap();
        let known = file(&*dir, OsStr::new("b.pem"), None, at(10)).unwrap().unwrap();
        assert!(known.is_settled(at(10)));
        assert!(known.is_settled(at(11)));
        assert!(!known.is_settled(at(9)));
    }

    #[test]
    fn what_is_read_again_is_parsed_again_only_if_it_changed() {
        let (_dir, paths) = all_kinds();
        let dir = Native.open_dir(&paths.keys_dir).unwrap();
        let name = OsStr::new("b.pem");
        // By this clock the file was changed in the future: it is always read again.
        let early = chrono::DateTime::from_timestamp(0, 0).unwrap();
        let marked = |known: &mut Remembered| known.content = Content::Refused("marked".into());
        let mut known = file(&*dir, name, None, early).unwrap().unwrap();
        marked(&mut known);
        let known = file(&*dir, name, Some(known), early).unwrap().unwrap();
        assert!(matches!(known.content, Content::Refused(_)), "kept");
        std::fs::copy(paths.keys_dir.join("c.pem"), paths.keys_dir.join(name)).unwrap();
        let known = file(&*dir, name, Some(known), early).unwrap().unwrap();
        assert!(matches!(known.content, Content::Key { private: Some(_), .. }));
    }
}
