//! The properties that `fuzz/run` checks, on the seeds that it begins with and on parts of them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../fuzz/src/properties.rs"]
#[expect(unreachable_pub, reason = "they are public where the fuzz targets use them")]
mod properties;

use std::path::{Path, PathBuf};

use properties::{check_key, check_record, quoted};

fn seeds(kind: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(kind);
    let entries = std::fs::read_dir(folder).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let read = |path: PathBuf| (path.clone(), std::fs::read(path).unwrap());
    files.into_iter().map(read).collect()
}

/// Checks every seed, and each of them cut or with a byte changed in many places.
fn replay(kind: &str, count: usize, check: fn(&[u8]) -> bool) {
    let mut seen = 0;
    for verdict in ["accepted", "refused"] {
        for (path, text) in seeds(&format!("{kind}/{verdict}")) {
            assert_eq!(check(&text), verdict == "accepted", "{}", path.display());
            seen += 1;
            // A few files are much longer than the rest, and no more of a test.
            for at in (0..text.len().min(600)).step_by(7) {
                check(&text[..at]);
                let mut changed = text.clone();
                changed[at] ^= 1;
                check(&changed);
            }
        }
    }
    assert_eq!(seen, count);
}

#[test]
fn every_seed_of_a_key_keeps_the_properties() {
    replay("keys", 96, check_key);
}

#[test]
fn every_seed_of_a_record_keeps_the_properties() {
    replay("records", 31, check_record);
}

#[test]
fn a_reason_that_quotes_the_key_is_found() {
    let text = "-----BEGIN PRIVATE KEY-----\nMHcCAQEEII6bEJ5xkJi/\n-----END PRIVATE KEY-----\n";
    let told = |reason: &str| quoted(reason, text.as_bytes()).map(str::to_owned);
    assert_eq!(told("cannot read \"EEII6bEJ5\""), Some("EEII6bEJ".into()));
    assert_eq!(told("at 5xkJi/, no base64"), None, "too short to tell anything");
    assert_eq!(told("a block \"PRIVATE KEY\" is refused"), None, "the label is no secret");
    assert_eq!(told("at bEJ5xkJi/"), Some("bEJ5xkJi".into()));
}
