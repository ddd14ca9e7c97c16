//! What a file held when it was read last, and whether it must be read again.

use std::ffi::OsStr;

use sha2::{Digest as _, Sha256};

use super::{Dir, ReadError, Stamp, record};
use crate::jwk::Jwk;
use crate::key::{KeyFormat, PemKey, digest_of_secret, parse_pem};
use crate::lifecycle::{Record, Time};

/// A file that changed this recently is read again at the next look: another change within the same
/// tick of the file system's clock would leave the stamp as it is.
const UNSETTLED_SECS: i64 = 2;

#[derive(Debug)]
pub(super) struct Remembered {
    pub(super) stamp: Stamp,
    /// When it was read, in seconds of the wall clock.
    pub(super) read_at: i64,
    /// The SHA-256 of what was read; it tells nothing of a private key in it.
    digest: [u8; 32],
    pub(super) content: Content,
}

/// What a file holds.
#[derive(Debug, Clone)]
pub(super) enum Content {
    Record(Box<Record>),
    Key { key: Jwk, private: Option<KeyFormat> },
    Refused(String),
}

/// The file `name`, read again only if it may have changed since `before`; `None` if there is none.
pub(super) fn file(
    dir: &dyn Dir,
    name: &OsStr,
    before: Option<Remembered>,
    now: Time,
) -> Result<Option<Remembered>, ReadError> {
    let refused = |error: ReadError| match error {
        ReadError::Missing => Ok(None),
        error => Err(error),
    };
    if let Some(known) = &before
        && known.is_settled(now)
    {
        match dir.stat(name) {
            Ok(stamp) if stamp == known.stamp => return Ok(before),
            Ok(_) => {}
            Err(error) => return refused(error),
        }
    }
    match dir.read(name) {
        Ok((bytes, stamp)) => {
            let digest = if record::is_record(&bytes) {
                Sha256::digest(&*bytes).into()
            } else {
                digest_of_secret(&bytes)
            };
            let content = match before {
                Some(before) if before.digest == digest => before.content,
                _ => Content::of(name, &bytes),
            };
            Ok(Some(Remembered { stamp, read_at: now.timestamp(), digest, content }))
        }
        Err(error) => refused(error),
    }
}

impl Remembered {
    /// Whether the file had been left alone for a while when it was read.
    pub(super) fn is_settled(&self, now: Time) -> bool {
        let left_alone = self.read_at - self.stamp.changed.0;
        // A change in the future, by this clock, tells nothing; nor does a clock that went back.
        left_alone >= UNSETTLED_SECS && now.timestamp() >= self.read_at
    }
}

impl Content {
    fn of(name: &OsStr, bytes: &[u8]) -> Self {
        if record::is_record(bytes) || record::kid_of_name(name).is_some() {
            return match record::parse_record(bytes) {
                Ok(record) => Self::Record(Box::new(record)),
                Err(error) => Self::Refused(error.to_string()),
            };
        }
        match parse_pem(bytes) {
            Ok(PemKey::Private { key, format }) => {
                Self::Key { key: *key.jwk(), private: Some(format) }
            }
            Ok(PemKey::Public(key)) => Self::Key { key, private: None },
            Err(error) => Self::Refused(error.to_string()),
        }
    }
}
