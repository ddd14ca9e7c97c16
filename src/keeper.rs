//! One change at a time: [`Keeper`] carries out what the lifecycle decides, in the store and in the
//! ring. The manager and the commands work through it alike, each under the lock.

use std::sync::Arc;

use tracing::{debug, info, warn};

use crate::clock::{Clock, Moment};
use crate::error::chain;
use crate::jwk::{Jwk, KeyId};
use crate::key::{GenerateError, SigningKey};
use crate::lifecycle::{
    Action, KeyRing, Policy, Record, Seen, Served, Slot, State, Time, rfc3339, settle,
};
use crate::store::{Existing, LockError, Locked, Problem, ReadError, Store, WriteError};
use crate::text::{plain, plain_path};

/// The keys, where they lie, and the rules that they follow.
#[derive(Debug)]
pub struct Keeper {
    /// The directory.
    pub store: Store,
    /// What is known of the keys.
    pub ring: KeyRing,
    /// How long each state lasts.
    pub policy: Policy,
    /// How long each key was served: by the file, and what this process adds.
    pub served: Served,
    /// Whether the counts were taken over from the file, or why they could not be.
    resumed: Option<Result<(), ReadError>>,
    /// What the ring has taken in last.
    seen: Option<Arc<Seen>>,
    /// Whether the last look found something else than the one before.
    found_news: bool,
}

/// Why a change was given up. The next try begins with a new look.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The directory could not be changed.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The lock could not be had.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// No key could be made.
    #[error("make a key")]
    Generate(#[from] GenerateError),
    /// Nothing is changed before all that is there was seen.
    #[error("list {path}")]
    Unlisted {
        /// The directory of the records.
        path: String,
    },
    /// A record was not written, since what it would replace cannot be read.
    #[error("write {path}: what is there cannot be read; mend or delete it")]
    Unwritten {
        /// The file of the record.
        path: String,
    },
    /// Changes followed from each other without an end; a defect of the lifecycle.
    #[error("the keys do not come to rest")]
    Unsettled,
}

/// More changes at a time than any directory can want.
const MAX_CHANGES: usize = 100_000;

impl Keeper {
    /// A keeper that has not looked yet.
    pub fn new(store: Store, policy: Policy) -> Self {
        Self {
            store,
            ring: KeyRing::default(),
            policy,
            served: Served::default(),
            resumed: None,
            seen: None,
            found_news: false,
        }
    }

    /// Forgets all that it knows: what others have removed meanwhile is not to be written again.
    pub fn start_over(&mut self) {
        (self.ring, self.seen) = (KeyRing::default(), None);
        (self.served, self.resumed) = (Served::default(), None);
    }

    /// Reads the directory, and returns what is wrong with it.
    pub fn look(&mut self, clock: &impl Clock) -> Vec<Problem> {
        let (seen, mut problems) = self.store.look(clock.now().wall);
        // Until now this was served as it was known before.
        let Moment { elapsed, with_sleep, .. } = clock.now();
        self.served.pass(elapsed, with_sleep, &self.policy);
        self.found_news = self.seen.as_ref().is_some_and(|last| *last != seen);
        // To take in the same once more would change nothing, whatever was decided meanwhile.
        if !self.seen.as_ref().is_some_and(|last| Arc::ptr_eq(last, &seen)) {
            for before in self.ring.observe(&*seen) {
                let kid = before.kid();
                if let Some(after) = self.ring.record(kid) {
                    report_change(Some(&before), after, self.is_announced(kid));
                }
            }
            self.seen = Some(seen);
        }
        self.count();
        self.report_contradictions(&mut problems);
        problems
    }

    /// Has the counts follow the ring. Those that were kept are taken over once, at the first look: what
    /// is met later begins anew.
    fn count(&mut self) {
        if self.resumed.is_none() {
            let kept = self.store.read_counts();
            self.served.resume(
                kept.as_ref().cloned().unwrap_or_default(),
                &self.ring,
                &self.policy,
            );
            self.resumed = Some(kept.map(drop));
        }
        self.served.follow(&self.ring, &self.policy);
    }

    /// Why the counts could not be taken over, which may pass.
    pub fn uncounted(&self) -> Option<Problem> {
        let error = self.resumed.as_ref()?.as_ref().err()?;
        Some(Problem::of("unread_counts", self.store.counts_file(), error.to_string()))
    }

