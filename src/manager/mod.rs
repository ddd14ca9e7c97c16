//! The key manager: [`Manager::reconcile`] runs at start, on the timer and on every file event.
//!
//! It looks at the directory, publishes what it holds, asks the lifecycle what is due, does that
//! one durable action, and repeats; else it says when to wake it next. Running it twice at the same
//! moment changes nothing the second time, and recovery after a crash is nothing else.

mod role;
mod start;
mod state;

use std::collections::BTreeSet;
use std::time::Duration;

use tracing::{info, warn};

use crate::clock::{Clock, Moment};
use crate::error::chain;
use crate::health::{Degradation, Health};
use crate::jwk::{Jwk, JwkSet};
use crate::keeper::{ChangeError, Keeper};
use crate::lifecycle::{
    Action, Slot, Step, Time, bootstrap, human, proven_after, rfc3339, starved_since, step,
};
use crate::snapshot::{Publisher, Snapshot};
use crate::store::{Locked, Problem};
use role::Role;
use state::{Durable, Waits};

pub use role::ServerNote;
pub use start::{StartError, Unread};

/// Whoever runs the manager lets it look at least this often, whether or not there were file events;
/// it is also how soon the manager tries again what failed.
pub const SWEEP: Duration = Duration::from_secs(10);
/// When to look again while a command makes a change.
const SOON: Duration = Duration::from_millis(50);
/// How long another process may take to put a key in place of a revoked one.
const REPLACEMENT: Duration = Duration::from_secs(1);
/// More changes at a time than any directory can want.
const MAX_CHANGES: usize = 100_000;
/// Verifiers are known that refuse a larger set.
const LARGE_SET: usize = 50 * 1024;

/// Keeps the keys of one directory, and publishes their set.
#[derive(Debug)]
pub struct Manager {
    keeper: Keeper,
    role: Role,
    /// When, by the monotonic clock, to try for a better role.
    role_due_at: Duration,
    durable: Durable,
    waits: Waits,
    /// Whether the start failed before it could make a key, or promote one, in place of a missing one.
    must_bootstrap: bool,
    publisher: Publisher<Snapshot>,
    health: Publisher<Health>,
    /// The keys of the published set, in order.
    published: Vec<Jwk>,
    /// Why the counts of the time that was served could not be kept, and when to try again.
    uncounted: Option<(Problem, Duration)>,
    /// The problems that were reported and are still there.
    reported: BTreeSet<Problem>,
}

/// Whether the directory may be changed, in the course of one reconciliation.
enum Changes {
    /// Nothing to change was found yet.
    NotAsked,
    /// Under the lock.
    Locked(Locked),
    /// Not now: a command is making a change.
    Busy,
    /// Not at all: by the role, or since the disk failed. Changes are only remembered.
    None,
}

impl Manager {
    /// Brings the published set and the directory up to date, and says after what time there is
    /// something to do even if nobody touches the directory; [`Duration::MAX`] if there never is.
    ///
    /// `outside` is a problem that only the caller knows.
    pub fn reconcile(&mut self, clock: &impl Clock, outside: Option<Problem>) -> Duration {
        let mut problems = BTreeSet::from_iter(outside);
        let wake_after = self.work(clock, &mut problems);
        self.report(problems);
        wake_after
    }

