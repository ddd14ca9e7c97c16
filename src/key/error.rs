//! Why a text is refused as a key.
//!
//! A reason may name a label, an object identifier or a number, and nothing else that is in the
//! file: whatever else is there may be part of a private key.

use super::MAX_PEM_LEN;
use super::oid::{AlgorithmName, CurveName};

/// Why a text is no key that can be served: a fragment, to follow the name of the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// There is no `-----BEGIN …-----` line.
    #[error("no PEM block in it")]
    NoPem,
    /// The text is longer than [`MAX_PEM_LEN`].
    #[error("larger than {MAX_PEM_LEN} bytes")]
    TooLarge,
    /// There are this many keys, be they halves of one.
    #[error("{0} keys in one file, where there must be exactly one")]
    ManyKeys(usize),
    /// There is an `EC PARAMETERS` block, but no key.
    #[error("EC parameters without a key")]
    OnlyParameters,
    /// The key is encrypted, in PKCS#8's way or in OpenSSL's own (RFC 1421 headers).
    #[error("an encrypted private key; it must be stored unencrypted")]
    Encrypted,
    /// There is a certificate, alone or beside a key.
    #[error("a certificate in it; the file must hold the key alone")]
    Certificate,
    /// The key is in OpenSSH's format.
    #[error("a private key in OpenSSH format, not SEC1 or PKCS#8")]
    OpenSsh,
    /// A private key stands where only a public one may.
    #[error("a private key where a public key is expected")]
    NotPublic,
    /// The block's label is none that is known. It is shown if it is made of capitals.
    #[error("an unknown kind of PEM block, \"{0}\"")]
    UnknownLabel(String),
    /// The key is for another algorithm.
    #[error("a key of the algorithm {0}, not EC")]
    Algorithm(AlgorithmName),
    /// The key is on another curve.
    #[error("a key on the curve {0}, not P-256")]
    Curve(CurveName),
    /// The curve is named nowhere.
    #[error("an EC key that does not name its curve")]
    NoCurve,
    /// The curve is given by its parameters, and so could be any (RFC 5480 section 2.1.1).
    #[error("explicit curve parameters in place of the name of the curve")]
    ExplicitCurve,
    /// The private scalar is 0.
    #[error("a private scalar of zero")]
    ScalarZero,
    /// The private scalar is not below the order of the curve.
    #[error("a private scalar that is not below the order of the curve")]
    ScalarTooLarge,
    /// The private scalar has this many bytes (RFC 5915 section 3 wants 32).
    #[error("a private scalar of {0} bytes, not 32")]
    ScalarWidth(usize),
    /// The public key beside the private scalar is another key's.
    #[error("a public key in it that does not belong to the private key")]
    PublicMismatch,
    /// The public point is not on the curve.
    #[error("a public point that is not on the curve")]
    PointNotOnCurve,
    /// The public point is the point at infinity.
    #[error("a public point at infinity")]
    PointAtInfinity,
    /// The public point is in the hybrid encoding, which RFC 5480 section 2.2 rules out.
    #[error("a public point in hybrid encoding")]
    PointHybrid,
    /// The public point has another length, or another first byte, than any encoding of one.
    #[error("a public point in no known encoding")]
    PointEncoding,
    /// There is something after the DER value.
    #[error("trailing data after the key")]
    TrailingData,
    /// The bytes are not DER, or not of the structure that the label announces.
    #[error("malformed DER")]
    NotDer,
    /// The lines of the block are not base64.
    #[error("malformed base64")]
    NotBase64,
    /// The block has headers, as in RFC 1421, which say something other than that it is encrypted.
    #[error("headers in the PEM block")]
    Headers,
    /// The `BEGIN` line is cut, or goes on after the label: the line breaks may have been lost.
    #[error("a BEGIN line that is not a line of its own")]
    BeginLine,
    /// The text ends, or another block begins, before the `END` line is complete.
    #[error("no END line; the file may be written in part")]
    NoEnd,
    /// The `BEGIN` and `END` lines differ. A label is shown if it is made of capitals.
    #[error("a block that begins as \"{begin}\" and ends as \"{end}\"")]
    LabelMismatch {
        /// The label of the `BEGIN` line.
        begin: String,
        /// The label of the `END` line.
        end: String,
    },
}
