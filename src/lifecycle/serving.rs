//! What a serving process has seen by its own clock: [`Serving`].
//!
//! The times in the records were written by whatever clock, and go on while no server runs. What a
//! process has seen itself bounds them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::KeyRing;
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
    /// The current key, and since when it has been that.
    current: Option<(KeyId, Duration)>,
    /// When this process first saw that a key of its set signs no more, or had to assume it.
    retired_at: BTreeMap<KeyId, Duration>,
    /// Keys whose records could not be deleted.
    stuck: BTreeSet<KeyId>,
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
        let gone: Vec<_> = self.served.keys().filter(|kid| !kids.contains(kid)).copied().collect();
        for kid in &gone {
            self.served.remove(kid);
            self.retired_at.remove(kid);
            self.stuck.remove(kid);
        }
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
    pub fn note_current(&mut self, current: Option<KeyId>) {
        let before = self.current.map(|(kid, _)| kid);
        if before == current {
            return;
        }
        self.current = current.map(|kid| (kid, self.elapsed));
        self.retired_at.extend(before.map(|kid| (kid, self.elapsed)));
        if let Some(kid) = current {
            self.retired_at.remove(&kid);
        }
    }

    /// From now on, if it was not known before, `kid` signs no more.
    pub fn note_retired(&mut self, kid: KeyId) {
        self.retired_at.entry(kid).or_insert(self.elapsed);
    }

    /// The record of `kid` could not be deleted.
    pub fn note_stuck(&mut self, kid: KeyId) {
        self.stuck.insert(kid);
    }

    /// For how long this process has had `kid` in its set.
    pub fn served_for(&self, kid: KeyId) -> Option<Duration> {
        self.served.get(&kid).map(|served| self.elapsed.saturating_sub(served.since))
    }

    /// Whether this process was the first to serve `kid`, and does still.
    pub fn is_first_to_serve(&self, kid: KeyId) -> bool {
        self.served.get(&kid).is_some_and(|served| served.is_first)
    }

    /// For how long `kid` has been the current key, if it is, as far as this process has seen.
    pub fn current_for(&self, kid: KeyId) -> Option<Duration> {
        let (_, since) = self.current.filter(|(current, _)| *current == kid)?;
        Some(self.elapsed.saturating_sub(since))
    }

    /// For how long `kid` has signed no more, if this process has seen that.
    pub fn retired_for(&self, kid: KeyId) -> Option<Duration> {
        self.retired_at.get(&kid).map(|at| self.elapsed.saturating_sub(*at))
    }

    /// Whether the record of `kid` could not be deleted.
    pub fn is_stuck(&self, kid: KeyId) -> bool {
        self.stuck.contains(&kid)
    }
}
