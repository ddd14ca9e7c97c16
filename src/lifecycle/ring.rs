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

use super::known::{File, Known, Live};
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
    /// The records, each with the state of its file.
    known: BTreeMap<KeyId, Known>,
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
            self.known.retain(|kid, known| there(kid) || known.is_kept_without_file());
        }
        let mut changed = Vec::new();
        for (kid, record) in &seen.records {
            match self.known.get_mut(kid) {
                Some(known) => changed.extend(known.observe(record)),
                None => drop(self.known.insert(*kid, Known::found(record.clone()))),
            }
        }
        let held = [self.last_held, self.last_next];
        self.replaced.extend(held_before.into_iter().flatten().map(|key| (key.kid(), key)));
        let is_recorded =
            |kid: &KeyId| self.known.get(kid).is_some_and(|known| known.live().is_some());
        self.replaced.retain(|kid, key| !held.contains(&Some(*key)) && !is_recorded(kid));
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

    /// Remembers `record` in place of what was known of its key; it counts as unsaved until
    /// [`KeyRing::saved`].
    pub fn remember(&mut self, record: Record) {
        let kid = record.kid();
        self.replaced.remove(&kid);
        let known = match self.known.remove(&kid) {
            Some(known) => known.decided(record),
            None => Known::Live(Live { record, file: File::Behind(None), undeletable_since: None }),
        };
        self.known.insert(kid, known);
    }

    /// Notes that the directory has the record of `kid` as it is here.
    pub fn saved(&mut self, kid: KeyId) {
        if let Some(Known::Live(live)) = self.known.get_mut(&kid) {
            live.file = File::Same;
        }
    }

    fn live(&self, kid: KeyId) -> Option<&Live> {
        self.known.get(&kid)?.live()
    }

    /// Whether the last look saw all that the directory has. Otherwise nothing may be changed: a key
    /// may have a record, or a tombstone, that is not known yet.
    pub fn is_complete(&self) -> bool {
        self.listing == Listing::Complete
    }

    /// Whether no file has the record of `kid` any more, or has it yet.
    pub fn is_gone(&self, kid: KeyId) -> bool {
        self.live(kid).is_some_and(|live| live.file == File::Behind(None))
    }

    /// The record of `kid` as the directory has it, as far as that is known.
    pub fn in_the_file(&self, kid: KeyId) -> Option<&Record> {
        let live = self.live(kid)?;
        match &live.file {
            File::Same => Some(&live.record),
            File::Behind(before) => before.as_deref(),
        }
    }

    /// Forgets a key whose time is up although its file stays, since it cannot be deleted.
    pub fn abandon(&mut self, kid: KeyId) {
        let abandoned = self.known.remove(&kid).and_then(Known::abandoned);
        self.known.extend(abandoned.map(|known| (kid, known)));
    }

    /// The keys that were abandoned and whose files are still there.
    pub fn abandoned(&self) -> impl Iterator<Item = KeyId> {
        self.known.iter().filter(|(_, known)| known.live().is_none()).map(|(kid, _)| *kid)
    }

    /// Forgets the record of `kid`, after its file was removed.
    pub fn forget(&mut self, kid: KeyId) {
        if self.live(kid).is_some() {
            self.known.remove(&kid);
        }
    }

    /// Whether the directory lacks the record of `kid` as it is here.
    pub fn is_unsaved(&self, kid: KeyId) -> bool {
        self.live(kid).is_some_and(|live| live.file != File::Same)
    }

    /// The records that the directory does not have as they are here.
    pub fn unsaved(&self) -> impl Iterator<Item = &Record> {
        let unsaved = self.all_live().filter(|live| live.file != File::Same);
        unsaved.map(|live| &live.record)
    }

    /// At that time, by a monotonic clock, the record of `kid` could not be deleted.
    pub fn note_undeletable(&mut self, kid: KeyId, at: Duration) {
        if let Some(Known::Live(live)) = self.known.get_mut(&kid) {
            live.undeletable_since = Some(at);
        }
    }

    /// When it was last tried in vain to delete the record of `kid`.
    pub fn undeletable_since(&self, kid: KeyId) -> Option<Duration> {
        self.live(kid)?.undeletable_since
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
        self.all_live().map(|live| &live.record)
    }

    fn all_live(&self) -> impl Iterator<Item = &Live> {
        self.known.values().filter_map(Known::live)
    }

    /// The record of `kid`.
    pub fn record(&self, kid: KeyId) -> Option<&Record> {
        self.live(kid).map(|live| &live.record)
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
        self.records()
            .filter_map(|record| Some((record.activated_at()?, record)))
            .max_by_key(|(activated_at, record)| (*activated_at, record.kid()))
            .map(|(_, record)| record)
    }

    /// The keys of the set in the order in which they are served: current, retired (the newest
    /// first), dropped, next. A verifier that is given a token without a kid takes the first.
    pub fn served(&self) -> Vec<Jwk> {
        let current = self.current();
        let mut retired: Vec<_> = self
            .records()
            .filter(|record| matches!(record.state, State::Current { .. } | State::Retired { .. }))
            .map(|record| (record.retired_at(), record.key))
            .collect();
        // A key that is replaced but not yet recorded as retired comes before those that are.
        retired.sort_by_key(|(at, key)| (at.is_some(), Reverse(*at), key.kid()));
        let next = self.records().filter(|r| matches!(r.state, State::Next { .. }));

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
