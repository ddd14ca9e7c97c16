//! DER to key: `ECPrivateKey` (RFC 5915), `PrivateKeyInfo` (RFC 5958), `SubjectPublicKeyInfo`
//! (RFC 5480), and `ECParameters`.
//!
//! `ECPrivateKey` is read here and not by the `sec1` crate, which knows no other parameters than a
//! name, and so could not tell explicit ones from garbage. The curve is always checked before the
//! numbers, so that a key on another curve is refused by that curve's name.

use der::asn1::{AnyRef, BitStringRef, OctetStringRef};
use der::oid::ObjectIdentifier;
use der::{Decode, Header, Reader, SliceReader, Tag, TagNumber, Tagged as _};
use p256::PublicKey;
use p256::elliptic_curve::point::AffineCoordinates as _;
use pkcs8::PrivateKeyInfoRef;
use spki::{AlgorithmIdentifierRef, SubjectPublicKeyInfoRef};

use super::oid::{EC_PUBLIC_KEY, P256};
use super::{AlgorithmName, CurveName, KeyError, SigningKey};
use crate::jwk::{COORDINATE_LEN, Jwk};

/// The key in an `ECPrivateKey`; `curve_named` says that its curve is P-256 by another place, so
/// that it need not say so itself.
pub(super) fn sec1(der: &[u8], curve_named: bool) -> Result<SigningKey, KeyError> {
    let key: EcPrivateKey<'_> = whole(der)?;
    key.check_curve(curve_named)?;
    private(&key, None)
}

/// The key in a `PrivateKeyInfo`.
pub(super) fn pkcs8(der: &[u8]) -> Result<SigningKey, KeyError> {
    let info: PrivateKeyInfoRef<'_> = whole(der)?;
    check_algorithm(&info.algorithm)?;
    let key: EcPrivateKey<'_> = whole(info.private_key.as_bytes())?;
    key.check_curve(true)?;
    private(&key, info.public_key)
}

/// The key in a `SubjectPublicKeyInfo`.
pub(super) fn spki(der: &[u8]) -> Result<Jwk, KeyError> {
    let info: SubjectPublicKeyInfoRef<'_> = whole(der)?;
    check_algorithm(&info.algorithm)?;
    let point = point(info.subject_public_key)?;
    let key = PublicKey::from_sec1_bytes(point).map_err(|_| KeyError::PointNotOnCurve)?;
    let affine = key.as_affine();
    Ok(Jwk::from_coordinates(affine.x().into(), affine.y().into()))
}

/// Checks that an `ECParameters` names P-256.
pub(super) fn parameters(der: &[u8]) -> Result<(), KeyError> {
    check_curve(whole(der)?)
}

/// RFC 5915 section 3.
struct EcPrivateKey<'a> {
    scalar: &'a [u8],
    parameters: Option<AnyRef<'a>>,
    public: Option<BitStringRef<'a>>,
}

impl EcPrivateKey<'_> {
    /// Checks that the curve is named, here or elsewhere, and that it is P-256 if it is named here.
    fn check_curve(&self, named_elsewhere: bool) -> Result<(), KeyError> {
        match self.parameters {
            Some(parameters) => check_curve(parameters),
            None if named_elsewhere => Ok(()),
            None => Err(KeyError::NoCurve),
        }
    }
}

impl<'a> Decode<'a> for EcPrivateKey<'a> {
    type Error = der::Error;

    fn decode<R: Reader<'a>>(reader: &mut R) -> der::Result<Self> {
        reader.sequence(|fields| {
            if u8::decode(fields)? != 1 {
                return Err(Tag::Integer.value_error().into());
            }
            Ok(Self {
                scalar: <&OctetStringRef>::decode(fields)?.as_bytes(),
                parameters: optional(fields, TagNumber(0))?,
                public: optional(fields, TagNumber(1))?,
            })
        })
    }
}

