//! How the manager begins: bring the directory into order, make a key if there is none, or give up
//! with a reason.

use std::collections::BTreeSet;
use std::time::Duration;

use tracing::warn;

use super::Manager;
use super::role::Role;
use super::state::{Durable, Waits};
use crate::clock::Clock;
use crate::error::chain;
use crate::health::Health;
use crate::jwk::{JwkSet, JwkSetError};
use crate::keeper::{ChangeError, Keeper};
use crate::lifecycle::{Policy, Record, Slot, State, bootstrap, settle};
use crate::snapshot::{Reader, RenderError, Snapshot, channel};
use crate::store::{LockError, Problem, Store};

/// Why the manager could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The current key is there and no good, and no record says what to serve in its place.
    #[error("{0}")]
    Refused(Problem),
    /// A record, a key or a directory is there and cannot be read, which may pass.
    #[error("{0}")]
    Unread(Problem),
    /// There is no key, and none may be made here.
    #[error("there is no key in {path} and none can be made")]
    NoKey {
        /// Where a key was expected.
        path: String,
        /// What stands in the way.
        #[source]
        source: LockError,
    },
    /// The directory could not be changed.
    #[error("prepare the key directory")]
    Change(#[from] ChangeError),
    /// A lock could not be had.
    #[error("lock the key directory")]
    Lock(#[from] LockError),
    /// The first set could not be built.
    #[error("build the key set")]
    Set(#[from] JwkSetError),
    /// The first set could not be rendered.
    #[error(transparent)]
    Render(#[from] RenderError),
}

impl StartError {
    /// Whether another try may succeed although nobody mends anything: another server is making the
    /// first key, or the system did not give what was asked.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Unread(_) | Self::NoKey { source: LockError::Held { .. }, .. })
            || crate::error::may_pass(self)
    }
}

/// What a start does about a record that is there and cannot be read, for want of a descriptor or by
/// a sick disk. What it promises, or forbids, is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unread {
    /// It gives up, to be tried again.
    Refuse,
    /// It serves what is known.
    Ignore,
}

impl Manager {
    /// Makes a key if there is none, gives each key a record, and returns the manager with the readers
    /// of what it publishes.
    ///
    /// [`Manager::reconcile`] comes next, once the set is served: it finishes what a killed process has
    /// left, and writes down when a key was first published, which it is when verifiers can fetch it.
    ///
    /// # Errors
    ///
    /// If there is no key to serve. Nothing that could not be read was overwritten.
    pub fn start(
        store: Store,
        policy: Policy,
        clock: &impl Clock,
        unread: Unread,
    ) -> Result<(Self, Reader<Snapshot>, Reader<Health>), StartError> {
        let moment = clock.now();
        let now = moment.wall;
        let role = match Role::take(&store, &policy, moment) {
            // The parent of `keys/` does not exist: a mistyped path, not a read-only directory.
            Role::ReadOnly(LockError::Open { path, source })
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                return Err(LockError::Open { path, source }.into());
            }
            role => role,
        };
        let mut keeper = Keeper::new(store, policy);
        let problems = keeper.look(clock);
        if unread == Unread::Refuse && keeper.store.may_pass() {
            return Err(match first_refusal(problems) {
                StartError::Refused(problem) => StartError::Unread(problem),
                error => error,
            });
        }
        if !keeper.ring.is_complete() {
            return Err(first_refusal(problems));
        }
        if unread == Unread::Refuse
            && let Some(kid) = keeper.ring.unread_records().next()
        {
            let file_end = format!("-{kid}.pem");
            let is_its = |problem: &Problem| {
                let file = problem.file.as_ref().and_then(|file| file.to_str());
                file.is_some_and(|file| file.ends_with(&file_end))
            };
            if let Some(problem) = problems.iter().find(|problem| is_its(problem)) {
                return Err(StartError::Unread(problem.clone()));
            }
        }
        if let Some(problem) = keeper.uncounted() {
            if unread == Unread::Refuse {
                return Err(StartError::Unread(problem));
            }
            warn!(code = problem.code, "{problem}");
        }
        // What need not be changed before it is served is served at once. What a killed process has
        // left is then finished by the first reconciliation.
        let inconsistent = bootstrap(&keeper.ring).is_some()
            || settle(&keeper.ring, &keeper.policy, now).is_some();
        let is_keeper = matches!(role, Role::Keeper(_));
        let trouble =
            if is_keeper && inconsistent { prepare(&mut keeper, clock).err() } else { None };
        // A start may not guess in place of a current key that is there and no good.
        let promised = keeper.ring.records().any(|record| !record.is_revoked());
        if *keeper.ring.private_key() == Slot::Refused && !promised {
            return Err(first_refusal(problems));
        }
        if trouble.is_some() || matches!(role, Role::ReadOnly(_)) {
            keeper.settle_in_memory(clock);
        }
        // A staged key alone is the beginning of somebody's work, or a first key that could not be
        // written: nobody signs with it.
        let has_signed =
            |record: &Record| matches!(record.state, State::Current { .. } | State::Retired { .. });
        if keeper.ring.current().is_none() && !keeper.ring.records().any(has_signed) {
            let path = keeper.store.paths().private_key.display().to_string();
            return Err(match (role, trouble) {
                (Role::Follower(source) | Role::ReadOnly(source), _) => {
                    StartError::NoKey { path, source }
                }
                (Role::Keeper(_), Some(trouble)) => trouble,
                (Role::Keeper(_), None) => first_refusal(problems),
            });
        }
        if let Some(trouble) = &trouble {
            warn!("failed to {}", chain(trouble));
        }
        let keys = keeper.ring.served();
        let snapshot = Snapshot::render(&JwkSet::new(keys)?, policy.cache_max_age())?;
        let (publisher, snapshot) = channel(snapshot);
        let (health, health_reader) = channel(Health::default());
        let manager = Self {
            keeper,
            role,
            role_due_at: Duration::ZERO,
            must_bootstrap: trouble.is_some(),
            durable: match &trouble {
                // It is tried again at once, now that something is served.
                Some(trouble) => {
                    Durable::Failed { problem: super::failed(trouble), retry_at: Duration::ZERO }
                }
                None if is_keeper && !inconsistent => Durable::Unfinished,
                None => Durable::Settled,
            },
            waits: Waits::default(),
            publisher,
            health,
            published: Vec::new(),
            uncounted: None,
            reported: BTreeSet::new(),
        };
        Ok((manager, snapshot, health_reader))
    }
}

