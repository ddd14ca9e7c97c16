//! What is known of all keys at one moment: [`KeyRing`], and how a look at the directory ([`Seen`])
//! changes it.
//!
//! This is where the last good state wins: what was promised to a key outlives its file, and a file
//! that cannot be read takes nothing away.

use std::borrow::Borrow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::time::Duration;

use super::{Record, State};
use crate::jwk::{Jwk, KeyId};

/// What one of the two private key files holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Slot {
    /// There is no such file.
    #[default]
    Missing,
    /// There is a file, and it could not be read or was refused.
    Refused,
    /// A good key, of which this is the public half.
    Holds(Jwk),
}

impl Slot {
    /// The key, if there is a good one.
    pub fn key(&self) -> Option<Jwk> {
        match self {
            Self::Holds(key) => Some(*key),
            Self::Missing | Self::Refused => None,
        }
    }
}

/// What one look at the directory found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seen {
    /// What `private_key.pem` holds.
    pub private_key: Slot,
    /// What `next_key.pem` holds.
    pub next_key: Slot,
    /// The records that could be read.
    pub records: BTreeMap<KeyId, Record>,
    /// The kids, by file name, of records that are there and are no good.
    pub refused_records: BTreeSet<KeyId>,
    /// Those of them that could not even be read.
    pub unread_records: BTreeSet<KeyId>,
    /// The dropped files by name, with the key of each that has a good one.
    pub dropped: BTreeMap<OsString, Option<Jwk>>,
    /// Whether `records` and `dropped` are all that there is.
    pub listing: Listing,
}

/// How the listing of `keys/` went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Listing {
    /// Every file that is there is known; a directory that is not there has none.
    #[default]
    Complete,
    /// The directory could not be listed, which says nothing about what is in it.
    Failed,
}

/// What is known of all keys at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyRing {
    private_key: Slot,
    /// What `private_key.pem` held when it could be read last. The records cannot tell two keys
    /// apart that were activated within one second.
    last_held: Option<Jwk>,
    next_key: Slot,
    /// What `next_key.pem` held when it could be read last, until it is deleted. Its record, too, may
    /// be one that cannot be read.
    last_next: Option<Jwk>,
    /// Keys that one of the two files held until another took their place, while their records could
    /// not be read, if they have any: they may have signed. One of the records may be a tombstone; that
    /// counts once it can be read.
    replaced: BTreeMap<KeyId, Jwk>,
    records: BTreeMap<KeyId, Record>,
    /// The kids of records that the directory does not have in this form, because a write failed or
    /// somebody deleted the file, each with what the directory had then. They are served all the
    /// same, until the directory has something else again: that is newer.
    unsaved: BTreeMap<KeyId, Option<Record>>,
    /// Records of keys whose time is up, where they cannot be deleted: as long as they do not change,
    /// they count as gone.
    abandoned: BTreeMap<KeyId, Record>,
    /// Keys whose records could not be deleted, and when that was tried last.
    undeletable: BTreeMap<KeyId, Duration>,
    /// Keys whose records are there and could not be read, for want of a descriptor or by a sick
    /// disk: what they say is not known.
    unread_records: BTreeSet<KeyId>,
    /// How the last listing went.
    listing: Listing,
    dropped: BTreeMap<OsString, Jwk>,
}

