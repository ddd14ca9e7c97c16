//! Changes that a power cut finds either done or not begun.
//!
//! A new file is written under a temporary name, synced, renamed into place, and its directory is
//! synced. Without the first sync a rename can leave an empty file behind, without the second the
//! file can be gone (Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014). A failed
//! sync is never repeated on the same descriptor, since the kernel drops the dirty pages after the
//! first report (Rebello et al., "Can Applications Recover from fsync Failures?", ATC 2020): the
//! step is given up, and the next try writes a new file.

use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::paths::parent_of;
use super::{Dir, Existing, Os};

/// Why the directory could not be changed. Nothing was changed then, or it was and is not known to
/// be durable; either way, the next look says which.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {}", path.display())]
pub struct WriteError {
    /// What was tried: `write`, `rename`, `delete`, `list`, `look`, `sync`.
    pub operation: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// The cause.
    #[source]
    pub source: io::Error,
    /// Whether the new file was in its place, so that others may have seen and used it.
    pub was_in_place: bool,
}

/// Why something was not replaced or deleted: it is not what it was when that was decided.
#[derive(Debug, thiserror::Error)]
#[error("another file was put there meanwhile")]
pub(super) struct Overtaken;

impl WriteError {
    /// Whether somebody else was quicker: what there is to do is to be decided anew, on what is
    /// there now.
    pub fn is_overtaken(&self) -> bool {
        self.source.get_ref().is_some_and(<dyn Error + Send + Sync>::is::<Overtaken>)
    }

    /// The same error of a change that was in place before.
    pub(super) fn in_place(self) -> Self {
        Self { was_in_place: true, ..self }
    }
}

/// An open directory to change. All names are those of entries in it: it stays the same directory,
/// whatever others put in the place of its path.
#[derive(Debug)]
pub(super) struct Directory {
    os: Arc<dyn Os>,
    pub(super) handle: Box<dyn Dir>,
    path: PathBuf,
}

impl Directory {
    /// Opens it.
    pub(super) fn open(os: &Arc<dyn Os>, path: &Path) -> io::Result<Self> {
        let handle = os.open_dir(path)?;
        Ok(Self { os: Arc::clone(os), handle, path: path.to_owned() })
    }

    /// Writes a file that only the owner may read.
    pub(super) fn put(
        &self,
        name: &OsStr,
        bytes: &[u8],
        existing: Existing,
    ) -> Result<(), WriteError> {
        let temp = self.write_beside(name, bytes)?;
        self.handle.rename(&temp, name, existing).map_err(|source| {
            // The error that counts is the first; what stays behind is swept at the next start.
            let _ = self.handle.unlink(&temp);
            self.failed("rename", name, source)
        })?;
        self.sync().map_err(WriteError::in_place)
    }

    /// Writes and syncs a file under a temporary name, which it returns.
    pub(super) fn write_beside(&self, name: &OsStr, bytes: &[u8]) -> Result<OsString, WriteError> {
        let failed = |source| self.failed("write", name, source);
        let temp = temporary_name(&*self.os, name).map_err(failed)?;
        let write = || {
            let mut file = self.handle.create(&temp)?;
            file.write_all(bytes)?;
            file.sync()
        };
        match write() {
            Ok(()) => Ok(temp),
            Err(source) => {
                let _ = self.handle.unlink(&temp);
                Err(failed(source))
            }
        }
    }

    /// Gives an entry another name, which must be free.
    pub(super) fn rename(&self, from: &OsStr, to: &OsStr) -> Result<(), WriteError> {
        self.handle
            .rename(from, to, Existing::Keep)
            .map_err(|source| self.failed("rename", from, source))?;
        self.sync().map_err(WriteError::in_place)
    }

    /// Deletes a file; one that is gone already is no error.
    pub(super) fn unlink(&self, name: &OsStr) -> Result<(), WriteError> {
        match self.handle.unlink(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(self.failed("delete", name, error))
            }
            _ => self.sync(),
        }
    }

    /// Finishes what a killed process has left: deletes the temporary files whose target `is_ours`
    /// knows, and makes durable what it changed last. What it did not sync is seen by all, and a
    /// power cut would undo it after others have acted on it.
    pub(super) fn finish(&self, is_ours: impl Fn(&OsStr) -> bool) -> Result<(), WriteError> {
        for name in self.names()? {
            if target_of(&name).is_some_and(&is_ours) {
                self.handle.unlink(&name).map_err(|source| self.failed("delete", &name, source))?;
            }
        }
        // A directory that cannot be written has nothing to sync, and may not let itself be synced.
        if self.os.is_writable(&self.path) { self.sync() } else { Ok(()) }
    }

    /// The names of all entries.
    pub(super) fn names(&self) -> Result<Vec<OsString>, WriteError> {
        self.handle.names().map_err(|source| WriteError {
            operation: "list",
            path: self.path.clone(),
            source,
            was_in_place: false,
        })
    }

    /// Sixteen digits that nobody can guess.
    pub(super) fn digits(&self) -> io::Result<String> {
        digits(&*self.os)
    }

    pub(super) fn sync(&self) -> Result<(), WriteError> {
        self.handle.sync().map_err(|source| WriteError {
            operation: "sync",
            path: self.path.clone(),
            source,
            was_in_place: false,
        })
    }

    pub(super) fn failed(
        &self,
        operation: &'static str,
        name: &OsStr,
        source: io::Error,
    ) -> WriteError {
        WriteError { operation, path: self.path.join(name), source, was_in_place: false }
    }
}

