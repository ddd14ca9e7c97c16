//! No reason and no `Debug` tells a part of a private scalar, whatever the file looks like.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};

use super::*;
use crate::key::parse_pem;

#[test]
fn debug_of_a_key_shows_its_kid_alone() {
    for (name, debug) in [
        ("accepted/sec1.pem", format!("Private {{ key: SigningKey({KID}), format: Sec1 }}")),
        ("accepted/spki.pem", format!("Public(Jwk({KID}))")),
    ] {
        assert_eq!(format!("{:?}", parse_pem(&fixture(name)).unwrap()), debug);
    }
}

#[test]
fn no_mutated_file_panics_or_makes_a_reason_tell_the_scalar() {
    let secret = Secret::new();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut reasons = BTreeSet::new();
    for _ in 0..1_000 {
        for text in [mutated_text(&mut random), mutated_der(&mut random)] {
            match parse_pem(&text) {
                Ok(key) => {
                    assert!(!secret.is_in(&format!("{key:?}")));
                    assert_eq!(key.jwk().kid().to_string(), KID, "another key was read");
                }
                Err(error) => {
                    let debug = format!("{error:?}");
                    assert!(!secret.is_in(&debug), "{debug}");
                    assert!(!secret.is_in(&error.to_string()), "{error}");
                    let variant = debug.split(|c: char| !c.is_alphanumeric()).next();
                    reasons.insert(variant.unwrap_or_default().to_owned());
                }
            }
        }
    }
    assert!(reasons.len() > 12, "the mutations reach little: {reasons:?}");
}

#[test]
fn the_search_for_the_scalar_finds_it() {
    let secret = Secret::new();
    let hex = SCALAR.map(|byte| format!("{byte:02X}")).concat();
    for leak in [
        text("accepted/sec1.pem"),
        text("accepted/pkcs8.pem"),
        format!("scalar: {hex}"),
        format!("jwk: {}", URL_SAFE_NO_PAD.encode(SCALAR)),
        format!("{SCALAR:?}"),
        format!("{:02x?}", &SCALAR[8..]),
        String::from_utf8_lossy(&SCALAR).into_owned(),
    ] {
        assert!(secret.is_in(&leak), "{leak}");
    }
    assert!(!secret.is_in(&text("accepted/spki.pem")));
}

/// Pieces of the scalar in the encodings in which it might be told.
struct Secret(Vec<String>);

impl Secret {
    fn new() -> Self {
        let mut pieces = Vec::new();
        let mut tell = |text: &str, len: usize| {
            let chars: Vec<char> = text.chars().collect();
            pieces.extend(chars.windows(len).map(String::from_iter));
        };
        let list = |show: fn(&u8) -> String| SCALAR.map(|byte| show(&byte)).join(", ");
        tell(&SCALAR.map(|byte| format!("{byte:02x}")).concat(), 12);
        tell(&list(|byte| format!("{byte}")), 16);
        tell(&list(|byte| format!("{byte:02x}")), 16);
        tell(&String::from_utf8_lossy(&SCALAR), 4);
        // Base64 of a longer text shows the scalar in one of three alignments.
        for shift in 0..3 {
            let shifted = [&[0; 2][..shift], &SCALAR].concat();
            for base64 in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
                tell(&base64.encode(&shifted)[4..42], 8);
            }
        }
        Self(pieces)
    }

    fn is_in(&self, text: &str) -> bool {
        let hex = text.to_lowercase();
        self.0.iter().any(|p| text.contains(p) || hex.contains(p))
    }
}

/// A file that holds the scalar and its public half, with some of its text changed.
fn mutated_text(random: &mut Random) -> Vec<u8> {
    const FILES: &[&str] = &["sec1-after-parameters", "sec1", "pkcs8", "pkcs8-version-2"];
    let file = FILES[random.below(FILES.len())];
    mutate(fixture(&format!("accepted/{file}.pem")), random)
}

/// A well-framed file of which the DER is changed, or stands under another label.
fn mutated_der(random: &mut Random) -> Vec<u8> {
    const LABELS: &[&str] = &["EC PRIVATE KEY", "PRIVATE KEY", "PUBLIC KEY", "EC PARAMETERS"];
    let at = random.below(2);
    let file = text(["accepted/sec1.pem", "accepted/pkcs8.pem"][at]);
    let base64: String = file.lines().filter(|l| !l.starts_with('-')).collect();
    let der = mutate(STANDARD.decode(base64).unwrap(), random);
    let label = match random.below(5) {
        0 => LABELS[random.below(LABELS.len())],
        _ => LABELS[at],
    };
    let base64 = STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{base64}\n-----END {label}-----\n").into_bytes()
}

fn mutate(mut bytes: Vec<u8>, random: &mut Random) -> Vec<u8> {
    for _ in 0..=random.below(3) {
        let (at, other) = (random.below(bytes.len()), random.below(bytes.len()));
        let (start, end) = (at.min(other), at.max(other));
        match random.below(7) {
            0 => bytes[at] = bytes[other],
            1 => bytes[at] ^= 1 << random.below(8),
            2 => drop(bytes.remove(at)),
            3 => bytes.insert(at, b"\n-:= \0\x30\x80"[random.below(8)]),
            4 => bytes.truncate(end.max(1)),
            5 => bytes.extend_from_within(start..end),
            _ => bytes.retain(|byte| *byte != b'\n'),
        }
        if bytes.is_empty() {
            bytes.push(0);
        }
    }
    bytes
}

/// Marsaglia's xorshift: the same mutations on each run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % bound
    }
}
