//! `jwks-server rotate`.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;

use super::{CommandError, open, settle};
use crate::clock::Clock;
use crate::config::Config;
use crate::jwk::{Jwk, KeyId};
use crate::keeper::Keeper;
use crate::lifecycle::{
    Action, Record, Slot, State, Time, human, proven_after, rfc3339, whole_second,
};
use crate::store::{Native, Os};

/// How long `rotate` waits for a running server to publish or to promote the key: one that has no file
/// events looks every 10 s.
const PATIENCE: Duration = Duration::from_secs(11);
const POLL: Duration = Duration::from_millis(5);

/// Promotes the next key if it is ready; beside a running server, has that do it. Otherwise makes one if there is none, and asks for its
/// promotion as soon as it is ready; or promotes it at once if `in_haste`. Returns what to tell the
/// person.
///
/// # Errors
///
/// If there is no usable current key, or the directory cannot be changed.
pub fn rotate(config: &Config, clock: &impl Clock, in_haste: bool) -> Result<String, CommandError> {
    rotate_on(Arc::new(Native), config, clock, in_haste)
}

/// The same on another operating system than the real one.
pub fn rotate_on(
    os: Arc<dyn Os>,
    config: &Config,
    clock: &impl Clock,
    in_haste: bool,
) -> Result<String, CommandError> {
    let (mut keeper, server) = open(os, config)?;
    let (locked, now) = settle(&mut keeper, clock)?;
    let Some(current) = usable_current(&keeper) else {
        return Err(CommandError::NoCurrentKey {
            path: keeper.store.paths().private_key.display().to_string(),
            reason: "there is no good key in it, see `jwks-server check`".into(),
        });
    };
    if let Some(told) = rotated_just_now(&keeper, current, now) {
        return Ok(told);
    }

    // Nothing is staged: a record without its key would be published to no purpose.
    expect_readable_next(&keeper)?;
    let next = match keeper.ring.next_key().key().filter(|next| *next != current) {
        Some(next) => next,
        None => {
            let next = keeper.stage(!in_haste, now, &locked)?;
            keeper.settle(clock, &locked)?;
            next
        }
    };
    let (locked, now) = match &server {
        Some(_) if in_haste => {
            drop(locked);
            // A client that signs before that would make a verifier fetch a set without the key, and not
            // fetch again for a while.
            await_server(&mut keeper, clock, |keeper| {
                let record = keeper.ring.record(next.kid());
                record.is_some_and(|record| record.published_at.is_some())
            });
            settle(&mut keeper, clock)?
        }
        _ => (locked, now),
    };
    expect_readable_next(&keeper)?;
    if keeper.ring.next_key().key() != Some(next) {
        return Ok("nothing done: another rotation came first\n".into());
    }
    let record = keeper.ring.record(next.kid()).cloned();
    // By what servers have counted, and by no clock of this process.
    let announced = keeper.served.lead_left(next.kid(), &keeper.policy).is_zero();
    if in_haste || announced && server.is_none() {
        keeper.perform(Action::Promote(next.kid()), now, &locked)?;
        keeper.settle(clock, &locked)?;
        if usable_current(&keeper) != Some(next) {
            return Ok("nothing done: another key was put in place at the same time\n".into());
        }
        keeper.expect_written(next.kid())?;
        keeper.expect_written(current.kid())?;
        return Ok(promoted(&keeper, current.kid(), next.kid(), announced, server.is_some()));
    }
    if let Some(record) = record
        && let State::Next { promotion_requested_at: None } = record.state
    {
        let state = Record::staged(next, now, true).state;
        keeper.perform(Action::Write(record.with(state)), now, &locked)?;
    }
    keeper.expect_written(next.kid())?;
    if announced {
        // The server does it, once it has answered for long enough without a break.
        drop(locked);
        await_server(&mut keeper, clock, |keeper| {
            let state = |kid| keeper.ring.record(kid).map(|record| record.state.name());
            state(next.kid()) == Some("current") && state(current.kid()) == Some("retired")
        });
        if keeper.ring.current() == Some(next) {
            return Ok(promoted(&keeper, current.kid(), next.kid(), true, true));
        }
    }
    Ok(waiting(&keeper, current.kid(), next.kid(), now, server.is_some()))
}