    /// Keeps the counts as they are.
    pub fn keep_counts(&mut self, locked: &Locked) -> Result<(), WriteError> {
        self.store.write_counts(self.served.counts(), locked)?;
        self.served.note_kept();
        Ok(())
    }

    /// Whether the last look found something else than the one before. The first one, and one after a
    /// removal here, have nothing to compare with.
    pub fn found_news(&self) -> bool {
        self.found_news
    }

    /// Carries out one action durably, unless what it was decided on has changed meanwhile: then the
    /// next look finds what there is now.
    pub fn perform(
        &mut self,
        action: Action,
        now: Time,
        locked: &Locked,
    ) -> Result<(), ChangeError> {
        match self.try_to(action, now, locked) {
            Err(ChangeError::Write(error)) if error.is_overtaken() => {
                let file = plain_path(&error.path);
                warn!(file, "another file was put there in the middle of a change, and is kept");
                self.seen = None;
                Ok(())
            }
            done => done,
        }
    }

    fn try_to(&mut self, action: Action, now: Time, locked: &Locked) -> Result<(), ChangeError> {
        match action {
            Action::Write(record) => {
                let kid = record.kid();
                self.remember(record);
                self.save(kid, locked)?;
            }
            Action::Remove(kid) => {
                self.store.remove(kid, locked)?;
                self.forget(kid);
                self.seen = None;
            }
            Action::Stage => {
                self.stage(false, now, locked)?;
            }
            Action::Promote(_) => self.store.promote(locked)?,
            Action::Generate => self.generate(Existing::Keep, now, locked)?,
            Action::ReplaceRevoked => self.generate(Existing::Replace, now, locked)?,
            Action::DiscardNext => {
                self.store.discard_next(locked)?;
                warn!("deleted a next key that is revoked");
            }
        }
        Ok(())
    }

    /// Makes a key and puts it in `private_key.pem`.
    fn generate(
        &mut self,
        existing: Existing,
        now: Time,
        locked: &Locked,
    ) -> Result<(), ChangeError> {
        let key = SigningKey::generate(&mut self.store.rng())?;
        let record = Record::staged(*key.jwk(), now, false);
        self.store.put_private_key(&key, &record, existing, locked)?;
        info!(kid = %record.kid(), state = "current", "generated a key");
        Ok(())
    }

    /// Makes a key and puts it in `next_key.pem`; it is promoted once it is ready if
    /// `promotion_requested`, otherwise when the schedule says.
    pub fn stage(
        &mut self,
        promotion_requested: bool,
        now: Time,
        locked: &Locked,
    ) -> Result<Jwk, ChangeError> {
        // What the file holds is at most a copy of the current key; anything else is kept.
        let existing = match self.ring.next_key() {
            Slot::Holds(next) if self.ring.current() == Some(*next) => Existing::Replace,
            Slot::Holds(_) | Slot::Missing | Slot::Refused => Existing::Keep,
        };
        let key = SigningKey::generate(&mut self.store.rng())?;
        let record = Record::staged(*key.jwk(), now, promotion_requested);
        self.store.put_next_key(&key, &record, existing, locked)?;
        info!(kid = %record.kid(), state = "next", "staged a key");
        Ok(*key.jwk())
    }

    /// Makes the records agree with the files, and returns what is wrong with the directory then.
    ///
    /// Each change has its own time: on a slow disk a key may have signed until long after the first.
    pub fn settle(
        &mut self,
        clock: &impl Clock,
        locked: &Locked,
    ) -> Result<Vec<Problem>, ChangeError> {
        for _ in 0..MAX_CHANGES {
            let now = clock.now().wall;
            let problems = self.look(clock);
            if !self.ring.is_complete() {
                let path = self.store.paths().keys_dir.display().to_string();
                return Err(ChangeError::Unlisted { path });
            }
            self.flush(locked)?;
            match settle(&self.ring, &self.policy, now) {
                Some(action) => self.perform(action, now, locked)?,
                None => return Ok(problems),
            }
        }
        Err(ChangeError::Unsettled)
    }