impl KeyRing {
    /// Takes in what a look at the directory found. Returns the records whose state somebody else
    /// has changed, as they were before.
    ///
    /// To take in the same again changes nothing, and neither does it after a decision that was not
    /// written: [`KeyRing::remember`], [`KeyRing::abandon`], or [`KeyRing::forget`] of what is gone.
    pub fn observe(&mut self, seen: impl Borrow<Seen>) -> Vec<Record> {
        let seen = seen.borrow();
        let held_before = [self.last_held, self.last_next];
        self.private_key = seen.private_key;
        self.last_held = self.private_key.key().or(self.last_held);
        self.next_key = seen.next_key;
        if self.next_key != Slot::Refused {
            self.last_next = self.next_key.key();
        }
        self.listing = seen.listing;
        if seen.listing == Listing::Complete {
            let there =
                |kid: &KeyId| seen.records.contains_key(kid) || seen.refused_records.contains(kid);
            for kid in self.records.keys().filter(|kid| !there(kid)) {
                self.unsaved.insert(*kid, None);
            }
            self.abandoned.retain(|kid, _| there(kid));
        }
        let mut changed = Vec::new();
        for (kid, record) in &seen.records {
            if self.abandoned.get(kid) != Some(record) {
                self.abandoned.remove(kid);
                changed.extend(self.observe_record(*kid, record));
            }
        }
        let held = [self.last_held, self.last_next];
        self.replaced.extend(held_before.into_iter().flatten().map(|key| (key.kid(), key)));
        self.undeletable.retain(|kid, _| self.records.contains_key(kid));
        self.replaced
            .retain(|kid, key| !held.contains(&Some(*key)) && !self.records.contains_key(kid));
        self.unread_records.clone_from(&seen.unread_records);
        if seen.listing == Listing::Complete {
            let before = std::mem::take(&mut self.dropped);
            self.dropped = seen
                .dropped
                .iter()
                .filter_map(|(name, key)| {
                    // A file that is there and cannot be read keeps the key that it had.
                    let key = key.or_else(|| before.get(name).copied())?;
                    Some((name.clone(), key))
                })
                .collect();
        }
        changed
    }

    /// Takes in a record as the directory has it, which is the newest word on it unless that would
    /// break a promise. Returns what was known before if its state was another.
    fn observe_record(&mut self, kid: KeyId, found: &Record) -> Option<Record> {
        let Some(known) = self.records.get(&kid) else {
            self.records.insert(kid, found.clone());
            return None;
        };
        if self.unsaved.get(&kid).is_some_and(|before| before.as_ref() == Some(found)) {
            // Still what it was when this was decided.
            return None;
        }
        if known == found {
            self.unsaved.remove(&kid);
            return None;
        }
        let kept = known.keeping_promises_of(found);
        if kept == *found {
            self.unsaved.remove(&kid);
        } else {
            self.unsaved.insert(kid, Some(found.clone()));
        }
        let changed = kept.state != known.state;
        let before = self.records.insert(kid, kept);
        before.filter(|_| changed)
    }

    /// Remembers `record` in place of what was known of its key; it counts as unsaved until
    /// [`KeyRing::saved`].
    pub fn remember(&mut self, mut record: Record) {
        let kid = record.kid();
        self.replaced.remove(&kid);
        // The file of a key that was let go of is still there, and is the one to replace.
        let file = self.abandoned.remove(&kid);
        record.created_at = file.as_ref().map_or(record.created_at, |file| file.created_at);
        let before = self.records.insert(kid, record).or(file);
        self.unsaved.entry(kid).or_insert(before);
    }

    /// Notes that the directory has the record of `kid` as it is here.
    pub fn saved(&mut self, kid: KeyId) {
        self.unsaved.remove(&kid);
    }

    /// Whether the last look saw all that the directory has. Otherwise nothing may be changed: a key
    /// may have a record, or a tombstone, that is not known yet.
    pub fn is_complete(&self) -> bool {
        self.listing == Listing::Complete
    }

    /// Whether no file has the record of `kid` any more, or has it yet.
    pub fn is_gone(&self, kid: KeyId) -> bool {
        self.unsaved.get(&kid) == Some(&None)
    }

    /// The record of `kid` as the directory has it, as far as that is known.
    pub fn in_the_file(&self, kid: KeyId) -> Option<&Record> {
        match self.unsaved.get(&kid) {
            Some(before) => before.as_ref(),
            None => self.records.get(&kid),
        }
    }

    /// Forgets a key whose time is up although its file stays, since it cannot be deleted.
    pub fn abandon(&mut self, kid: KeyId) {
        let Some(record) = self.records.remove(&kid) else { return };
        let in_the_file = self.unsaved.remove(&kid).unwrap_or(Some(record));
        self.abandoned.extend(in_the_file.map(|record| (kid, record)));
    }

    /// The keys that were let go of and are still there.
    pub fn abandoned(&self) -> impl Iterator<Item = KeyId> {
        self.abandoned.keys().copied()
    }

    /// Forgets the record of `kid`, after its file was removed.
    pub fn forget(&mut self, kid: KeyId) {
        self.records.remove(&kid);
        self.unsaved.remove(&kid);
    }

    /// Whether the directory lacks the record of `kid` as it is here.
    pub fn is_unsaved(&self, kid: KeyId) -> bool {
        self.unsaved.contains_key(&kid)
    }

