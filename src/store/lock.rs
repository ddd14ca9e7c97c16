//! Who may change the directory: [`Locked`] for the time of one change, [`ServerLock`] for the life
//! of a serving process.
//!
//! Both are advisory locks on files in `keys/`, dropped by the kernel when their process ends, so
//! none is ever stale. A lock counts only while its file is still the one that the name leads to:
//! somebody may have deleted `keys/` and made it again.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::durable::Directory;
use super::{Dir, HeldLock, ManifestError, Os, Paths};

const CHANGE: &str = ".lock";
const SERVER: &str = ".server";

/// How long a command waits for another process to finish its change.
const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(10);

/// Why a lock could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// The lock file could not be opened or made.
    #[error("open {}", path.display())]
    Open {
        /// The lock file or its directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The lock itself failed.
    #[error("lock {}", path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The directory is not to be opened.
    #[error(transparent)]
    Refused(#[from] ManifestError),
    /// Another process has it.
    #[error("{} is held by another process", path.display())]
    Held {
        /// The lock file.
        path: PathBuf,
    },
}

/// Proof that this process alone changes the directory, until it is dropped; and what it changes: the
/// directories as they were when the lock was taken, whatever others put in their place.
#[derive(Debug)]
pub struct Locked {
    _lock: Box<dyn HeldLock>,
    /// The directory of the private keys.
    pub(super) root: Directory,
    /// `keys/`.
    pub(super) keys: Directory,
}

impl Locked {
    /// Takes the lock if it is free.
    pub(super) fn try_take(os: &Arc<dyn Os>, paths: &Paths) -> Result<Option<Self>, LockError> {
        let open = |path: &Path| {
            Directory::open(os, path)
                .map_err(|source| LockError::Open { path: path.to_owned(), source })
        };
        let keys = open(&paths.keys_dir)?;
        let Some(lock) = keys.handle.try_lock(OsStr::new(CHANGE))? else { return Ok(None) };
        Ok(Some(Self { _lock: lock, root: open(paths.root())?, keys }))
    }

    /// Takes the lock, and waits for it up to [`PATIENCE`].
    pub(super) fn take(os: &Arc<dyn Os>, paths: &Paths) -> Result<Self, LockError> {
        let mut waited = Duration::ZERO;
        loop {
            if let Some(locked) = Self::try_take(os, paths)? {
                return Ok(locked);
            }
            if waited >= PATIENCE {
                return Err(LockError::Held { path: paths.keys_dir.join(CHANGE) });
            }
            // Commands and a start come here; a blocking lock would hang behind a stopped process.
            std::thread::sleep(POLL);
            waited += POLL;
        }
    }
}

/// Held by the one serving process that changes the directory. Who has the lock is that, whether or not it
/// can leave a note.
#[derive(Debug)]
pub struct ServerLock {
    lock: Box<dyn HeldLock>,
}

impl ServerLock {
    /// Takes the lock.
    pub(super) fn take(os: &dyn Os, keys_dir: &Path) -> Result<Self, LockError> {
        let path = keys_dir.join(SERVER);
        let dir = open(os, keys_dir)?;
        // A command that asks whether a server runs holds the lock for an instant.
        let mut tries = 5;
        let lock = loop {
            match dir.try_lock(OsStr::new(SERVER))? {
                Some(lock) => break lock,
                None if tries == 0 => return Err(LockError::Held { path }),
                None => std::thread::sleep(POLL),
            }
            tries -= 1;
        };
        Ok(Self { lock })
    }

    /// Leaves `note` in the lock's file for commands to read.
    ///
    /// # Errors
    ///
    /// If it could not be written. Commands then know that a server runs, and nothing else of it.
    pub fn leave_note(&mut self, note: &str) -> io::Result<()> {
        self.lock.leave_note(note)
    }

    /// Whether the lock still counts: its file is not known to be deleted or replaced.
    pub fn is_valid(&self) -> bool {
        self.lock.is_valid()
    }

    /// The note of the process that holds the lock now; `None` if none does.
    pub(super) fn note(os: &dyn Os, keys_dir: &Path) -> Option<String> {
        os.open_dir(keys_dir).ok()?.note(OsStr::new(SERVER))
    }
}

fn open(os: &dyn Os, dir: &Path) -> Result<Box<dyn Dir>, LockError> {
    os.open_dir(dir).map_err(|source| LockError::Open { path: dir.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::super::Native;
    use super::*;

    #[test]
    fn one_process_at_a_time_changes_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let os: Arc<dyn Os> = Arc::new(Native);
        let private_key = dir.path().join("private_key.pem");
        let paths = Paths { private_key, keys_dir: dir.path().to_owned() };
        let first = Locked::try_take(&os, &paths).unwrap().unwrap();
        assert!(Locked::try_take(&os, &paths).unwrap().is_none());
        drop(first);
        assert!(Locked::try_take(&os, &paths).unwrap().is_some());
    }

    #[test]
    fn a_second_server_is_told_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(ServerLock::note(&Native, dir.path()), None);
        let mut first = ServerLock::take(&Native, dir.path()).unwrap();
        assert_eq!(
            ServerLock::note(&Native, dir.path()).as_deref(),
            Some(""),
            "it runs all the same"
        );
        first.leave_note("the first").unwrap();
        assert!(matches!(ServerLock::take(&Native, dir.path()), Err(LockError::Held { .. })));
        assert_eq!(ServerLock::note(&Native, dir.path()).as_deref(), Some("the first"));
        drop(first);
        assert_eq!(ServerLock::note(&Native, dir.path()), None);
    }

    #[test]
    fn a_lock_whose_file_was_deleted_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let lock = ServerLock::take(&Native, dir.path()).unwrap();
        assert!(lock.is_valid());
        std::fs::remove_file(dir.path().join(SERVER)).unwrap();
        assert!(!lock.is_valid());
        let second = ServerLock::take(&Native, dir.path()).unwrap();
        assert!(second.is_valid());
        assert!(!lock.is_valid());
    }
}
