//! What is refused, and in which words.

use super::*;
use crate::key::{KeyError, parse_pem, parse_public_pem};

const ENCRYPTED: &str = "an encrypted private key; it must be stored unencrypted";

#[test]
fn every_refused_file_is_refused_for_its_own_reason() {
    let listed = text("reasons.txt");
    let mut expected: Vec<(String, String)> = listed
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split_once(' ').unwrap())
        .map(|(name, reason)| (name.to_owned(), reason.to_owned()))
        .collect();
    expected.sort();
    let actual: Vec<(String, String)> = names("refused")
        .into_iter()
        .map(|name| {
            let error = parse_pem(&fixture(&format!("refused/{name}"))).unwrap_err();
            (name, error.to_string())
        })
        .collect();
    for (actual, expected) in actual.iter().zip(&expected) {
        assert_eq!(actual, expected);
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
