//! The directory as the durable store: files in, [`Seen`] out, and each change as one durable
//! operation under the lock.
//!
//! A [`Store`] decides nothing. It reads what is there ([`Store::look`]) and does what it is told,
//! and every method that changes something wants a [`Locked`], so that no change can be written
//! that does not hold the lock.

mod durable;
mod lock;
mod manifest;
mod native;
mod os;
mod read;
mod record;
mod scan;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use durable::WriteError;
pub use lock::{LockError, Locked, ServerLock};
pub use manifest::{FORMAT, Manifest, ManifestError};
pub use native::Native;
pub use os::{Dir, Existing, HeldLock, NewFile, Os, ReadError, Stamp};
pub use record::{RecordError, parse_record, render_record};

use serde::Serialize;

use crate::jwk::KeyId;
use crate::key::{KeyFormat, PemKey, SigningKey, parse_pem};
use crate::lifecycle::{Policy, Record, Seen, Time};
use os::Chance;
use p256::elliptic_curve::rand_core::TryCryptoRng;
use scan::Scan;

/// The name of the file that holds the current private key, unless another is given.
pub const PRIVATE_KEY: &str = "private_key.pem";
/// The name of the file that holds the next private key, beside the current one of that name.
pub const NEXT_KEY: &str = "next_key.pem";

/// Why a public key is refused where a private one belongs.
const PUBLIC_ONLY: &str = "holds a public key, and a private key is needed here";

/// Where the keys lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// The current private key, `private_key.pem` by default.
    pub private_key: PathBuf,
    /// The directory of records and dropped keys, `keys` by default.
    pub keys_dir: PathBuf,
}

impl Paths {
    /// The directory that holds the private keys.
    pub fn root(&self) -> &Path {
        parent_of(&self.private_key)
    }

    /// The next private key.
    pub fn next_key(&self) -> PathBuf {
        self.private_key.with_file_name(self.next_key_name())
    }

    /// The name of its file. Beside `a.pem` it is `next_a.pem`: of two clients whose keys lie in one
    /// directory, none takes the other's.
    fn next_key_name(&self) -> OsString {
        let current = self.private_key_name();
        if current == PRIVATE_KEY {
            return NEXT_KEY.into();
        }
        let mut name = OsString::from("next_");
        name.push(current);
        name
    }

    fn private_key_name(&self) -> &OsStr {
        // A path without a file name is refused where options are checked.
        self.private_key.file_name().unwrap_or_default()
    }
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
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

/// Something that a person should mend; the service goes on meanwhile.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// A stable word for the kind of problem.
    #[serde(skip)]
    pub code: &'static str,
    /// The file or directory, where it is about one.
    #[serde(serialize_with = "lossy_option")]
    pub file: Option<PathBuf>,
    /// What is wrong, as a sentence fragment.
    pub reason: String,
}

impl Problem {
    /// A problem with `file`.
    pub fn of(code: &'static str, file: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self { code, file: Some(file.into()), reason: reason.into() }
    }
}

/// A path is any bytes; what is not UTF-8 is shown with replacement characters.
#[expect(clippy::ref_option, reason = "serde passes the field by reference")]
fn lossy_option<S: serde::Serializer>(
    path: &Option<PathBuf>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    path.as_deref().map(|path| path.display().to_string()).serialize(serializer)
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.file {
            // File names are hostile input: no line breaks or escape codes reach a terminal.
            Some(file) => {
                write!(f, "{}: {}", file.display().to_string().escape_debug(), self.reason)
            }
            None => f.write_str(&self.reason),
        }
    }
}

/// The directory, and what is remembered of it between looks.
#[derive(Debug)]
pub struct Store {
    os: Arc<dyn Os>,
    paths: Paths,
    /// The PEM format for a first key; later ones follow the key that they replace.
    first_format: KeyFormat,
    scan: Scan,
}

impl Store {
    /// A store over these paths; touches nothing yet.
    pub fn new(paths: Paths, first_format: KeyFormat) -> Self {
        Self::on(Arc::new(Native), paths, first_format)
    }

    /// The same on another operating system than the real one.
    pub fn on(os: Arc<dyn Os>, paths: Paths, first_format: KeyFormat) -> Self {
        Self { os, paths, first_format, scan: Scan::default() }
    }

    /// Random numbers that are fit for a private key.
    pub fn chance(&self) -> impl TryCryptoRng<Error = std::io::Error> {
        Chance(&*self.os)
    }

