//! The operating system's own files and locks: [`Native`].

use std::ffi::{OsStr, OsString};
use std::fs::{File, TryLockError};
use std::io::{self, Read as _, Seek as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use zeroize::Zeroizing;

use super::paths::parent_of;
use super::walk::{self, Follow};
use super::{Dir, Existing, HeldLock, LockError, NewFile, Os, ReadError, Stamp, read};

/// The longest note in a lock file that is read, in bytes.
const MAX_NOTE: u64 = 64 * 1024;

/// The real [`Os`].
#[derive(Debug, Clone, Copy)]
pub struct Native;

impl Os for Native {
    fn open_dir(&self, path: &Path) -> io::Result<Box<dyn Dir>> {
        Ok(Box::new(OpenDir { fd: open_dir(path)?, path: path.to_owned() }))
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        let parent = open_dir(parent_of(path))?;
        let name = path.file_name().ok_or(io::ErrorKind::AlreadyExists)?;
        Ok(rustix::fs::mkdirat(parent, name, Mode::RWXU)?)
    }

    fn real_path(&self, path: &Path) -> io::Result<PathBuf> {
        path.canonicalize()
    }

    fn is_writable(&self, dir: &Path) -> bool {
        rustix::fs::access(dir, Access::WRITE_OK | Access::EXEC_OK).is_ok()
    }

    fn fill_random(&self, bytes: &mut [u8]) -> io::Result<()> {
        getrandom::fill(bytes).map_err(io::Error::other)
    }
}

/// An open directory, and the path by which it was opened.
#[derive(Debug)]
struct OpenDir {
    fd: OwnedFd,
    path: PathBuf,
}

impl Dir for OpenDir {
    fn names(&self) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") {
                names.push(OsStr::from_bytes(name).to_owned());
            }
        }
        Ok(names)
    }

    fn identity(&self) -> io::Result<Stamp> {
        Ok(read::stamp(&rustix::fs::fstat(&self.fd)?))
    }

    fn stat(&self, name: &OsStr) -> Result<Stamp, ReadError> {
        read::stat(self.fd.as_fd(), name)
    }

    fn read(&self, name: &OsStr) -> Result<(Zeroizing<Vec<u8>>, Stamp), ReadError> {
        read::read(self.fd.as_fd(), name)
    }

    fn create(&self, name: &OsStr) -> io::Result<Box<dyn NewFile>> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.fd, name, flags, Mode::RUSR | Mode::WUSR)?;
        Ok(Box::new(File::from(file)))
    }

    fn rename(&self, from: &OsStr, to: &OsStr, existing: Existing) -> io::Result<()> {
        if existing == Existing::Keep {
            match rustix::fs::renameat_with(&self.fd, from, &self.fd, to, RenameFlags::NOREPLACE) {
                Err(errno) if is_unknown(errno) => return self.rename_if_none(from, to),
                done => return Ok(done?),
            }
        }
        Ok(rustix::fs::renameat(&self.fd, from, &self.fd, to)?)
    }

    fn exchange(&self, one: &OsStr, other: &OsStr) -> io::Result<()> {
        match rustix::fs::renameat_with(&self.fd, one, &self.fd, other, RenameFlags::EXCHANGE) {
            Err(errno) if is_unknown(errno) => Err(io::ErrorKind::Unsupported.into()),
            done => Ok(done?),
        }
    }

    fn link(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        match rustix::fs::linkat(&self.fd, from, &self.fd, to, AtFlags::empty()) {
            // What knows no links says that it is not permitted.
            Err(errno) if is_unknown(errno) || matches!(errno, Errno::PERM | Errno::MLINK) => {
                Err(io::ErrorKind::Unsupported.into())
            }
            done => Ok(done?),
        }
    }

    fn unlink(&self, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.fd, name, AtFlags::empty())?)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.fd)?)
    }

    fn try_lock(&self, name: &OsStr) -> Result<Option<Box<dyn HeldLock>>, LockError> {
        let path = self.path.join(name);
        let file = match self.lock(name) {
            Ok(file) => file,
            Err(Step::Open(source)) => return Err(LockError::Open { path, source }),
            Err(Step::Lock(source)) => return Err(LockError::Lock { path, source }),
        };
        Ok(file.map(|file| -> Box<dyn HeldLock> { Box::new(LockedFile { file, path }) }))
    }

    fn note(&self, name: &OsStr) -> Option<String> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(&self.fd, name, flags, Mode::empty()).ok()?);
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => {
                let mut note = String::new();
                // Whatever can be read of it, somebody has the lock.
                let _ = file.take(MAX_NOTE).read_to_string(&mut note);
                Some(note)
            }
            Ok(()) | Err(TryLockError::Error(_)) => None,
        }
    }
}

