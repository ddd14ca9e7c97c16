//! What a serving process may do with the directory, and what it tells commands about itself.

use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::SWEEP;
use crate::clock::Moment;
use crate::error::chain;
use crate::lifecycle::{Policy, PolicySettings, Time};
use crate::store::{LockError, Problem, ServerLock, Store};

/// What this process may do with the directory.
#[derive(Debug)]
pub(super) enum Role {
    /// It alone makes changes, beside commands.
    Keeper(Lease),
    /// Another server makes the changes; this one publishes them.
    Follower(LockError),
    /// The directory cannot be written; records are kept in memory.
    ReadOnly(LockError),
}

/// The lock of the keeper, and whether commands can read what it says of itself.
#[derive(Debug)]
pub(super) struct Lease {
    lock: ServerLock,
    note: String,
    /// Why the note could not be left, and when to try again.
    unnoted: Option<(io::Error, Duration)>,
}

/// What a serving process tells commands by the lock file that it holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ServerNote {
    /// The process.
    pub pid: u32,
    /// When it began to serve.
    pub started_at: Time,
    /// The rules that it follows.
    pub policy: PolicySettings,
}

impl Role {
    /// The best role that is to be had now.
    pub(super) fn take(store: &Store, policy: &Policy, now: Moment) -> Self {
        match store.serve_alone() {
            Ok(lock) => {
                let note = ServerNote {
                    pid: std::process::id(),
                    started_at: now.wall,
                    policy: policy.settings(),
                };
                let note = serde_json::to_string(&note).unwrap_or_else(|_| "{}".into());
                let mut lease = Lease { lock, note, unnoted: None };
                lease.leave_note(now.elapsed);
                Self::Keeper(lease)
            }
            Err(error @ LockError::Held { .. }) => Self::Follower(error),
            Err(error) => Self::ReadOnly(error),
        }
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Keeper(_) => "keeper",
            Self::Follower(_) => "follower",
            Self::ReadOnly(_) => "read_only",
        }
    }

    /// What a person should know of a role that changes nothing.
    pub(super) fn problem(&self, store: &Store) -> Option<Problem> {
        let file = Some(store.paths().keys_dir.clone());
        match self {
            Self::Keeper(Lease { unnoted: None, .. }) => None,
            Self::Keeper(Lease { unnoted: Some((error, _)), .. }) => Some(Problem {
                code: "unwritten_note",
                file,
                reason: format!("commands cannot tell the settings of this server: {error}"),
            }),
            Self::Follower(_) => Some(Problem {
                code: "follower",
                file,
                reason: "another server keeps this directory; this one only publishes it".into(),
            }),
            Self::ReadOnly(error) => Some(Problem {
                code: "read_only",
                file,
                reason: format!(
                    "cannot be written: nothing is rotated, and retired keys are remembered only \
                     while this process runs: {}",
                    chain(error)
                ),
            }),
        }
    }
}

impl Lease {
    /// Whether the lock still counts.
    pub(super) fn is_valid(&self) -> bool {
        self.lock.is_valid()
    }

    /// Tries again to leave the note, if it could not be left and it is time. Each try makes file events.
    pub(super) fn leave_note_again(&mut self, elapsed: Duration) {
        if self.unnoted.as_ref().is_some_and(|(_, retry_at)| elapsed >= *retry_at) {
            self.leave_note(elapsed);
        }
    }

    fn leave_note(&mut self, elapsed: Duration) {
        let failed = self.lock.leave_note(&self.note).err();
        self.unnoted = failed.map(|error| (error, elapsed + SWEEP));
    }
}
