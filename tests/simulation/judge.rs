//! What must hold, judged from outside: by the files as a client sees them, and by the sets as they
//! were served.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use jwks_server::jwk::KeyId;

use crate::chance::Chance;
use crate::disk::{CURRENT, Disk, Held, NEXT};
use crate::verifiers::{DAY, HOUR, MODELS, Model, SECOND, Unknown};

/// Who changes files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    Server,
    Rotate,
    RotateNow,
    Revoke,
    People,
    Power,
}

/// What is promised, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Promises {
    pub period: Option<i64>,
    pub lead: i64,
    pub retain: i64,
    pub max_age: i64,
}

#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is so or is not")]
struct Key {
    /// Since when the served set has it without a break; the time for which nothing is served does
    /// not count as one.
    in_set_since: Option<i64>,
    /// The same by the time for which anything was answered.
    answered_since: i64,
    /// Since when and until when `private_key.pem` held it last.
    held_since: Option<i64>,
    held_until: Option<i64>,
    /// The same end by the time for which anything was answered.
    held_until_answered: i64,
    /// Since when the server knows of these.
    noticed_at: Option<i64>,
    /// A person put it there last, perhaps unseen, or it was while the clock was wrong, so that its
    /// period is not known.
    is_put_back: bool,
    /// The service had clients sign with it, after it was announced.
    is_promoted: bool,
    /// A command has said that it is revoked.
    is_revoked: bool,
    /// A command that was to revoke it failed, so that it may be revoked or not.
    may_be_revoked: bool,
    /// It was promised to stay, and has left since its time was up.
    is_gone: bool,
    /// A failing disk, or a person who deleted its record, is to blame for what happens to it.
    is_excused: bool,
}

/// A verifier whose fetch failed fetches again after so long at the latest.
const BACK_OFF: i64 = 30 * SECOND;

pub type Set = Arc<Vec<KeyId>>;

#[derive(Debug)]
pub struct Judge {
    pub promises: Promises,
    keys: BTreeMap<KeyId, Key>,
    /// What was served since when; nothing while the server was down.
    served: VecDeque<(i64, Option<Set>)>,
    /// The key that clients found since when.
    held: VecDeque<(i64, KeyId)>,
    holds: Held,
    /// For how long anything was answered until then, and whether it is now since then.
    answered: i64,
    counted_until: i64,
    is_answering: bool,
    /// Since when it is answered without a break, and when it was before that.
    up_since: i64,
    down_since: i64,
    /// Whether a person has asked for a rotation that has not come yet.
    pub rotation_is_asked_for: bool,
    /// When something last happened that may delay what is due.
    pub disturbed_at: i64,
    pub clock_set_at: i64,
    /// Operations fail, or did until then.
    pub faulty_until: i64,
    /// When a person last deleted a record.
    pub deleted_at: i64,
    /// Dropped keys whose directory was deleted with them.
    pub carried: BTreeSet<KeyId>,
    /// People have left no good `private_key.pem`, and it is not known that the next one is durable.
    has_lost_key: bool,
    pub violation: Option<String>,
    /// Part of the only violation that counts.
    pub only: &'static str,
    pub promotions: u64,
    pub tokens: u64,
    pub verifications: u64,
    pub removals: u64,
}

impl Judge {
    pub fn new(promises: Promises) -> Self {
        Self {
            promises,
            keys: BTreeMap::new(),
            served: VecDeque::new(),
            held: VecDeque::new(),
            holds: Held::Missing,
            answered: 0,
            counted_until: 0,
            is_answering: false,
            up_since: 0,
            down_since: 0,
            rotation_is_asked_for: false,
            disturbed_at: 0,
            clock_set_at: i64::MIN / 2,
            faulty_until: i64::MIN / 2,
            deleted_at: i64::MIN / 2,
            carried: BTreeSet::new(),
            has_lost_key: false,
            violation: None,
            only: "",
            promotions: 0,
            tokens: 0,
            verifications: 0,
            removals: 0,
        }
    }

    pub fn violate(&mut self, what: impl Into<String>) {
        let what = what.into();
        if what.contains(self.only) {
            self.violation.get_or_insert(what);
        }
    }

    fn key(&mut self, kid: KeyId) -> &mut Key {
        self.keys.entry(kid).or_default()
    }

    fn is_faulty(&self, now: i64) -> bool {
        now < self.faulty_until + 30 * SECOND
    }

    /// For how long anything was answered until now.
    fn answered(&self, now: i64) -> i64 {
        self.answered + if self.is_answering { now - self.counted_until } else { 0 }
    }

