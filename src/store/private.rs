//! Replacing and deleting private keys, of which each may be the only copy.
//!
//! Between the look at a file and the change a person may put another there: a rename over it would
//! destroy a key that nobody has looked at. So nothing is renamed over a private key. Two files are
//! exchanged in one step, what came out is looked at, and if it is not the key that was to be
//! replaced, it is put back. What is to be deleted is first given a hidden name that is free.
//!
//! The hidden name, `.private_key.pem.KID.KID.aside`, tells which keys may be found in the file and
//! deleted: the one that was to be replaced, and the one in its place, which is elsewhere or was
//! never used. Whatever a kill between the steps leaves, [`Directory::finish_aside`] needs nothing
//! else to tell a person's key from those.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt as _;

use tracing::warn;

use super::durable::{Directory, Overtaken, WriteError};
use super::{Existing, ReadError};
use crate::jwk::KeyId;
use crate::key::{PemKey, parse_pem};
use crate::text::plain;

/// Where the key comes from that is put in place of another.
pub(super) enum New<'a> {
    /// Its PEM text.
    Pem(&'a [u8]),
    /// The file that holds it, by name. It stays, under another name beside its own.
    File(&'a OsStr),
}

/// What a file in the place of a private key is.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Missing,
    Key(KeyId),
    /// Anything else; it may be a key of a kind that is not known here.
    Other,
}

