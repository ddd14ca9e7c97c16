//! Changes that a power cut finds either done or not begun.
//!
//! A new file is written under a temporary name, synced, renamed into place, and its directory is
//! synced. Without the first sync a rename can leave an empty file behind, without the second the
//! file can be gone (Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014). A failed
//! sync is never repeated on the same descriptor, since the kernel drops the dirty pages after the
//! first report (Rebello et al., "Can Applications Recover from fsync Failures?", ATC 2020): the
//! step is given up, and the next try writes a new file.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::{Dir, Existing, Os};

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

/// Writes a file that only the owner may read; what root writes belongs to the owner of `like`, as
/// [`Dir::create`] says.
pub(super) fn put(
    os: &dyn Os,
    dir: &Path,
    name: &OsStr,
    bytes: &[u8],
    existing: Existing,
    like: &Path,
) -> Result<(), WriteError> {
    let fail = |operation, source| WriteError { operation, path: dir.join(name), source };
    let handle = os.open_dir(dir).map_err(|source| fail("write", source))?;
    let temp = temporary_name(os, name).map_err(|source| fail("write", source))?;
    let written =
        write_new(&*handle, &temp, bytes, like).map_err(|source| fail("write", source)).and_then(
            |()| handle.rename(&temp, name, existing).map_err(|source| fail("rename", source)),
        );
    if let Err(error) = written {
        // The error that counts is the first; what stays behind is swept at the next start.
        let _ = handle.unlink(&temp);
        return Err(error);
    }
    sync(&*handle, dir)
}

/// Renames within `dir`, over what has the name already.
pub(super) fn rename(os: &dyn Os, dir: &Path, from: &OsStr, to: &OsStr) -> Result<(), WriteError> {
    let fail = |source| WriteError { operation: "rename", path: dir.join(from), source };
    let handle = os.open_dir(dir).map_err(fail)?;
    handle.rename(from, to, Existing::Replace).map_err(fail)?;
    sync(&*handle, dir)
}

/// Deletes a file; one that is gone already is no error.
pub(super) fn unlink(os: &dyn Os, dir: &Path, name: &OsStr) -> Result<(), WriteError> {
    let fail = |source| WriteError { operation: "delete", path: dir.join(name), source };
    let handle = os.open_dir(dir).map_err(fail)?;
    match handle.unlink(name) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(fail(error)),
        _ => sync(&*handle, dir),
    }
}

/// Makes a directory that only the owner may enter, unless it is there.
pub(super) fn make_dir(os: &dyn Os, dir: &Path) -> io::Result<()> {
    match os.make_dir(dir) {
        Ok(()) => {
            let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
            os.open_dir(parent.unwrap_or(Path::new(".")))?.sync()
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        // A read-only file system may say so even when the directory is there.
        Err(error) => os.open_dir(dir).map(drop).map_err(|_| error),
    }
}

/// Finishes what a killed process has left in `dir`: deletes the temporary files whose target
/// `is_ours` knows, and makes durable what it changed last. What it did not sync is seen by all, and
/// a power cut would undo it after others have acted on it.
pub(super) fn finish(
    os: &dyn Os,
    dir: &Path,
    is_ours: impl Fn(&OsStr) -> bool,
) -> Result<(), WriteError> {
    let fail = |operation, source| WriteError { operation, path: dir.to_owned(), source };
    let handle = os.open_dir(dir).map_err(|source| fail("list", source))?;
    for name in handle.names().map_err(|source| fail("list", source))? {
        if target_of(&name).is_some_and(&is_ours) {
            handle.unlink(&name).map_err(|source| fail("delete", source))?;
        }
    }
    // A directory that cannot be written has nothing to sync, and may not let itself be synced.
    if os.is_writable(dir) { sync(&*handle, dir) } else { Ok(()) }
}

fn write_new(dir: &dyn Dir, name: &OsStr, bytes: &[u8], like: &Path) -> io::Result<()> {
    let mut file = dir.create(name, like)?;
    file.write_all(bytes)?;
    file.sync()
}

fn sync(handle: &dyn Dir, dir: &Path) -> Result<(), WriteError> {
    handle.sync().map_err(|source| WriteError { operation: SYNC, path: dir.to_owned(), source })
}

/// `.NAME.0123456789abcdef.tmp`: hidden, in the same directory, and not to be guessed.
fn temporary_name(os: &dyn Os, target: &OsStr) -> io::Result<OsString> {
    let mut random = [0; 8];
    os.fill_random(&mut random)?;
    let random = u64::from_ne_bytes(random);
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

    use super::super::Native;
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
        put(&Native, dir.path(), OsStr::new("a.pem"), b"one", Existing::Keep, Path::new("."))
            .unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
        put(&Native, dir.path(), OsStr::new("a.pem"), b"two", Existing::Replace, Path::new("."))
            .unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"two");
        assert_eq!(names(dir.path()), ["a.pem"]);
    }

    #[test]
    fn a_file_that_is_to_be_kept_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.pem"), "a person's").unwrap();
        let error =
            put(&Native, dir.path(), OsStr::new("a.pem"), b"ours", Existing::Keep, Path::new("."))
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
        put(&Native, dir.path(), OsStr::new("a.pem"), b"ours", Existing::Replace, Path::new("."))
            .unwrap();
        assert_eq!(std::fs::read(dir.path().join("target")).unwrap(), b"untouched");
        assert_eq!(std::fs::read(dir.path().join("a.pem")).unwrap(), b"ours");
    }

    #[test]
    fn only_our_own_leftovers_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        let left = temporary_name(&Native, OsStr::new("a.pem")).unwrap();
        let foreign = [".a.pem.0123456789abcdeg.tmp", ".a.pem.tmp", ".b.pem.0123456789abcdef.tmp"];
        for name in foreign.iter().map(OsStr::new).chain([left.as_os_str()]) {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        finish(&Native, dir.path(), |target| target == "a.pem").unwrap();
        assert_eq!(names(dir.path()), foreign);
    }
}
