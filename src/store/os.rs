//! What the store asks of the operating system: [`Os`], and the few operations between which a
//! process can die or the power can fail.
//!
//! [`Native`](super::Native) is the real one. The seam is this low so that everything above it (what
//! is written in which order, what is synced, what recovery makes of it) is the same code on a real
//! disk and on a simulated one that loses what was not synced.

use std::ffi::{OsStr, OsString};
use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};

use p256::elliptic_curve::rand_core::{TryCryptoRng, TryRng};
use zeroize::Zeroizing;

use super::LockError;
use crate::key::MAX_PEM_LEN;

/// Directories and random numbers.
pub trait Os: Debug + Send + Sync {
    /// Opens a directory.
    fn open_dir(&self, path: &Path) -> io::Result<Box<dyn Dir>>;

    /// Makes a directory that only the owner may enter; it is durable once its parent is synced.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::AlreadyExists`] if there is one.
    fn make_dir(&self, path: &Path) -> io::Result<()>;

    /// The path without links, for a comparison of directories.
    fn real_path(&self, path: &Path) -> io::Result<PathBuf>;

    /// Whether files can be put into this directory, as far as its permissions tell.
    fn is_writable(&self, dir: &Path) -> bool;

    /// Fills `bytes` with random ones that are fit for a private key.
    fn fill_random(&self, bytes: &mut [u8]) -> io::Result<()>;
}

/// An open directory. Names are those of entries in it, whatever others put in the place of its path.
pub trait Dir: Debug {
    /// The names of all entries.
    fn names(&self) -> io::Result<Vec<OsString>>;

    /// The stamp of the directory itself.
    fn identity(&self) -> io::Result<Stamp>;

    /// The stamp of the regular file that `name` leads to.
    fn stat(&self, name: &OsStr) -> Result<Stamp, ReadError>;

    /// The content of the regular file that `name` leads to, and its stamp from before it was read.
    fn read(&self, name: &OsStr) -> Result<(Zeroizing<Vec<u8>>, Stamp), ReadError>;

    /// Makes an empty file that only its owner may read, which must not exist yet.
    fn create(&self, name: &OsStr) -> io::Result<Box<dyn NewFile>>;

    /// Renames an entry; what has the name `to` already is replaced in the same step, or kept, and
    /// then that is an error.
    fn rename(&self, from: &OsStr, to: &OsStr, existing: Existing) -> io::Result<()>;

    /// Exchanges two entries in one step.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::Unsupported`] if the file system cannot.
    fn exchange(&self, one: &OsStr, other: &OsStr) -> io::Result<()>;

    /// Gives the file `from` another name, which must be free.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::Unsupported`] if the file system cannot.
    fn link(&self, from: &OsStr, to: &OsStr) -> io::Result<()>;

    /// Deletes an entry.
    fn unlink(&self, name: &OsStr) -> io::Result<()>;

    /// Makes every change to the directory's entries so far durable.
    fn sync(&self) -> io::Result<()>;

    /// Takes the exclusive lock on the file `name`, which is made if it is missing; `None` if another
    /// process has it.
    fn try_lock(&self, name: &OsStr) -> Result<Option<Box<dyn HeldLock>>, LockError>;

    /// What the process that has the lock on the file `name` left in it; `None` if none has it.
    fn note(&self, name: &OsStr) -> Option<String>;
}

/// A file that nobody else knows yet.
pub trait NewFile {
    /// Writes all of `bytes`.
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Makes what was written durable.
    fn sync(&self) -> io::Result<()>;
}

/// A lock that this process has until this is dropped, or the process ends.
pub trait HeldLock: Debug + Send {
    /// Whether the lock still counts: its file is not known to be deleted or replaced.
    fn is_valid(&self) -> bool;

    /// Leaves `note` in the lock's file. It need not survive a crash.
    fn leave_note(&mut self, note: &str) -> io::Result<()>;
}

/// What becomes of a file that has the name already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// It is replaced in one step.
    Replace,
    /// It is left, and the write fails.
    Keep,
}

/// What tells one version of a file from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The device that the file is on.
    pub device: u64,
    /// The file's number on that device.
    pub inode: u64,
    /// In bytes.
    pub size: u64,
    /// When the content changed last, in seconds and nanoseconds; programs can set it.
    pub modified: (i64, i64),
    /// When anything about the file changed last, in seconds and nanoseconds; no program can set it.
    pub changed: (i64, i64),
    /// Type and permission bits.
    pub mode: u32,
    /// The id of the user that it belongs to.
    pub owner: u32,
}

/// Why a file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There is nothing of that name.
    #[error("there is no such file")]
    Missing,
    /// It is a symbolic link, and its target is missing.
    #[error("a symbolic link that leads nowhere")]
    Dangling,
    /// It is a symbolic link whose target lies elsewhere.
    #[error("a symbolic link that leads out of its directory")]
    Escapes,
    /// It is a symbolic link by an absolute path, and none is followed.
    #[error("an absolute symbolic link; make it relative to its directory")]
    Absolute,
    /// Root does not follow what another user has linked.
    #[error("a symbolic link of another user's, which root does not follow")]
    LinkOfAnother,
    /// It is a symbolic link in a ring of links, or one of the kernel's own.
    #[error("a symbolic link that leads in a circle or to no ordinary file")]
    Loop,
    /// A FIFO, a socket, a device or a directory.
    #[error("{0}, not a regular file")]
    NotRegular(&'static str),
    /// It is larger than any key.
    #[error("larger than {} KiB", MAX_PEM_LEN / 1024)]
    TooLarge,
    /// The operating system said no.
    #[error("cannot be read: {0}")]
    Io(#[source] io::Error),
}

impl From<ReadError> for io::Error {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Missing | ReadError::Dangling => io::ErrorKind::NotFound.into(),
            ReadError::Io(error) => error,
            error => Self::other(error),
        }
    }
}

/// An [`Os`] as a source of random numbers.
pub(super) struct Rng<'a>(pub(super) &'a dyn Os);

impl TryRng for Rng<'_> {
    type Error = io::Error;

    fn try_next_u32(&mut self) -> io::Result<u32> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_ne_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_ne_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        self.0.fill_random(bytes)
    }
}

impl TryCryptoRng for Rng<'_> {}
