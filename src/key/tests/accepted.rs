//! What is read, and what is written.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use getrandom::SysRng;

use super::*;
use crate::key::{
    KeyError, KeyFormat, MAX_PEM_LEN, PemKey, SigningKey, parse_pem, parse_public_pem, public_pem,
    verify,
};

#[test]
fn every_accepted_file_has_the_kid_that_openssl_gives_it() {
    let listed = text("kids.txt");
    let expected: Vec<(&str, &str)> =
        listed.lines().map(|line| line.split_once(' ').unwrap()).collect();
    let names = names("accepted");
    assert_eq!(names, expected.iter().map(|e| e.0).collect::<Vec<_>>());
    for (name, kid) in expected {
        let key = parse_pem(&fixture(&format!("accepted/{name}"))).unwrap();
        assert_eq!(key.jwk().kid().to_string(), kid, "{name}");
        let format = match &key {
            PemKey::Private { format, .. } => format.to_string(),
            PemKey::Public(_) => "spki".to_owned(),
        };
        let prefix = ["pkcs8", "spki"].iter().find(|f| name.starts_with(**f));
        assert_eq!(format, *prefix.unwrap_or(&"sec1"), "{name}");
    }
}

#[test]
fn an_embedded_public_key_in_another_form_makes_no_other_key() {
    let jwk = |name: &str| *parse_pem(&fixture(name)).unwrap().jwk();
    let key = jwk("accepted/sec1.pem");
    assert_eq!(key.kid().to_string(), KID);
    assert_eq!(jwk("accepted/sec1-compressed.pem"), key);
    assert_eq!(jwk("accepted/spki-compressed.pem"), key);
    assert_eq!(jwk("accepted/sec1-without-public.pem"), key);
}

