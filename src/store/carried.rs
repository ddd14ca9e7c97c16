//! The dropped files of a `keys/` that is gone: deleted, unmounted, or with something else in its place.
//!
//! Nobody has taken them out. Only a name that is gone from a directory that is still there is gone;
//! what another directory does not have tells nothing of this one.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::Path;

use super::{Problem, Stamp};
use crate::jwk::{Jwk, KeyId};
use crate::lifecycle::Record;

/// Dropped files by name, with the key of each that has a good one.
type Dropped = BTreeMap<OsString, Option<Jwk>>;

/// So many names are told.
const NAMED: usize = 3;

/// What was dropped, and where.
#[derive(Debug, Default)]
pub(super) struct Carried {
    /// Which directory could be listed last.
    directory: Option<Directory>,
    /// What was in it.
    dropped: Dropped,
    /// What was in those before it, each with its own.
    files: BTreeMap<OsString, (Directory, Option<Jwk>)>,
}

/// Device and inode. The lock file that a server holds open keeps the number from being used again.
type Directory = (u64, u64);

impl Carried {
    /// There is no directory. `records` are those that were known of it.
    pub(super) fn is_gone(&mut self, records: &BTreeMap<KeyId, Record>) {
        let Some(directory) = self.directory else { return };
        let is_revoked = |key: Jwk| records.get(&key.kid()).is_some_and(Record::is_revoked);
        for (name, key) in std::mem::take(&mut self.dropped) {
            // What is not served anyway is nobody's loss.
            if !key.is_some_and(is_revoked) {
                self.files.insert(name, (directory, key));
            }
        }
    }

    /// There is a directory, with these names in it. Returns whether it is the one that could be listed
    /// last.
    pub(super) fn is_listed(
        &mut self,
        directory: &Stamp,
        names: &[OsString],
        records: &BTreeMap<KeyId, Record>,
    ) -> bool {
        let directory = (directory.device, directory.inode);
        let is_same = self.directory == Some(directory);
        if !is_same {
            self.is_gone(records);
            self.directory = Some(directory);
        }
        if !self.files.is_empty() {
            let names: BTreeSet<_> = names.iter().collect();
            self.files.retain(|name, (from, _)| *from != directory && !names.contains(name));
        }
        is_same
    }

    /// Notes what is dropped in the directory that was listed.
    pub(super) fn note(&mut self, dropped: &Dropped) {
        self.dropped.clone_from(dropped);
    }

    /// Adds what is carried to what is there.
    pub(super) fn add_to(&self, dropped: &mut Dropped) {
        for (name, (_, key)) in &self.files {
            dropped.entry(name.clone()).or_insert(*key);
        }
    }

    /// What a person should know of it.
    pub(super) fn problem(&self, keys_dir: &Path) -> Option<Problem> {
        let more = self.files.len().checked_sub(1)?.saturating_sub(NAMED - 1);
        let names = self.files.keys().take(NAMED).map(|name| name.to_string_lossy());
        let mut names = names.collect::<Vec<_>>().join(", ");
        if more > 0 {
            names += &format!(" and {more} more");
        }
        let reason = format!(
            "is not the directory any more that held {names}, served all the same: put the directory \
             or the files back, or start the server anew to have them forgotten"
        );
        Some(Problem::of("replaced_directory", keys_dir, reason))
    }
}