    /// From now on somebody answers, or nobody does.
    fn note_answering(&mut self, now: i64, is_answering: bool) {
        self.answered = self.answered(now);
        self.counted_until = now;
        match (self.is_answering, is_answering) {
            (false, true) => self.up_since = now,
            (true, false) => self.down_since = now,
            _ => {}
        }
        self.is_answering = is_answering;
    }

    /// Whether `kid` may be missing from the set, since it is or may be revoked.
    pub fn is_doomed(&self, kid: KeyId) -> bool {
        self.keys.get(&kid).is_some_and(|key| key.is_revoked || key.may_be_revoked)
    }

    /// The set that is served now.
    pub fn set(&self) -> Option<&Set> {
        self.served.back().and_then(|(_, set)| set.as_ref())
    }

    /// For how long a set with `kid` was answered.
    pub fn served_for(&self, kid: KeyId, now: i64) -> Option<i64> {
        let key = self.keys.get(&kid).filter(|key| key.in_set_since.is_some())?;
        Some(self.answered(now) - key.answered_since)
    }

    /// In how long a person can stop the server so that a key that waits is ready while it is stopped.
    pub fn is_about_to_be_ready(&self, now: i64) -> Option<i64> {
        let lead = self.promises.lead;
        let waiting = self.keys.iter().filter(|(_, key)| key.held_since.is_none());
        let left = waiting.filter_map(|(kid, _)| Some(lead - self.served_for(*kid, now)?));
        left.filter(|left| *left > 30 * SECOND).min()
    }

    /// Files have changed. Returns the key that clients find from now on, if it is another.
    pub fn files_changed(&mut self, now: i64, who: Who, disk: &mut Disk) -> Option<KeyId> {
        let held = disk.held(CURRENT);
        if held == self.holds {
            return None;
        }
        let answered = self.answered(now);
        let before = std::mem::replace(&mut self.holds, held);
        let replaced = match before {
            Held::Key(kid) => {
                let key = self.key(kid);
                (key.held_until, key.noticed_at) = (Some(now), None);
                key.held_until_answered = answered;
                Some(kid)
            }
            Held::Missing | Held::Broken => None,
        };
        let Held::Key(kid) = held else {
            // A key that the power took away before it was ever published is no loss, nor one that
            // the disk did not yet make durable.
            let is_first = replaced.is_some_and(|kid| self.key(kid).in_set_since.is_none());
            self.has_lost_key |= who == Who::People;
            let is_excused =
                who == Who::Power && (is_first || self.has_lost_key || self.is_faulty(now));
            if is_excused {
                // Whoever has found it all the same may sign with it for as long as there is no other.
                if let Some(kid) = replaced {
                    self.key(kid).is_excused = true;
                }
            } else if who != Who::People {
                self.violate(format!("7: {who:?} leaves private_key.pem {held:?}"));
            }
            return None;
        };
        let is_back = self.held.back().is_some_and(|(_, last)| *last == kid) || who == Who::Power;
        self.held.push_back((now, kid));
        let served_for = self.served_for(kid, now);
        let lead = self.promises.lead;
        let key = self.key(kid);
        // What the power brings back was there all the time, and so was what was only missing.
        let since = key.held_since.filter(|_| is_back).unwrap_or(now);
        (key.held_since, key.held_until, key.noticed_at) = (Some(since), None, None);
        key.is_put_back = who == Who::People || is_back && key.is_put_back;
        key.is_promoted &= key.in_set_since.is_some();
        let is_excused = key.is_excused || key.may_be_revoked;
        // What was undone may have been asked for.
        self.rotation_is_asked_for |= who == Who::Power;
        let Some(replaced) = replaced.filter(|replaced| !self.is_doomed(*replaced)) else {
            // The first key, or one in place of a revoked one: it cannot wait.
            return Some(kid);
        };
        if matches!(who, Who::Server | Who::Rotate) {
            self.promotions += 1;
            self.key(kid).is_promoted = true;
            if !is_excused && served_for.is_none_or(|served_for| served_for < lead) {
                self.violate(format!("3: {who:?} promotes {kid}, served for {served_for:?} ms"));
            }
            let before = self.key(replaced);
            let (since, is_put_back) = (before.held_since.unwrap_or_default(), before.is_put_back);
            let asked_for = std::mem::take(&mut self.rotation_is_asked_for);
            let too_soon = self.promises.period.is_none_or(|period| now - since < period);
            let is_told_apart = !asked_for && !is_put_back && self.clock_set_at < since;
            if who == Who::Server && too_soon && is_told_apart {
                self.violate(format!("{kid} is promoted {} ms after {replaced}", now - since));
            }
        }
        Some(kid)
    }