    /// Looks and acts until nothing more is due.
    fn work(&mut self, clock: &impl Clock, problems: &mut BTreeSet<Problem>) -> Duration {
        self.renew_role(clock.now());
        let mut changes = match self.role {
            Role::Keeper(_) if clock.now().elapsed >= self.durable.retry_at() => Changes::NotAsked,
            _ => Changes::None,
        };
        let mut changed_here = false;
        for _ in 0..MAX_CHANGES {
            let found = self.keeper.look(clock);
            let is_keeper = matches!(self.role, Role::Keeper(_));
            if !std::mem::take(&mut changed_here) && self.keeper.found_news() && is_keeper {
                self.durable.touch();
            }
            // Each time round has its own time: a slow disk must not make a key seem published
            // before it was.
            let moment = clock.now();
            if !self.keeper.ring.is_complete() {
                // What could not be listed may be a tombstone.
                changes = Changes::None;
            }
            // A key has a record before it is served, if it can have one: what is promised to it
            // then outlives both the process and the file.
            let may_write = matches!(changes, Changes::NotAsked | Changes::Locked(_));
            if !(may_write && self.keeper.ring.has_unrecorded()) {
                self.publish(problems);
            }
            self.must_bootstrap &= *self.keeper.ring.private_key() == Slot::Missing;
            let step = self.step(moment.wall);
            let done = match &changes {
                _ if self.at_rest(&step, moment) => Ok(Some(wake_after(&step, moment.wall))),
                Changes::NotAsked => {
                    // What is changed is what was read under the lock: look again first.
                    self.try_lock().map(|locked| {
                        changes = locked.map_or(Changes::Busy, Changes::Locked);
                        None
                    })
                }
                Changes::Locked(locked) => {
                    changed_here = true;
                    self.act(step, moment, locked)
                }
                Changes::Busy | Changes::None => Ok(self.act_in_memory(step, moment, &changes)),
            };
            let wake_after = match done {
                Ok(None) => continue,
                Ok(Some(wake_after)) => wake_after,
                Err(error) => {
                    self.durable.fail(failed(&error), moment.elapsed);
                    changes = Changes::None;
                    continue;
                }
            };
            problems.extend(self.durable.problem().cloned());
            problems.extend(found);
            problems.extend(self.starvation(moment));
            problems.extend(self.uncounted.iter().map(|(problem, _)| problem.clone()));
            let wake_after = wake_after.min(self.contention(moment, &changes, problems));
            let keep_after = match changes {
                Changes::NotAsked | Changes::Locked(_) => self.keep_after(moment),
                Changes::Busy => Duration::MAX,
                Changes::None => SWEEP,
            };
            return wake_after.min(self.retry_after(moment)).min(keep_after);
        }
        let reason = "the keys do not come to rest: a defect of this program".into();
        problems.insert(Problem { code: "unsettled", file: None, reason });
        SWEEP
    }

    /// What there is to do because another process may be at work; returns when to look again for
    /// that.
    fn contention(
        &mut self,
        moment: Moment,
        changes: &Changes,
        problems: &mut BTreeSet<Problem>,
    ) -> Duration {
        let is_busy = matches!(changes, Changes::Busy);
        let busy_for = self.waits.busy_for(is_busy, moment.elapsed);
        if busy_for >= Some(SWEEP) {
            let file = &self.keeper.store.paths().keys_dir;
            let reason = "locked by another process for more than 10 s; nothing can be changed";
            problems.insert(Problem::of("lock_held", file, reason));
        }

        // A revoked key leaves the set at once; but for a moment there may be none in its place.
        let is_keyless = self.keeper.ring.current().is_none();
        let keyless_for = self.waits.keyless_for(is_keyless, moment.elapsed);
        let awaits_another = is_busy || matches!(self.role, Role::Follower(_));
        if is_keyless && (!awaits_another || keyless_for >= Some(REPLACEMENT)) {
            self.publish_without_current(problems);
        }
        let may_pass = busy_for.is_some_and(|busy_for| busy_for < SWEEP)
            || keyless_for.is_some_and(|keyless_for| keyless_for < REPLACEMENT);
        match may_pass {
            true => SOON,
            // The end of what lasts as long may wait for a second more.
            false if is_busy => REPLACEMENT,
            false => Duration::MAX,
        }
    }

    /// When to try again for a better role, or what failed.
    fn retry_after(&self, moment: Moment) -> Duration {
        let due_at = match self.role {
            Role::Keeper(_) if self.durable.problem().is_none() => return Duration::MAX,
            Role::Keeper(_) => self.durable.retry_at(),
            Role::Follower(_) | Role::ReadOnly(_) => self.role_due_at,
        };
        match due_at.saturating_sub(moment.elapsed) {
            // What could not even be tried is tried at the next look.
            Duration::ZERO => SWEEP,
            left => left,
        }
    }

    /// Whether there is nothing to do now.
    fn at_rest(&self, step: &Step, moment: Moment) -> bool {
        !matches!(step, Step::Act(_))
            && !self.keep_after(moment).is_zero()
            && self.keeper.ring.unsaved().next().is_none()
            && self.keeper.abandoned().next().is_none()
            && self.durable.is_settled()
    }

    /// Takes the lock if it is free, and finishes first what is unfinished.
    fn try_lock(&mut self) -> Result<Option<Locked>, ChangeError> {
        let locked = self.keeper.store.try_lock()?;
        if let Some(locked) = locked.as_ref().filter(|_| self.durable.is_unfinished()) {
            self.keeper.store.finish(locked)?;
            self.keeper.store.keep_manifest(&self.keeper.policy, locked)?;
            self.durable = Durable::Settled;
        }
        Ok(locked)
    }

    /// What is due, as the lifecycle sees it.
    fn step(&self, now: Time) -> Step {
        match bootstrap(&self.keeper.ring).filter(|_| self.must_bootstrap) {
            Some(action) => Step::Act(action),
            None => {
                let Keeper { ring, policy, served, .. } = &self.keeper;
                step(ring, policy, now, served, self.may_rotate())
            }
        }
    }