/// The explicitly tagged field of this number, if it is next.
fn optional<'a, R, T>(reader: &mut R, number: TagNumber) -> der::Result<Option<T>>
where
    R: Reader<'a>,
    T: Decode<'a, Error = der::Error>,
{
    let tag = Tag::ContextSpecific { constructed: true, number };
    if reader.is_finished() || Tag::peek(reader)? != tag {
        return Ok(None);
    }
    let header = Header::decode(reader)?;
    reader.read_nested(header.length(), T::decode).map(Some)
}

/// The one value in `der`.
fn whole<'a, T: Decode<'a>>(der: &'a [u8]) -> Result<T, KeyError> {
    let mut reader = SliceReader::new(der).map_err(|_| KeyError::NotDer)?;
    let value = T::decode(&mut reader).map_err(|_| KeyError::NotDer)?;
    if reader.is_finished() { Ok(value) } else { Err(KeyError::TrailingData) }
}

fn check_algorithm(algorithm: &AlgorithmIdentifierRef<'_>) -> Result<(), KeyError> {
    if algorithm.oid != EC_PUBLIC_KEY {
        return Err(KeyError::Algorithm(AlgorithmName(algorithm.oid)));
    }
    check_curve(algorithm.parameters.ok_or(KeyError::NoCurve)?)
}

/// RFC 5480 section 2.1.1: a name, NULL for a curve that is known by other means, or a `SEQUENCE` of
/// numbers, which can be any curve even where they look like P-256's.
fn check_curve(parameters: AnyRef<'_>) -> Result<(), KeyError> {
    match parameters.tag() {
        Tag::ObjectIdentifier => {
            let oid: ObjectIdentifier = parameters.decode_as().map_err(|_| KeyError::NotDer)?;
            match oid {
                P256 => Ok(()),
                other => Err(KeyError::Curve(CurveName(other))),
            }
        }
        Tag::Null => Err(KeyError::NoCurve),
        Tag::Sequence => Err(KeyError::ExplicitCurve),
        _ => Err(KeyError::NotDer),
    }
}

/// The key of this scalar, once each public point beside it is seen to be its own.
fn private(
    key: &EcPrivateKey<'_>,
    outer_public: Option<BitStringRef<'_>>,
) -> Result<SigningKey, KeyError> {
    let scalar = key.scalar;
    let scalar: &[u8; COORDINATE_LEN] =
        scalar.try_into().map_err(|_| KeyError::ScalarWidth(scalar.len()))?;
    let signing_key = SigningKey::from_scalar(scalar).ok_or(match scalar {
        [0, ..] if scalar.iter().all(|byte| *byte == 0) => KeyError::ScalarZero,
        _ => KeyError::ScalarTooLarge,
    })?;
    for public in [key.public, outer_public].into_iter().flatten() {
        if !is_point_of(point(public)?, signing_key.jwk()) {
            return Err(KeyError::PublicMismatch);
        }
    }
    Ok(signing_key)
}

/// The point in a bit string, if it is in one of the encodings that RFC 5480 section 2.2 allows:
/// compressed or not. Whether it is on the curve is not looked at.
fn point(bits: BitStringRef<'_>) -> Result<&[u8], KeyError> {
    let point = bits.as_bytes().ok_or(KeyError::PointEncoding)?;
    match (point, point.len()) {
        ([0x02 | 0x03, ..], 33) | ([0x04, ..], 65) => Ok(point),
        ([0x00], _) => Err(KeyError::PointAtInfinity),
        ([0x06 | 0x07, ..], 65) => Err(KeyError::PointHybrid),
        _ => Err(KeyError::PointEncoding),
    }
}

/// Whether a well-encoded point is the point of `jwk`. What is not on the curve never is.
fn is_point_of(point: &[u8], jwk: &Jwk) -> bool {
    match point {
        [0x04, coordinates @ ..] => coordinates == [*jwk.x(), *jwk.y()].as_flattened(),
        [parity, x @ ..] => x == jwk.x() && parity & 1 == jwk.y()[COORDINATE_LEN - 1] & 1,
        [] => false,
    }
}
