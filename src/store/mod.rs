//! The directory as the durable store: files in, [`Seen`] out, and each change as one durable
//! operation under the lock.
//!
//! A [`Store`] decides nothing. It reads what is there ([`Store::look`]) and does what it is told,
//! and every method that changes something wants a [`Locked`], so that no change can be written
//! that does not hold the lock.

mod carried;
mod durable;
mod exposure;
mod lock;
mod manifest;
mod native;
mod os;
mod paths;
mod private;
mod problem;
mod read;
mod record;
mod remembered;
mod scan;
mod served;
mod walk;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::sync::Arc;

pub use durable::WriteError;
pub use lock::{LockError, Locked, ServerLock};
pub use manifest::{AdoptError, FORMAT, Manifest, ManifestError};
pub use native::Native;
pub use os::{Dir, Existing, HeldLock, NewFile, Os, ReadError, Stamp};
pub use paths::{NEXT_KEY, PRIVATE_KEY, Paths};
pub use problem::Problem;
pub use record::{RecordError, parse_record, render_record};

use crate::jwk::KeyId;
use crate::key::{KeyFormat, PemKey, SigningKey, parse_pem};
use crate::lifecycle::{Record, Seen, Slot, Time};
use os::Rng;
use p256::elliptic_curve::rand_core::TryCryptoRng;
use paths::parent_of;
use private::New;
use scan::Scan;

