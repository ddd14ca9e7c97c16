//! Keys as they stand in files: PEM text to a key, a key to its public [`Jwk`], and back.
//!
//! Everything here is pure: no files, no clock, no runtime. What is read is P-256 in SEC1, PKCS#8
//! and SPKI; what is refused has a reason of its own each ([`KeyError`]), and no reason quotes what
//! is in the file. Reading never guesses the curve: it must be named, wherever it is named it must
//! be P-256, and secp256k1 and brainpoolP256r1 keys, which look the same by size, are not.
//!
//! ```text
//! pem     text     →  blocks: label, and base64 into a buffer that is zeroized
//! decode  DER      →  SigningKey or Jwk
//! oid     the names of the curves and algorithms that are refused
//! signing SigningKey: generate, sign, verify
//! encode  key      →  PEM
//! scrub   nothing of a private key stays on the stack
//! ```

mod decode;
mod encode;
mod error;
mod oid;
mod pem;
#[cfg(feature = "remembered-keys")]
mod remembered;
mod scrub;
mod signing;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

pub use encode::public_pem;
pub use error::KeyError;
pub use oid::{AlgorithmName, CurveName};
pub use signing::{GenerateError, SigningKey, verify};

use crate::jwk::Jwk;
use pem::{Block, Content};
use scrub::scrubbed;

/// The longest text that is read as a key, in bytes. A P-256 key takes a few hundred.
pub const MAX_PEM_LEN: usize = 16 * 1024;

/// The two formats in which a private key is read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyFormat {
    /// `EC PRIVATE KEY`: RFC 5915, as `openssl ecparam -genkey` writes it.
    Sec1,
    /// `PRIVATE KEY`: RFC 5208 and 5958, as `openssl genpkey` writes it.
    Pkcs8,
}

impl fmt::Display for KeyFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Sec1 => "sec1",
            Self::Pkcs8 => "pkcs8",
        })
    }
}

/// Why a text is no [`KeyFormat`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key format is sec1 or pkcs8")]
pub struct KeyFormatError;

impl FromStr for KeyFormat {
    type Err = KeyFormatError;

    fn from_str(text: &str) -> Result<Self, KeyFormatError> {
        match text {
            "sec1" => Ok(Self::Sec1),
            "pkcs8" => Ok(Self::Pkcs8),
            _ => Err(KeyFormatError),
        }
    }
}

/// The one key of a PEM file.
#[derive(Debug)]
pub enum PemKey {
    /// A private key, and the format it stood in.
    Private {
        /// The key.
        key: SigningKey,
        /// The format, so that the next key can be written in the same.
        format: KeyFormat,
    },
    /// A public key.
    Public(Jwk),
}

impl PemKey {
    /// The public half.
    pub fn jwk(&self) -> &Jwk {
        match self {
            Self::Private { key, .. } => key.jwk(),
            Self::Public(jwk) => jwk,
        }
    }
}

/// Reads the one key in a PEM file (RFC 7468, read tolerantly): SEC1, PKCS#8 or SPKI.
///
/// A byte order mark, text around the blocks, CRLF line ends, blank lines, lines of any length,
/// trailing white space and a missing final newline are all read.
///
/// # Errors
///
/// If there is not exactly one key, or it is not a valid P-256 key in one of these formats.
pub fn parse_pem(text: &[u8]) -> Result<PemKey, KeyError> {
    scrubbed(|| parse(text))
}

fn parse(text: &[u8]) -> Result<PemKey, KeyError> {
    let (block, curve_named) = only_key(text)?;
    let private = |key, format| PemKey::Private { key, format };
    match block.content() {
        Content::Sec1 => {
            decode::sec1(&block.decode()?, curve_named).map(|key| private(key, KeyFormat::Sec1))
        }
        Content::Pkcs8 => decode::pkcs8(&block.decode()?).map(|key| private(key, KeyFormat::Pkcs8)),
        Content::Spki => decode::spki(&block.decode()?).map(PemKey::Public),
        content => Err(refusal(content, &block)),
    }
}

/// Reads the one public key in a PEM text whose only block is SPKI's `PUBLIC KEY`.
///
/// # Errors
///
/// As [`parse_pem`], and if the key is a private one, which is not decoded.
pub fn parse_public_pem(text: &str) -> Result<Jwk, KeyError> {
    let (block, _) = only_key(text.as_bytes())?;
    match block.content() {
        Content::Spki => decode::spki(&block.decode()?),
        Content::Sec1 | Content::Pkcs8 => Err(KeyError::NotPublic),
        content => Err(refusal(content, &block)),
    }
}

/// The one block of `text` that holds a key, and whether an `EC PARAMETERS` block beside it names
/// its curve, which is P-256 then.
fn only_key(text: &[u8]) -> Result<(Block<'_>, bool), KeyError> {
    if text.len() > MAX_PEM_LEN {
        return Err(KeyError::TooLarge);
    }
    let mut parameters = Vec::new();
    let mut keys = Vec::new();
    for block in pem::blocks(text)? {
        match block.content() {
            Content::Parameters => parameters.push(block),
            content @ (Content::Sm2 | Content::Certificate | Content::Other) => {
                return Err(refusal(content, &block));
            }
            _ => keys.push(block),
        }
    }
    let count = keys.len();
    let key = match (keys.pop(), count) {
        (Some(key), 1) => key,
        (Some(_), _) => return Err(KeyError::ManyKeys(count)),
        (None, _) if parameters.is_empty() => return Err(KeyError::NoPem),
        (None, _) => return Err(KeyError::OnlyParameters),
    };
    for block in &parameters {
        decode::parameters(&block.decode()?)?;
    }
    Ok((key, !parameters.is_empty()))
}

/// The SHA-256 of what may hold a private key. Of the last block, which a hash keeps as it is, nothing
/// is left on the stack.
pub fn digest_of_secret(bytes: &[u8]) -> [u8; 32] {
    scrubbed(|| Sha256::digest(bytes).into())
}

/// Why a block of such content is refused, whatever is in it.
fn refusal(content: Content, block: &Block<'_>) -> KeyError {
    match content {
        Content::Sm2 => KeyError::Curve(CurveName::SM2),
        Content::Certificate => KeyError::Certificate,
        Content::Encrypted => KeyError::Encrypted,
        Content::OpenSsh => KeyError::OpenSsh,
        Content::Algorithm(_) if block.is_encrypted() => KeyError::Encrypted,
        Content::Algorithm(algorithm) => KeyError::Algorithm(algorithm),
        _ => KeyError::UnknownLabel(block.label()),
    }
}
