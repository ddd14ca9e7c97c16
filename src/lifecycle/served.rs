//! Time that was served: for how long each key has been in the set that was answered.
//!
//! Leads and retentions are counted so, and by no wall clock: a clock can be set, and a server that is
//! down teaches nobody a key. The whole proof is one sentence: **a count never exceeds the real time for
//! which the key has been in the answered set.** What follows from it:
//!
//! - A key that enters another state begins at 0. So does one that this process meets later than at
//!   its first look: it cannot know what others have seen of it.
//! - Only the monotonic clock of the process adds, from one look to the next, for the keys that it has
//!   published. Looks that are further apart than [`LONGEST_GAP`] add nothing: the process, or its
//!   host, was stopped in between, and answered nobody.
//! - What another process has counted is taken over once, at the first look. To take it later as well
//!   would count the same time twice.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{KeyRing, Policy, Record, State, Time};
use crate::jwk::{Jwk, KeyId};

/// A process looks more often than that, or is stopped. A request that is made while it is stopped for
/// less is answered in time, with the set that counts.
pub const LONGEST_GAP: Duration = Duration::from_secs(20);
/// Verifiers are known that do not ask again for so long after a fetch that failed.
const BACK_OFF: Duration = Duration::from_secs(30);
/// No count is worth a write more often.
const LEAST_STEP: Duration = Duration::from_secs(1);

/// A state in which a key is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Live {
    /// Never signed with yet.
    Next,
    /// Signs.
    Current,
    /// Signs no more.
    Retired,
}

/// The state that a key is in, and the time that its record has for it. A count belongs to both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entered {
    /// The state.
    pub state: Live,
    /// When the key entered it, by whatever clock: a mark to tell it from another time, no more.
    pub at: Time,
}

/// What is counted for one key, as it is kept across processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// The state whose time is counted.
    pub entered: Entered,
    /// For how long the key has been in the answered set since.
    pub served: Duration,
    /// The longest retention that was ever promised to the key; zero if none was.
    pub promised: Duration,
}

/// The counts of all keys.
pub type Counts = BTreeMap<KeyId, Count>;

/// The counts of one process. A command has those of the file, and adds nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Served {
    counts: Counts,
    /// What the file says, as far as this process knows.
    kept: Counts,
    /// The keys of the published set, each with the time that this process has answered with it.
    published: BTreeMap<KeyId, Duration>,
    /// How much of each count this process has added and kept.
    added: BTreeMap<KeyId, Duration>,
    /// The monotonic clock, and the one that goes on while the host sleeps, at the last look.
    last: Option<(Duration, Duration)>,
    /// For how long this process has answered without a break.
    uninterrupted: Duration,
    /// When the counts were kept last, by the monotonic clock.
    kept_at: Option<Duration>,
}

impl Served {
    /// Takes over what another process has kept, for the keys of `ring` that are in the same state still.
    pub fn resume(&mut self, kept: Counts, ring: &KeyRing, policy: &Policy) {
        self.counts.clone_from(&kept);
        self.kept = kept;
        self.follow(ring, policy);
    }

    /// Takes in what state each key is in now: one that is in another than before begins at 0.
    pub fn follow(&mut self, ring: &KeyRing, policy: &Policy) {
        let live = |kid: &KeyId| match ring.record(*kid) {
            Some(record) => record.entered().is_some(),
            None => ring.may_have_unread_record(*kid),
        };
        self.counts.retain(|kid, _| live(kid));
        self.added.retain(|kid, _| live(kid));
        for record in ring.records() {
            let Some(entered) = record.entered() else { continue };
            let kid = record.kid();
            let before = self.counts.get(&kid);
            if before.is_some_and(|count| count.entered == entered) {
                continue;
            }
            let mut promised = before.map_or(Duration::ZERO, |count| count.promised);
            if entered.state == Live::Retired {
                promised = promised.max(policy.retain_for());
            }
            self.counts.insert(kid, Count { entered, served: Duration::ZERO, promised });
            self.added.remove(&kid);
        }
    }

    /// Counts the time since the last look, by the monotonic clock, for what was published then.
    /// `with_sleep` is the clock that goes on while the host sleeps.
    pub fn pass(&mut self, elapsed: Duration, with_sleep: Duration, policy: &Policy) {
        let (last, last_with_sleep) =
            self.last.replace((elapsed, with_sleep)).unwrap_or((elapsed, with_sleep));
        let gap = elapsed.saturating_sub(last);
        if gap.max(with_sleep.saturating_sub(last_with_sleep)) > LONGEST_GAP {
            self.uninterrupted = Duration::ZERO;
            return;
        }
        self.add(gap, policy);
    }

    /// The same for looks that were made all the while and found nothing, of which this is the last.
    pub fn pass_looking(&mut self, elapsed: Duration, with_sleep: Duration, policy: &Policy) {
        if let Some((last, _)) = self.last.replace((elapsed, with_sleep)) {
            self.add(elapsed.saturating_sub(last), policy);
        }
    }

    fn add(&mut self, gap: Duration, policy: &Policy) {
        if self.published.is_empty() {
            return;
        }
        self.uninterrupted = self.uninterrupted.saturating_add(gap);
        for (kid, answered) in &mut self.published {
            *answered += gap;
            let Some(count) = self.counts.get_mut(kid) else { continue };
            let Some(goal) = goal(count, policy) else { continue };
            // It stands still once it says all that is asked of it.
            count.served = count.served.max((count.served + gap).min(goal));
        }
    }

