//! The public document: [`Jwk`], [`JwkSet`] and [`KeyId`].
//!
//! Nothing in this module can hold a private scalar, and only what is in this module is ever
//! serialised, so a private key cannot reach a response by way of a type. It knows no files, no PEM
//! and no lifecycle.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::ser::{Serialize, SerializeStruct, Serializer};
use sha2::{Digest, Sha256};

/// The bytes of a P-256 coordinate, always this many (RFC 7518 section 6.2.1.2).
pub const COORDINATE_LEN: usize = 32;

/// A key's identifier: its RFC 7638 SHA-256 thumbprint, shown in base64url without padding.
///
/// It is derived from the key, so it cannot disagree with it, and no two keys share one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; 32]);

impl KeyId {
    /// The thumbprint of the P-256 key with these coordinates (RFC 7638 section 3).
    fn of(x: &[u8; COORDINATE_LEN], y: &[u8; COORDINATE_LEN]) -> Self {
        // The required members in lexicographic order, without white space: RFC 7638 section 3.2.
        let canonical = format!(
            r#"{{"crv":"P-256","kty":"EC","x":"{}","y":"{}"}}"#,
            URL_SAFE_NO_PAD.encode(x),
            URL_SAFE_NO_PAD.encode(y)
        );
        Self(Sha256::digest(canonical.as_bytes()).into())
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

impl Serialize for KeyId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Why a text is no [`KeyId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a kid is a SHA-256 thumbprint: 43 characters of base64url without padding")]
pub struct KeyIdError;

impl FromStr for KeyId {
    type Err = KeyIdError;

    fn from_str(text: &str) -> Result<Self, KeyIdError> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| KeyIdError)?;
        Ok(Self(bytes.try_into().map_err(|_| KeyIdError)?))
    }
}

/// A public P-256 signature key, as it stands in the set (RFC 7517, RFC 7518 section 6.2).
///
/// Serialises to exactly `kty crv x y kid alg use`, in that order, none of them null: verifiers are
/// known that refuse a whole set for one member they do not expect.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Jwk {
    x: [u8; COORDINATE_LEN],
    y: [u8; COORDINATE_LEN],
    kid: KeyId,
}

impl Jwk {
    /// The key with these big-endian affine coordinates.
    ///
    /// Whether they are a point of the curve is for the caller to know: the `key` module, the only
    /// caller outside tests, has them from a checked point.
    pub fn from_coordinates(x: [u8; COORDINATE_LEN], y: [u8; COORDINATE_LEN]) -> Self {
        Self { x, y, kid: KeyId::of(&x, &y) }
    }

    /// The thumbprint of this key.
    pub fn kid(&self) -> KeyId {
        self.kid
    }

    /// The big-endian x coordinate.
    pub fn x(&self) -> &[u8; COORDINATE_LEN] {
        &self.x
    }

    /// The big-endian y coordinate.
    pub fn y(&self) -> &[u8; COORDINATE_LEN] {
        &self.y
    }
}

impl fmt::Debug for Jwk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Jwk({})", self.kid)
    }
}

impl Serialize for Jwk {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut jwk = serializer.serialize_struct("Jwk", 7)?;
        jwk.serialize_field("kty", "EC")?;
        jwk.serialize_field("crv", "P-256")?;
        jwk.serialize_field("x", &URL_SAFE_NO_PAD.encode(self.x))?;
        jwk.serialize_field("y", &URL_SAFE_NO_PAD.encode(self.y))?;
        jwk.serialize_field("kid", &self.kid)?;
        jwk.serialize_field("alg", "ES256")?;
        jwk.serialize_field("use", "sig")?;
        jwk.end()
    }
}

/// A JWK Set (RFC 7517 section 5) that is fit to be served: at least one key, no kid twice.
///
/// Serialises to `{"keys":[…]}` with no other member.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct JwkSet {
    keys: Vec<Jwk>,
}

/// Why keys make no [`JwkSet`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JwkSetError {
    /// A set without a key would make every verifier reject every signature.
    #[error("the set would have no key")]
    Empty,
    /// RFC 7517 section 4.5 wants distinct kids, and some verifiers refuse the set otherwise.
    #[error("the set would have the kid {0} twice")]
    DuplicateKid(KeyId),
}

impl JwkSet {
    /// The set of `keys`, in this order.
    ///
    /// # Errors
    ///
    /// If there is no key, or one kid twice.
    pub fn new(keys: Vec<Jwk>) -> Result<Self, JwkSetError> {
        if keys.is_empty() {
            return Err(JwkSetError::Empty);
        }
        let mut seen = BTreeSet::new();
        for key in &keys {
            if !seen.insert(key.kid) {
                return Err(JwkSetError::DuplicateKid(key.kid));
            }
        }
        Ok(Self { keys })
    }

    /// The keys, in the order in which they are served.
    pub fn keys(&self) -> &[Jwk] {
        &self.keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn coordinate(text: &str) -> [u8; COORDINATE_LEN] {
        URL_SAFE_NO_PAD.decode(text).unwrap().try_into().unwrap()
    }

    /// The EC key of RFC 7517 appendix A.1.
    fn rfc7517_key() -> Jwk {
        Jwk::from_coordinates(
            coordinate("MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4"),
            coordinate("4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"),
        )
    }

    #[test]
    fn jwk_has_exactly_the_members_of_the_contract_in_order() {
        assert_eq!(
            serde_json::to_string(&rfc7517_key()).unwrap(),
            concat!(
                r#"{"kty":"EC","crv":"P-256","#,
                r#""x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","#,
                r#""y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM","#,
                r#""kid":"cn-I_WNMClehiVp51i_0VpOENW1upEerA8sEam5hn-s","alg":"ES256","use":"sig"}"#
            )
        );
    }

    #[test]
    fn leading_zero_bytes_of_a_coordinate_are_kept() {
        let mut x = [7; COORDINATE_LEN];
        x[..2].fill(0);
        let json = serde_json::to_value(Jwk::from_coordinates(x, [0; COORDINATE_LEN])).unwrap();
        assert_eq!(json["x"], "AAAHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc");
        assert_eq!(json["y"], "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
    }

    #[test]
    fn a_set_is_never_empty_and_never_repeats_a_kid() {
        let key = rfc7517_key();
        assert_eq!(JwkSet::new(vec![]), Err(JwkSetError::Empty));
        assert_eq!(JwkSet::new(vec![key, key]), Err(JwkSetError::DuplicateKid(key.kid())));
        assert_eq!(JwkSet::new(vec![key]).unwrap().keys(), [key]);
    }

    #[test]
    fn a_kid_reads_back_as_it_is_shown() {
        let kid = rfc7517_key().kid();
        assert_eq!(kid.to_string().parse(), Ok(kid));
        assert_eq!("short".parse::<KeyId>(), Err(KeyIdError));
        assert_eq!("!".repeat(43).parse::<KeyId>(), Err(KeyIdError));
    }
}
