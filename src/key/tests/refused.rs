//! What is refused, and in which words.

use super::*;
use crate::key::{KeyError, parse_pem, parse_public_pem};

/// Each refused file and its reason. The other files of a foreign curve follow from the name.
const REFUSED: &[(&str, &str)] = &[
    // Kinds of file.
    ("two-keys", "2 keys in one file, where there must be exactly one"),
    ("private-and-own-public", "2 keys in one file, where there must be exactly one"),
    ("parameters-only", "EC parameters without a key"),
    ("certificate", CERTIFICATE),
    ("key-and-certificate", CERTIFICATE),
    ("encrypted-pkcs8", ENCRYPTED),
    ("encrypted-sec1", ENCRYPTED),
    ("openssh", "a private key in OpenSSH format, not SEC1 or PKCS#8"),
    ("unknown-label", "an unknown kind of PEM block, \"X509 CRL\""),
    // Other algorithms.
    ("rsa-pkcs8", "a key of the algorithm RSA, not EC"),
    ("rsa-pkcs1", "a key of the algorithm RSA, not EC"),
    ("rsa-pkcs1-public", "a key of the algorithm RSA, not EC"),
    ("rsa-spki", "a key of the algorithm RSA, not EC"),
    ("ed25519-pkcs8", "a key of the algorithm Ed25519, not EC"),
    ("ed25519-spki", "a key of the algorithm Ed25519, not EC"),
    ("x25519-pkcs8", "a key of the algorithm X25519, not EC"),
    ("unknown-algorithm-spki", "a key of the algorithm 1.3.6.5, not EC"),
    // Other curves, wherever the curve is named.
    ("secp256k1-sec1-without-public", SECP256K1),
    ("secp256k1-parameters-block", SECP256K1),
    ("secp256k1-parameters-block-before-p256", SECP256K1),
    ("sm2-parameters-block-before-p256", "a key on the curve SM2, not P-256"),
    ("secp256k1-inside-pkcs8", SECP256K1),
    ("secp256k1-outside-pkcs8", SECP256K1),
    // No curve, or one given by its numbers.
    ("no-curve-sec1", NO_CURVE),
    ("no-curve-pkcs8", NO_CURVE),
    ("no-curve-spki", NO_CURVE),
    ("implicit-curve-pkcs8", NO_CURVE),
    ("explicit-sec1", EXPLICIT),
    ("explicit-pkcs8", EXPLICIT),
    ("explicit-spki", EXPLICIT),
    ("explicit-parameters-block", EXPLICIT),
    ("explicit-forged-sec1", EXPLICIT),
    // The private scalar.
    ("scalar-zero", "a private scalar of zero"),
    ("scalar-n", "a private scalar that is not below the order of the curve"),
    ("scalar-n-plus-1", "a private scalar that is not below the order of the curve"),
    ("scalar-31-bytes", "a private scalar of 31 bytes, not 32"),
    ("scalar-33-bytes", "a private scalar of 33 bytes, not 32"),
    // The public point.
    ("mismatch-sec1", MISMATCH),
    ("mismatch-pkcs8", MISMATCH),
    ("mismatch-pkcs8-version-2", MISMATCH),
    ("off-curve-sec1", MISMATCH),
    ("off-curve-spki", "a public point that is not on the curve"),
    ("off-curve-compressed-spki", "a public point that is not on the curve"),
    ("hybrid-sec1", "a public point in hybrid encoding"),
    ("hybrid-spki", "a public point in hybrid encoding"),
    ("infinity-sec1", "a public point at infinity"),
    ("infinity-spki", "a public point at infinity"),
    ("compact-sec1", "a public point in no known encoding"),
    ("short-point-spki", "a public point in no known encoding"),
    ("no-point-spki", "a public point in no known encoding"),
    // The DER.
    ("trailing-sec1", "trailing data after the key"),
    ("trailing-pkcs8", "trailing data after the key"),
    ("trailing-inside-pkcs8", "trailing data after the key"),
    ("trailing-spki", "trailing data after the key"),
    ("der-without-length", "malformed DER"),
    ("der-cut", "malformed DER"),
    ("ber-long-length", "malformed DER"),
    ("ber-indefinite-length", "malformed DER"),
    ("pkcs8-under-sec1-label", "malformed DER"),
];

const FOREIGN: &[(&str, &str)] = &[
    ("p224", "a key on the curve P-224, not P-256"),
    ("p384", "a key on the curve P-384, not P-256"),
    ("p521", "a key on the curve P-521, not P-256"),
    ("secp256k1", SECP256K1),
    ("brainpool", "a key on the curve brainpoolP256r1, not P-256"),
    ("sm2", "a key on the curve SM2, not P-256"),
    ("sect283k1", "a key on the curve 1.3.132.0.16, not P-256"),
];

