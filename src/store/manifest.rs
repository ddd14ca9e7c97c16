//! `keys/.directory`: what a key directory says of itself, as one line of JSON.
//!
//! It names the version of what lies on disk, the key file that the directory was made for, and the
//! settings of the server that kept it last. The key file is named as seen from the directory, never
//! by an absolute path: both can be moved, mounted elsewhere or restored together.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{
    Dir, Existing, LockError, Locked, Os, Paths, ReadError, ServerLock, Store, WriteError,
};
use crate::lifecycle::{Policy, PolicySettings};

/// The version of what this program lays down in `keys/`. One that finds a later number opens
/// nothing there: it could break promises that it does not know.
pub const FORMAT: u32 = 1;

/// The name of the file.
pub(super) const FILE: &str = ".directory";

/// What `keys/` says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of what lies in the directory.
    format: u32,
    /// The key file that the directory belongs to, as seen from it: `../private_key.pem`.
    key_file: String,
    /// The rules that the last server followed; commands without a server follow them too.
    policy: PolicySettings,
}

/// Why `keys/` is not opened.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It is another client's.
    #[error(
        "{} belongs to the key file {bound} (seen from there), not to {given}; give this client a \
         --keys-dir of its own or, if its key file was renamed or moved, run `jwks-server adopt`",
        keys_dir.display()
    )]
    Foreign {
        /// The directory.
        keys_dir: PathBuf,
        /// What it is bound to.
        bound: String,
        /// What it was to be opened for.
        given: String,
    },
    /// A later version of this program has kept it.
    #[error(
        "{} is of format {found}, and this version knows {FORMAT} at most; run the version that \
         kept it last, or a later one",
        keys_dir.display()
    )]
    Newer {
        /// The directory.
        keys_dir: PathBuf,
        /// Its format.
        found: u32,
    },
    /// What it says cannot be read, which may pass.
    #[error("read {}", path.display())]
    Unread {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: ReadError,
    },
}

/// Why a directory could not be bound to another key file.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// What it says of itself stands in the way.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// It is in use, or cannot be opened.
    #[error("lock the key directory; stop the server that keeps it first")]
    Lock(#[from] LockError),
    /// It could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl Store {
    /// What `keys/` says of itself; `None` if there is nothing that it says.
    ///
    /// # Errors
    ///
    /// If it is not to be opened: it is another client's, or a later version's.
    pub fn manifest(&self) -> Result<Option<Manifest>, ManifestError> {
        Manifest::read(&*self.os, &self.paths)
    }

    /// Makes `keys/` say that it belongs to this key file and that these rules are followed. What it
    /// says already is not written again.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn keep_manifest(&self, policy: &Policy, locked: &Locked) -> Result<(), WriteError> {
        let manifest = Manifest::new(&self.paths, policy);
        match Manifest::read_in(&*self.os, &*locked.keys.handle, &self.paths) {
            Ok(Some(found)) if found == manifest => Ok(()),
            _ => manifest.put(locked),
        }
    }

    /// Binds `keys/` to this key file, whoever it belonged to. Returns what it was bound to.
    ///
    /// # Errors
    ///
    /// If it is of a later format, or cannot be read or written.
    pub fn adopt(&self, policy: &Policy) -> Result<Option<Manifest>, AdoptError> {
        let keys_dir = &self.paths.keys_dir;
        let dir = self.os.open_dir(keys_dir);
        let dir = dir.map_err(|source| LockError::Open { path: keys_dir.clone(), source })?;
        let before = Manifest::of_any_key_file(&*dir, &self.paths)?;
        // Whoever serves it, or changes it, goes on to believe that it is theirs.
        let _server = ServerLock::take(&*self.os, keys_dir)?;
        let locked = Locked::take(&self.os, &self.paths)?;
        let policy = before.as_ref().and_then(Manifest::policy).unwrap_or(*policy);
        Manifest::new(&self.paths, &policy).put(&locked)?;
        Ok(before)
    }
}

/// What is looked at before all else, so that a later format may change all else.
#[derive(Deserialize)]
struct Head {
    format: u32,
}

impl Manifest {
    /// The manifest of the directory of `paths`, kept by these rules.
    fn new(paths: &Paths, policy: &Policy) -> Self {
        let key_file = relative(&paths.keys_dir, &paths.private_key);
        Self { format: FORMAT, key_file: shown(&key_file), policy: policy.settings() }
    }

