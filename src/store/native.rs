//! The operating system's own files and locks: [`Native`].

use std::ffi::{OsStr, OsString};
use std::fs::{File, TryLockError};
use std::io::{self, Read as _, Seek as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, Gid, Mode, OFlags, RenameFlags, Uid};
use rustix::io::Errno;
use zeroize::Zeroizing;

use super::{Dir, Existing, HeldLock, LockError, NewFile, Os, ReadError, Stamp, read};

/// The real [`Os`].
#[derive(Debug, Clone, Copy)]
pub struct Native;

impl Os for Native {
    fn open_dir(&self, path: &Path) -> io::Result<Box<dyn Dir>> {
        Ok(Box::new(open_dir(path)?))
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        rustix::fs::mkdir(path, Mode::RWXU)?;
        let dir = open_dir(path)?;
        give_away(&File::from(dir), rustix::fs::CWD, &path.join(".."))
    }

    fn real_path(&self, path: &Path) -> io::Result<PathBuf> {
        path.canonicalize()
    }

    fn is_writable(&self, dir: &Path) -> bool {
        rustix::fs::access(dir, Access::WRITE_OK | Access::EXEC_OK).is_ok()
    }

    fn try_lock(&self, path: &Path) -> Result<Option<Box<dyn HeldLock>>, LockError> {
        let file = lock(path)?;
        Ok(file.map(|file| -> Box<dyn HeldLock> {
            Box::new(LockedFile { file, path: path.to_owned() })
        }))
    }

    fn note(&self, path: &Path) -> Option<String> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::open(path, flags, Mode::empty()).ok()?);
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => {
                let mut note = String::new();
                file.read_to_string(&mut note).ok()?;
                Some(note)
            }
            Ok(()) | Err(TryLockError::Error(_)) => None,
        }
    }

    fn fill_random(&self, bytes: &mut [u8]) -> io::Result<()> {
        getrandom::fill(bytes).map_err(io::Error::other)
    }
}

impl Dir for OwnedFd {
    fn names(&self) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(self)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") {
                names.push(OsStr::from_bytes(name).to_owned());
            }
        }
        Ok(names)
    }

    fn mode(&self) -> io::Result<u32> {
        Ok(read::stamp(&rustix::fs::fstat(self)?).mode)
    }

    fn stat(&self, name: &OsStr) -> Result<Stamp, ReadError> {
        read::stat(self.as_fd(), name)
    }

    fn read(&self, name: &OsStr) -> Result<(Zeroizing<Vec<u8>>, Stamp), ReadError> {
        read::read(self.as_fd(), name)
    }

    fn create(&self, name: &OsStr, like: &Path) -> io::Result<Box<dyn NewFile>> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(self, name, flags, Mode::RUSR | Mode::WUSR)?);
        give_away(&file, self.as_fd(), like)?;
        Ok(Box::new(file))
    }

    fn rename(&self, from: &OsStr, to: &OsStr, existing: Existing) -> io::Result<()> {
        if existing == Existing::Keep {
            match rustix::fs::renameat_with(self, from, self, to, RenameFlags::NOREPLACE) {
                // Some network file systems do not know the flag; a look just before comes close.
                Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                    match rustix::fs::statat(self, to, AtFlags::SYMLINK_NOFOLLOW) {
                        Err(Errno::NOENT) => {}
                        Ok(_) => return Err(Errno::EXIST.into()),
                        Err(errno) => return Err(errno.into()),
                    }
                }
                done => return Ok(done?),
            }
        }
        Ok(rustix::fs::renameat(self, from, self, to)?)
    }

    fn unlink(&self, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(self, name, AtFlags::empty())?)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(self)?)
    }
}

impl NewFile for File {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        io::Write::write_all(self, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_all()
    }
}

/// A lock is dropped by the kernel when its process ends, so none is ever stale. It counts only while
/// its file is still the one that the name leads to: somebody may have deleted `keys/` and made it
/// again.
#[derive(Debug)]
struct LockedFile {
    file: File,
    path: PathBuf,
}

impl HeldLock for LockedFile {
    fn is_valid(&self) -> bool {
        is_same(&self.file, &self.path).unwrap_or(true)
    }

    fn leave_note(&mut self, note: &str) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        io::Write::write_all(&mut self.file, note.as_bytes())
    }
}

/// Opens a directory.
pub(super) fn open_dir(dir: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(dir, flags, Mode::empty())?)
}

/// Gives a file of root's to the owner of `like`, or to that of `dir` if there is no such path.
fn give_away(file: &File, dir: BorrowedFd<'_>, like: &Path) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let model = match rustix::fs::statat(dir, like, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => rustix::fs::fstat(dir)?,
        found => found?,
    };
    let held = rustix::fs::fstat(file)?;
    // To change it for the same is a change of its own, and would be heard as a file event.
    if (held.st_uid, held.st_gid) == (model.st_uid, model.st_gid) {
        return Ok(());
    }
    let (owner, group) = (Uid::from_raw(model.st_uid), Gid::from_raw(model.st_gid));
    match rustix::fs::fchown(file, Some(owner), Some(group)) {
        // A container whose root may not do so serves as root.
        Err(Errno::PERM) => Ok(()),
        given => Ok(given?),
    }
}

/// An exclusive lock on the file at `path`, or `None` if another process has it.
fn lock(path: &Path) -> Result<Option<File>, LockError> {
    loop {
        let file =
            open_lock(path).map_err(|source| LockError::Open { path: path.to_owned(), source })?;
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

fn open_lock(path: &Path) -> io::Result<File> {
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
