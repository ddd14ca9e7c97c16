//! `jwks-server revoke`.

use std::sync::Arc;

use super::{CommandError, open, settle};
use crate::clock::Clock;
use crate::config::Config;
use crate::jwk::{Jwk, KeyId};
use crate::keeper::{ChangeError, Keeper};
use crate::lifecycle::{Action, Record, Slot, State, Time, rfc3339};
use crate::store::{Locked, Native, Os};
use crate::text::plain;

/// Takes a key out of the set for good. A current key is replaced by one that was never published,
/// which is what makes verifiers fetch the set again and so forget the old one. Returns what to
/// tell the person.
///
/// # Errors
///
/// If no key has this kid, or the directory cannot be changed.
pub fn revoke(
    config: &Config,
    clock: &impl Clock,
    kid: KeyId,
    reason: &str,
) -> Result<String, CommandError> {
    revoke_on(Arc::new(Native), config, clock, kid, reason)
}

/// The same on another operating system than the real one.
pub fn revoke_on(
    os: Arc<dyn Os>,
    config: &Config,
    clock: &impl Clock,
    kid: KeyId,
    reason: &str,
) -> Result<String, CommandError> {
    let (mut keeper, server) = open(os, config)?;
    let (locked, now) = settle(&mut keeper, clock)?;
    let Some(record) = record_of(&keeper, kid, now) else {
        return Err(CommandError::UnknownKey { kid, known: known(&keeper) });
    };
    if let State::Revoked { revoked_at, reason } = &record.state {
        let at = rfc3339(*revoked_at);
        return Ok(format!("{kid} was revoked at {at}: {}\n", plain(reason)));
    }
    let was_current = keeper.ring.current().is_some_and(|current| current.kid() == kid);
    keeper.perform(Action::Write(record.revoked(now, reason)), now, &locked)?;
    // From here on the key is revoked, whatever happens: what follows is what a server does too.
    replace(&mut keeper, clock, &locked)
        .map_err(|source| CommandError::NotReplaced { kid, source })?;

    keeper.expect_written(kid)?;

    let mut told = if keeper.ring.served().is_empty() {
        format!(
            "revoked  {kid}\nwarning: no other key is known, and a set without a key is not served: a \
             server that runs goes on with the one that it has until there is another key\n"
        )
    } else {
        format!("revoked  {kid}: out of the set, never to return\n")
    };
    if was_current {
        told += &match keeper.ring.current() {
            Some(current) => format!(
                "current  {}: in {} now; clients must sign with it from now on\n",
                current.kid(),
                keeper.store.paths().private_key.display()
            ),
            None => format!(
                "warning: there is no current key: put one into {}\n",
                keeper.store.paths().private_key.display()
            ),
        };
    }
    told += "A verifier that holds an older set accepts the revoked key until it fetches again. \
             Keycloak does so when it meets an unknown kid, so the first assertion signed with a \
             new key makes it forget; its admin can clear the cache of keys at once.\n";
    if server.is_none() {
        told += "No server runs on this directory: nothing is published now.\n";
    }
    Ok(told)
}

/// Puts a new key in the place of a revoked one.
fn replace(keeper: &mut Keeper, clock: &impl Clock, locked: &Locked) -> Result<(), ChangeError> {
    keeper.settle(clock, locked)?;
    if keeper.ring.current().is_none() && *keeper.ring.private_key() == Slot::Missing {
        keeper.perform(Action::Generate, clock.now().wall, locked)?;
        keeper.settle(clock, locked)?;
    }
    Ok(())
}

/// The record of `kid`, made up for a key that has none because it was dropped in.
fn record_of(keeper: &Keeper, kid: KeyId, now: Time) -> Option<Record> {
    let found = keeper.ring.record(kid).cloned();
    found.or_else(|| {
        let dropped = keeper.ring.dropped().find(|(_, key)| key.kid() == kid)?.1;
        Some(Record::staged(*dropped, now, false))
    })
}

fn known(keeper: &Keeper) -> String {
    let mut kids: Vec<_> = keeper
        .ring
        .records()
        .map(Record::kid)
        .chain(keeper.ring.dropped().map(|(_, key): (_, &Jwk)| key.kid()))
        .map(|kid| kid.to_string())
        .collect();
    kids.sort();
    kids.dedup();
    kids.join(", ")
}