const CERTIFICATE: &str = "a certificate in it; the file must hold the key alone";
const ENCRYPTED: &str = "an encrypted private key; it must be stored unencrypted";
const SECP256K1: &str = "a key on the curve secp256k1, not P-256";
const NO_CURVE: &str = "an EC key that does not name its curve";
const EXPLICIT: &str = "explicit curve parameters in place of the name of the curve";
const MISMATCH: &str = "a public key in it that does not belong to the private key";

#[test]
fn every_refused_file_is_refused_for_its_own_reason() {
    let mut expected: Vec<(String, &str)> =
        REFUSED.iter().map(|(name, reason)| (format!("{name}.pem"), *reason)).collect();
    for (curve, reason) in FOREIGN {
        for format in ["sec1", "pkcs8", "spki"] {
            expected.push((format!("{curve}-{format}.pem"), reason));
        }
    }
    expected.sort();
    let actual: Vec<(String, String)> = names("refused")
        .into_iter()
        .map(|name| {
            let error = parse_pem(&fixture(&format!("refused/{name}"))).unwrap_err();
            (name, error.to_string())
        })
        .collect();
    for (actual, expected) in actual.iter().zip(&expected) {
        assert_eq!((&*actual.0, &*actual.1), (&*expected.0, expected.1));
    }
    assert_eq!(actual.len(), expected.len());
}

#[test]
fn broken_framing_is_refused_for_its_own_reason() {
    let pem = text("accepted/sec1.pem");
    let no_end = "no END line; the file may be written in part";
    let begin_line = "a BEGIN line that is not a line of its own";
    let long = "L".repeat(200);
    let cases: &[(String, &str)] = &[
        (String::new(), "no PEM block in it"),
        ("just text\n".to_owned(), "no PEM block in it"),
        (format!("\0{pem}").replace('\n', " "), "no PEM block in it"),
        ("x".repeat(16 * 1024 + 1), "larger than 16384 bytes"),
        (pem.replace('\n', ""), begin_line),
        (pem.replace('\n', "\\n"), begin_line),
        (pem.replace("KEY-----\nM", "KEY----\nM"), begin_line),
        (format!("{pem}-----BEGIN EC"), begin_line),
        (pem.replace("-----END", "----END"), no_end),
        (pem.replace("-----END EC PRIVATE KEY-----", ""), no_end),
        (format!("{}\n{pem}", &pem[..100]), no_end),
        (
            pem.replace("END EC ", "END "),
            "a block that begins as \"EC PRIVATE KEY\" and ends as \"PRIVATE KEY\"",
        ),
        (
            format!("-----BEGIN A\u{1b}[2J\"-----\n-----END {long}-----\n"),
            "a block that begins as \"...\" and ends as \"...\"",
        ),
        (
            "-----BEGIN é-----\n-----END é-----\n".to_owned(),
            "an unknown kind of PEM block, \"...\"",
        ),
        (pem.replace("EC PRIVATE KEY", &pem[31..59]), "an unknown kind of PEM block, \"...\""),
        (pem.replace('j', "*"), "malformed base64"),
        (pem.replace("=\n", "\n"), "malformed base64"),
        (pem.replace("=\n", "==\n"), "malformed base64"),
        (pem.replacen("KEY-----\n", "KEY-----\nComment: x\n\n", 1), "headers in the PEM block"),
        (pem.replacen("KEY-----\n", "KEY-----\nProc-Type: 4,ENCRYPTED \n\n", 1), ENCRYPTED),
        ("-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n".to_owned(), "malformed DER"),
        (pem.repeat(7), "7 keys in one file, where there must be exactly one"),
    ];
    for (text, reason) in cases {
        let error = parse_pem(text.as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), *reason, "{text:?}");
    }
}

#[test]
fn a_file_written_in_part_is_never_read_as_a_key() {
    for name in ["accepted/sec1-after-parameters.pem", "accepted/pkcs8.pem", "accepted/spki.pem"] {
        let whole = fixture(name);
        // Without the last newline it is whole.
        for len in 0..whole.len() - 1 {
            let error = parse_pem(&whole[..len]).unwrap_err();
            let expected = matches!(
                error,
                KeyError::NoPem | KeyError::BeginLine | KeyError::NoEnd | KeyError::OnlyParameters
            );
            assert!(expected, "{name} cut at {len}: {error}");
        }
    }
}

#[test]
fn a_record_takes_a_public_key_alone() {
    assert!(parse_public_pem(&text("accepted/spki.pem")).is_ok());
    for (name, error) in [
        ("accepted/sec1.pem", KeyError::NotPublic),
        ("accepted/pkcs8.pem", KeyError::NotPublic),
        ("refused/scalar-zero.pem", KeyError::NotPublic),
        ("refused/private-and-own-public.pem", KeyError::ManyKeys(2)),
        ("refused/certificate.pem", KeyError::Certificate),
        ("refused/encrypted-pkcs8.pem", KeyError::Encrypted),
        ("refused/off-curve-spki.pem", KeyError::PointNotOnCurve),
    ] {
        assert_eq!(parse_public_pem(&text(name)), Err(error), "{name}");
    }
}
