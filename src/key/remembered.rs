//! What a key's arithmetic came to, so that a simulated year need not do it again. With the feature
//! `remembered-keys` alone, which only `tests/simulation` is built with: there the same keys come
//! in each of a hundred thousand issuers, and to derive and to test them is most of all work.
//!
//! It remembers of a private key its digest. What it does not repeat is a function of the scalar, so
//! no answer differs from what would be computed; that the computing is right is for the tests of
//! this module and of Wycheproof to show, which are built without this.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use p256::SecretKey;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

use crate::jwk::{Jwk, KeyId};

/// How many keys are remembered.
const MOST: usize = 100_000;

static PUBLIC_HALVES: LazyLock<Mutex<HashMap<[u8; 32], Jwk>>> = LazyLock::new(Mutex::default);
static TESTED: LazyLock<Mutex<HashSet<KeyId>>> = LazyLock::new(Mutex::default);

/// The public half of `secret`, derived if it is not known.
pub(super) fn public_half(secret: &SecretKey, derive: impl FnOnce() -> Jwk) -> Jwk {
    let digest = Sha256::digest(secret.to_bytes()).into();
    if let Some(known) = PUBLIC_HALVES.lock().get(&digest) {
        return *known;
    }
    let derived = derive();
    let mut known = PUBLIC_HALVES.lock();
    if known.len() < MOST {
        known.insert(digest, derived);
    }
    derived
}

/// Whether the key of `kid` has passed `test`, now or before.
pub(super) fn passes(kid: KeyId, test: impl FnOnce() -> bool) -> bool {
    if TESTED.lock().contains(&kid) {
        return true;
    }
    let passes = test();
    let mut tested = TESTED.lock();
    if passes && tested.len() < MOST {
        tested.insert(kid);
    }
    passes
}
