//! A directory in which a server has been at work, and what may be seen of it from outside.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use jwks_server::clock::SystemClock;
use jwks_server::keeper::Keeper;
use jwks_server::key::KeyFormat;
use jwks_server::lifecycle::Time;
use jwks_server::store::Store;
use tempfile::TempDir;

use crate::support::{Key, Process, beginning, paths, policy};

/// A directory with a current key, a retired one and a dropped one.
pub(crate) struct Home {
    dir: TempDir,
    /// What is served, in order.
    pub(crate) kids: Vec<String>,
}

/// When the server that made the directory has stopped.
pub(crate) fn today() -> Time {
    beginning() + Duration::from_secs(60)
}

impl Home {
    pub(crate) fn new() -> Self {
        static FIRST: OnceLock<Home> = OnceLock::new();
        let first = FIRST.get_or_init(Self::make);
        let dir = tempfile::tempdir().unwrap();
        let keys = dir.path().join("keys");
        fs::create_dir(&keys).unwrap();
        fs::set_permissions(&keys, Permissions::from_mode(0o700)).unwrap();
        for file in [first.private_key()].into_iter().chain(files_in(&first.keys())) {
            let name = file.strip_prefix(first.path()).unwrap();
            fs::copy(&file, dir.path().join(name)).unwrap();
        }
        Self { dir, kids: first.kids.clone() }
    }

    fn make() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut process = Process::start(dir.path(), policy(None), beginning());
        write(&dir.path().join("keys/good.pem"), Key::new().spki());
        fs::remove_file(dir.path().join("private_key.pem")).unwrap();
        write(&dir.path().join("private_key.pem"), Key::new().sec1());
        process.look();
        assert_eq!((process.kids().len(), process.degraded().len()), (3, 0));
        Self { kids: process.kids(), dir }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn private_key(&self) -> PathBuf {
        self.path().join("private_key.pem")
    }

    pub(crate) fn keys(&self) -> PathBuf {
        self.path().join("keys")
    }

    /// What is wrong with the files, as `check` has it: code, path from here (empty for the directory
    /// itself), reason.
    pub(crate) fn problems(&self) -> Vec<(&'static str, PathBuf, String)> {
        problems_in(self.path())
    }
}

/// The same for any directory.
pub(crate) fn problems_in(dir: &Path) -> Vec<(&'static str, PathBuf, String)> {
    let store = Store::new(paths(dir), KeyFormat::Sec1);
    let problems = Keeper::new(store, policy(None)).look(&SystemClock::start());
    let short = |file: PathBuf| file.strip_prefix(dir).unwrap().to_owned();
    problems
        .into_iter()
        .map(|problem| (problem.code, short(problem.file.unwrap()), problem.reason))
        .collect()
}

fn files_in(dir: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path())
}

/// A file that only its owner may read, under a name that is free.
pub(crate) fn write(file: &Path, text: impl AsRef<[u8]>) {
    assert!(fs::symlink_metadata(file).is_err(), "{} is there", file.display());
    fs::write(file, text).unwrap();
    fs::set_permissions(file, Permissions::from_mode(0o600)).unwrap();
}

/// Deletes whatever has this name.
pub(crate) fn remove(file: &Path) {
    if fs::symlink_metadata(file).unwrap().is_dir() {
        fs::remove_dir_all(file).unwrap();
    } else {
        fs::remove_file(file).unwrap();
    }
}

/// Every entry below a directory, with all that would tell a change of it.
///
/// The time at which anything about a file changed cannot be set back, so that not even a write that
/// was undone goes unseen. Directories change by what is in them, and locks by being taken.
pub(crate) fn entries_in(dir: &Path) -> BTreeMap<PathBuf, Entry> {
    let mut found = BTreeMap::new();
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        for path in files_in(&dir) {
            let metadata = fs::symlink_metadata(&path).unwrap();
            if metadata.is_dir() {
                left.push(path.clone());
            }
            let is_small_file = metadata.is_file() && metadata.len() < 64 * 1024;
            let entry = Entry {
                inode: metadata.ino(),
                mode: metadata.mode(),
                size: (!metadata.is_dir()).then_some(metadata.len()),
                changed: (!metadata.is_dir()).then(|| (metadata.ctime(), metadata.ctime_nsec())),
                content: is_small_file.then(|| fs::read(&path).unwrap()),
                target: fs::read_link(&path).ok(),
            };
            // What the server notes for itself, of its settings among others.
            let notes = [".directory", ".lock", ".served", ".server"];
            if !notes.iter().any(|note| path.ends_with(note)) {
                found.insert(path, entry);
            }
        }
    }
    found
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    inode: u64,
    mode: u32,
    size: Option<u64>,
    changed: Option<(i64, i64)>,
    content: Option<Vec<u8>>,
    target: Option<PathBuf>,
}
