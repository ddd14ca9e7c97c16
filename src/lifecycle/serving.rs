//! What a serving process has seen by its own clock: [`Serving`].
//!
//! The times in the records were written by whatever clock, and go on while no server runs. What a
//! process has seen itself bounds them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{KeyRing, Policy};
use crate::jwk::{Jwk, KeyId};

/// What a serving process knows beside the ring. Its times are those of a monotonic clock, counted
/// from when the process began.
#[derive(Debug, Clone, Default)]
pub struct Serving {
    /// The time now.
    pub elapsed: Duration,
    /// While the clocks disagree: for how long removals and rotations pause at least.
    pub paused_for: Option<Duration>,
    /// Whether keys may be made and moved: not if the directory cannot be written.
    pub may_rotate: bool,
    served: BTreeMap<KeyId, Served>,
    current: Option<KeyId>,
    /// When this process first saw that a key was no longer the current one; for as long as such a
    /// key is retained.
    replaced_at: BTreeMap<KeyId, Duration>,
}

/// A key in the set of this process.
#[derive(Debug, Clone, Copy)]
struct Served {
    since: Duration,
    /// Whether nobody had served it before.
    is_first: bool,
}

impl Serving {
    /// From now on the set has these keys. Returns those of them that it had not before, and those
    /// that it has no more.
    pub fn note_served(&mut self, keys: &[Jwk], ring: &KeyRing) -> (Vec<KeyId>, Vec<KeyId>) {
        let kids: BTreeSet<_> = keys.iter().map(Jwk::kid).collect();
        let gone = self.served.keys().filter(|kid| !kids.contains(kid)).copied().collect();
        self.served.retain(|kid, _| kids.contains(kid));
        let new: Vec<_> = kids.into_iter().filter(|kid| !self.served.contains_key(kid)).collect();
        for kid in &new {
            let published_at = ring.record(*kid).and_then(|record| record.published_at);
            self.note_since(*kid, self.elapsed, published_at.is_none());
        }
        (new, gone)
    }

    /// The set has `kid` since then; `is_first` if nobody had served it before.
    pub fn note_since(&mut self, kid: KeyId, since: Duration, is_first: bool) {
        self.served.insert(kid, Served { since, is_first });
    }

    /// From now on, if it is another, `current` is the key that clients sign with.
    pub fn note_current(&mut self, current: Option<KeyId>, policy: &Policy) {
        let before = std::mem::replace(&mut self.current, current);
        if before == current {
            return;
        }
        self.replaced_at.retain(|kid, at| {
            Some(*kid) != current && self.elapsed.saturating_sub(*at) < policy.retain_for()
        });
        self.replaced_at.extend(before.map(|kid| (kid, self.elapsed)));
    }

    /// For how long this process has had `kid` in its set.
    pub fn served_for(&self, kid: KeyId) -> Option<Duration> {
        self.served.get(&kid).map(|served| self.elapsed.saturating_sub(served.since))
    }

    /// Whether this process was the first to serve `kid`, and does still.
    pub fn is_first_to_serve(&self, kid: KeyId) -> bool {
        self.served.get(&kid).is_some_and(|served| served.is_first)
    }

    /// How long ago this process first saw that `kid` was no longer the current key.
    pub fn replaced_for(&self, kid: KeyId) -> Option<Duration> {
        self.replaced_at.get(&kid).map(|at| self.elapsed.saturating_sub(*at))
    }
}