/// Why a public key is refused where a private one belongs.
const PUBLIC_ONLY: &str = "holds a public key, and a private key is needed here";

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
    pub fn rng(&self) -> impl TryCryptoRng<Error = std::io::Error> {
        Rng(&*self.os)
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

    /// Whether the last look failed to read a private key or a directory for a reason that may pass.
    pub fn may_pass(&self) -> bool {
        self.scan.may_pass()
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

    /// Makes `keys/` if it is missing, and becomes the one server that may change the directory.
    ///
    /// # Errors
    ///
    /// If another server has the directory already, or it cannot be written.
    pub fn serve_alone(&self) -> Result<ServerLock, LockError> {
        self.open_keys_dir()?;
        ServerLock::take(&*self.os, &self.paths.keys_dir)
    }

    /// The note of the server that has this directory now, if one runs; empty if it could leave none.
    pub fn server_note(&self) -> Option<String> {
        ServerLock::note(&*self.os, &self.paths.keys_dir)
    }

    /// Takes the lock if it is free; `None` if another process is making a change.
    pub fn try_lock(&self) -> Result<Option<Locked>, LockError> {
        self.open_keys_dir()?;
        Locked::try_take(&self.os, &self.paths)
    }

    /// Takes the lock, and waits up to 10 s for it.
    pub fn lock(&self) -> Result<Locked, LockError> {
        self.open_keys_dir()?;
        Locked::take(&self.os, &self.paths)
    }

    /// Makes `keys/` if it is missing, and looks at whose it is: what is another's is not even locked.
    fn open_keys_dir(&self) -> Result<(), LockError> {
        durable::make_dir(&*self.os, &self.paths.keys_dir)
            .map_err(|source| LockError::Open { path: self.paths.keys_dir.clone(), source })?;
        self.manifest()?;
        Ok(())
    }

    /// Writes `record` in place of what its file says.
    pub fn save(&self, record: &Record, locked: &Locked) -> Result<(), WriteError> {
        let name = record::file_name(record);
        let text = render_record(record);
        locked.keys.put(OsStr::new(&name), text.as_bytes(), Existing::Replace)
    }

    /// Removes every record of `kid`.
    pub fn remove(&self, kid: KeyId, locked: &Locked) -> Result<(), WriteError> {
        for name in self.scan.record_files(kid) {
            locked.keys.unlink(name)?;
        }
        Ok(())
    }

    /// Puts `key` into `next_key.pem`, after its record. With [`Existing::Replace`] it takes the place
    /// of the key that the last look found there.
    ///
    /// # Errors
    ///
    /// As [`Store::put_private_key`].
    pub fn put_next_key(
        &self,
        key: &SigningKey,
        record: &Record,
        existing: Existing,
        locked: &Locked,
    ) -> Result<(), WriteError> {
        let replaced = replaced(existing, self.scan.seen().next_key);
        self.put_private(&self.paths.next_key_name(), key, record, replaced, locked)
    }

    /// Puts `key` into `private_key.pem`, after its record. With [`Existing::Replace`] it takes the
    /// place of the key that the last look found there.
    ///
    /// # Errors
    ///
    /// If another file is there, which it is afterwards as well: [`WriteError::is_overtaken`].
    pub fn put_private_key(
        &self,
        key: &SigningKey,
        record: &Record,
        existing: Existing,
        locked: &Locked,
    ) -> Result<(), WriteError> {
        let replaced = replaced(existing, self.scan.seen().private_key);
        self.put_private(self.paths.private_key_name(), key, record, replaced, locked)
    }

    /// Puts the key in `next_key.pem` in place of the one in `private_key.pem`, both being those that
    /// the last look found.
    ///
    /// # Errors
    ///
    /// If one of them is another by now: [`WriteError::is_overtaken`]. Both are left as they are.
    pub fn promote(&self, locked: &Locked) -> Result<(), WriteError> {
        let (from, to) = (self.paths.next_key_name(), self.paths.private_key_name());
        let seen = self.scan.seen();
        let (Slot::Holds(next), root) = (seen.next_key, &locked.root) else {
            return Err(locked.root.overtaken(&from));
        };
        match seen.private_key {
            Slot::Holds(current) => {
                root.replace_key(to, current.kid(), next.kid(), &New::File(&from))?;
                match root.delete_key(&from, next.kid()) {
                    // A person has put the key after the next there.
                    Err(error) if error.is_overtaken() => Ok(()),
                    deleted => deleted,
                }
            }
            Slot::Missing => root.rename(&from, to),
            Slot::Refused => Err(root.overtaken(to)),
        }
    }

    /// Deletes `next_key.pem`, if it holds the key that the last look found there.
    ///
    /// # Errors
    ///
    /// If it is another by now: [`WriteError::is_overtaken`]. It is left as it is.
    pub fn discard_next(&self, locked: &Locked) -> Result<(), WriteError> {
        let name = self.paths.next_key_name();
        match self.scan.seen().next_key {
            Slot::Holds(next) => locked.root.delete_key(&name, next.kid()),
            Slot::Missing | Slot::Refused => Err(locked.root.overtaken(&name)),
        }
    }

    /// Finishes what a killed process has left: deletes the files that it was about to write, in
    /// which private bytes may be, puts back what is a person's, and makes durable what it changed
    /// last.
    pub fn finish(&self, locked: &Locked) -> Result<(), WriteError> {
        let next_key = self.paths.next_key_name();
        let private = [self.paths.private_key_name(), &next_key];
        let root = &locked.root;
        root.finish_aside(|target| private.contains(&target))?;
        root.finish_promotion(&next_key, self.paths.private_key_name())?;
        root.finish(|target| private.contains(&target))?;
        locked.keys.finish(|target| {
            record::kid_of_name(target).is_some()
                || target == manifest::FILE
                || target == served::SERVED
        })
    }

    /// A key has a record before it can sign. If the key cannot be written, the record goes again:
    /// it would have the key published although nobody has it.
    fn put_private(
        &self,
        name: &OsStr,
        key: &SigningKey,
        record: &Record,
        replaced: Option<KeyId>,
        locked: &Locked,
    ) -> Result<(), WriteError> {
        self.save(record, locked)?;
        let format = self.scan.key_format().unwrap_or(self.first_format);
        let pem = key.to_pem(format);
        let put = match replaced {
            Some(old) => {
                locked.root.replace_key(name, old, key.jwk().kid(), &New::Pem(pem.as_bytes()))
            }
            None => locked.root.put(name, pem.as_bytes(), Existing::Keep),
        };
        put.inspect_err(|error| {
            // What was in place may have signed, whether or not it still is, or a power cut undoes it.
            if !error.was_in_place {
                // The first error is the one to report; a record that stays is retired in time.
                let _ = locked.keys.unlink(OsStr::new(&record::file_name(record)));
            }
        })
    }
}

/// The key that a new one takes the place of, if it may.
fn replaced(existing: Existing, slot: Slot) -> Option<KeyId> {
    match existing {
        Existing::Replace => slot.key().map(|key| key.kid()),
        Existing::Keep => None,
    }
}

#[cfg(test)]
mod tests;
