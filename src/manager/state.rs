//! What a manager knows between two looks beside the keys: how far the directory is [`Durable`], and
//! since when it [`Waits`] for another process.

use std::time::Duration;

use super::SWEEP;
use crate::store::Problem;

/// How far what all can see in the directory is durable.
#[derive(Debug)]
pub(super) enum Durable {
    /// It is.
    Settled,
    /// Others have changed something, perhaps without making it durable: a person, or a command that was
    /// killed in the middle. It is finished when nothing else is to be done.
    Touched,
    /// There may be changes that a power cut would undo, of a process that kept the directory before and
    /// was killed. They are finished before anything else, and nothing that is gone is forgotten.
    Unfinished,
    /// The same of a step that failed. What failed a moment ago would fail again, and each try makes file
    /// events; so nothing is tried until then.
    Failed {
        /// What stood in the way.
        problem: Problem,
        /// When to try again, by the monotonic clock.
        retry_at: Duration,
    },
}

impl Durable {
    pub(super) fn is_settled(&self) -> bool {
        matches!(self, Self::Settled)
    }

    pub(super) fn is_unfinished(&self) -> bool {
        matches!(self, Self::Unfinished | Self::Failed { .. })
    }

    /// Others have changed something.
    pub(super) fn touch(&mut self) {
        if self.is_settled() {
            *self = Self::Touched;
        }
    }

    /// A step has failed.
    pub(super) fn fail(&mut self, problem: Problem, now: Duration) {
        *self = Self::Failed { problem, retry_at: now + SWEEP };
    }

    /// What stood in the way of the last change, until what it left has been finished.
    pub(super) fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Failed { problem, .. } => Some(problem),
            _ => None,
        }
    }

    /// Until when nothing is tried.
    pub(super) fn retry_at(&self) -> Duration {
        match self {
            Self::Failed { retry_at, .. } => *retry_at,
            _ => Duration::ZERO,
        }
    }
}

/// Since when, by the monotonic clock, what another process may end lasts.
#[derive(Debug, Default)]
pub(super) struct Waits {
    busy_since: Option<Duration>,
    keyless_since: Option<Duration>,
}

impl Waits {
    /// For how long another process has been found to hold the lock, if it does now.
    pub(super) fn busy_for(&mut self, is_busy: bool, now: Duration) -> Option<Duration> {
        lasts_for(&mut self.busy_since, is_busy, now)
    }

    /// For how long no current key is known, if none is now.
    pub(super) fn keyless_for(&mut self, is_keyless: bool, now: Duration) -> Option<Duration> {
        lasts_for(&mut self.keyless_since, is_keyless, now)
    }
}

fn lasts_for(since: &mut Option<Duration>, lasts: bool, now: Duration) -> Option<Duration> {
    *since = lasts.then(|| since.unwrap_or(now));
    since.map(|since| now.saturating_sub(since))
}