    /// The same for a directory that cannot be written: the records are kept in memory.
    pub fn settle_in_memory(&mut self, clock: &impl Clock) -> Vec<Problem> {
        loop {
            let problems = self.look(clock);
            match settle(&self.ring, &self.policy, clock.now().wall) {
                Some(Action::Write(record)) => self.remember(record),
                _ => return problems,
            }
        }
    }

    /// Writes the records that the directory lacks.
    pub fn flush(&mut self, locked: &Locked) -> Result<(), ChangeError> {
        let unsaved: Vec<_> = self.ring.unsaved().map(Record::kid).collect();
        for kid in unsaved {
            self.save(kid, locked)?;
        }
        Ok(())
    }

    /// An error if the record of `kid` is not on disk as it is known here.
    pub fn expect_written(&self, kid: KeyId) -> Result<(), ChangeError> {
        match self.ring.record(kid).filter(|_| self.ring.is_unsaved(kid)) {
            None => Ok(()),
            Some(record) => {
                let path = self.store.path_of(record).display().to_string();
                Err(ChangeError::Unwritten { path })
            }
        }
    }

    /// Writes the record of `kid`, unless its file is there and could not be read: what it says may
    /// be newer, or a tombstone. A tombstone is the last word whatever the file says.
    fn save(&mut self, kid: KeyId, locked: &Locked) -> Result<(), ChangeError> {
        let Some(record) = self.ring.record(kid).cloned() else { return Ok(()) };
        if record.is_revoked() || !self.store.has_refused_file_of(&record) {
            self.begin_count(&record, locked)?;
            self.store.save(&record, locked)?;
            self.ring.saved(kid);
            // What is the same as before this was written is no longer what the ring has taken in.
            self.seen = None;
        }
        Ok(())
    }

    /// Before a record says that its key has entered another state: nothing is left of what was counted
    /// for it, in case the time that the record has for the new state was once that of another.
    fn begin_count(&mut self, record: &Record, locked: &Locked) -> Result<(), WriteError> {
        let kid = record.kid();
        self.served.follow(&self.ring, &self.policy);
        let entered = record.entered();
        let before = self.ring.in_the_file(kid).and_then(Record::entered);
        let is_promised =
            self.served.counts().get(&kid).is_some_and(|count| !count.promised.is_zero());
        if before == entered || !is_promised && self.served.kept(kid).is_none() {
            return Ok(());
        }
        if self.uncounted().is_some() {
            // What cannot be read may say more than is known here.
            return Ok(());
        }
        match self.keep_counts(locked) {
            // What the file says is of another time, and counts as nothing.
            Err(error)
                if self.served.kept(kid).is_none_or(|kept| Some(kept.entered) != entered) =>
            {
                warn!("failed to {}", chain(&error));
                Ok(())
            }
            kept => kept,
        }
    }

    /// Takes `record` for the truth, whether or not it can be written.
    pub fn remember(&mut self, record: Record) {
        let before = self.ring.record(record.kid());
        let is_first = self.ring.records().all(|known| known.kid() == record.kid());
        let announced = is_first || self.is_announced(record.kid());
        report_change(before, &record, announced);
        self.ring.remember(record);
    }

    /// Whether every verifier can know `kid`, which is about to sign.
    fn is_announced(&self, kid: KeyId) -> bool {
        let answered = self.served.answered_for(kid).unwrap_or_default();
        self.served.of(kid).max(answered) >= self.policy.publish_lead()
    }

