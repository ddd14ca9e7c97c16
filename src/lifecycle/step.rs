//! What is due: [`settle`] makes the records agree with the files, [`step()`] adds what time brings.
//!
//! Both return one action at a time, so that no half-applied plan exists: what is still due after a
//! crash is found in the same way as before it.

use std::time::Duration;

use super::{KeyRing, Policy, Record, Serving, Slot, State, Time, whole_second};
use crate::jwk::{Jwk, KeyId};

/// One change to the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Write this record in place of what is recorded of its key.
    Write(Record),
    /// Remove the record of this key, and with it the key from the set.
    Remove(KeyId),
    /// Make a key, and put it in `next_key.pem`.
    Stage,
    /// Rename `next_key.pem`, which holds this key, to `private_key.pem`.
    Promote(KeyId),
    /// Make a key, and put it in `private_key.pem`, where there is none.
    Generate,
    /// Make a key, and put it in `private_key.pem` in place of a revoked one.
    ReplaceRevoked,
    /// Delete `next_key.pem`, which holds a revoked key.
    DiscardNext,
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Do this, then ask again.
    Act(Action),
    /// Nothing now; ask again at this time, when the action will be due.
    Wait(Agenda),
    /// Nothing now, and nothing later that is known of.
    Idle,
}

/// An action and the time at which it is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agenda {
    /// When it is due.
    pub at: Time,
    /// What is due.
    pub action: Action,
}

/// What a serving process has to do at `now`.
///
/// Asked again at the same `now` with the action done, it never returns the same action. A time in
/// [`Step::Wait`] lies after `now`.
pub fn step(ring: &KeyRing, policy: &Policy, now: Time, serving: &Serving) -> Step {
    let earliest = [rotation(ring, policy, now, serving), removal(ring, policy, now, serving)]
        .into_iter()
        .flatten()
        // Of two that are due the rotation comes first: a key that cannot be removed must not keep
        // another from being promoted.
        .min_by_key(|due| due.at.max(now));
    let (due, later) = match earliest {
        Some(due) if due.at <= now => (Some(due.action), None),
        later => (None, later),
    };
    let action = settle(ring, policy, now)
        .map(|action| with_publication(action, now, serving))
        .or_else(|| publication(ring, now, serving))
        .or_else(|| prolongation(ring, policy, now, serving))
        .or(due);
    match (action, later) {
        (Some(action), _) => Step::Act(action),
        (None, Some(later)) => Step::Wait(later),
        (None, None) => Step::Idle,
    }
}

/// What a start has to do first, if `private_key.pem` is missing: promote the key that waits, or make
/// one. While the server runs, a missing file is for a person to explain.
pub fn opening(ring: &KeyRing) -> Option<Action> {
    if *ring.private_key() != Slot::Missing {
        return None;
    }
    match ring.next_key() {
        Slot::Holds(next) if !ring.is_revoked(next.kid()) => Some(Action::Promote(next.kid())),
        // Whatever lies in `next_key.pem` is not touched.
        Slot::Holds(_) | Slot::Missing | Slot::Refused => Some(Action::Generate),
    }
}

/// The next change, if any, that makes the records say what the files say.
///
/// This is recovery as much as it is following a person's hand: a crash in the middle of a rotation
/// leaves files that are one rename ahead of the records, just as a dropped-in key does.
pub fn settle(ring: &KeyRing, policy: &Policy, now: Time) -> Option<Action> {
    follow_private_key(ring, policy, now)
        .or_else(|| follow_next_key(ring, policy, now))
        .or_else(|| follow_replaced(ring, policy, now))
}

/// When a key that is `published_at` may sign.
pub fn ready_at(published_at: Time, policy: &Policy) -> Time {
    published_at + policy.publish_lead()
}