    /// The key file that the directory belongs to, as seen from it.
    pub fn key_file(&self) -> &str {
        &self.key_file
    }

    /// The rules that the last server followed, if this version still allows them.
    pub fn policy(&self) -> Option<Policy> {
        Policy::new(self.policy).ok()
    }

    /// What the directory of `paths` says of itself; `None` if it says nothing, as one does that an
    /// older version made, or nothing that can be understood: then it is written anew.
    ///
    /// # Errors
    ///
    /// If the directory is not to be opened with the key file of `paths`, or the file is there and
    /// cannot be read.
    fn read(os: &dyn Os, paths: &Paths) -> Result<Option<Self>, ManifestError> {
        match os.open_dir(&paths.keys_dir) {
            Ok(dir) => Self::read_in(os, &*dir, paths),
            // What stands in the way of opening it is told by whoever needs it.
            Err(_) => Ok(None),
        }
    }

    /// The same of `dir`, which is that directory.
    pub(super) fn read_in(
        os: &dyn Os,
        dir: &dyn Dir,
        paths: &Paths,
    ) -> Result<Option<Self>, ManifestError> {
        let Some(manifest) = Self::of_any_key_file(dir, paths)? else { return Ok(None) };
        let given = relative(&paths.keys_dir, &paths.private_key);
        if manifest.key_file == shown(&given) || manifest.leads_to(os, paths) {
            return Ok(Some(manifest));
        }
        Err(ManifestError::Foreign {
            keys_dir: paths.keys_dir.clone(),
            bound: manifest.key_file,
            given: shown(&given),
        })
    }

    /// The same without a look at whose it is.
    fn of_any_key_file(dir: &dyn Dir, paths: &Paths) -> Result<Option<Self>, ManifestError> {
        let bytes = match dir.read(OsStr::new(FILE)) {
            Ok((bytes, _)) => bytes,
            Err(ReadError::Missing) => return Ok(None),
            Err(source) => {
                return Err(ManifestError::Unread { path: paths.keys_dir.join(FILE), source });
            }
        };
        match serde_json::from_slice(&bytes) {
            Ok(Head { format: found }) if found > FORMAT => {
                Err(ManifestError::Newer { keys_dir: paths.keys_dir.clone(), found })
            }
            _ => Ok(serde_json::from_slice(&bytes).ok()),
        }
    }

    /// Whether what it names and the key file of `paths` are one, by other names of the same
    /// directories.
    fn leads_to(&self, os: &dyn Os, paths: &Paths) -> bool {
        let bound = paths.keys_dir.join(&self.key_file);
        let same_dir = |a: &Path, b: &Path| {
            os.real_path(a).ok().zip(os.real_path(b).ok()).is_some_and(|(a, b)| a == b)
        };
        bound.file_name() == paths.private_key.file_name()
            && bound.parent().is_some_and(|dir| same_dir(dir, paths.root()))
    }

    fn put(&self, locked: &Locked) -> Result<(), WriteError> {
        locked.keys.put(OsStr::new(FILE), self.render().as_bytes(), Existing::Replace)
    }

    /// The line that goes into the file.
    fn render(&self) -> String {
        // Numbers and strings: there is nothing in it that could fail.
        serde_json::to_string(self).unwrap_or_else(|_| "{}".into()) + "\n"
    }
}

