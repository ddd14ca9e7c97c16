//! What a person does beside a running server, or without one: each command works on the directory
//! under the same lock as the server, and says what happened and what will happen when.

mod adopt;
mod revoke;
mod rotate;
mod sign;
mod status;

pub use adopt::adopt;
pub use revoke::{revoke, revoke_on};
pub use rotate::{rotate, rotate_on};
pub use sign::sign;
pub use status::{KeyRow, NextAction, Seconds, Status, status};

use std::sync::Arc;

use crate::clock::Clock;
use crate::config::Config;
use crate::jwk::KeyId;
use crate::keeper::{ChangeError, Keeper};
use crate::lifecycle::{Policy, Time};
use crate::manager::ServerNote;
use crate::store::{AdoptError, LockError, Locked, ManifestError, Os, Store};

/// Why a command did nothing, or not all.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The lock could not be had.
    #[error("lock the key directory")]
    Lock(#[from] LockError),
    /// The directory is not to be opened.
    #[error("open the key directory")]
    Refused(#[from] ManifestError),
    /// The directory could not be bound to another key file.
    #[error(transparent)]
    Adopt(#[from] AdoptError),
    /// The directory could not be changed.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// There is no current key to rotate, or to sign with.
    #[error("use {path}: {reason}")]
    NoCurrentKey {
        /// The file of the current key.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There is a file in the place of the next key, and no key in it.
    #[error("use {path}: there is no good key in it, see `jwks-server check`; mend or delete it")]
    RefusedNext {
        /// The file of the next key.
        path: String,
    },
    /// The current key has no record, so no server can have published it.
    #[error("use {path}: the key {kid} has no record; start the server, which makes one")]
    NoRecord {
        /// The file of the current key.
        path: String,
        /// Its kid.
        kid: KeyId,
    },
    /// The key is revoked, and what should follow did not.
    #[error("put another key in place of {kid}, which is revoked; a running server tries again")]
    NotReplaced {
        /// The revoked key.
        kid: KeyId,
        /// The cause.
        source: ChangeError,
    },
    /// The operating system gave no random bytes.
    #[error("draw random bytes")]
    Random(#[source] getrandom::Error),
    /// The kid is not known here.
    #[error("find the key {kid}; the kids known here are: {known}")]
    UnknownKey {
        /// What was asked for.
        kid: KeyId,
        /// What there is.
        known: String,
    },
}

/// The server that keeps a directory, as far as a command can know it.
#[derive(Debug)]
pub struct RunningServer {
    /// What it says of itself; `None` if that cannot be read, or is of another version.
    pub note: Option<ServerNote>,
}

/// Why there is nothing to work on in an empty directory.
const NO_KEY_YET: &str = "there is no such file; start the server, which makes one";

/// The keys as they lie there, and the server that keeps them if one runs.
///
/// # Errors
///
/// If `keys/` is not to be opened: it is another client's, or a later version's.
fn open(os: Arc<dyn Os>, config: &Config) -> Result<(Keeper, Option<RunningServer>), CommandError> {
    let opened = open_to_look(os, config);
    opened.0.store.manifest()?;
    Ok(opened)
}

/// The same for a command that only tells what it finds.
fn open_to_look(os: Arc<dyn Os>, config: &Config) -> (Keeper, Option<RunningServer>) {
    let store = Store::on(os, config.paths.clone(), config.key_format);
    let server = store
        .server_note()
        .map(|note| RunningServer { note: serde_json::from_str::<ServerNote>(&note).ok() });
    let policy = policy(&store, server.as_ref(), config);
    (Keeper::new(store, policy), server)
}

/// The rules to follow: those of the server that runs, or else of the last one that did, whatever
/// this command was given. Only where none ever ran, or its version had other bounds, are they the
/// command's own.
fn policy(store: &Store, server: Option<&RunningServer>, config: &Config) -> Policy {
    let note = server.and_then(|server| server.note.as_ref());
    note.and_then(|note| Policy::new(note.policy).ok())
        .or_else(|| store.manifest().ok().flatten()?.policy())
        .unwrap_or(config.policy)
}

/// Brings the directory into order under the lock, as a server would at its start.
fn settle(keeper: &mut Keeper, clock: &impl Clock) -> Result<(Locked, Time), CommandError> {
    let problems = keeper.look(clock);
    if keeper.ring.current().is_none() && keeper.ring.records().next().is_none() {
        // Without a key there is nothing to bring into order, and nothing is left behind.
        let path = &keeper.store.paths().private_key;
        let problem = problems.into_iter().find(|problem| problem.file.as_ref() == Some(path));
        let reason = problem.map_or(NO_KEY_YET.into(), |problem| problem.reason);
        return Err(CommandError::NoCurrentKey { path: path.display().to_string(), reason });
    }
    let locked = keeper.store.lock()?;
    keeper.start_over();
    // Read after the wait for the lock: what another command just did lies in the past.
    let now = clock.now().wall;
    keeper.store.finish(&locked).map_err(ChangeError::from)?;
    keeper.settle(clock, &locked)?;
    Ok((locked, now))
}
