//! What must hold for whatever text is read as a key or as a record. The fuzz targets and
//! `tests/fuzz_seeds.rs`, which needs no fuzzer, check the same functions.

use jwks_server::key::{
    KeyError, KeyFormat, MAX_PEM_LEN, PemKey, parse_pem, parse_public_pem, public_pem,
};
use jwks_server::store::{parse_record, render_record};

/// Checks what must hold for `text` as a key file; returns whether it is one.
///
/// # Panics
///
/// If it does not hold.
pub fn check_key(text: &[u8]) -> bool {
    let public = std::str::from_utf8(text).ok().map(parse_public_pem);
    let key = match parse_pem(text) {
        Ok(key) => key,
        Err(error) => {
            tells_nothing(&error.to_string(), text);
            assert!(public.is_none_or(|public| public == Err(error) || is_not_public(&public)));
            return false;
        }
    };
    let jwk = *key.jwk();
    match &key {
        PemKey::Private { key, .. } => {
            assert_eq!(format!("{key:?}"), format!("SigningKey({})", jwk.kid()));
            assert!(public.is_none_or(|public| is_not_public(&public)));
            for written in [KeyFormat::Sec1, KeyFormat::Pkcs8] {
                let pem = key.to_pem(written);
                let Ok(PemKey::Private { key: read, format }) = parse_pem(pem.as_bytes()) else {
                    panic!("a private key that does not read back as {written}");
                };
                assert_eq!((read.jwk(), format), (&jwk, written));
                assert_eq!(read.to_pem(written), pem);
            }
        }
        PemKey::Public(_) => assert!(public.is_none_or(|public| public == Ok(jwk))),
    }
    assert_eq!(parse_public_pem(&public_pem(&jwk)), Ok(jwk));
    true
}

fn is_not_public(outcome: &Result<jwks_server::jwk::Jwk, KeyError>) -> bool {
    *outcome == Err(KeyError::NotPublic)
}

/// Checks what must hold for `text` as the file of a record; returns whether it is one.
///
/// # Panics
///
/// If it does not hold.
pub fn check_record(text: &[u8]) -> bool {
    let record = match parse_record(text) {
        Ok(record) => record,
        Err(error) => {
            tells_nothing(&error.to_string(), text);
            return false;
        }
    };
    // Nothing is lost or changed when the record is written again.
    let written = render_record(&record);
    assert_eq!(parse_record(written.as_bytes()).as_ref(), Ok(&record));
    assert!(written.len() < MAX_PEM_LEN / 8, "{} bytes", written.len());
    let is_plain = |c: char| c == '\n' || !c.is_control();
    assert!(written.chars().all(is_plain), "{written:?}");
    // The kid is the key's, and whoever reads the file as PEM finds no other key in it.
    assert!(written.contains(&format!("\nKid: {}\n", record.key.kid())));
    let found = parse_pem(written.as_bytes()).unwrap_or_else(|error| panic!("{error}: {written}"));
    assert_eq!(found.jwk(), &record.key);
    if let Ok(found) = parse_pem(text) {
        assert_eq!(found.jwk(), &record.key);
    }
    true
}

/// Checks that a reason is one short line that is fit for a terminal, and quotes no key.
fn tells_nothing(reason: &str, text: &[u8]) {
    assert!(reason.len() <= 120, "{reason}");
    assert!(reason.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{reason:?}");
    assert_eq!(quoted(reason, text), None, "{reason}");
}

/// Eight characters in a row that might be base64 and stand both in `reason` and in `text`, outside
/// its boundary lines, if there are any that `reason` has not from elsewhere.
pub fn quoted<'a>(reason: &'a str, text: &[u8]) -> Option<&'a str> {
    let is_base64 = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=');
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let is_boundary = |line: &&[u8]| line.starts_with(b"-----");
    let lines = || text.split(|byte| matches!(byte, b'\n' | b'\r'));
    let is_label = |part: &str| {
        lines().filter(is_boundary).any(|line| contains(line, format!(" {part}-----").as_bytes()))
    };
    reason
        // What is between quotation marks may be the label of a block, and is no part of a key then.
        .split('"')
        .filter(|part| !is_label(part))
        .flat_map(|part| part.split(|c| !is_base64(c)))
        .flat_map(|word| (0..=word.len()).filter_map(move |at| word.get(at..at + QUOTED_LEN)))
        // A number may be an arc of the curve's identifier, and a word the reason's own: a fuzzer
        // sees what is compared here, and puts it into the text. Base64 soon has both.
        .filter(|run| !run.bytes().all(|byte| byte.is_ascii_digit()))
        .filter(|run| !run.bytes().all(|byte| byte.is_ascii_lowercase()))
        .filter(|run| !WORDS.iter().any(|word| word.contains(run)))
        .find(|run| lines().any(|line| !is_boundary(&line) && contains(line, run.as_bytes())))
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

const QUOTED_LEN: usize = 8;

/// The longer words of the reasons that are not all small letters: a file may have them too.
const WORDS: &[&str] = &[
    "Activated",
    "Promotion",
    "Published",
    "Requested",
    "brainpoolP256r1",
    "brainpoolP384r1",
    "brainpoolP512r1",
    "secp256k1",
];