impl Directory {
    /// Puts `new` into `name`, in place of `old` and of nothing else.
    ///
    /// # Errors
    ///
    /// [`Overtaken`] if anything else is there; it is there afterwards as well.
    pub(super) fn replace_key(
        &self,
        name: &OsStr,
        old: KeyId,
        new: KeyId,
        source: &New<'_>,
    ) -> Result<(), WriteError> {
        let aside = aside(name, old, new);
        match *source {
            New::Pem(pem) => {
                let temp = self.write_beside(name, pem)?;
                self.handle.rename(&temp, &aside, Existing::Keep).map_err(|source| {
                    let _ = self.handle.unlink(&temp);
                    self.failed("write", name, source)
                })?;
            }
            New::File(file) => {
                match self.handle.link(file, &aside) {
                    // A file system without links, or another user's file, which may not be linked:
                    // a look just before comes close.
                    Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                        return self.rename_over(file, name, old, new);
                    }
                    linked => linked.map_err(|source| self.failed("rename", file, source))?,
                }
                if self.found(&aside).ok() != Some(Found::Key(new)) {
                    let _ = self.handle.unlink(&aside);
                    return Err(self.overtaken(file));
                }
            }
        }
        match self.handle.exchange(&aside, name) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                return self.rename_over(&aside, name, old, new).inspect_err(|_| {
                    let _ = self.handle.unlink(&aside);
                });
            }
            Err(error) => {
                let _ = self.handle.unlink(&aside);
                let is_gone = error.kind() == io::ErrorKind::NotFound;
                return Err(if is_gone {
                    self.overtaken(name)
                } else {
                    self.failed("rename", name, error)
                });
            }
        }
        match self.found(&aside) {
            Ok(Found::Key(kid)) if kid == old => {
                self.delete(&aside).map_err(WriteError::in_place)?;
            }
            // Somebody has tidied up hidden files.
            Ok(Found::Missing) => {}
            Ok(Found::Key(_) | Found::Other) | Err(_) => {
                self.put_back(&aside, name, new).map_err(WriteError::in_place)?;
                return Err(self.overtaken(name).in_place());
            }
        }
        self.sync().map_err(WriteError::in_place)
    }

    /// Deletes `name` if it holds `old`, and nothing else.
    ///
    /// # Errors
    ///
    /// [`Overtaken`] if anything else is there; it is there afterwards as well.
    pub(super) fn delete_key(&self, name: &OsStr, old: KeyId) -> Result<(), WriteError> {
        let aside = aside(name, old, old);
        match self.handle.rename(name, &aside, Existing::Keep) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.sync(),
            moved => moved.map_err(|source| self.failed("delete", name, source))?,
        }
        if self.found(&aside).ok() == Some(Found::Key(old)) {
            self.delete(&aside)?;
            return self.sync();
        }
        self.put_back(&aside, name, old)?;
        Err(self.overtaken(name))
    }

    /// Finishes what a killed process has left of the two above: a key that may be deleted is, and a
    /// person's is put back.
    pub(super) fn finish_aside(&self, is_ours: impl Fn(&OsStr) -> bool) -> Result<(), WriteError> {
        for aside in self.names()? {
            let Some((name, old, new)) = parts_of(&aside).filter(|(name, ..)| is_ours(name)) else {
                continue;
            };
            match self.found(&aside) {
                Ok(Found::Missing) => {}
                Ok(Found::Key(kid)) if kid == old || kid == new => self.delete(&aside)?,
                Ok(Found::Key(_) | Found::Other) => self.put_back(&aside, name, new)?,
                Err(source) => return Err(self.failed("look", &aside, source)),
            }
        }
        Ok(())
    }

    /// Deletes `from` if it is a second name of `to`: a promotion was cut short before its last step.
    pub(super) fn finish_promotion(&self, from: &OsStr, to: &OsStr) -> Result<(), WriteError> {
        let (Ok(one), Ok(other)) = (self.handle.stat(from), self.handle.stat(to)) else {
            return Ok(());
        };
        if (one.device, one.inode) == (other.device, other.inode)
            && let Ok(Found::Key(kid)) = self.found(from)
        {
            return match self.delete_key(from, kid) {
                Err(error) if error.is_overtaken() => Ok(()),
                deleted => deleted,
            };
        }
        Ok(())
    }

    /// Gives what `aside` holds, a person's, its name back, unless there is another by now that is
    /// not `new`, which was put there for it.
    fn put_back(&self, aside: &OsStr, name: &OsStr, new: KeyId) -> Result<(), WriteError> {
        let failed = |source| self.failed("rename", name, source);
        if self.found(name).map_err(failed)? == Found::Key(new) {
            match self.handle.exchange(aside, name) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                exchanged => exchanged.map_err(failed)?,
            }
            if self.found(aside).map_err(failed)? == Found::Key(new) {
                self.delete(aside)?;
                return self.sync();
            }
            // Quicker again; what was put there last is the one in `aside`, and neither is lost.
        }
        match self.handle.rename(aside, name, Existing::Keep) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let mut kept = name.to_owned();
                kept.push(format!(".{}.kept", self.digits().map_err(failed)?));
                self.handle.rename(aside, &kept, Existing::Keep).map_err(failed)?;
                let file = plain(&kept.to_string_lossy()).to_string();
                warn!(file, "kept a file that was replaced in the middle of a change");
            }
            renamed => renamed.map_err(failed)?,
        }
        self.sync()
    }

    /// As close as a file system comes that can neither exchange files nor link them.
    fn rename_over(
        &self,
        from: &OsStr,
        name: &OsStr,
        old: KeyId,
        new: KeyId,
    ) -> Result<(), WriteError> {
        for (name, kid) in [(from, new), (name, old)] {
            if self.found(name).ok() != Some(Found::Key(kid)) {
                return Err(self.overtaken(name));
            }
        }
        self.handle
            .rename(from, name, Existing::Replace)
            .map_err(|source| self.failed("rename", name, source))?;
        self.sync().map_err(WriteError::in_place)
    }

    fn found(&self, name: &OsStr) -> io::Result<Found> {
        match self.handle.read(name) {
            Ok((bytes, _)) => Ok(match parse_pem(&bytes) {
                Ok(PemKey::Private { key, .. }) => Found::Key(key.jwk().kid()),
                Ok(PemKey::Public(_)) | Err(_) => Found::Other,
            }),
            Err(ReadError::Missing) => Ok(Found::Missing),
            Err(ReadError::Io(error)) => Err(error),
            Err(_) => Ok(Found::Other),
        }
    }

    /// Deletes what was looked at.
    fn delete(&self, aside: &OsStr) -> Result<(), WriteError> {
        self.handle.unlink(aside).map_err(|source| self.failed("delete", aside, source))
    }

    pub(super) fn overtaken(&self, name: &OsStr) -> WriteError {
        self.failed("replace", name, io::Error::other(Overtaken))
    }
}

const ASIDE: &str = ".aside";

fn aside(name: &OsStr, old: KeyId, new: KeyId) -> OsString {
    let mut aside = OsString::from(".");
    aside.push(name);
    aside.push(format!(".{old}.{new}{ASIDE}"));
    aside
}

/// The name, the old key and the new one of a name that [`aside`] made.
fn parts_of(aside: &OsStr) -> Option<(&OsStr, KeyId, KeyId)> {
    let stem = aside.as_bytes().strip_prefix(b".")?.strip_suffix(ASIDE.as_bytes())?;
    let (stem, new) = split_kid(stem)?;
    let (name, old) = split_kid(stem)?;
    Some((OsStr::from_bytes(name), old, new))
}

fn split_kid(stem: &[u8]) -> Option<(&[u8], KeyId)> {
    let dot = stem.iter().rposition(|byte| *byte == b'.')?;
    let kid = std::str::from_utf8(&stem[dot + 1..]).ok()?.parse().ok()?;
    Some((&stem[..dot], kid))
}