/// Makes a directory that only the owner may enter, unless it is there.
pub(super) fn make_dir(os: &dyn Os, dir: &Path) -> io::Result<()> {
    match os.make_dir(dir) {
        Ok(()) => os.open_dir(parent_of(dir))?.sync(),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        // A read-only file system may say so even when the directory is there.
        Err(error) => os.open_dir(dir).map(drop).map_err(|_| error),
    }
}

/// `.NAME.0123456789abcdef.tmp`: hidden, in the same directory, and not to be guessed.
fn temporary_name(os: &dyn Os, target: &OsStr) -> io::Result<OsString> {
    let mut name = OsString::from(".");
    name.push(target);
    name.push(format!(".{}.tmp", digits(os)?));
    Ok(name)
}

fn digits(os: &dyn Os) -> io::Result<String> {
    let mut random = [0; 8];
    os.fill_random(&mut random)?;
    Ok(format!("{:016x}", u64::from_ne_bytes(random)))
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

    fn open(dir: &tempfile::TempDir) -> Directory {
        let os: Arc<dyn Os> = Arc::new(Native);
        Directory::open(&os, dir.path()).unwrap()
    }

    fn names(dir: &tempfile::TempDir) -> Vec<OsString> {
        let mut names: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_private_and_whole_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.pem");
        open(&dir).put(OsStr::new("a.pem"), b"one", Existing::Keep).unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
        open(&dir).put(OsStr::new("a.pem"), b"two", Existing::Replace).unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"two");
        assert_eq!(names(&dir), ["a.pem"]);
    }

    #[test]
    fn a_file_that_is_to_be_kept_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.pem"), "a person's").unwrap();
        let error = open(&dir).put(OsStr::new("a.pem"), b"ours", Existing::Keep).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(dir.path().join("a.pem")).unwrap(), b"a person's");
        assert_eq!(names(&dir), ["a.pem"]);
    }

    #[test]
    fn a_rename_over_a_symlink_replaces_the_link_and_not_its_target() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("target"), "untouched").unwrap();
        std::os::unix::fs::symlink("target", dir.path().join("a.pem")).unwrap();
        open(&dir).put(OsStr::new("a.pem"), b"ours", Existing::Replace).unwrap();
        assert_eq!(std::fs::read(dir.path().join("target")).unwrap(), b"untouched");
        assert_eq!(std::fs::read(dir.path().join("a.pem")).unwrap(), b"ours");
    }

    #[test]
    fn a_directory_stays_the_one_that_was_opened() {
        let outer = tempfile::tempdir().unwrap();
        let (here, there) = (outer.path().join("here"), outer.path().join("there"));
        std::fs::create_dir(&here).unwrap();
        let os: Arc<dyn Os> = Arc::new(Native);
        let opened = Directory::open(&os, &here).unwrap();
        std::fs::rename(&here, outer.path().join("moved")).unwrap();
        std::fs::create_dir(&there).unwrap();
        std::os::unix::fs::symlink("there", &here).unwrap();
        opened.put(OsStr::new("a.pem"), b"ours", Existing::Replace).unwrap();
        opened.put(OsStr::new("b.pem"), b"ours", Existing::Keep).unwrap();
        opened.unlink(OsStr::new("b.pem")).unwrap();
        drop(opened.handle.try_lock(OsStr::new(".lock")).unwrap().unwrap());
        assert_eq!(std::fs::read_dir(there).unwrap().count(), 0);
        let mut moved: Vec<_> = std::fs::read_dir(outer.path().join("moved"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        moved.sort();
        assert_eq!(moved, [".lock", "a.pem"]);
    }

    #[test]
    fn only_our_own_leftovers_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        let left = temporary_name(&Native, OsStr::new("a.pem")).unwrap();
        let foreign = [".a.pem.0123456789abcdeg.tmp", ".a.pem.tmp", ".b.pem.0123456789abcdef.tmp"];
        for name in foreign.iter().map(OsStr::new).chain([left.as_os_str()]) {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        open(&dir).finish(|target| target == "a.pem").unwrap();
        assert_eq!(names(&dir), foreign);
    }
}