/// Brings the directory into order before anything is served: what a killed process left is swept,
/// a key is made if there is none, and the records are made to agree with the files.
fn prepare(keeper: &mut Keeper, clock: &impl Clock) -> Result<(), StartError> {
    let now = clock.now().wall;
    let locked = keeper.store.lock()?;
    keeper.store.finish(&locked).map_err(ChangeError::from)?;
    keeper.store.keep_manifest(&keeper.policy, &locked).map_err(ChangeError::from)?;
    keeper.look(clock);
    if let Some(action) = bootstrap(&keeper.ring) {
        keeper.perform(action, now, &locked)?;
    }
    if *keeper.ring.private_key() != Slot::Refused || keeper.ring.records().next().is_some() {
        keeper.settle(clock, &locked)?;
    }
    Ok(())
}

fn first_refusal(problems: Vec<Problem>) -> StartError {
    let in_the_way = |problem: &Problem| {
        matches!(
            problem.code,
            "foreign_directory"
                | "newer_format"
                | "refused_file"
                | "revoked_key"
                | "unreadable_directory"
        )
    };
    StartError::Refused(problems.into_iter().find(in_the_way).unwrap_or_else(|| Problem {
        code: "no_key",
        file: None,
        reason: "there is no key to serve".into(),
    }))
}