    /// The records that the directory does not have as they are here.
    pub fn unsaved(&self) -> impl Iterator<Item = &Record> {
        self.unsaved.keys().filter_map(|kid| self.records.get(kid))
    }

    /// At that time, by a monotonic clock, the record of `kid` could not be deleted.
    pub fn note_undeletable(&mut self, kid: KeyId, at: Duration) {
        self.undeletable.insert(kid, at);
    }

    /// When it was last tried in vain to delete the record of `kid`.
    pub fn undeletable_since(&self, kid: KeyId) -> Option<Duration> {
        self.undeletable.get(&kid).copied()
    }

    /// What `private_key.pem` holds.
    pub fn private_key(&self) -> &Slot {
        &self.private_key
    }

    /// What `next_key.pem` holds.
    pub fn next_key(&self) -> &Slot {
        &self.next_key
    }

    /// Whether `kid` may have a record that could not be read. Another must not be written then.
    pub fn may_have_unread_record(&self, kid: KeyId) -> bool {
        let unread = self.listing == Listing::Failed || self.unread_records.contains(&kid);
        unread && self.record(kid).is_none()
    }

    /// The kids of records that are there and could not be read.
    pub fn unread_records(&self) -> impl Iterator<Item = KeyId> {
        self.unread_records.iter().copied()
    }

    /// Whether the record of `kid` is there and could not be read.
    pub fn is_unread(&self, kid: KeyId) -> bool {
        self.unread_records.contains(&kid)
    }

    /// Whether one of the two files holds a key of which nothing is recorded yet.
    pub fn has_unrecorded(&self) -> bool {
        let held = [self.private_key.key(), self.next_key.key()];
        held.into_iter()
            .flatten()
            .map(|key| key.kid())
            .any(|kid| self.record(kid).is_none() && !self.may_have_unread_record(kid))
    }

    /// The keys that were held and replaced and have no record that is known.
    pub fn replaced(&self) -> impl Iterator<Item = Jwk> {
        self.replaced.values().copied()
    }

    /// All records, by kid.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.records.values()
    }

    /// The record of `kid`.
    pub fn record(&self, kid: KeyId) -> Option<&Record> {
        self.records.get(&kid)
    }

    /// The dropped keys, by file name.
    pub fn dropped(&self) -> impl Iterator<Item = (&OsString, &Jwk)> {
        self.dropped.iter()
    }

    /// Whether `kid` has a tombstone.
    pub fn is_revoked(&self, kid: KeyId) -> bool {
        self.record(kid).is_some_and(Record::is_revoked)
    }

    /// The key that clients sign with now: what `private_key.pem` holds or, while that cannot be
    /// read, what it held last.
    pub fn current(&self) -> Option<Jwk> {
        let held = self.last_held.filter(|key| !self.is_revoked(key.kid()));
        held.or_else(|| self.last_activated().map(|record| record.key))
    }

    /// The record of the newest key known to have signed and not known to have been replaced.
    pub fn last_activated(&self) -> Option<&Record> {
        self.records
            .values()
            .filter_map(|record| Some((record.activated_at()?, record)))
            .max_by_key(|(activated_at, record)| (*activated_at, record.kid()))
            .map(|(_, record)| record)
    }

    /// The keys of the set in the order in which they are served: current, retired (the newest
    /// first), dropped, next. A verifier that is given a token without a kid takes the first.
    pub fn served(&self) -> Vec<Jwk> {
        let current = self.current();
        let mut retired: Vec<_> = self
            .records
            .values()
            .filter(|record| matches!(record.state, State::Current { .. } | State::Retired { .. }))
            .map(|record| (record.retired_at(), record.key))
            .collect();
        // A key that is replaced but not yet recorded as retired comes before those that are.
        retired.sort_by_key(|(at, key)| (at.is_some(), Reverse(*at), key.kid()));
        let next = self.records.values().filter(|r| matches!(r.state, State::Next { .. }));

        let in_order = current
            .into_iter()
            .chain(self.replaced())
            .chain(retired.into_iter().map(|(_, key)| key))
            .chain(self.dropped.values().copied())
            .chain(next.map(|record| record.key))
            .chain(self.last_next);
        let mut seen = BTreeSet::new();
        in_order.filter(|key| !self.is_revoked(key.kid()) && seen.insert(key.kid())).collect()
    }
}

#[cfg(test)]
mod tests;
