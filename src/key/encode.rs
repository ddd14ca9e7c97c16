//! Key to PEM, byte for byte as OpenSSL writes it.
//!
//! Every P-256 key in one of the three formats is the same DER around the same three numbers of 32
//! bytes, so the DER is written out here and cannot fail to encode. The tests compare each with
//! OpenSSL's output.

use base64ct::{Base64, Encoding as _};
use zeroize::Zeroizing;

use super::scrub::scrubbed;
use super::{KeyFormat, SigningKey};
use crate::jwk::{COORDINATE_LEN, Jwk};

impl SigningKey {
    /// The key in PEM, with its public half in it, as `openssl` would write it.
    ///
    /// Lines end in LF and hold 64 characters of base64; the last one ends too.
    pub fn to_pem(&self, format: KeyFormat) -> Zeroizing<String> {
        scrubbed(|| self.encode(format))
    }

    fn encode(&self, format: KeyFormat) -> Zeroizing<String> {
        let scalar = self.scalar();
        let point = uncompressed(self.jwk());
        let der = |parts: [&[u8]; 4]| Zeroizing::new(parts.concat());
        match format {
            KeyFormat::Sec1 => {
                pem("EC PRIVATE KEY", &der([&SEC1_SCALAR, &*scalar, &SEC1_CURVE_AND_POINT, &point]))
            }
            KeyFormat::Pkcs8 => {
                pem("PRIVATE KEY", &der([&PKCS8_SCALAR, &*scalar, &PKCS8_POINT, &point]))
            }
        }
    }
}

/// The public key in PEM: `PUBLIC KEY`, which is SPKI (RFC 5480), as `openssl` would write it.
pub fn public_pem(key: &Jwk) -> String {
    let der = [&SPKI_POINT[..], &uncompressed(key)].concat();
    // Nothing in it is secret, so it may leave the buffer that is zeroized.
    String::clone(&pem("PUBLIC KEY", &der))
}

/// The public point, uncompressed (SEC 1 section 2.3.3).
pub(super) fn uncompressed(key: &Jwk) -> [u8; 1 + 2 * COORDINATE_LEN] {
    let mut point = [0x04; 1 + 2 * COORDINATE_LEN];
    point[1..=COORDINATE_LEN].copy_from_slice(key.x());
    point[1 + COORDINATE_LEN..].copy_from_slice(key.y());
    point
}

/// One PEM block (RFC 7468 section 2). No buffer on the way grows, so no copy of `der` is left.
fn pem(label: &str, der: &[u8]) -> Zeroizing<String> {
    let base64 = Zeroizing::new(Base64::encode_string(der));
    let boundaries = 2 * ("-----BEGIN -----\n".len() + label.len());
    let lines = base64.len().div_ceil(LINE_LEN);
    let mut text = Zeroizing::new(String::with_capacity(boundaries + base64.len() + lines));
    text.extend(["-----BEGIN ", label, "-----\n"]);
    let mut rest = base64.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(LINE_LEN));
        text.extend([line, "\n"]);
        rest = after;
    }
    text.extend(["-----END ", label, "-----\n"]);
    text
}

const LINE_LEN: usize = 64;

/// `ECPrivateKey` (RFC 5915 section 3) up to the scalar: SEQUENCE, version 1, OCTET STRING.
const SEC1_SCALAR: [u8; 7] = [0x30, 0x77, 0x02, 0x01, 0x01, 0x04, 0x20];

/// After the scalar, up to the point: \[0\] with the name of P-256, \[1\] with a BIT STRING.
const SEC1_CURVE_AND_POINT: [u8; 17] = [
    0xa0, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0xa1, 0x44, 0x03, 0x42,
    0x00,
];

/// `PrivateKeyInfo` (RFC 5958 section 2) up to the scalar: SEQUENCE, version 0, the algorithm with
/// id-ecPublicKey and P-256, and in an OCTET STRING an `ECPrivateKey` without parameters.
const PKCS8_SCALAR: [u8; 36] = [
    0x30, 0x81, 0x87, 0x02, 0x01, 0x00, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02,
    0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x04, 0x6d, 0x30, 0x6b, 0x02,
    0x01, 0x01, 0x04, 0x20,
];

/// After the scalar, up to the point: \[1\] with a BIT STRING.
const PKCS8_POINT: [u8; 5] = [0xa1, 0x44, 0x03, 0x42, 0x00];

/// `SubjectPublicKeyInfo` (RFC 5480 section 2) up to the point: SEQUENCE, the algorithm with
/// id-ecPublicKey and P-256, BIT STRING.
const SPKI_POINT: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