fn shown(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// `file` as seen from `dir`, by their names alone.
fn relative(dir: &Path, file: &Path) -> PathBuf {
    let (dir, file) = (absolute(dir), absolute(file));
    let shared = dir.iter().zip(file.iter()).take_while(|(a, b)| a == b).count();
    let up = dir.iter().skip(shared).map(|_| OsStr::new(".."));
    up.chain(file.iter().skip(shared)).collect()
}

fn absolute(path: &Path) -> PathBuf {
    let mut names = PathBuf::new();
    // It fails for an empty path, and where there is no current directory any more.
    for part in std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).components() {
        match part {
            Component::ParentDir => drop(names.pop()),
            Component::CurDir => {}
            part => names.push(part),
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::super::Native;
    use super::*;

    fn paths(root: &Path, key_file: &str, keys_dir: &str) -> Paths {
        Paths { private_key: root.join(key_file), keys_dir: root.join(keys_dir) }
    }

    fn policy(retain_for_hours: u64) -> Policy {
        let retain_for = std::time::Duration::from_secs(3_600 * retain_for_hours);
        Policy::new(PolicySettings { retain_for, ..PolicySettings::default() }).unwrap()
    }

    fn write(paths: &Paths, text: &str) {
        std::fs::create_dir_all(&paths.keys_dir).unwrap();
        std::fs::write(paths.keys_dir.join(FILE), text).unwrap();
    }

    #[test]
    fn the_key_file_is_named_as_seen_from_the_directory() {
        let seen = |dir: &str, file: &str| shown(&relative(Path::new(dir), Path::new(file)));
        assert_eq!(seen("keys", "private_key.pem"), "../private_key.pem");
        assert_eq!(seen("./keys/", "x/../private_key.pem"), "../private_key.pem");
        assert_eq!(seen("/data/keys", "/etc/jwks/a.pem"), "../../etc/jwks/a.pem");
        assert_eq!(seen("/data", "/data/a.pem"), "a.pem");
    }

    #[test]
    fn what_is_written_is_read_again_and_survives_a_move() {
        let dir = tempfile::tempdir().unwrap();
        let before = paths(&dir.path().join("before"), "a.pem", "keys");
        assert_eq!(Manifest::read(&Native, &before).unwrap(), None, "no directory");
        let manifest = Manifest::new(&before, &policy(168));
        write(&before, &manifest.render());
        assert_eq!(Manifest::read(&Native, &before).unwrap(), Some(manifest.clone()));
        std::fs::rename(dir.path().join("before"), dir.path().join("after")).unwrap();
        let after = paths(&dir.path().join("after"), "a.pem", "keys");
        let found = Manifest::read(&Native, &after).unwrap().unwrap();
        assert_eq!(found.policy(), Some(policy(168)));
    }

    #[test]
    fn another_key_file_is_refused_by_both_names() {
        let dir = tempfile::tempdir().unwrap();
        let ours = paths(dir.path(), "a.pem", "keys");
        write(&ours, &Manifest::new(&ours, &policy(25)).render());
        let error = Manifest::read(&Native, &paths(dir.path(), "b.pem", "keys")).unwrap_err();
        let told = error.to_string();
        assert!(told.contains("keys belongs to the key file ../a.pem "), "{told}");
        assert!(told.contains(" not to ../b.pem; give this client a --keys-dir"), "{told}");
    }

    #[test]
    fn another_name_of_the_same_directories_is_no_other_key_file() {
        let dir = tempfile::tempdir().unwrap();
        let ours = paths(&dir.path().join("real"), "a.pem", "keys");
        write(&ours, &Manifest::new(&ours, &policy(25)).render());
        std::os::unix::fs::symlink("real", dir.path().join("link")).unwrap();
        let through = Paths { private_key: dir.path().join("link/a.pem"), ..ours.clone() };
        assert!(Manifest::read(&Native, &through).unwrap().is_some());
        let other = Paths { private_key: dir.path().join("link/b.pem"), ..ours };
        assert!(matches!(Manifest::read(&Native, &other), Err(ManifestError::Foreign { .. })));
    }

    #[test]
    fn a_later_format_is_refused_whatever_else_it_says() {
        let dir = tempfile::tempdir().unwrap();
        let ours = paths(dir.path(), "a.pem", "keys");
        write(&ours, r#"{"format":2,"key_files":["../a.pem"]}"#);
        let error = Manifest::read(&Native, &ours).unwrap_err();
        assert!(matches!(error, ManifestError::Newer { found: 2, .. }), "{error}");
    }

    #[test]
    fn what_cannot_be_understood_says_nothing_and_what_cannot_be_read_may_pass() {
        let dir = tempfile::tempdir().unwrap();
        let ours = paths(dir.path(), "a.pem", "keys");
        for text in ["", "{}", "x", r#"{"format":1}"#, r#"{"format":"1"}"#] {
            write(&ours, text);
            assert_eq!(Manifest::read(&Native, &ours).unwrap(), None, "{text}");
        }
        std::fs::remove_file(ours.keys_dir.join(FILE)).unwrap();
        std::fs::create_dir(ours.keys_dir.join(FILE)).unwrap();
        let error = Manifest::read(&Native, &ours).unwrap_err();
        assert!(matches!(error, ManifestError::Unread { .. }), "{error}");
    }
}