    /// From now on the answered set has these keys. Returns those of them that it had not before, and
    /// those that it has no more.
    pub fn publish(&mut self, keys: &[Jwk]) -> (Vec<KeyId>, Vec<KeyId>) {
        let kids: BTreeSet<_> = keys.iter().map(Jwk::kid).collect();
        let gone: Vec<_> =
            self.published.keys().filter(|kid| !kids.contains(kid)).copied().collect();
        for kid in &gone {
            self.published.remove(kid);
        }
        let new: Vec<_> =
            kids.into_iter().filter(|kid| !self.published.contains_key(kid)).collect();
        self.published.extend(new.iter().map(|kid| (*kid, Duration::ZERO)));
        (new, gone)
    }

    /// For how long this process has answered with `kid`, if it does.
    pub fn answered_for(&self, kid: KeyId) -> Option<Duration> {
        self.published.get(&kid).copied()
    }

    /// For how long `kid` has been served in its state.
    pub fn of(&self, kid: KeyId) -> Duration {
        self.counts.get(&kid).map_or(Duration::ZERO, |count| count.served)
    }

    /// How much of the lead of a next key is left.
    pub fn lead_left(&self, kid: KeyId, policy: &Policy) -> Duration {
        policy.publish_lead().saturating_sub(self.of(kid))
    }

    /// Whether `kid` had its lead before this process began.
    pub fn was_full(&self, kid: KeyId, policy: &Policy) -> bool {
        let added = self.added.get(&kid).is_some_and(|added| !added.is_zero());
        !added && self.kept.contains_key(&kid) && self.lead_left(kid, policy).is_zero()
    }

    /// How much of what is promised to a retired key is left.
    pub fn retention_left(&self, kid: KeyId, policy: &Policy) -> Duration {
        let promised = self.counts.get(&kid).map_or(Duration::ZERO, |count| count.promised);
        policy.retain_for().max(promised).saturating_sub(self.of(kid))
    }

    /// For a command, which cannot know for how long the running server has answered: long enough.
    pub fn assume_answering(&mut self) {
        self.uninterrupted = Duration::MAX;
    }

    /// For how long this process has to go on answering until it may promote a key: a verifier whose
    /// last fetch failed, since nobody answered, does not ask again at once.
    pub fn unproven_for(&self, policy: &Policy) -> Duration {
        proven_after(policy).saturating_sub(self.uninterrupted)
    }

    /// After what time there will be counts that are worth to be kept; `None` if that is never.
    pub fn keep_after(&self, policy: &Policy) -> Option<Duration> {
        let due = self.counts.iter().filter(|(kid, _)| self.published.contains_key(kid));
        let due = due.filter_map(|(kid, count)| self.worth_after(*kid, count, policy)).min()?;
        let elapsed = self.last.map_or(Duration::ZERO, |(elapsed, _)| elapsed);
        let earliest = self.kept_at.map_or(Duration::ZERO, |kept_at| kept_at + LEAST_STEP);
        Some(due.max(earliest.saturating_sub(elapsed)))
    }

    /// A hundredth of the whole at a time, but never more than what this process has added before, or
    /// short lives would lose it all.
    fn worth_after(&self, kid: KeyId, count: &Count, policy: &Policy) -> Option<Duration> {
        let goal = goal(count, policy)?;
        let kept = self.kept.get(&kid).filter(|kept| kept.entered == count.entered);
        let kept = kept.map_or(Duration::ZERO, |kept| kept.served);
        let left = goal.saturating_sub(count.served);
        if left.is_zero() {
            return (kept < goal && kept < count.served).then_some(Duration::ZERO);
        }
        let added = self.added.get(&kid).copied().unwrap_or_default();
        let step = (goal / 100).min(added).max(LEAST_STEP);
        Some(step.saturating_sub(count.served.saturating_sub(kept)).min(left))
    }

    /// What is to be kept.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// What the file says of `kid`, as far as this process knows.
    pub fn kept(&self, kid: KeyId) -> Option<&Count> {
        self.kept.get(&kid)
    }

    /// The file has the counts as they are here.
    pub fn note_kept(&mut self) {
        for (kid, count) in &self.counts {
            let before = self.kept.get(kid).filter(|kept| kept.entered == count.entered);
            let before = before.map_or(Duration::ZERO, |kept| kept.served);
            *self.added.entry(*kid).or_default() += count.served.saturating_sub(before);
        }
        self.kept.clone_from(&self.counts);
        self.kept_at = self.last.map(|(elapsed, _)| elapsed);
    }
}

/// For how long a process answers without a break before it may promote a key.
pub fn proven_after(policy: &Policy) -> Duration {
    policy.cache_max_age().max(BACK_OFF).min(policy.publish_lead())
}

/// For how long a key is to be served in its state, if anything comes of it.
fn goal(count: &Count, policy: &Policy) -> Option<Duration> {
    match count.entered.state {
        Live::Next => Some(policy.publish_lead()),
        Live::Current => policy.rotate_every(),
        Live::Retired => Some(policy.retain_for().max(count.promised)),
    }
}

impl Live {
    /// The word for the state.
    pub fn name(self) -> &'static str {
        match self {
            Self::Next => "next",
            Self::Current => "current",
            Self::Retired => "retired",
        }
    }
}

impl Record {
    /// The state that the key is in and since when, if it is published.
    pub fn entered(&self) -> Option<Entered> {
        let (state, at) = match self.state {
            State::Next { .. } => (Live::Next, self.created_at),
            State::Current { activated_at } => (Live::Current, activated_at),
            State::Retired { retired_at, .. } => (Live::Retired, retired_at),
            State::Revoked { .. } => return None,
        };
        Some(Entered { state, at })
    }
}