    /// `set` is served from now on; nothing is if it is `None`. Returns whether it is another.
    pub fn serves(&mut self, now: i64, set: Option<Set>, disk: &mut Disk) -> bool {
        if self.served.back().is_some_and(|(_, last)| *last == set) {
            return false;
        }
        self.served.push_back((now, set.clone()));
        self.note_answering(now, set.is_some());
        let answered = self.answered(now);
        let Some(set) = set else { return false };
        if set.is_empty() {
            self.violate("1: the set is empty");
        }
        let kids: BTreeSet<_> = set.iter().copied().collect();
        if kids.len() != set.len() {
            self.violate(format!("1: a kid is there twice: {set:?}"));
        }
        let is_faulty = self.is_faulty(now);
        for kid in &kids {
            let key = self.key(*kid);
            if key.in_set_since.is_none() {
                (key.in_set_since, key.is_promoted) = (Some(now), false);
                key.answered_since = answered;
            }
            // A tombstone that the disk does not yield is not known yet.
            let (is_revoked, is_gone) = (key.is_revoked && !is_faulty, key.is_gone);
            if is_revoked || is_gone {
                self.violate(format!("5: {kid} is back, revoked: {is_revoked}, gone: {is_gone}"));
            }
        }
        let next = disk.held(NEXT);
        let retain = self.promises.retain;
        let (holds, is_faulty) = (self.holds, self.is_faulty(now));
        let mut lost = None;
        for (kid, key) in &mut self.keys {
            if key.in_set_since.is_none() || kids.contains(kid) {
                continue;
            }
            key.in_set_since = None;
            let is_owed = holds == Held::Key(*kid)
                || next == Held::Key(*kid)
                || key.held_until.is_some() && answered - key.held_until_answered < retain;
            if is_owed && !(key.is_revoked || key.may_be_revoked || key.is_excused) {
                lost = Some(format!("4: {kid} left the set: {key:?}"));
            }
            if key.held_since.is_some() && !key.is_revoked && holds != Held::Key(*kid) {
                self.removals += 1;
                // One whose record a failing disk did not yield, or did not remove, may be back.
                key.is_gone =
                    !is_faulty && disk.record(*kid).is_none() && !disk.has_durable_record(*kid);
            }
        }
        if let Some(lost) = lost {
            self.violate(lost);
        }
        let old = now - 2 * (self.promises.lead.max(retain) + DAY);
        while self.served.get(1).is_some_and(|(since, _)| *since < old) {
            self.served.pop_front();
        }
        while self.held.get(1).is_some_and(|(since, _)| *since < old) {
            self.held.pop_front();
        }
        true
    }

    /// What must hold once the server has looked and has nothing to do.
    pub fn at_rest(&mut self, now: i64, dropped: &[KeyId], disk: &mut Disk) {
        let Some(set) = self.set().cloned() else { return };
        if self.is_faulty(now) {
            return;
        }
        // No set without any key is served: the last one stays until there is another.
        let is_last = set.iter().all(|kid| self.keys[kid].is_revoked);
        for kid in set.iter() {
            if self.keys[kid].is_revoked && !is_last {
                self.violate(format!("5: {kid} is served although revoked"));
            }
        }
        let held = disk.held(CURRENT);
        self.has_lost_key &= !matches!(held, Held::Key(_));
        if let Held::Key(kid) = held
            && !self.is_doomed(kid)
            && set.first() != Some(&kid)
        {
            self.violate(format!("1: the current key {kid} is not first: {set:?}"));
        }
        for kid in dropped {
            if !self.is_doomed(*kid) && !set.contains(kid) {
                self.violate(format!("6: {kid} was dropped in and is not served"));
            }
        }
        for held in [held, disk.held(NEXT)] {
            if let Held::Key(kid) = held
                && !self.is_doomed(kid)
                && !disk.has_durable_record(kid)
            {
                self.violate(format!("{kid} is served and has no durable record"));
            }
        }
        // A revoked key in `private_key.pem` replaces none.
        if !matches!(held, Held::Key(kid) if self.is_doomed(kid)) {
            for kid in set.iter() {
                self.key(*kid).noticed_at.get_or_insert(now);
            }
        }
        self.is_on_time(now, [held, disk.held(NEXT)], dropped, &set);
    }