    /// The word for where `kid` is in its life; a key without a record is a dropped one, or one that
    /// was found this very moment.
    pub fn state_name(&self, kid: KeyId) -> &'static str {
        match self.ring.record(kid) {
            Some(record) => record.state.name(),
            None if self.ring.current().is_some_and(|current| current.kid() == kid) => "current",
            None if self.ring.next_key().key().is_some_and(|next| next.kid() == kid) => "next",
            None => "dropped",
        }
    }

    /// Forgets a key whose time is up.
    pub fn forget(&mut self, kid: KeyId) {
        info!(%kid, "removed a retired key");
        self.ring.forget(kid);
    }

    /// The keys that were abandoned, where the record can be read: otherwise it may be another by now.
    pub fn abandoned(&self) -> impl Iterator<Item = KeyId> {
        self.ring.abandoned().filter(|kid| self.store.record_file(*kid).is_some())
    }

    /// Deletes their records.
    pub fn delete_abandoned(&mut self, locked: &Locked) -> Result<(), ChangeError> {
        for kid in self.abandoned() {
            self.store.remove(kid, locked)?;
        }
        Ok(())
    }

    /// Forgets a key whose time is up although its file cannot be deleted.
    pub fn abandon(&mut self, kid: KeyId) {
        info!(%kid, "abandoned a retired key, whose record cannot be deleted");
        self.ring.abandon(kid);
    }

    /// What is wrong with the files taken together, each of them being good.
    fn report_contradictions(&self, problems: &mut Vec<Problem>) {
        let paths = self.store.paths();
        let current = self.ring.current();
        match self.ring.private_key() {
            Slot::Missing if current.is_some() => {
                let reason = "there is no such file; the key that it held last is still served";
                problems.push(Problem::of("missing_private_key", &paths.private_key, reason));
            }
            Slot::Holds(_) | Slot::Missing | Slot::Refused => {}
        }
        if self.ring.next_key().key().is_some_and(|next| Some(next) == current) {
            let reason = "holds the current key; no rotation comes of it";
            problems.push(Problem::of("next_is_current", paths.next_key(), reason));
        }
        let revoked = |key: Option<Jwk>| key.filter(|key| self.ring.is_revoked(key.kid()));
        let mut report = |key: Jwk, file| {
            let reason = format!("holds the revoked key {}, which is not served", key.kid());
            problems.push(Problem::of("revoked_key", file, reason));
        };
        if let Some(key) = revoked(self.ring.private_key().key()) {
            report(key, paths.private_key.clone());
        }
        if let Some(key) = revoked(self.ring.next_key().key()) {
            report(key, paths.next_key());
        }
        for (name, key) in self.ring.dropped() {
            if let Some(key) = revoked(Some(*key)) {
                report(key, paths.keys_dir.join(name));
            }
        }
    }
}

/// One line of the log for each change of a key's state; `announced` says whether every verifier can know
/// a key that begins to sign.
fn report_change(before: Option<&Record>, after: &Record, announced: bool) {
    let kid = after.kid();
    let state = after.state.name();
    let published_at = after.published_at.map(rfc3339);
    if before.is_some_and(|before| before.state == after.state) {
        return debug!(%kid, state, published_at, "recorded");
    }
    match &after.state {
        State::Next { promotion_requested_at: Some(_) } if before.is_some() => {
            info!(%kid, state, "its promotion is asked for");
        }
        State::Next { .. } => info!(%kid, state, "found a next key"),
        // Nobody can have cached a set before the first key of all.
        State::Current { .. } if announced => info!(%kid, state, "activated"),
        // A key that a person put in place, or a rotation in haste.
        State::Current { .. } => warn!(
            %kid, state, published_at,
            "unannounced_activation: signs before it was published for the lead time"
        ),
        State::Retired { .. } => info!(%kid, state, "retired"),
        State::Revoked { reason, .. } => {
            warn!(%kid, state, reason = %plain(reason), "revoked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::jwk::Jwk;
    use crate::key::KeyFormat;
    use crate::lifecycle::PolicySettings;
    use crate::store::Paths;

    #[test]
    fn what_is_written_and_undone_before_the_next_look_is_to_be_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let keys_dir = dir.path().join("keys");
        let paths = Paths { private_key: dir.path().join("private_key.pem"), keys_dir };
        let store = Store::new(paths.clone(), KeyFormat::Sec1);
        let mut keeper = Keeper::new(store, Policy::new(PolicySettings::default()).unwrap());
        let clock = SystemClock::start();
        let locked = keeper.store.lock().unwrap();
        let record =
            Record::staged(Jwk::from_coordinates([7; 32], [7; 32]), SystemClock::wall(), false);
        keeper.look(&clock);
        keeper.remember(record.clone());
        keeper.look(&clock);
        for _ in 0..2 {
            assert!(keeper.ring.is_unsaved(record.kid()));
            keeper.flush(&locked).unwrap();
            assert!(!keeper.ring.is_unsaved(record.kid()));
            for file in std::fs::read_dir(&paths.keys_dir).unwrap() {
                std::fs::remove_file(file.unwrap().path()).unwrap();
            }
            keeper.look(&clock);
        }
    }
}