fn expect_readable_next(keeper: &Keeper) -> Result<(), CommandError> {
    match keeper.ring.next_key() {
        Slot::Refused => Err(CommandError::RefusedNext {
            path: keeper.store.paths().next_key().display().to_string(),
        }),
        Slot::Holds(_) | Slot::Missing => Ok(()),
    }
}

/// Waits, [`PATIENCE`] at most, until the running server has done something.
fn await_server(keeper: &mut Keeper, clock: &impl Clock, is_done: impl Fn(&Keeper) -> bool) {
    let began = clock.now().elapsed;
    for _ in 0..PATIENCE.as_millis() / POLL.as_millis() {
        keeper.look(clock);
        if is_done(keeper) || clock.now().elapsed > began + PATIENCE {
            return;
        }
        clock.pause(POLL);
    }
}

fn usable_current(keeper: &Keeper) -> Option<Jwk> {
    let held = match keeper.ring.private_key() {
        Slot::Holds(key) => Some(*key),
        Slot::Missing | Slot::Refused => None,
    };
    held.filter(|key| keeper.ring.current() == Some(*key))
}

/// A rotation that follows another at once is a repetition, and would only wear keys out.
fn rotated_just_now(keeper: &Keeper, current: Jwk, now: Time) -> Option<String> {
    let window = keeper.policy.cache_max_age();
    let window = TimeDelta::from_std(window).unwrap_or(TimeDelta::MAX);
    let replaced = keeper.ring.records().find(|record| {
        matches!(record.state, State::Retired { activated_at: Some(_), .. })
            && record.retired_at().is_some_and(|at| (now - at).abs() < window)
    })?;
    Some(format!(
        "nothing done: {} replaced {} less than {} ago, and caches are still learning it\n",
        current.kid(),
        replaced.kid(),
        human(&keeper.policy.cache_max_age())
    ))
}

fn promoted(
    keeper: &Keeper,
    before: KeyId,
    next: KeyId,
    announced: bool,
    server_runs: bool,
) -> String {
    let file = keeper.store.paths().private_key.display();
    let mut told = format!("promoted {next}: {file} holds it, and clients sign with it now\n");
    if keeper.ring.record(before).and_then(Record::retired_at).is_some() {
        let left = keeper.served.retention_left(before, &keeper.policy);
        told +=
            &format!("retired  {before}: stays published for {}\n", human(&whole_seconds(left)));
    }
    if !announced {
        told += &format!(
            "warning: the new key was not published for {} before it signs. Until they fetch the \
             set again, verifiers that hold an older one reject its signatures: Keycloak for up to \
             11 s, servers that obey Cache-Control for {}, libraries for 5 to 75 min, and some for \
             24 h.\n",
            human(&keeper.policy.publish_lead()),
            human(&keeper.policy.cache_max_age()),
        );
    }
    told + no_server(server_runs)
}

fn waiting(keeper: &Keeper, current: KeyId, next: KeyId, now: Time, server_runs: bool) -> String {
    let lead = keeper.policy.publish_lead();
    let left = keeper.served.lead_left(next, &keeper.policy);
    let when = match (left < lead, server_runs) {
        (false, true) => format!("{} from now", human(&lead)),
        (false, false) => format!("{} after a server first publishes it", human(&lead)),
        (true, true) if left.is_zero() => {
            let wanted = human(&proven_after(&keeper.policy)).to_string();
            format!("once it has answered for {wanted} without a break")
        }
        (true, true) => format!("at {}", rfc3339(whole_second(now + left))),
        (true, false) => {
            format!("once a server has published it for {} more", human(&whole_seconds(left)))
        }
    };
    format!(
        "staged   {next}: in {}\n\
         current  {current}: clients sign with it until then\n\
         The server promotes the next key {when}, when every verifier can know it. \
         `rotate --now` would not wait.\n",
        keeper.store.paths().next_key().display()
    ) + no_server(server_runs)
}

/// `left` in whole seconds, rounded up.
fn whole_seconds(left: Duration) -> Duration {
    Duration::from_secs(left.as_secs() + u64::from(left.subsec_nanos() > 0))
}

fn no_server(server_runs: bool) -> &'static str {
    if server_runs { "" } else { "No server runs on this directory: nothing is published now.\n" }
}
