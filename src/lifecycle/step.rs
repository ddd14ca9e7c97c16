//! What is due: [`settle`] makes the records agree with the files, [`step()`] adds what time brings.
//!
//! Both return one action at a time, so that no half-applied plan exists: what is still due after a
//! crash is found in the same way as before it.

use std::time::Duration;

use super::{KeyRing, Policy, Record, Served, Slot, State, Time, whole_second};
use crate::jwk::KeyId;

/// A rotation that is late by less is nobody's trouble.
const OVERDUE: Duration = Duration::from_secs(3_600);

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

/// What a serving process has to do at `now`. Keys are made and moved only if it `may_rotate`.
///
/// Asked again at the same `now` with the action done, it never returns the same action. A time in
/// [`Step::Wait`] lies after `now`; what is left to be counted is taken to be served without a break.
pub fn step(ring: &KeyRing, policy: &Policy, now: Time, served: &Served, may_rotate: bool) -> Step {
    let rotation = rotation(ring, policy, now, served).filter(|_| may_rotate);
    let earliest = [rotation, removal(ring, policy, now, served)]
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
        .map(|action| with_publication(action, now, served))
        .or_else(|| publication(ring, now, served))
        .or(due);
    match (action, later) {
        (Some(action), _) => Step::Act(action),
        (None, Some(later)) => Step::Wait(later),
        (None, None) => Step::Idle,
    }
}

/// Since when a rotation is overdue that waits for nothing but that this process has answered for a while,
/// as the ones before it did not: they lived too short.
pub fn starved_since(ring: &KeyRing, policy: &Policy, now: Time, served: &Served) -> Option<Time> {
    let current = ring.record(ring.current()?.kid())?;
    let next = ring.record(ring.next_key().key()?.kid())?;
    let State::Next { promotion_requested_at } = next.state else { return None };
    let by_schedule = || Some(current.activated_at()? + policy.rotate_every()?);
    let wanted_at = promotion_requested_at.or_else(by_schedule)?;
    let is_overdue = wanted_at + OVERDUE <= now && served.was_full(next.kid(), policy);
    (is_overdue && !served.unproven_for(policy).is_zero()).then_some(wanted_at)
}

/// What a start has to do first, if `private_key.pem` is missing: promote the key that waits, or make
/// one. While the server runs, a missing file is for a person to explain.
pub fn bootstrap(ring: &KeyRing) -> Option<Action> {
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
fn publication(ring: &KeyRing, now: Time, served: &Served) -> Option<Action> {
    ring.records()
        .find(|record| {
            record.published_at.is_none()
                && !record.is_revoked()
                && served.answered_for(record.kid()).is_some()
        })
        .map(|record| with_publication(Action::Write(record.clone()), now, served))
}

/// `action` where, if it writes the record of a key that is served, that says since when. A key that was
/// dropped in before has been published for as long already.
fn with_publication(action: Action, now: Time, served: &Served) -> Action {
    match action {
        Action::Write(record) => Action::Write(match served.answered_for(record.kid()) {
            Some(answered_for) => record.published(now - answered_for),
            None => record,
        }),
        action => action,
    }
}

/// The first retired key that has been served for as long as it was promised. One whose record cannot be
/// read may have another by now, and what cannot be found cannot be removed.
fn removal(ring: &KeyRing, policy: &Policy, now: Time, served: &Served) -> Option<Agenda> {
    ring.current()?;
    let (left, retired) = ring
        .records()
        .filter(|record| matches!(record.state, State::Retired { .. }))
        .filter(|record| !ring.is_unread(record.kid()))
        .map(|record| (served.retention_left(record.kid(), policy), record))
        .min_by_key(|(left, record)| {
            // One that cannot be removed must not keep another from it, least of all one whose file is gone.
            let kid = record.kid();
            (*left, !ring.is_gone(kid), ring.undeletable_since(kid), record.retired_at(), kid)
        })?;
    Some(Agenda { at: now + left, action: Action::Remove(retired.kid()) })
}

/// The next rotation or, before it, the making of the key for it.
fn rotation(ring: &KeyRing, policy: &Policy, now: Time, served: &Served) -> Option<Agenda> {
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
    let State::Next { promotion_requested_at } = ring.record(next.kid())?.state else {
        return None;
    };
    let wanted_at = match (promotion_requested_at, policy.rotate_every()) {
        // What was asked for was asked for before, whatever clock has written when.
        (Some(_), _) => now,
        (None, Some(period)) => {
            let by_count = now + period.saturating_sub(served.of(current.kid()));
            // A record that speaks of the future tells nothing.
            let is_past = activated_at <= whole_second(now);
            if is_past { by_count.min(activated_at + period) } else { by_count }
        }
        (None, None) => return None,
    };
    let may_sign_at = now + served.lead_left(next.kid(), policy).max(served.unproven_for(policy));
    Some(Agenda { at: wanted_at.max(may_sign_at), action: Action::Promote(next.kid()) })
}