    /// Where the keys lie.
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// Reads the directory. Files that have not changed since the last look are not read again, and
    /// if none has, what was seen is the very same: the pointers are equal.
    ///
    /// Never fails: what cannot be read is among the problems.
    pub fn look(&mut self, now: Time) -> (Arc<Seen>, Vec<Problem>) {
        self.scan.look(&*self.os, &self.paths, now)
    }

    /// Reads the current private key, for a command that signs; the server keeps none in memory.
    ///
    /// # Errors
    ///
    /// The reason why there is no good one.
    pub fn read_private_key(&self) -> Result<SigningKey, String> {
        let dir = self.os.open_dir(self.paths.root()).map_err(|error| error.to_string())?;
        let (pem, _) =
            dir.read(self.paths.private_key_name()).map_err(|error| error.to_string())?;
        match parse_pem(&pem).map_err(|error| error.to_string())? {
            PemKey::Private { key, .. } => Ok(key),
            PemKey::Public(_) => Err(PUBLIC_ONLY.into()),
        }
    }

    /// The name of the file in `keys/` that has the record of `kid`.
    pub fn record_file(&self, kid: KeyId) -> Option<&OsString> {
        self.scan.record_files(kid).first()
    }

    /// The file in which `record` belongs.
    pub fn path_of(&self, record: &Record) -> PathBuf {
        self.paths.keys_dir.join(record::file_name(record))
    }

    /// Whether the file in which `record` belongs is there and could not be read.
    pub fn has_refused_file_of(&self, record: &Record) -> bool {
        self.scan.is_refused(OsStr::new(&record::file_name(record)))
    }

    /// Whether files can be put beside the private key.
    pub fn root_is_writable(&self) -> bool {
        self.os.is_writable(self.paths.root())
    }

