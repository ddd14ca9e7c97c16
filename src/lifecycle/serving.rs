//! What a serving process has seen by its own clock: [`Serving`].
//!
//! The times in the records were written by whatever clock, and go on while no server runs. What a
//! process has seen itself bounds them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{KeyRing, State};
use crate::jwk::{Jwk, KeyId};

/// What a serving process knows beside the ring. Its times are those of a monotonic clock, counted
/// from when the process began.
#[derive(Debug, Clone, Default)]
pub struct Serving {
    /// The time now.
    pub elapsed: Duration,
    /// While the clocks disagree: for how long removals and rotations pause at least.
    pub paused_for: Option<Duration>,
    /// Whether records may be changed, on disk or in memory: not if another process keeps them.
    pub may_record: bool,
    /// Whether keys may be made and moved: not if the directory cannot be written.
    pub may_rotate: bool,
    served: BTreeMap<KeyId, Served>,
    /// The current key, and since when it has been that.
    current: Option<(KeyId, Duration)>,
    /// When this process first saw that a key of its set signs no more, or had to assume it.
    retired_at: BTreeMap<KeyId, Duration>,
    /// Keys whose records could not be deleted, and when that was tried last.
    stuck: BTreeMap<KeyId, Duration>,
}

/// A key in the set of this process.
#[derive(Debug, Clone, Copy)]
struct Served {
    since: Duration,
    /// Whether its lead counts from then at least: nobody had served it before, or the clock was set.
    begins_lead: bool,
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

    /// The set has `kid` since then, which begins its lead if nobody had served it before.
    pub fn note_since(&mut self, kid: KeyId, since: Duration, begins_lead: bool) {
        self.served.insert(kid, Served { since, begins_lead });
    }

    /// From now on, if it is another, the current key of `ring` is the one that clients sign with.
    pub fn note_current(&mut self, ring: &KeyRing) {
        // A key that is to sign once more will be retired anew.
        self.retired_at.retain(|kid, _| {
            ring.record(*kid).is_none_or(|record| !matches!(record.state, State::Next { .. }))
        });
        let current = ring.current().map(|key| key.kid());
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

    /// The clock was set: what the records say shortens nothing that this process has seen itself. A retired
    /// key stays as if it were retired now, however often that happens.
    pub fn note_clock_set(&mut self, ring: &KeyRing) {
        for served in self.served.values_mut() {
            served.begins_lead = true;
        }
        for retired in ring.records().filter(|record| record.remove_at().is_some()) {
            self.retired_at.entry(retired.kid()).or_insert(self.elapsed);
        }
    }

    /// The record of `kid` could not be deleted.
    pub fn note_stuck(&mut self, kid: KeyId) {
        self.stuck.insert(kid, self.elapsed);
    }

    /// For how long this process has had `kid` in its set.
    pub fn served_for(&self, kid: KeyId) -> Option<Duration> {
        self.served.get(&kid).map(|served| self.elapsed.saturating_sub(served.since))
    }

    /// Whether the lead of `kid` counts at least from when this process began to serve it.
    pub fn begins_lead(&self, kid: KeyId) -> bool {
        self.served.get(&kid).is_some_and(|served| served.begins_lead)
    }

    /// For how long `kid` has been the current key, if it is, as far as this process has seen.
    pub fn current_for(&self, kid: KeyId) -> Option<Duration> {
        let (_, since) = self.current.filter(|(current, _)| *current == kid)?;
        Some(self.elapsed.saturating_sub(since))
    }

    /// The keys of which this process has seen for how long they have signed no more.
    pub fn retired(&self) -> impl Iterator<Item = KeyId> {
        self.retired_at.keys().copied()
    }

    /// For how long `kid` has signed no more, if this process has seen that.
    pub fn retired_for(&self, kid: KeyId) -> Option<Duration> {
        self.retired_at.get(&kid).map(|at| self.elapsed.saturating_sub(*at))
    }

    /// When it was last tried in vain to delete the record of `kid`.
    pub fn stuck_at(&self, kid: KeyId) -> Option<Duration> {
        self.stuck.get(&kid).copied()
    }
}
