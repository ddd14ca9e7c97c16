//! Who may change the directory: [`Locked`] for the time of one change, [`ServerLock`] for the life
//! of a serving process.
//!
//! Both are advisory locks on files in `keys/`, dropped by the kernel when their process ends, so
//! none is ever stale. A lock counts only while its file is still the one that the name leads to:
//! somebody may have deleted `keys/` and made it again.

use std::fs::{File, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};

use super::durable::{give_away, open_dir};

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
    /// Another process has it.
    #[error("{} is held by another process", path.display())]
    Held {
        /// The lock file.
        path: PathBuf,
    },
}

/// Proof that this process alone changes the directory, until it is dropped.
#[derive(Debug)]
pub struct Locked {
    _file: File,
}

impl Locked {
    /// Takes the lock if it is free.
    pub(super) fn try_take(keys_dir: &Path) -> Result<Option<Self>, LockError> {
        Ok(take(&keys_dir.join(CHANGE))?.map(|file| Self { _file: file }))
    }

    /// Takes the lock, and waits for it up to [`PATIENCE`].
    pub(super) fn take(keys_dir: &Path) -> Result<Self, LockError> {
        let mut waited = Duration::ZERO;
        loop {
            if let Some(locked) = Self::try_take(keys_dir)? {
                return Ok(locked);
            }
            if waited >= PATIENCE {
                return Err(LockError::Held { path: keys_dir.join(CHANGE) });
            }
            // Commands and a start come here; a blocking lock would hang behind a stopped process.
            std::thread::sleep(POLL);
            waited += POLL;
        }
    }
}

/// Held by the one serving process that changes the directory.
#[derive(Debug)]
pub struct ServerLock {
    file: File,
    path: PathBuf,
}

impl ServerLock {
    /// Takes the lock, and leaves `note` in its file for commands to read.
    pub(super) fn take(keys_dir: &Path, note: &str) -> Result<Self, LockError> {
        let path = keys_dir.join(SERVER);
        // A command that asks whether a server runs holds the lock for an instant.
        let mut tries = 5;
        let mut file = loop {
            match take(&path)? {
                Some(file) => break file,
                None if tries == 0 => return Err(LockError::Held { path }),
                None => std::thread::sleep(POLL),
            }
            tries -= 1;
        };
        // The note is advice to commands, not state: it need not survive a crash.
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(note.as_bytes()))
            .map_err(|source| LockError::Open { path: path.clone(), source })?;
        Ok(Self { file, path })
    }

    /// Whether the lock still counts: its file is not known to be deleted or replaced.
    pub fn is_valid(&self) -> bool {
        is_same(&self.file, &self.path).unwrap_or(true)
    }

    /// The note of the process that holds the lock now; `None` if none does.
    pub(super) fn note(keys_dir: &Path) -> Option<String> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::open(keys_dir.join(SERVER), flags, Mode::empty());
        let mut file = File::from(file.ok()?);
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => {
                let mut note = String::new();
                file.read_to_string(&mut note).ok()?;
                Some(note)
            }
            Ok(()) | Err(TryLockError::Error(_)) => None,
        }
    }
}

/// An exclusive lock on the file at `path`, or `None` if another process has it.
fn take(path: &Path) -> Result<Option<File>, LockError> {
    loop {
        let file =
            open(path).map_err(|source| LockError::Open { path: path.to_owned(), source })?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(source)) => {
                return Err(LockError::Lock { path: path.to_owned(), source });
            }
        }
        match is_same(&file, path) {
            Ok(true) => return Ok(Some(file)),
            // Deleted between the opening and the locking: the next process would lock another.
            Ok(false) => {}
            Err(source) => {
                return Err(LockError::Lock { path: path.to_owned(), source });
            }
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    let flags =
        OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?);
    let dir = open_dir(path.parent().unwrap_or(Path::new(".")))?;
    give_away(&file, dir.as_fd(), Path::new("."))?;
    Ok(file)
}

fn is_same(file: &File, path: &Path) -> io::Result<bool> {
    let held = rustix::fs::fstat(file)?;
    match rustix::fs::lstat(path) {
        Ok(named) => Ok((held.st_dev, held.st_ino) == (named.st_dev, named.st_ino)),
        Err(rustix::io::Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_at_a_time_changes_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let first = Locked::try_take(dir.path()).unwrap().unwrap();
        assert!(Locked::try_take(dir.path()).unwrap().is_none());
        drop(first);
        assert!(Locked::try_take(dir.path()).unwrap().is_some());
    }

    #[test]
    fn a_second_server_is_told_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(ServerLock::note(dir.path()), None);
        let first = ServerLock::take(dir.path(), "the first").unwrap();
        assert!(matches!(ServerLock::take(dir.path(), "x"), Err(LockError::Held { .. })));
        assert_eq!(ServerLock::note(dir.path()).as_deref(), Some("the first"));
        drop(first);
        assert_eq!(ServerLock::note(dir.path()), None);
    }

    #[test]
    fn a_lock_whose_file_was_deleted_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let lock = ServerLock::take(dir.path(), "").unwrap();
        assert!(lock.is_valid());
        std::fs::remove_file(dir.path().join(SERVER)).unwrap();
        assert!(!lock.is_valid());
        let second = ServerLock::take(dir.path(), "").unwrap();
        assert!(second.is_valid());
        assert!(!lock.is_valid());
    }
}
