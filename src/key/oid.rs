//! Object identifiers: the two of a P-256 key, and the names of those that are refused.

use std::fmt;

use der::oid::ObjectIdentifier;

/// id-ecPublicKey (RFC 5480 section 2.1.1).
pub(super) const EC_PUBLIC_KEY: ObjectIdentifier =
    ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");

/// secp256r1, which is P-256 (RFC 5480 section 2.1.1.1).
pub(super) const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");

/// A curve, shown by its name where that is known, and else by its object identifier, unless that is
/// longer than any real one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CurveName(pub(super) ObjectIdentifier);

impl CurveName {
    /// The curve of SM2 (GM/T 0006).
    pub(super) const SM2: Self = Self(ObjectIdentifier::new_unwrap("1.2.156.10197.1.301"));
}

impl fmt::Display for CurveName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(CURVES, self.0, f)
    }
}

impl fmt::Debug for CurveName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An algorithm, shown as a [`CurveName`] is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct AlgorithmName(pub(super) ObjectIdentifier);

impl AlgorithmName {
    /// rsaEncryption (RFC 8017 appendix A.1).
    pub(super) const RSA: Self = Self(ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1"));
    /// id-dsa (RFC 3279 section 2.3.2).
    pub(super) const DSA: Self = Self(ObjectIdentifier::new_unwrap("1.2.840.10040.4.1"));
}

impl fmt::Display for AlgorithmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(ALGORITHMS, self.0, f)
    }
}

impl fmt::Debug for AlgorithmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

type Names = &'static [(&'static str, &'static str)];

/// The name, or the identifier if it is not too long: in a file that was damaged or forged, an
/// identifier may reach over what follows it, which may be the private key.
fn show(names: Names, oid: ObjectIdentifier, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let text = oid.to_string();
    let name = names.iter().find(|(known, _)| *known == text);
    f.write_str(match name {
        Some((_, name)) => name,
        None if oid.as_bytes().len() <= SHOWN_OID_LEN => &text,
        None => "...",
    })
}

/// In bytes. The longest identifiers of curves and algorithms in use take 11, and after the beginning
/// of a curve's the private key of a PKCS#8 file comes 14 bytes later at the earliest.
const SHOWN_OID_LEN: usize = 12;

const CURVES: Names = &[
    ("1.2.840.10045.3.1.1", "P-192"),
    ("1.3.132.0.33", "P-224"),
    ("1.2.840.10045.3.1.7", "P-256"),
    ("1.3.132.0.34", "P-384"),
    ("1.3.132.0.35", "P-521"),
    ("1.3.132.0.10", "secp256k1"),
    ("1.3.36.3.3.2.8.1.1.7", "brainpoolP256r1"),
    ("1.3.36.3.3.2.8.1.1.11", "brainpoolP384r1"),
    ("1.3.36.3.3.2.8.1.1.13", "brainpoolP512r1"),
    ("1.2.156.10197.1.301", "SM2"),
];

const ALGORITHMS: Names = &[
    ("1.2.840.113549.1.1.1", "RSA"),
    ("1.2.840.113549.1.1.10", "RSASSA-PSS"),
    ("1.2.840.10040.4.1", "DSA"),
    ("1.2.840.113549.1.3.1", "DH"),
    ("1.3.132.1.12", "ECDH"),
    ("1.3.101.110", "X25519"),
    ("1.3.101.111", "X448"),
    ("1.3.101.112", "Ed25519"),
    ("1.3.101.113", "Ed448"),
    ("2.16.840.1.101.3.4.3.17", "ML-DSA-44"),
    ("2.16.840.1.101.3.4.3.18", "ML-DSA-65"),
    ("2.16.840.1.101.3.4.3.19", "ML-DSA-87"),
];