/// What failed on the way to a lock.
enum Step {
    Open(io::Error),
    Lock(io::Error),
}

impl OpenDir {
    /// An exclusive lock on the file `name`, or `None` if another process has it.
    fn lock(&self, name: &OsStr) -> Result<Option<File>, Step> {
        loop {
            let file = self.open_lock(name).map_err(Step::Open)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(source)) => return Err(Step::Lock(source)),
            }
            let named = rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW);
            match is_same(&file, named) {
                Ok(true) => return Ok(Some(file)),
                // Deleted between the opening and the locking: the next process would lock another.
                Ok(false) => {}
                Err(source) => return Err(Step::Lock(source)),
            }
        }
    }

    /// A lock file is written to. What another user has put there, or has a name elsewhere too, may
    /// be a file that somebody else needs.
    fn open_lock(&self, name: &OsStr) -> io::Result<File> {
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.fd, name, flags, Mode::RUSR | Mode::WUSR)?;
        let stat = rustix::fs::fstat(&file)?;
        let refused = if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            "it is no regular file; delete it"
        } else if stat.st_uid != rustix::process::geteuid().as_raw() {
            "it belongs to another user; delete it"
        } else if stat.st_nlink > 1 {
            "it has another name elsewhere; delete it"
        } else {
            return Ok(file.into());
        };
        Err(io::Error::other(refused))
    }

    /// Where the file system does not know a rename that keeps, a look just before it comes close.
    fn rename_if_none(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        match rustix::fs::statat(&self.fd, to, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(rustix::fs::renameat(&self.fd, from, &self.fd, to)?),
            Ok(_) => Err(Errno::EXIST.into()),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Whether this is what a file system says that does not know the call, or its flag.
fn is_unknown(errno: Errno) -> bool {
    matches!(errno, Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP)
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
        is_same(&self.file, rustix::fs::lstat(&self.path)).unwrap_or(true)
    }

    fn leave_note(&mut self, note: &str) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        io::Write::write_all(&mut self.file, note.as_bytes())
    }
}

/// Opens a directory. Where root works in a directory of another user's, as in a user namespace that
/// does not know the owner, it follows no link that the owner has made: that would give him root's
/// power elsewhere.
pub(super) fn open_dir(dir: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    if rustix::process::geteuid().is_root() {
        return walk::open(rustix::fs::CWD, dir, flags, Follow::OfRoot).map_err(io::Error::from);
    }
    Ok(rustix::fs::open(dir, flags, Mode::empty())?)
}

fn is_same(file: &File, named: rustix::io::Result<rustix::fs::Stat>) -> io::Result<bool> {
    let held = rustix::fs::fstat(file)?;
    match named {
        Ok(named) => Ok((held.st_dev, held.st_ino) == (named.st_dev, named.st_ino)),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rename_that_must_keep_keeps_where_the_file_system_does_not_know_how() {
        type Rename = fn(&OpenDir, &OsStr, &OsStr) -> io::Result<()>;
        let ways: [Rename; 2] =
            [|dir, from, to| dir.rename(from, to, Existing::Keep), OpenDir::rename_if_none];
        for rename in ways {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().to_owned();
            let opened = OpenDir { fd: open_dir(&path).unwrap(), path: path.clone() };
            let (from, to) = (OsStr::new("from"), OsStr::new("to"));
            std::fs::write(path.join(from), "from").unwrap();
            // Also a link that leads nowhere is there.
            std::os::unix::fs::symlink("nowhere", path.join(to)).unwrap();
            let kept = rename(&opened, from, to).unwrap_err();
            assert_eq!(kept.kind(), io::ErrorKind::AlreadyExists);
            std::fs::remove_file(path.join(to)).unwrap();
            rename(&opened, from, to).unwrap();
            assert_eq!(std::fs::read(path.join(to)).unwrap(), b"from");
        }
    }

    #[test]
    fn root_follows_its_own_links_and_no_other() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("real")).unwrap();
        std::fs::write(at("real/file"), "").unwrap();
        for (link, target) in [("own", at("real")), ("up", "real/../real/.".into())] {
            std::os::unix::fs::symlink(target, at(link)).unwrap();
            Native.open_dir(&at(link)).unwrap();
        }
        assert!(Native.open_dir(&at("real/file")).is_err());
        assert!(Native.open_dir(&at("none")).is_err());
        std::os::unix::fs::lchown(at("own"), Some(4242), Some(4242)).unwrap();
        let refused = Native.open_dir(&at("own")).unwrap_err();
        let reason = "a symbolic link of another user's, which root does not follow";
        assert_eq!(refused.to_string(), reason);
        let within = Native.open_dir(&at("own/../real")).unwrap_err();
        assert_eq!(within.to_string(), reason);
        assert_eq!(Native.make_dir(&at("own/new")).unwrap_err().to_string(), reason);
    }
}