#[test]
fn framing_is_read_tolerantly() {
    type Variant = (&'static str, fn(&str) -> String);
    const VARIANTS: &[Variant] = &[
        ("CRLF", |pem| pem.replace('\n', "\r\n")),
        ("CR", |pem| pem.replace('\n', "\r")),
        ("byte order mark", |pem| format!("\u{feff}{pem}")),
        ("text before", |pem| {
            format!("Kid: a-b_c\nCreated-At: 2026-11-22T17:03:00Z\n----- a rule -----\n{pem}")
        }),
        ("text after", |pem| format!("{pem}-----END NOTHING-----\ntext")),
        ("blank lines around", |pem| format!("\n \n{pem}\n\n\n")),
        ("no final newline", |pem| pem.trim_end().to_owned()),
        ("blank lines within", |pem| pem.replace('\n', "\n\n")),
        ("one long line", |pem| rewrap(pem, usize::MAX)),
        ("76 columns", |pem| rewrap(pem, 76)),
        ("1 column", |pem| rewrap(pem, 1)),
        ("trailing white space", |pem| pem.replace('\n', " \t\n")),
        ("space within lines", |pem| rewrap(pem, 4).replace('\n', "\n  ").replace("\n  -", "\n-")),
    ];
    for name in ["accepted/sec1.pem", "accepted/pkcs8.pem", "accepted/spki.pem"] {
        for (variant, vary) in VARIANTS {
            let key = parse_pem(vary(&text(name)).as_bytes());
            let kid = key.map(|key| key.jwk().kid().to_string());
            assert_eq!(kid.as_deref(), Ok(KID), "{name}, {variant}");
        }
    }
    let text = [b"\xff\xfe\0 not UTF-8\n", &fixture("accepted/sec1.pem")[..]].concat();
    assert_eq!(parse_pem(&text).unwrap().jwk().kid().to_string(), KID);
}

/// The block with its base64 in lines of this many characters.
fn rewrap(pem: &str, columns: usize) -> String {
    let lines: Vec<&str> = pem.lines().collect();
    let (first, last) = (lines[0], lines[lines.len() - 1]);
    let base64: Vec<char> = lines[1..lines.len() - 1].concat().chars().collect();
    let body: Vec<String> = base64.chunks(columns).map(|line| line.iter().collect()).collect();
    format!("{first}\n{}\n{last}\n", body.join("\n"))
}

#[test]
fn a_file_of_the_greatest_length_is_read() {
    let mut text = fixture("accepted/sec1.pem");
    text.resize(MAX_PEM_LEN, b' ');
    assert!(parse_pem(&text).is_ok());
    text.push(b' ');
    assert_eq!(parse_pem(&text).unwrap_err(), KeyError::TooLarge);
}

#[test]
fn what_is_written_is_what_openssl_writes() {
    let key = SigningKey::from_scalar(&SCALAR).unwrap();
    let (sec1, pkcs8) = (key.to_pem(KeyFormat::Sec1), key.to_pem(KeyFormat::Pkcs8));
    assert_eq!(*sec1, text("accepted/sec1.pem"));
    assert_eq!(*pkcs8, text("accepted/pkcs8.pem"));
    assert_eq!(public_pem(key.jwk()), text("accepted/spki.pem"));
}

#[test]
fn a_new_key_reads_back_as_it_was() {
    let key = SigningKey::generate(&mut SysRng).unwrap();
    for written in [KeyFormat::Sec1, KeyFormat::Pkcs8] {
        let PemKey::Private { key: read, format } =
            parse_pem(key.to_pem(written).as_bytes()).unwrap()
        else {
            panic!("a private key was read as a public one");
        };
        assert_eq!((read.jwk(), format), (key.jwk(), written));
        assert!(verify(key.jwk(), b"message", &read.sign(b"message")));
    }
    assert_eq!(parse_public_pem(&public_pem(key.jwk())), Ok(*key.jwk()));
}

#[test]
fn coordinates_keep_their_leading_zero_bytes() {
    let x = parse_pem(&fixture("accepted/zero-in-x.pem")).unwrap();
    let y = parse_pem(&fixture("accepted/zero-in-y.pem")).unwrap();
    assert_eq!((x.jwk().x()[0], y.jwk().y()[0]), (0, 0));
    for key in [x, y] {
        let json = serde_json::to_value(key.jwk()).unwrap();
        for member in ["x", "y"] {
            assert_eq!(json[member].as_str().unwrap().len(), 43);
        }
        assert_eq!(parse_public_pem(&public_pem(key.jwk())), Ok(*key.jwk()));
    }
}

#[test]
fn the_keys_of_the_rfcs_are_read() {
    // RFC 7517 appendices A.1 and A.2.
    let key = parse_pem(&fixture("accepted/rfc7517.pem")).unwrap();
    let encoded = |coordinate: &[u8]| URL_SAFE_NO_PAD.encode(coordinate);
    assert_eq!(encoded(key.jwk().x()), "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4");
    assert_eq!(encoded(key.jwk().y()), "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM");
    // RFC 7515 appendix A.3.1.
    let key = SigningKey::from_scalar(&SCALAR).unwrap();
    assert_eq!(encoded(key.jwk().x()), "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU");
    assert_eq!(encoded(key.jwk().y()), "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0");
}

#[test]
fn the_signature_of_rfc_7515_verifies() {
    let key = SigningKey::from_scalar(&SCALAR).unwrap();
    let message = concat!(
        "eyJhbGciOiJFUzI1NiJ9",
        ".eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFt",
        "cGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
    );
    let signature = concat!(
        "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSA",
        "pmWQxfKTUJqPP3-Kg6NU1Q"
    );
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    assert!(verify(key.jwk(), message.as_bytes(), &signature));
    assert!(!verify(key.jwk(), &message.as_bytes()[1..], &signature));
}

#[test]
fn a_key_format_reads_back_as_it_is_shown() {
    for format in [KeyFormat::Sec1, KeyFormat::Pkcs8] {
        assert_eq!(format.to_string().parse(), Ok(format));
    }
    assert!("pem".parse::<KeyFormat>().is_err());
}
