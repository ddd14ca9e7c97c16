//! Changes that a power cut finds either done or not begun.
//!
//! A new file is written under a temporary name, synced, renamed into place, and its directory is
//! synced. Without the first sync a rename can leave an empty file behind, without the second the
//! file can be gone (Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014). A failed
//! sync is never repeated on the same descriptor, since the kernel drops the dirty pages after the
//! first report (Rebello et al., "Can Applications Recover from fsync Failures?", ATC 2020): the
//! step is given up, and the next try writes a new file.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, RenameFlags, Uid};
use rustix::io::Errno;

/// Why the directory could not be changed. Nothing was changed then, or it was and is not known to
/// be durable; either way, the next look says which.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {}", path.display())]
pub struct WriteError {
    /// What was tried: `write`, `rename`, `delete`, `list`, `sync`.
    pub operation: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// The cause.
    #[source]
    pub source: io::Error,
}

/// The operation that failed when the file was in place already.
pub(super) const SYNC: &str = "sync";

/// What becomes of a file that has the name already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// It is replaced in one step.
    Replace,
    /// It is left, and the write fails.
    Keep,
}

/// Writes a file that only the owner may read.
///
/// What root writes belongs to the owner of `like`, a path in `dir`, or to that of `dir` if there is
/// none: a command that an administrator runs must not take the keys away from the server.
pub(super) fn put(
    dir: &Path,
    name: &OsStr,
    bytes: &[u8],
    existing: Existing,
    like: &Path,
) -> Result<(), WriteError> {
    let fail = |operation, source| WriteError { operation, path: dir.join(name), source };
    let handle = open_dir(dir).map_err(|source| fail("write", source))?;
    let temp = temporary_name(name).map_err(|source| fail("write", source))?;
    let written = write_new(&handle, &temp, bytes, like)
        .map_err(|source| fail("write", source))
        .and_then(|()| {
            move_into_place(&handle, &temp, name, existing).map_err(|source| fail("rename", source))
        });
    if let Err(error) = written {
        // The error that counts is the first; what stays behind is swept at the next start.
        let _ = rustix::fs::unlinkat(&handle, &temp, AtFlags::empty());
        return Err(error);
    }
    sync_dir(handle, dir)
}

/// Renames within `dir`, over what has the name already.
pub(super) fn rename(dir: &Path, from: &OsStr, to: &OsStr) -> Result<(), WriteError> {
    let fail = |source| WriteError { operation: "rename", path: dir.join(from), source };
    let handle = open_dir(dir).map_err(fail)?;
    rustix::fs::renameat(&handle, from, &handle, to).map_err(|errno| fail(errno.into()))?;
    sync_dir(handle, dir)
}

/// Deletes a file; one that is gone already is no error.
pub(super) fn unlink(dir: &Path, name: &OsStr) -> Result<(), WriteError> {
    let fail = |source| WriteError { operation: "delete", path: dir.join(name), source };
    let handle = open_dir(dir).map_err(fail)?;
    match rustix::fs::unlinkat(&handle, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => sync_dir(handle, dir),
        Err(errno) => Err(fail(errno.into())),
    }
}

/// Makes a directory that only the owner may enter, unless it is there.
pub(super) fn make_dir(dir: &Path) -> io::Result<()> {
    match rustix::fs::mkdir(dir, Mode::RWXU) {
        Ok(()) => {
            let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
            let parent = open_dir(parent.unwrap_or(Path::new(".")))?;
            give_away(&File::from(open_dir(dir)?), parent.as_fd(), Path::new("."))?;
            File::from(parent).sync_all()
        }
        Err(Errno::EXIST) => Ok(()),
        // A read-only file system may say so even when the directory is there.
        Err(errno) => dir.is_dir().then_some(()).ok_or_else(|| errno.into()),
    }
}

/// Deletes the temporary files whose target `is_ours` knows.
pub(super) fn sweep(dir: &Path, is_ours: impl Fn(&OsStr) -> bool) -> Result<(), WriteError> {
    let fail = |source| WriteError { operation: "list", path: dir.to_owned(), source };
    for entry in std::fs::read_dir(dir).map_err(fail)? {
        let name = entry.map_err(fail)?.file_name();
        if target_of(&name).is_some_and(&is_ours) {
            unlink(dir, &name)?;
        }
    }
    Ok(())
}

/// Opens a directory.
pub(super) fn open_dir(dir: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(dir, flags, Mode::empty())?)
}