    /// Whether keys may be made and moved here.
    fn may_rotate(&self) -> bool {
        matches!(self.role, Role::Keeper(_)) && self.keeper.store.root_is_writable()
    }

    /// Does what is due durably; returns when to come again if that is not at once.
    fn act(
        &mut self,
        step: Step,
        moment: Moment,
        locked: &Locked,
    ) -> Result<Option<Duration>, ChangeError> {
        let now = moment.wall;
        let wake_after = wake_after(&step, now);
        // Nothing moves on while a record is not on disk.
        self.keeper.flush(locked)?;
        match step {
            Step::Act(action) => {
                let removed = if let Action::Remove(kid) = action { Some(kid) } else { None };
                let done = self.keeper.perform(action, now, locked).map(|()| None);
                if let (Err(_), Some(kid)) = (&done, removed) {
                    self.keeper.ring.note_undeletable(kid, moment.elapsed);
                }
                done
            }
            Step::Wait(_) | Step::Idle => {
                self.keeper.delete_abandoned(locked)?;
                if !self.durable.is_settled() {
                    self.keeper.store.finish(locked)?;
                    self.durable = Durable::Settled;
                }
                self.keep_counts(moment, locked);
                Ok(Some(wake_after))
            }
        }
    }

    /// Does what can be done without writing: remembering, and forgetting what no file has.
    fn act_in_memory(&mut self, step: Step, moment: Moment, changes: &Changes) -> Option<Duration> {
        let ring = &self.keeper.ring;
        // What others are about to say of a key that has a record, or have said where it could not
        // be read, is not guessed.
        let others_write = matches!(changes, Changes::Busy)
            || matches!(self.role, Role::Follower(_))
            || !ring.is_complete();
        match step {
            Step::Act(Action::Write(record))
                if !others_write
                    || ring.record(record.kid()).is_none()
                    || ring.is_gone(record.kid()) =>
            {
                self.keeper.remember(record);
                None
            }
            // A file that is gone may come back with a power cut until what failed is finished.
            Step::Act(Action::Remove(kid))
                if ring.is_gone(kid) && !self.durable.is_unfinished() =>
            {
                self.keeper.forget(kid);
                None
            }
            Step::Act(Action::Remove(kid)) if matches!(self.role, Role::ReadOnly(_)) => {
                self.keeper.abandon(kid);
                None
            }
            Step::Act(_) => Some(SWEEP),
            Step::Wait(_) | Step::Idle => Some(wake_after(&step, moment.wall)),
        }
    }

    /// Publishes the set, if it has the current key.
    ///
    /// It has none for the moment between the revocation of the current key and its replacement,
    /// and the set before it is better than one without.
    fn publish(&mut self, problems: &mut BTreeSet<Problem>) {
        if self.keeper.ring.current().is_some() {
            self.publish_keys(self.keeper.ring.served(), problems);
        }
    }

    /// Publishes the set although it has no current key, since none is to be had.
    fn publish_without_current(&mut self, problems: &mut BTreeSet<Problem>) {
        let reason = "no current key is known; what is published are the other keys";
        problems.insert(Problem { code: "no_current_key", file: None, reason: reason.into() });
        self.publish_keys(self.keeper.ring.served(), problems);
    }

    fn publish_keys(&mut self, keys: Vec<Jwk>, problems: &mut BTreeSet<Problem>) {
        if keys != self.published {
            let rendered =
                JwkSet::new(keys.clone()).map_err(|error| error.to_string()).and_then(|set| {
                    Snapshot::render(&set, self.keeper.policy.cache_max_age())
                        .map_err(|error| error.to_string())
                });
            let snapshot = match rendered {
                Ok(snapshot) => snapshot,
                Err(reason) => {
                    problems.insert(Problem { code: "unpublished_set", file: None, reason });
                    return;
                }
            };
            self.publisher.publish(snapshot);
            self.note_published(keys);
        }
        let size = self.publisher.value().body.len();
        if size > LARGE_SET {
            let reason =
                format!("the set is {size} bytes long; some verifiers read 50 KiB at most");
            problems.insert(Problem { code: "large_set", file: None, reason });
        }
    }

    /// Remembers since when each key is served, and logs which came and which went.
    fn note_published(&mut self, keys: Vec<Jwk>) {
        let (new, gone) = self.keeper.served.publish(&keys);
        for kid in new {
            info!(%kid, state = self.keeper.state_name(kid), "served");
        }
        for kid in gone {
            info!(%kid, "no longer served");
        }
        self.published = keys;
    }