    /// A schedule that nothing disturbs is kept.
    fn is_on_time(&mut self, now: i64, files: [Held; 2], dropped: &[KeyId], set: &Set) {
        let Promises { period, lead, retain, .. } = self.promises;
        let undisturbed = now - self.disturbed_at - HOUR;
        if let (Held::Key(kid), Some(period)) = (files[0], period)
            && let Some(since) = self.keys[&kid].noticed_at
            && now - since > period + HOUR
            && undisturbed > period + lead
            && !self.is_doomed(kid)
        {
            self.violate(format!("the rotation from {kid} is late by {} ms", now - since - period));
        }
        for kid in set.iter() {
            let key = &self.keys[kid];
            let until = key.noticed_at.filter(|_| key.held_until.is_some());
            let is_late = until.is_some_and(|until| now - until > retain + HOUR);
            if is_late
                && !files.contains(&Held::Key(*kid))
                && undisturbed > retain
                && !dropped.contains(kid)
                && !self.carried.contains(kid)
            {
                self.violate(format!("{kid} should have been removed"));
            }
        }
    }

    /// Nothing is served any more. What is not on the disk then is lost, which is nobody's fault but
    /// the disk's, or of who deleted it.
    pub fn stops(&mut self, now: i64, disk: &mut Disk) {
        let is_deleted = now < self.deleted_at + 30 * SECOND;
        if self.is_faulty(now) || is_deleted {
            for (kid, key) in &mut self.keys {
                if disk.record(*kid).is_none() {
                    key.is_excused |= key.in_set_since.is_some();
                    key.may_be_revoked |= std::mem::take(&mut key.is_revoked);
                }
            }
        }
        self.serves(now, None, disk);
    }

    /// From now on a failing disk is to blame for what is too early.
    pub fn excuse_all(&mut self) {
        for key in self.keys.values_mut() {
            key.is_excused |= key.in_set_since.is_some() || key.held_since.is_some();
        }
    }

    /// A person takes `kid` away from clients. If the server has not seen that they had it, nobody can
    /// keep it.
    pub fn taken_by_people(&mut self, kid: KeyId) {
        let key = self.key(kid);
        key.is_excused |= key.noticed_at.is_none();
    }

    pub fn revoked(&mut self, kid: KeyId) {
        self.key(kid).is_revoked = true;
    }

    pub fn may_be_revoked(&mut self, kid: KeyId) {
        self.key(kid).may_be_revoked = true;
    }

    /// A person puts a key into the directory, once more perhaps.
    pub fn put_by_people(&mut self, kid: KeyId) {
        self.key(kid).is_gone = false;
    }

    /// The key with which a client signs that last read the file so long ago.
    pub fn signing_key(&self, at: i64) -> Option<KeyId> {
        let held = self.held.iter().rev().find(|(since, _)| *since <= at);
        held.or(self.held.front()).map(|(_, kid)| *kid)
    }

    /// Whether every verifier must accept what `kid` signs now, and go on doing so.
    pub fn is_guaranteed(&self, kid: KeyId, now: i64) -> bool {
        let Some(key) = self.keys.get(&kid) else { return false };
        let served_for = self.served_for(kid, now);
        key.is_promoted || served_for.is_some_and(|served_for| served_for >= self.promises.lead)
    }

    /// Shows a token that `kid` has signed to a verifier of each model.
    pub fn verify(&mut self, kid: KeyId, now: i64, chance: &mut Chance) {
        let key = &self.keys[&kid];
        if key.is_revoked || key.may_be_revoked || key.is_excused {
            return;
        }
        self.tokens += 1;
        let Promises { max_age, lead, .. } = self.promises;
        for model in MODELS.iter().filter(|model| model.horizon(max_age) <= lead) {
            let oldest = model.ttl(max_age).map_or(400 * DAY, |ttl| (ttl - 1).max(0));
            for age in [oldest, chance.between(0, oldest), chance.mostly_short(oldest)] {
                self.verifications += 1;
                // One whose last fetch failed, since nobody answered, holds an older one for a while.
                let is_back = now - self.up_since < BACK_OFF;
                let last = if is_back { self.down_since.min(now) } else { now };
                if !self.is_accepted(model, kid, now, age)
                    || !self.is_accepted(model, kid, now, now - last + age)
                {
                    let name = model.name;
                    self.violate(format!("{name}, whose set is {age} ms old, rejects {kid}"));
                }
            }
        }
    }

    /// Whether a verifier that fetched so long ago accepts what `kid` signed. One that cannot fetch
    /// since nothing is served has no opinion.
    fn is_accepted(&self, model: &Model, kid: KeyId, now: i64, age: i64) -> bool {
        let knows = |at: i64| {
            let served = self.served.iter().rev().find(|(since, _)| *since <= at);
            served.and_then(|(_, set)| set.as_ref()).map(|set| set.contains(&kid))
        };
        match (knows(now - age), &model.unknown) {
            (Some(true) | None, _) => true,
            (Some(false), Unknown::Fetch { cooldown }) if age >= *cooldown => {
                knows(now).unwrap_or(true)
            }
            (Some(false), _) => false,
        }
    }
}