fn write_new(dir: &OwnedFd, name: &OsStr, bytes: &[u8], like: &Path) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR)?);
    give_away(&file, dir.as_fd(), like)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Gives a file of root's to the owner of `like`, or to that of `dir` if there is no such path.
pub(super) fn give_away(file: &File, dir: BorrowedFd<'_>, like: &Path) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let model = match rustix::fs::statat(dir, like, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => rustix::fs::fstat(dir)?,
        found => found?,
    };
    let (owner, group) = (Uid::from_raw(model.st_uid), Gid::from_raw(model.st_gid));
    match rustix::fs::fchown(file, Some(owner), Some(group)) {
        // A container whose root may not do so serves as root.
        Err(Errno::PERM) => Ok(()),
        given => Ok(given?),
    }
}

fn move_into_place(dir: &OwnedFd, from: &OsStr, to: &OsStr, existing: Existing) -> io::Result<()> {
    if existing == Existing::Keep {
        match rustix::fs::renameat_with(dir, from, dir, to, RenameFlags::NOREPLACE) {
            // Some network file systems do not know the flag; a look just before comes close.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                match rustix::fs::statat(dir, to, AtFlags::SYMLINK_NOFOLLOW) {
                    Err(Errno::NOENT) => {}
                    Ok(_) => return Err(Errno::EXIST.into()),
                    Err(errno) => return Err(errno.into()),
                }
            }
            done => return Ok(done?),
        }
    }
    Ok(rustix::fs::renameat(dir, from, dir, to)?)
}

fn sync_dir(handle: OwnedFd, dir: &Path) -> Result<(), WriteError> {
    File::from(handle).sync_all().map_err(|source| WriteError {
        operation: SYNC,
        path: dir.to_owned(),
        source,
    })
}

/// `.NAME.0123456789abcdef.tmp`: hidden, in the same directory, and not to be guessed.
fn temporary_name(target: &OsStr) -> io::Result<OsString> {
    let random = getrandom::u64().map_err(io::Error::other)?;
    let mut name = OsString::from(".");
    name.push(target);
    name.push(format!(".{random:016x}.tmp"));
    Ok(name)
}

/// The target of a name that [`temporary_name`] made.
fn target_of(name: &OsStr) -> Option<&OsStr> {
    let stem = name.as_bytes().strip_prefix(b".")?.strip_suffix(b".tmp")?;
    let (target, random) = stem.split_at_checked(stem.len().checked_sub(17)?)?;
    let is_hex = |digits: &[u8]| digits.iter().all(u8::is_ascii_hexdigit);
    random.strip_prefix(b".").is_some_and(is_hex).then(|| OsStr::from_bytes(target))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn names(dir: &Path) -> Vec<OsString> {
        let mut names: Vec<_> =
            std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_private_and_whole_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.pem");
        put(dir.path(), OsStr::new("a.pem"), b"one", Existing::Keep, Path::new(".")).unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
        put(dir.path(), OsStr::new("a.pem"), b"two", Existing::Replace, Path::new(".")).unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"two");
        assert_eq!(names(dir.path()), ["a.pem"]);
    }

    #[test]
    fn a_file_that_is_to_be_kept_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.pem"), "a person's").unwrap();
        let error = put(dir.path(), OsStr::new("a.pem"), b"ours", Existing::Keep, Path::new("."))
            .unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(dir.path().join("a.pem")).unwrap(), b"a person's");
        assert_eq!(names(dir.path()), ["a.pem"]);
    }

    #[test]
    fn a_rename_over_a_symlink_replaces_the_link_and_not_its_target() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("target"), "untouched").unwrap();
        std::os::unix::fs::symlink("target", dir.path().join("a.pem")).unwrap();
        put(dir.path(), OsStr::new("a.pem"), b"ours", Existing::Replace, Path::new(".")).unwrap();
        assert_eq!(std::fs::read(dir.path().join("target")).unwrap(), b"untouched");
        assert_eq!(std::fs::read(dir.path().join("a.pem")).unwrap(), b"ours");
    }

    #[test]
    fn only_our_own_leftovers_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        let left = temporary_name(OsStr::new("a.pem")).unwrap();
        let foreign = [".a.pem.0123456789abcdeg.tmp", ".a.pem.tmp", ".b.pem.0123456789abcdef.tmp"];
        for name in foreign.iter().map(OsStr::new).chain([left.as_os_str()]) {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        sweep(dir.path(), |target| target == "a.pem").unwrap();
        assert_eq!(names(dir.path()), foreign);
    }
}
