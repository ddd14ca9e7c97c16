//! What a serving process may do with the directory, and what it tells commands about itself.

use serde::{Deserialize, Serialize};

use crate::error::chain;
use crate::lifecycle::{Policy, PolicySettings, Time};
use crate::store::{LockError, Problem, ServerLock, Store};

/// What this process may do with the directory.
#[derive(Debug)]
pub(super) enum Role {
    /// It alone makes changes, beside commands.
    Keeper(ServerLock),
    /// Another server makes the changes; this one publishes them.
    Follower(LockError),
    /// The directory cannot be written; records are kept in memory.
    ReadOnly(LockError),
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
    pub(super) fn take(store: &Store, policy: &Policy, now: Time) -> Self {
        let note =
            ServerNote { pid: std::process::id(), started_at: now, policy: policy.settings() };
        // A note that cannot be written is no reason not to serve; commands then do without.
        let note = serde_json::to_string(&note).unwrap_or_else(|_| "{}".into());
        match store.serve_alone(&note) {
            Ok(lock) => Self::Keeper(lock),
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
            Self::Keeper(_) => None,
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
