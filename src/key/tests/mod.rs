//! What is read, what is refused and in which words, and that no reason tells a secret.
//!
//! The files under `tests/fixtures/keys` are made by `tests/fixtures/make.sh` with OpenSSL.

mod accepted;
mod refused;
mod secrecy;

use std::fs;
use std::path::PathBuf;

/// The private scalar of RFC 7515 appendix A.3, which most of the files hold.
const SCALAR: [u8; 32] = [
    0x8e, 0x9b, 0x10, 0x9e, 0x71, 0x90, 0x98, 0xbf, 0x98, 0x04, 0x87, 0xdf, 0x1f, 0x5d, 0x77, 0xe9,
    0xcb, 0x29, 0x60, 0x6e, 0xbe, 0xd2, 0x26, 0x3b, 0x5f, 0x57, 0xc2, 0x13, 0xdf, 0x84, 0xf4, 0xb2,
];

/// The kid of the key with that scalar, as OpenSSL computes it.
const KID: &str = "oKIywvGUpTVTyxMQ3bwIIeQUudfr_CkLMjCE19ECD-U";

fn directory(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/keys").join(name)
}

fn fixture(name: &str) -> Vec<u8> {
    fs::read(directory(name)).unwrap()
}

fn text(name: &str) -> String {
    String::from_utf8(fixture(name)).unwrap()
}

/// The names of the files in a directory, sorted.
fn names(name: &str) -> Vec<String> {
    let entries = fs::read_dir(directory(name)).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