    /// After what time the counts are to be kept; only the keeper does.
    fn keep_after(&self, moment: Moment) -> Duration {
        let Role::Keeper(_) = self.role else { return Duration::MAX };
        let due = self.keeper.served.keep_after(&self.keeper.policy).unwrap_or(Duration::MAX);
        let retry_at = self.uncounted.as_ref().map_or(Duration::ZERO, |(_, retry_at)| *retry_at);
        due.max(retry_at.max(self.durable.retry_at()).saturating_sub(moment.elapsed))
    }

    /// Keeps the counts if that is due. It holds up nothing if that fails.
    fn keep_counts(&mut self, moment: Moment, locked: &Locked) {
        if self.keep_after(moment).is_zero() {
            let failed = self.keeper.keep_counts(locked).err().map(|error| Problem {
                code: "unkept_counts",
                file: Some(self.keeper.store.counts_file()),
                reason: format!(
                    "cannot be written, so after a restart keys are promoted and removed later: {}",
                    chain(&error)
                ),
            });
            self.uncounted = failed.map(|problem| (problem, moment.elapsed + SWEEP));
        }
    }

    /// A rotation that never comes since processes end too soon is nobody's intention.
    fn starvation(&self, moment: Moment) -> Option<Problem> {
        let Keeper { ring, policy, served, .. } = &self.keeper;
        let since =
            starved_since(ring, policy, moment.wall, served).filter(|_| self.may_rotate())?;
        let reason = format!(
            "a rotation is due since {}, and waits until one process has served for {} without a break",
            rfc3339(since),
            human(&proven_after(policy))
        );
        Some(Problem { code: "rotation_starved", file: None, reason })
    }

    /// Counts the time since the last look as if this process had looked all the while, and found nothing:
    /// where a test lets hours pass at once.
    #[doc(hidden)]
    pub fn idle(&mut self, clock: &impl Clock) {
        let Moment { elapsed, with_sleep, .. } = clock.now();
        self.keeper.served.pass_looking(elapsed, with_sleep, &self.keeper.policy);
    }

    /// Takes the role that is to be had now.
    fn renew_role(&mut self, moment: Moment) {
        let due = match &mut self.role {
            Role::Keeper(lease) => {
                lease.leave_note_again(moment.elapsed);
                !lease.is_valid()
            }
            Role::Follower(_) | Role::ReadOnly(_) => moment.elapsed >= self.role_due_at,
        };
        if !due {
            return;
        }
        let role = Role::take(&self.keeper.store, &self.keeper.policy, moment);
        if std::mem::discriminant(&role) != std::mem::discriminant(&self.role) {
            info!(role = role.name(), "role changed");
        }
        self.role_due_at = moment.elapsed + SWEEP;
        self.durable = match role {
            Role::Keeper(_) => Durable::Unfinished,
            Role::Follower(_) | Role::ReadOnly(_) => Durable::Settled,
        };
        self.role = role;
    }

    /// Logs the problems that are new and those that are gone, and updates the health.
    fn report(&mut self, mut problems: BTreeSet<Problem>) {
        problems.extend(self.role.problem(&self.keeper.store));
        problems.extend(self.unwritable_root());
        for problem in problems.difference(&self.reported) {
            warn!(code = problem.code, "{problem}");
        }
        for problem in self.reported.difference(&problems) {
            info!(code = problem.code, "resolved: {problem}");
        }
        let degraded = problems
            .iter()
            .map(|problem| Degradation {
                code: problem.code,
                file: problem
                    .file
                    .as_ref()
                    .and_then(|file| Some(file.file_name()?.to_string_lossy().into_owned())),
            })
            .collect();
        self.health.publish(Health { degraded });
        self.reported = problems;
    }

    /// Private keys cannot be moved where their directory is read-only, as a mounted Secret is; that
    /// is a problem if they should be.
    fn unwritable_root(&self) -> Option<Problem> {
        let store = &self.keeper.store;
        let in_the_way = matches!(self.role, Role::Keeper(_))
            && self.keeper.policy.rotate_every().is_some()
            && !store.root_is_writable();
        let reason = "cannot be written, so the schedule is not followed: no key can be put here";
        in_the_way.then(|| Problem::of("read_only", store.paths().root(), reason))
    }
}

/// How long until the manager has something to do by itself.
fn wake_after(step: &Step, now: Time) -> Duration {
    match step {
        Step::Act(_) => Duration::ZERO,
        // Not a moment too early, which would find nothing due.
        Step::Wait(due) => {
            (due.at - now).to_std().unwrap_or(Duration::ZERO) + Duration::from_millis(1)
        }
        Step::Idle => Duration::MAX,
    }
}

fn failed(error: &(dyn std::error::Error + 'static)) -> Problem {
    Problem { code: "write_failed", file: None, reason: format!("failed to {}", chain(error)) }
}
