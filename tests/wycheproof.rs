//! Wycheproof's public keys and ES256 signatures: each has an answer that somebody else worked out.
//!
//! Its set of ECDH keys in PEM is in no package; what those sets test is the DER inside, which is
//! put into PEM here. Its sets of signatures have their keys in PEM.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jwks_server::jwk::{COORDINATE_LEN, Jwk};
use jwks_server::key::{KeyError, PemKey, parse_pem, verify};
use wycheproof::TestResult::{Acceptable, Invalid, Valid};
use wycheproof::ecdh::TestFlag::{CompressedPublic, InvalidAsn, UnnamedCurve};
use wycheproof::{EllipticCurve, ecdh, ecdsa};

fn public_key(pem: &str) -> Result<Jwk, KeyError> {
    match parse_pem(pem.as_bytes())? {
        PemKey::Public(key) => Ok(key),
        PemKey::Private { .. } => panic!("a private key in a set of public ones"),
    }
}

fn pem(der: &[u8]) -> String {
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der))
}

/// The SPKI of a point on P-256, whatever the bytes of the point are.
fn spki(point: &[u8]) -> Vec<u8> {
    let tlv = |tag: u8, parts: &[&[u8]]| {
        let content = parts.concat();
        let len = u8::try_from(content.len()).unwrap();
        let len = if len < 0x80 { vec![len] } else { vec![0x81, len] };
        [&[tag][..], &len, &content].concat()
    };
    let algorithm = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
    let curve = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
    let names = tlv(0x30, &[&tlv(0x06, &[&algorithm]), &tlv(0x06, &[&curve])]);
    tlv(0x30, &[&names, &tlv(0x03, &[&[0], point])])
}

/// The key with the uncompressed point at the end of `bytes`.
fn key_of_point(bytes: &[u8]) -> Jwk {
    let point = &bytes[bytes.len() - 2 * COORDINATE_LEN..];
    let (x, y) = point.split_at(COORDINATE_LEN);
    Jwk::from_coordinates(x.try_into().unwrap(), y.try_into().unwrap())
}

/// How many keys of an ECDH set on P-256 had which outcome.
fn outcomes(name: ecdh::TestName, count: usize) -> BTreeMap<&'static str, usize> {
    let set = ecdh::TestSet::load(name).unwrap();
    let mut outcomes = BTreeMap::new();
    for group in &set.test_groups {
        assert_eq!(group.curve, EllipticCurve::Secp256r1);
        for test in &group.tests {
            let der = match group.encoding {
                ecdh::EcdhEncoding::Asn1 => test.public_key.to_vec(),
                ecdh::EcdhEncoding::EcPoint => spki(&test.public_key),
            };
            let key = public_key(&pem(&der));
            let case = format!("{name:?} {}: {}", test.tc_id, test.comment);
            let has = |flag| test.flags.contains(&flag);
            let outcome = match test.result {
                Valid => {
                    assert_eq!(key, Ok(key_of_point(&test.public_key)), "{case}");
                    "valid and accepted"
                }
                Invalid => {
                    assert!(key.is_err(), "{case}");
                    "invalid and refused"
                }
                Acceptable if has(CompressedPublic) => {
                    let [parity, x @ ..] = test.public_key.last_chunk::<33>().unwrap();
                    let key = key.expect(&case);
                    assert_eq!((key.x(), key.y()[31] & 1), (x, parity & 1), "{case}");
                    "compressed and accepted"
                }
                Acceptable if has(UnnamedCurve) => {
                    assert_eq!(key, Err(KeyError::ExplicitCurve), "{case}");
                    "unnamed curve and refused"
                }
                Acceptable => {
                    assert!(has(InvalidAsn), "{case}");
                    assert!(key.is_err(), "{case}");
                    "invalid ASN.1 and refused"
                }
            };
            *outcomes.entry(outcome).or_default() += 1;
        }
    }
    assert_eq!(outcomes.values().sum::<usize>(), count);
    assert_eq!(set.number_of_tests, count);
    outcomes
}

#[test]
fn each_public_key_is_read_or_refused_as_it_deserves() {
    assert_eq!(
        outcomes(ecdh::TestName::EcdhSecp256r1, 612),
        BTreeMap::from([
            ("valid and accepted", 330),
            ("invalid and refused", 52),
            ("compressed and accepted", 1),
            ("unnamed curve and refused", 7),
            ("invalid ASN.1 and refused", 222),
        ])
    );
    assert_eq!(
        outcomes(ecdh::TestName::EcdhSecp256r1Ecpoint, 355),
        BTreeMap::from([
            ("valid and accepted", 330),
            ("invalid and refused", 24),
            ("compressed and accepted", 1),
        ])
    );
}

#[test]
fn a_key_on_any_other_curve_is_refused_for_its_curve() {
    // How many of each curve, with the one name that each is told by.
    let mut refused = BTreeMap::new();
    let mut refuse = |curve: EllipticCurve, pem: &str, case: &str| {
        let error = public_key(pem).unwrap_err();
        assert!(matches!(error, KeyError::Curve(_)), "{case}: {error}");
        let (told, count) = refused.entry(format!("{curve:?}")).or_insert((error.clone(), 0));
        assert_eq!(*told, error, "{case}");
        *count += 1;
    };
    for name in ecdh::TestName::all() {
        for group in ecdh::TestSet::load(name).unwrap().test_groups {
            let named = group.encoding == ecdh::EcdhEncoding::Asn1;
            for test in group.tests {
                if named && group.curve != EllipticCurve::Secp256r1 && test.result == Valid {
                    refuse(group.curve, &pem(&test.public_key), &test.comment);
                }
            }
        }
    }
    for name in ecdsa::TestName::all() {
        for group in ecdsa::TestSet::load(name).unwrap().test_groups {
            if group.key.curve != EllipticCurve::Secp256r1 {
                refuse(group.key.curve, &group.pem, &format!("{name:?}"));
            }
        }
    }
    assert_eq!(
        (refused.len(), refused.values().map(|(_, count)| count).sum::<usize>()),
        (15, 11_489)
    );
}

/// The key of a group of signatures, which the group has in three forms.
fn key_of(group: &ecdsa::TestGroup) -> Jwk {
    let key = key_of_point(&group.key.key);
    assert_eq!(public_key(&group.pem), Ok(key));
    assert_eq!(public_key(&pem(&group.der)), Ok(key));
    key
}

#[test]
fn each_es256_signature_has_the_outcome_that_it_deserves() {
    let set = ecdsa::TestSet::load(ecdsa::TestName::EcdsaSecp256r1Sha256P1363).unwrap();
    let (mut valid, mut invalid) = (0, 0);
    for group in &set.test_groups {
        let key = key_of(group);
        for test in &group.tests {
            let is_valid = test.result == Valid;
            assert_eq!(verify(&key, &test.msg, &test.sig), is_valid, "{}", test.tc_id);
            *if is_valid { &mut valid } else { &mut invalid } += 1;
        }
    }
    assert_eq!((valid, invalid), (173, 89));
}

/// RFC 7518 section 3.4 has r and s one after the other, and nothing else.
#[test]
fn no_signature_in_der_verifies() {
    let set = ecdsa::TestSet::load(ecdsa::TestName::EcdsaSecp256r1Sha256).unwrap();
    let mut count = 0;
    for group in &set.test_groups {
        let key = key_of(group);
        for test in &group.tests {
            assert!(!verify(&key, &test.msg, &test.sig), "{}", test.tc_id);
            count += 1;
        }
    }
    assert_eq!(count, 484);
}
