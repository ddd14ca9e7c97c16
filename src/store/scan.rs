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

use super::carried::Carried;
use super::exposure::{report_exposure, report_writable_by_others};
use super::manifest::{self, Manifest, ManifestError};
use super::remembered::{Content, Remembered, file};
use super::{Dir, Os, PUBLIC_ONLY, Paths, Problem, Stamp, record};
use crate::error::may_pass;
use crate::jwk::KeyId;
use crate::key::KeyFormat;
use crate::lifecycle::{Listing, Record, Seen, Slot, Time};

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
    /// Whether the last look failed for a reason that may pass.
    may_pass: bool,
    /// What the last look found.
    seen: Arc<Seen>,
    /// The names in `keys/` in the order in which the last look was told them, unless it failed.
    listed: Option<Vec<OsString>>,
    /// What the last look found wrong with the files in `keys/`.
    key_problems: Vec<Problem>,
    /// What was dropped in directories that are gone.
    carried: Carried,
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

    /// Whether the last look failed to read a private key or a directory for a reason that may pass.
    pub(super) fn may_pass(&self) -> bool {
        self.may_pass
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
        self.may_pass = false;
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
                self.may_pass |= may_pass(&error);
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
                Err(error) => {
                    self.may_pass |= may_pass(&error);
                    problems.push(Problem::of("refused_file", path, error.to_string()));
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
                self.may_pass |= may_pass(&error);
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
                Err(error) => {
                    refuse(&error.to_string());
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
mod tests;