    /// Whether `keys/` can be written, or made. A server that finds that it cannot remembers in memory
    /// what it should write.
    pub fn keys_are_writable(&self) -> bool {
        let keys_dir = &self.paths.keys_dir;
        let is_missing = || {
            let opened = self.os.open_dir(keys_dir);
            opened.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
        };
        self.os.is_writable(keys_dir) || is_missing() && self.os.is_writable(parent_of(keys_dir))
    }

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
    /// [`LockError::Refused`] if it is not to be opened, otherwise if it cannot be written.
    pub fn keep_manifest(&self, policy: &Policy, _: &Locked) -> Result<(), WriteError> {
        let manifest = Manifest::new(&self.paths, policy);
        match self.manifest() {
            Ok(Some(found)) if found == manifest => Ok(()),
            _ => self.put_manifest(&manifest),
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
        let _server = ServerLock::take(&*self.os, keys_dir, "")?;
        let _lock = Locked::take(&*self.os, keys_dir)?;
        let policy = before.as_ref().and_then(Manifest::policy).unwrap_or(*policy);
        self.put_manifest(&Manifest::new(&self.paths, &policy))?;
        Ok(before)
    }

    fn put_manifest(&self, manifest: &Manifest) -> Result<(), WriteError> {
        let (dir, name) = (&self.paths.keys_dir, OsStr::new(manifest::FILE));
        let text = manifest.render();
        durable::put(&*self.os, dir, name, text.as_bytes(), Existing::Replace, Path::new("."))
    }

    /// Makes `keys/` if it is missing, and becomes the one server that may change the directory.
    ///
    /// `note` is left in the lock file for commands to read.
    ///
    /// # Errors
    ///
    /// If another server has the directory already, or it cannot be written.
    pub fn serve_alone(&self, note: &str) -> Result<ServerLock, LockError> {
        self.open_keys_dir()?;
        ServerLock::take(&*self.os, &self.paths.keys_dir, note)
    }

    /// The note of the server that has this directory now, if one runs.
    pub fn server_note(&self) -> Option<String> {
        ServerLock::note(&*self.os, &self.paths.keys_dir)
    }

    /// Takes the lock if it is free; `None` if another process is making a change.
    pub fn try_lock(&self) -> Result<Option<Locked>, LockError> {
        self.open_keys_dir()?;
        Locked::try_take(&*self.os, &self.paths.keys_dir)
    }

    /// Takes the lock, and waits up to 10 s for it.
    pub fn lock(&self) -> Result<Locked, LockError> {
        self.open_keys_dir()?;
        Locked::take(&*self.os, &self.paths.keys_dir)
    }

    /// Makes `keys/` if it is missing, and looks at whose it is: what is another's is not even locked.
    fn open_keys_dir(&self) -> Result<(), LockError> {
        durable::make_dir(&*self.os, &self.paths.keys_dir)
            .map_err(|source| LockError::Open { path: self.paths.keys_dir.clone(), source })?;
        self.manifest()?;
        Ok(())
    }

    /// Writes `record` in place of what its file says.
    pub fn save(&self, record: &Record, _: &Locked) -> Result<(), WriteError> {
        let name = record::file_name(record);
        let text = render_record(record);
        let (dir, name) = (&self.paths.keys_dir, OsStr::new(&name));
        durable::put(&*self.os, dir, name, text.as_bytes(), Existing::Replace, Path::new("."))
    }

    /// Removes every record of `kid`.
    pub fn remove(&self, kid: KeyId, _: &Locked) -> Result<(), WriteError> {
        for name in self.scan.record_files(kid) {
            durable::unlink(&*self.os, &self.paths.keys_dir, name)?;
        }
        Ok(())
    }

    /// Puts `key` into `next_key.pem`, after its record.
    pub fn put_next_key(
        &self,
        key: &SigningKey,
        record: &Record,
        existing: Existing,
        locked: &Locked,
    ) -> Result<(), WriteError> {
        self.put_private(&self.paths.next_key_name(), key, record, existing, locked)
    }

    /// Puts `key` into `private_key.pem`, after its record.
    pub fn put_private_key(
        &self,
        key: &SigningKey,
        record: &Record,
        existing: Existing,
        locked: &Locked,
    ) -> Result<(), WriteError> {
        self.put_private(self.paths.private_key_name(), key, record, existing, locked)
    }

    /// Renames `next_key.pem` to `private_key.pem`.
    pub fn promote(&self, _: &Locked) -> Result<(), WriteError> {
        let (from, to) = (self.paths.next_key_name(), self.paths.private_key_name());
        durable::rename(&*self.os, self.paths.root(), &from, to)
    }

    /// Deletes `next_key.pem`.
    pub fn discard_next(&self, _: &Locked) -> Result<(), WriteError> {
        durable::unlink(&*self.os, self.paths.root(), &self.paths.next_key_name())
    }

    /// Finishes what a killed process has left: deletes the files that it was about to write, in
    /// which private bytes may be, and makes durable what it changed last.
    pub fn finish(&self, _: &Locked) -> Result<(), WriteError> {
        let next_key = self.paths.next_key_name();
        let private = [self.paths.private_key_name(), &next_key];
        durable::finish(&*self.os, self.paths.root(), |target| private.contains(&target))?;
        durable::finish(&*self.os, &self.paths.keys_dir, |target| {
            record::kid_of_name(target).is_some() || target == manifest::FILE
        })
    }

    /// A key has a record before it can sign. If the key cannot be written, the record goes again:
    /// it would have the key published although nobody has it.
    fn put_private(
        &self,
        name: &OsStr,
        key: &SigningKey,
        record: &Record,
        existing: Existing,
        locked: &Locked,
    ) -> Result<(), WriteError> {
        self.save(record, locked)?;
        let format = self.scan.key_format().unwrap_or(self.first_format);
        let pem = key.to_pem(format);
        let owner = Path::new(self.paths.private_key_name());
        durable::put(&*self.os, self.paths.root(), name, pem.as_bytes(), existing, owner)
            .inspect_err(|error| {
                // After the rename the key may sign, whether or not a power cut would undo that.
                if error.operation != durable::SYNC {
                    // The first error is the one to report; a record that stays is retired in time.
                    let record = record::file_name(record);
                    let _ = durable::unlink(&*self.os, &self.paths.keys_dir, OsStr::new(&record));
                }
            })
    }
}

#[cfg(test)]
mod tests {
    use getrandom::SysRng;

    use super::*;

    #[test]
    fn a_key_that_cannot_be_written_leaves_no_record_behind() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths {
            private_key: dir.path().join("private_key.pem"),
            keys_dir: dir.path().join("keys"),
        };
        let store = Store::new(paths, KeyFormat::Sec1);
        let locked = store.lock().unwrap();
        let key = SigningKey::generate(&mut SysRng).unwrap();
        let now = chrono::DateTime::from_timestamp(1_795_000_000, 0).unwrap();
        let record = Record::staged(*key.jwk(), now, false);
        let pem_files = || {
            let names = std::fs::read_dir(dir.path().join("keys")).unwrap();
            names.filter(|name| name.as_ref().unwrap().path().extension().is_some()).count()
        };

        std::fs::write(dir.path().join(NEXT_KEY), "a person's").unwrap();
        store.put_next_key(&key, &record, Existing::Keep, &locked).unwrap_err();
        assert_eq!(pem_files(), 0);
        std::fs::remove_file(dir.path().join(NEXT_KEY)).unwrap();
        store.put_next_key(&key, &record, Existing::Keep, &locked).unwrap();
        assert_eq!(pem_files(), 1);
    }
}
