//! `jwks-server assertion` and `jwks-server dpop`: tokens to try a set-up with.

use std::sync::Arc;

use super::{CommandError, open};
use crate::assertion::jti;
use crate::clock::Clock;
use crate::config::Config;
use crate::key::SigningKey;
use crate::lifecycle::Time;
use crate::store::Native;

/// What `make_token` makes of the current key, the time and a random `jti`.
///
/// # Errors
///
/// If there is no usable current key, or it has no record yet though it could have: no server has seen
/// it, so nobody can verify what it signs.
pub fn sign(
    config: &Config,
    clock: &impl Clock,
    make_token: impl FnOnce(&SigningKey, Time, &str) -> String,
) -> Result<String, CommandError> {
    let (mut keeper, _) = open(Arc::new(Native), config)?;
    let now = clock.now().wall;
    keeper.look(clock);
    let path = || config.paths.private_key.display().to_string();
    let key = keeper
        .store
        .read_private_key()
        .map_err(|reason| CommandError::NoCurrentKey { path: path(), reason })?;
    let kid = key.jwk().kid();
    match keeper.ring.record(kid) {
        Some(record) if !record.is_revoked() => {}
        Some(_) => {
            let reason = format!("the key {kid} is revoked");
            return Err(CommandError::NoCurrentKey { path: path(), reason });
        }
        // Where no record can be made, a server publishes the key without.
        None if !keeper.store.keys_are_writable() => {}
        None => return Err(CommandError::NoRecord { path: path(), kid }),
    }
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(CommandError::Random)?;
    Ok(make_token(&key, now, &jti(random)) + "\n")
}