fn follow_private_key(ring: &KeyRing, policy: &Policy, now: Time) -> Option<Action> {
    let Some(held) = ring.private_key().key() else {
        // The current key was revoked while its file was missing, and its replacement cut short.
        let is_due = *ring.private_key() == Slot::Missing
            && ring.current().is_none()
            && ring.records().any(Record::is_revoked);
        return is_due.then_some(Action::Generate);
    };
    match ring.record(held.kid()).map(|record| (record, &record.state)) {
        Some((_, State::Current { .. })) => {}
        Some((_, State::Revoked { .. })) => {
            // Without another current key the revocation of this one was cut short. With one,
            // somebody put a revoked key back, and that file is theirs to mend.
            return ring.last_activated().is_none().then_some(Action::ReplaceRevoked);
        }
        Some((record, State::Next { .. } | State::Retired { .. })) => {
            return Some(Action::Write(record.activated(now)));
        }
        // What its record says is not known, and nothing is to be put in its place.
        None if ring.may_have_unread_record(held.kid()) => {}
        None => {
            let record = Record::staged(held, now, false).activated(now);
            return Some(Action::Write(record));
        }
    }
    ring.records()
        .find(|record| matches!(record.state, State::Current { .. }) && record.key != held)
        .map(|replaced| Action::Write(replaced.retired(now, policy)))
}

fn follow_next_key(ring: &KeyRing, policy: &Policy, now: Time) -> Option<Action> {
    let current = ring.current();
    let held = ring.next_key().key().filter(|held| Some(*held) != current);
    if let Some(held) = held {
        match ring.record(held.kid()).map(|record| (record, &record.state)) {
            Some((_, State::Next { .. } | State::Current { .. })) => {}
            Some((_, State::Revoked { .. })) => return Some(Action::DiscardNext),
            Some((record, State::Retired { .. })) => {
                let state = State::Next { promotion_requested_at: None };
                return Some(Action::Write(record.with(state)));
            }
            None if ring.may_have_unread_record(held.kid()) => {}
            None => return Some(Action::Write(Record::staged(held, now, false))),
        }
    }
    if *ring.next_key() == Slot::Refused {
        return None;
    }
    // A staged key that no file holds can never be promoted here. Somebody may have taken it to
    // sign with, so it stays published as long as if it had signed until now.
    ring.records()
        .find(|record| {
            matches!(record.state, State::Next { .. })
                && Some(record.key) != held
                && Some(record.key) != current
        })
        .map(|orphan| Action::Write(orphan.retired(now, policy)))
}

/// A key that was held and replaced without a record is published as long as if it had one.
fn follow_replaced(ring: &KeyRing, policy: &Policy, now: Time) -> Option<Action> {
    ring.replaced()
        .find(|key| !ring.may_have_unread_record(key.kid()))
        .map(|key| Action::Write(Record::staged(key, now, false).retired(now, policy)))
}

/// Notes the first time that a key is served.
fn publication(ring: &KeyRing, now: Time, serving: &Serving) -> Option<Action> {
    ring.records()
        .find(|record| {
            record.published_at.is_none()
                && !record.is_revoked()
                && serving.served_for(record.kid()).is_some()
        })
        .map(|record| with_publication(Action::Write(record.clone()), now, serving))
}

/// `action` where, if it writes the record of a key that is served, that says since when. A key that was
/// dropped in before has been published for as long already.
fn with_publication(action: Action, now: Time, serving: &Serving) -> Action {
    match action {
        Action::Write(record) => Action::Write(match serving.served_for(record.kid()) {
            Some(served_for) => record.published(now - served_for),
            None => record,
        }),
        action => action,
    }
}

/// The record of a retired key that says an earlier end than this process will keep to. Another process
/// will know nothing else.
fn prolongation(ring: &KeyRing, policy: &Policy, now: Time, serving: &Serving) -> Option<Action> {
    if !serving.may_record {
        return None;
    }
    serving.retired().find_map(|kid| {
        let record = ring.record(kid).filter(|_| !ring.is_unread(kid))?;
        let until = kept_until(record, policy, now, serving)?;
        let is_short = until > now && record.remove_at()? < until;
        is_short.then(|| Action::Write(record.kept_until(until)))
    })
}

/// The first retired key whose time is up. One whose record cannot be read may have another by now, and
/// what cannot be found cannot be removed.
fn removal(ring: &KeyRing, policy: &Policy, now: Time, serving: &Serving) -> Option<Agenda> {
    let current = ring.current()?;
    let (until, retired) = ring
        .records()
        .filter(|record| !ring.is_unread(record.kid()))
        .filter_map(|record| Some((kept_until(record, policy, now, serving)?, record)))
        .min_by_key(|(until, record)| {
            // One that cannot be removed must not keep another from it, least of all one whose file is gone.
            let kid = record.kid();
            ((*until).max(now), !ring.is_gone(kid), serving.stuck_at(kid), *until, kid)
        })?;
    // Caches must have had the time to learn the key that signs now, from this very process.
    let at = until.max(served_long_enough_at(current, policy, now, serving));
    Some(Agenda { at: at.max(pause_ends_at(now, serving)), action: Action::Remove(retired.kid()) })
}

