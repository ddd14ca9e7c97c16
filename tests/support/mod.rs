//! What the tests share: the program itself as a child process, a client for it, keys, a log of
//! everything that it answered, and the manager in virtual time.
//!
//! No test here depends on how fast anything is. What must happen is polled for with a deadline that
//! no healthy machine misses; what must never happen is looked for in every answer that a few
//! threads got meanwhile.

// Each test is a program of its own, and uses a part of this.
#![allow(dead_code, unused_imports)]

mod client;
mod form;
mod keys;
mod observer;
mod process;
mod program;

use std::time::{Duration, Instant};

pub(crate) use client::{Answer, Connection, KEY_SET, get};
pub(crate) use form::short_or_long;
pub(crate) use keys::{
    Key, Set, kid_in, kids_of, public_pem_of, read_current, record_of, records, token_verifies,
};
pub(crate) use observer::{Observer, Report, Sample, Since};
pub(crate) use process::{Process, Standing, beginning, config, new_key, paths, policy, write_key};
pub(crate) use program::{
    Finished, Server, Start, finish, json_of, jwks, jwks_with, problems, program,
};

/// How long a test waits for what must come. It has failed then.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How often a test looks for what must come.
const PACE: Duration = Duration::from_millis(5);

/// Read by whoever works on a directory in this process, written by whoever makes another: a child has the
/// locks of all threads until it becomes another program, and minutes of virtual time pass in that moment.
static SPAWNING: parking_lot::RwLock<()> = parking_lot::RwLock::new(());

#[expect(clippy::disallowed_methods, reason = "a test measures what passes")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// What `found` finds; a test fails if that takes very long.
pub(crate) fn eventually<T>(what: &str, found: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, what, found)
}

/// What `found` finds before `patience` ends.
pub(crate) fn within<T>(patience: Duration, what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let deadline = now() + patience;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(now() < deadline, "waited {patience:?} in vain: {what}");
        pause(PACE);
    }
}

/// Leaves the processor to others; never a proof of anything.
pub(crate) fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

/// An empty directory that is deleted when the test ends.
pub(crate) fn dir() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// The names in a directory, sorted.
pub(crate) fn names(dir: impl AsRef<std::path::Path>) -> Vec<std::ffi::OsString> {
    let mut names: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}