/// Until when the key of `record` is kept, if it is retired.
///
/// What a record says was written by whatever clock. So if this process has seen for how long the key
/// has been retired, that counts as well.
fn kept_until(record: &Record, policy: &Policy, now: Time, serving: &Serving) -> Option<Time> {
    let remove_at = record.remove_at()?;
    Some(serving.retired_for(record.kid()).map_or(remove_at, |retired_for| {
        remove_at.max(now + policy.retain_for().saturating_sub(retired_for))
    }))
}

/// Whether a record that was written by `now`, by a clock that agrees, cannot say `time`.
fn is_future(time: Time, now: Time) -> bool {
    time > whole_second(now)
}

/// The next rotation or, before it, the making of the key for it.
fn rotation(ring: &KeyRing, policy: &Policy, now: Time, serving: &Serving) -> Option<Agenda> {
    if !serving.may_rotate {
        return None;
    }
    // A `private_key.pem` that cannot be read is never overwritten.
    if *ring.private_key() == Slot::Refused {
        return None;
    }
    let current = ring.current()?;
    let activated_at = ring.record(current.kid())?.activated_at()?;
    let next = match ring.next_key() {
        Slot::Refused => return None,
        // A copy of the current key is no next key; staging replaces it, and loses nothing.
        Slot::Holds(next) if *next != current => next,
        Slot::Holds(_) | Slot::Missing => {
            return policy.rotate_every().map(|_| Agenda { at: now, action: Action::Stage });
        }
    };
    let record = ring.record(next.kid())?;
    let State::Next { promotion_requested_at } = record.state else {
        return None;
    };
    // What was asked for was asked for before, whatever clock has written when.
    let wanted_at = match (promotion_requested_at, policy.rotate_every()) {
        (Some(_), _) => now,
        (None, Some(period)) => {
            // A record that speaks of the future tells nothing.
            let current_for = serving.current_for(current.kid()).unwrap_or(Duration::ZERO);
            let of_process =
                is_future(activated_at, now).then(|| now + period.saturating_sub(current_for));
            of_process.unwrap_or(activated_at + period)
        }
        (None, None) => return None,
    };
    let at = wanted_at
        .max(may_sign_at(record, policy, now, serving)?)
        .max(served_long_enough_at(*next, policy, now, serving))
        .max(pause_ends_at(now, serving));
    Some(Agenda { at, action: Action::Promote(next.kid()) })
}

/// When the key of `record` will have been published for the lead time.
///
/// What the record says was written by whatever clock. So if this process was the first to serve the
/// key, or the clock was set since, the time for which it has counts as well; and it counts alone if the
/// record speaks of the future, which tells nothing.
fn may_sign_at(record: &Record, policy: &Policy, now: Time, serving: &Serving) -> Option<Time> {
    let published_at = record.published_at?;
    let by_record = ready_at(published_at, policy);
    let Some(served_for) = serving.served_for(record.kid()) else {
        return Some(by_record);
    };
    let by_process = now + policy.publish_lead().saturating_sub(served_for);
    Some(if is_future(published_at, now) {
        by_process
    } else if serving.begins_lead(record.kid()) {
        by_record.max(by_process)
    } else {
        by_record
    })
}

/// When this process will have served `key` for as long as a cache may hold a set without it.
///
/// The times in the records cannot show this: they go on while the server is down.
fn served_long_enough_at(key: Jwk, policy: &Policy, now: Time, serving: &Serving) -> Time {
    let served_for = serving.served_for(key.kid()).unwrap_or(Duration::ZERO);
    now + policy.cache_max_age().saturating_sub(served_for)
}

fn pause_ends_at(now: Time, serving: &Serving) -> Time {
    now + serving.paused_for.unwrap_or(Duration::ZERO)
}
