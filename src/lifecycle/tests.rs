//! Time walks by addition here. [`Desk`] is a directory in memory: it performs actions as the store
//! does, and a person may change its files between them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{
    Action, Agenda, Counts, KeyRing, Listing, Policy, PolicySettings, PolicyWarning, Record, Seen,
    Served, Slot, State, Step, Time, bootstrap, settle, step,
};
use crate::jwk::{Jwk, KeyId};

const HOUR: u64 = 3_600;
const LEAD: u64 = 25 * HOUR;
const PERIOD: u64 = 90 * 24 * HOUR;

fn key(n: u16) -> Jwk {
    let mut x = [0; 32];
    x[..2].copy_from_slice(&n.to_be_bytes());
    Jwk::from_coordinates(x, [1; 32])
}

fn policy(rotate_every: Option<u64>) -> Policy {
    let rotate_every = rotate_every.map(Duration::from_secs);
    Policy::new(PolicySettings { rotate_every, ..PolicySettings::default() }).unwrap()
}

/// A directory in memory, and the server that serves it.
struct Desk {
    policy: Policy,
    now: Time,
    files: Seen,
    ring: KeyRing,
    served: Served,
    elapsed: Duration,
    /// What the process has kept of its counts.
    kept: Counts,
    /// For how long each key really was in the set.
    really: BTreeMap<KeyId, Duration>,
    made: u16,
    log: Vec<(Time, Action)>,
}

impl Desk {
    /// A directory whose server starts now.
    fn start(policy: Policy) -> Self {
        let mut desk = Self {
            policy,
            now: chrono::DateTime::from_timestamp(1_795_000_000, 0).unwrap(),
            files: Seen::default(),
            ring: KeyRing::default(),
            served: Served::default(),
            elapsed: Duration::ZERO,
            kept: Counts::new(),
            really: BTreeMap::new(),
            made: 0,
            log: Vec::new(),
        };
        desk.restart();
        desk
    }

    /// The process begins anew: what it held in memory is gone.
    fn restart(&mut self) {
        self.ring = KeyRing::default();
        self.served = Served::default();
        self.elapsed = Duration::ZERO;
        self.ring.observe(self.files.clone());
        self.served.resume(self.kept.clone(), &self.ring, &self.policy);
        if let Some(action) = bootstrap(&self.ring) {
            self.perform(action);
            // A key that stands in for a missing one has no time to wait; that is no rotation.
            self.log.pop();
        }
        self.run();
    }

    /// What a look does: observe, publish, act, until nothing is due.
    fn run(&mut self) -> Step {
        for _ in 0..1_000 {
            self.ring.observe(self.files.clone());
            self.publish();
            match self.step() {
                Step::Act(action) => self.perform(action),
                rest => {
                    if let Step::Wait(due) = &rest {
                        assert!(due.at > self.now, "{due:?} is not in the future");
                    }
                    assert_eq!(settle(&self.ring, &self.policy, self.now), None);
                    return rest;
                }
            }
        }
        panic!("the keys do not come to rest: {:?}", self.log.last());
    }

    /// A look at which `keys/` cannot be listed: what was served stays served.
    fn run_blind(&mut self) {
        let Seen { private_key, next_key, .. } = self.files.clone();
        let before: Vec<_> = self.ring.served();
        let listing = Listing::Failed;
        self.ring.observe(Seen { private_key, next_key, listing, ..Seen::default() });
        self.publish();
        let after = self.ring.served();
        assert!(before.iter().all(|key| after.contains(key) || self.is_unrecorded(*key)));
    }

    /// Whether `key` was only ever seen in a file that has been replaced since.
    fn is_unrecorded(&self, key: Jwk) -> bool {
        self.ring.record(key.kid()).is_none()
    }

    /// Lets time pass, jumping from wake-up to wake-up.
    fn wait(&mut self, secs: u64) {
        let until = self.now + Duration::from_secs(secs);
        while let Step::Wait(Agenda { at, .. }) = self.run() {
            if at > until {
                break;
            }
            self.pass_until(at);
        }
        self.pass_until(until);
        self.run();
    }

    fn pass_until(&mut self, at: Time) {
        self.pass((at - self.now).to_std().unwrap());
    }

    /// Lets time pass, of which the process is there all the while.
    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.elapsed += time;
        self.served.pass_looking(self.elapsed, self.elapsed, &self.policy);
        self.kept.clone_from(self.served.counts());
        for key in self.ring.served() {
            *self.really.entry(key.kid()).or_default() += time;
        }
    }

    /// Lets time pass while no process runs.
    fn down(&mut self, secs: u64) {
        self.now += Duration::from_secs(secs);
        self.restart();
    }

    fn step(&self) -> Step {
        step(&self.ring, &self.policy, self.now, &self.served, true)
    }

    fn publish(&mut self) {
        self.served.pass_looking(self.elapsed, self.elapsed, &self.policy);
        self.served.follow(&self.ring, &self.policy);
        self.served.publish(&self.ring.served());
        self.kept.clone_from(self.served.counts());
    }

    fn make(&mut self) -> Record {
        self.made += 1;
        Record::staged(key(self.made), self.now, false)
    }

    fn perform(&mut self, action: Action) {
        self.log.push((self.now, action.clone()));
        match action {
            Action::Write(record) => drop(self.files.records.insert(record.kid(), record)),
            Action::Remove(kid) => {
                self.files.records.remove(&kid);
                self.ring.forget(kid);
            }
            Action::Stage => {
                let record = self.make();
                self.files.next_key = Slot::Holds(record.key);
                self.files.records.insert(record.kid(), record);
            }
            Action::Promote(kid) => {
                assert_eq!(self.files.next_key.key().map(|key| key.kid()), Some(kid));
                self.files.private_key = std::mem::take(&mut self.files.next_key);
            }
            Action::Generate | Action::ReplaceRevoked => {
                let record = self.make();
                self.files.private_key = Slot::Holds(record.key);
                self.files.records.insert(record.kid(), record);
            }
            Action::DiscardNext => self.files.next_key = Slot::Missing,
        }
    }

    fn revoke(&mut self, key: Jwk) {
        let record = self.files.records[&key.kid()].revoked(self.now, "test");
        self.files.records.insert(key.kid(), record);
        self.run();
    }

    fn state(&self, key: Jwk) -> &'static str {
        self.ring.record(key.kid()).map_or("none", |record| record.state.name())
    }

    fn promotions(&self) -> Vec<(Time, KeyId)> {
        let promotions = self.log.iter().filter_map(|(at, action)| match action {
            Action::Promote(kid) => Some((*at, *kid)),
            _ => None,
        });
        promotions.collect()
    }
}

#[test]
fn a_first_start_makes_one_key_that_is_current_at_once() {
    let mut desk = Desk::start(policy(None));
    assert_eq!(desk.ring.served(), [key(1)]);
    assert_eq!(desk.state(key(1)), "current");
    assert_eq!(desk.run(), Step::Idle);
    desk.wait(10 * PERIOD);
    assert_eq!(desk.ring.served(), [key(1)], "without a schedule nothing rotates");
}

#[test]
fn a_look_is_complete_only_if_the_directory_could_be_listed() {
    let mut ring = KeyRing::default();
    ring.observe(Seen { listing: Listing::Failed, ..Seen::default() });
    assert!(!ring.is_complete());
    ring.observe(Seen::default());
    assert!(ring.is_complete());
}

#[test]
fn asking_again_at_the_same_moment_changes_nothing() {
    let mut desk = Desk::start(policy(Some(PERIOD)));
    desk.wait(PERIOD);
    let (files, done) = (desk.files.clone(), desk.log.len());
    desk.run();
    assert_eq!((desk.files, desk.log.len()), (files, done));
}

#[test]
fn a_schedule_keeps_a_standby_and_promotes_it_when_its_time_has_come() {
    let mut desk = Desk::start(policy(Some(PERIOD)));
    let start = desk.now;
    assert_eq!(desk.ring.served(), [key(1), key(2)], "the standby is made at once");
    desk.wait(PERIOD - 1);
    assert_eq!(desk.promotions(), []);
    desk.wait(1);
    assert_eq!(desk.promotions(), [(start + Duration::from_secs(PERIOD), key(2).kid())]);
    assert_eq!(desk.ring.served(), [key(2), key(1), key(3)]);
    desk.wait(LEAD - 1);
    assert_eq!(desk.ring.served(), [key(2), key(1), key(3)], "retained to the last second");
    desk.wait(1);
    assert_eq!(desk.ring.served(), [key(2), key(3)]);
}

/// The current key, the next one, and those that are retained.
#[test]
fn more_than_four_keys_are_published_at_once_only_where_there_is_a_warning() {
    for (hours, is_warned_of) in [(25, false), (51, false), (52, false), (53, true), (200, true)] {
        let settings = PolicySettings {
            rotate_every: Some(Duration::from_secs(26 * HOUR)),
            retain_for: Duration::from_secs(hours * HOUR),
            ..PolicySettings::default()
        };
        let policy = Policy::new(settings).unwrap();
        let warns = policy.warnings().iter().any(|w| matches!(w, PolicyWarning::ManyKeys { .. }));
        assert_eq!(warns, is_warned_of, "{hours} h");
        let mut desk = Desk::start(policy);
        let mut most = 0;
        for _ in 0..300 {
            desk.wait(HOUR);
            most = most.max(desk.ring.served().len());
        }
        assert_eq!(most > 4, is_warned_of, "{hours} h: {most} keys");
    }
}

#[test]
fn publish_before_sign() {
    let mut desk = Desk::start(policy(None));
    desk.files.next_key = Slot::Holds(key(9));
    desk.run();
    let requested = Record::staged(key(9), desk.now, true).state;
    let record = desk.files.records[&key(9).kid()].with(requested);
    desk.files.records.insert(key(9).kid(), record);
    desk.wait(LEAD - 1);
    assert_eq!(desk.promotions(), []);
    desk.wait(1);
    assert_eq!(desk.promotions().len(), 1);
    // The control: a shorter lead promotes earlier, so it is the lead that held it back.
    let settings = PolicySettings { publish_lead: Duration::from_secs(60), ..Default::default() };
    let mut hasty = Desk::start(Policy::new(settings).unwrap());
    hasty.files.next_key = Slot::Holds(key(9));
    hasty.run();
    let requested = Record::staged(key(9), hasty.now, true).state;
    let record = hasty.files.records[&key(9).kid()].with(requested);
    hasty.files.records.insert(key(9).kid(), record);
    hasty.wait(60);
    assert_eq!(hasty.promotions().len(), 1);
}

/// Whatever a record says, by whatever clock.
#[test]
fn no_clock_shortens_a_lead_or_a_retention_or_makes_one_longer() {
    for wrong_by in [-1_000_i64, -1, 1, 1_000] {
        let mut desk = Desk::start(policy(None));
        desk.files.next_key = Slot::Holds(key(9));
        desk.run();
        let by = chrono::TimeDelta::seconds(wrong_by * i64::try_from(LEAD).unwrap());
        desk.now += by;
        let mut record = desk.files.records[&key(9).kid()].clone();
        record.published_at = record.published_at.map(|at| at - by);
        let requested = Record::staged(key(9), desk.now, true).state;
        desk.files.records.insert(key(9).kid(), record.with(requested));
        desk.wait(LEAD / 2);
        desk.now -= by;
        desk.restart();
        desk.wait(LEAD / 2 - 1);
        assert_eq!(desk.promotions(), [], "{wrong_by}");
        desk.wait(1);
        assert_eq!(desk.promotions().len(), 1, "{wrong_by}");
        desk.wait(LEAD / 2);
        desk.now += by;
        desk.restart();
        desk.now -= by;
        desk.wait(LEAD / 2 - 1);
        assert_eq!(desk.ring.served(), [key(9), key(1)], "{wrong_by}");
        desk.wait(1);
        assert_eq!(desk.ring.served(), [key(9)], "{wrong_by}");
    }
}

#[test]
fn a_next_key_without_a_schedule_waits_to_be_asked_for() {
    let mut desk = Desk::start(policy(None));
    desk.files.next_key = Slot::Holds(key(9));
    desk.wait(10 * LEAD);
    assert_eq!(desk.ring.served(), [key(1), key(9)]);
    assert_eq!(desk.promotions(), []);
}

#[test]
fn time_spent_down_does_not_count_as_served() {
    let mut desk = Desk::start(policy(Some(PERIOD)));
    desk.wait(10);
    desk.down(2 * PERIOD);
    desk.wait(LEAD - 11);
    assert_eq!(desk.promotions(), [], "a server that is down teaches nobody a key");
    desk.wait(1);
    assert_eq!(desk.promotions().len(), 1);
    desk.wait(10);
    desk.down(2 * LEAD);
    desk.wait(LEAD - 11);
    assert!(desk.ring.served().contains(&key(1)));
    desk.wait(1);
    assert!(!desk.ring.served().contains(&key(1)));
    desk.wait(PERIOD - 3 * LEAD - 20);
    assert_eq!(desk.promotions().len(), 1, "an overdue rotation happens once");
}

/// Verifiers whose last fetch failed do not ask again at once.
#[test]
fn a_key_that_is_ready_at_a_start_waits_until_the_process_has_answered_for_a_while() {
    for (cache_max_age, wanted) in [(60, 60), (0, 30), (29, 30)] {
        let settings = PolicySettings {
            rotate_every: Some(Duration::from_secs(PERIOD)),
            cache_max_age: Duration::from_secs(cache_max_age),
            ..PolicySettings::default()
        };
        let mut desk = Desk::start(Policy::new(settings).unwrap());
        desk.wait(PERIOD - 10);
        desk.down(10);
        desk.wait(wanted - 1);
        assert_eq!(desk.promotions(), [], "{cache_max_age}");
        // The host sleeps: it begins anew.
        desk.served.pass(desk.elapsed, desk.elapsed + Duration::from_secs(3_600), &desk.policy);
        desk.served.pass_looking(desk.elapsed, desk.elapsed, &desk.policy);
        desk.wait(wanted - 1);
        assert_eq!(desk.promotions(), [], "{cache_max_age}");
        desk.wait(1);
        assert_eq!(desk.promotions().len(), 1, "{cache_max_age}");
    }
    // A short lead is short.
    let settings = PolicySettings {
        rotate_every: Some(Duration::from_secs(10)),
        publish_lead: Duration::from_secs(2),
        cache_max_age: Duration::from_secs(1),
        ..PolicySettings::default()
    };
    let mut desk = Desk::start(Policy::new(settings).unwrap());
    desk.wait(10);
    assert_eq!(desk.promotions().len(), 1);
}

#[test]
fn a_rotation_is_wanted_by_the_wall_clock_or_by_the_count_whichever_is_first() {
    // A time in the future, and one in the past.
    for (wrong_by, after) in [(100 * PERIOD, PERIOD), (0, PERIOD)] {
        let mut desk = Desk::start(policy(Some(PERIOD)));
        let activated = desk.now + Duration::from_secs(wrong_by);
        let record = desk.files.records[&key(1).kid()].activated(activated);
        desk.files.records.insert(key(1).kid(), record);
        desk.run();
        desk.wait(after - 1);
        assert_eq!(desk.promotions(), [], "{wrong_by}");
        desk.wait(1);
        assert_eq!(desk.promotions().len(), 1, "{wrong_by}");
    }
    // Restarts with the clock set back to the beginning each time put it off for ever, if not for the count.
    let mut desk = Desk::start(policy(Some(PERIOD)));
    for _ in 0..=10 {
        desk.wait(PERIOD / 10);
        desk.now -= Duration::from_secs(PERIOD / 10);
        desk.restart();
    }
    assert_eq!(desk.promotions().len(), 1);
}

#[test]
fn a_record_that_cannot_be_deleted_keeps_no_other() {
    let mut desk = Desk::start(policy(None));
    for n in [8, 9] {
        desk.wait(10);
        desk.files.private_key = Slot::Holds(key(n));
        desk.run();
    }
    desk.pass_until(desk.now + Duration::from_secs(LEAD));
    let due = |desk: &Desk| match desk.step() {
        Step::Act(Action::Remove(kid)) => kid,
        other => panic!("{other:?}"),
    };
    assert_eq!(due(&desk), key(1).kid());
    desk.ring.note_undeletable(key(1).kid(), desk.elapsed);
    assert_eq!(due(&desk), key(8).kid());
    desk.elapsed += Duration::from_secs(10);
    desk.ring.note_undeletable(key(8).kid(), desk.elapsed);
    assert_eq!(due(&desk), key(1).kid(), "each is tried again");
    desk.elapsed += Duration::from_secs(10);
    desk.ring.note_undeletable(key(1).kid(), desk.elapsed);
    assert_eq!(due(&desk), key(8).kid(), "in turn");
}

#[test]
fn a_key_dropped_in_as_current_retires_the_old_one() {
    let mut desk = Desk::start(policy(None));
    desk.files.private_key = Slot::Holds(key(9));
    desk.run();
    assert_eq!(desk.ring.served(), [key(9), key(1)]);
    assert_eq!((desk.state(key(9)), desk.state(key(1))), ("current", "retired"));
    desk.wait(LEAD);
    assert_eq!(desk.ring.served(), [key(9)]);
}

#[test]
fn a_key_that_replaced_the_current_one_while_the_server_was_down_retires_it_all_the_same() {
    let mut desk = Desk::start(policy(None));
    desk.files.private_key = Slot::Holds(key(9));
    desk.down(10 * LEAD);
    assert_eq!(desk.ring.served(), [key(9), key(1)], "retired when that is seen, not before");
}

#[test]
fn a_retired_key_that_is_put_back_is_current_again() {
    let mut desk = Desk::start(policy(None));
    desk.files.private_key = Slot::Holds(key(9));
    desk.run();
    desk.files.private_key = Slot::Holds(key(1));
    desk.run();
    assert_eq!(desk.ring.served(), [key(1), key(9)]);
    desk.wait(LEAD);
    assert_eq!(desk.ring.served(), [key(1)]);
}

#[test]
fn a_missing_private_key_changes_nothing_while_the_server_runs() {
    let mut desk = Desk::start(policy(None));
    for slot in [Slot::Missing, Slot::Refused] {
        desk.files.private_key = slot;
        desk.wait(10 * LEAD);
        assert_eq!(desk.ring.served(), [key(1)]);
        assert_eq!(desk.made, 1);
    }
}

#[test]
fn a_private_key_that_cannot_be_read_is_never_overwritten() {
    let mut desk = Desk::start(policy(Some(PERIOD)));
    desk.files.private_key = Slot::Refused;
    desk.wait(10 * PERIOD);
    desk.down(10 * PERIOD);
    assert_eq!(desk.files.private_key, Slot::Refused);
    assert_eq!(desk.promotions(), []);
    // The control: a readable one is rotated at once.
    desk.files.private_key = Slot::Holds(key(1));
    desk.wait(60);
    assert_eq!(desk.promotions().len(), 1);
}

#[test]
fn a_private_key_missing_at_start_is_replaced_and_stays_published() {
    let mut desk = Desk::start(policy(None));
    desk.files.private_key = Slot::Missing;
    desk.down(HOUR);
    assert_eq!(desk.ring.served(), [key(2), key(1)]);

    let mut desk = Desk::start(policy(Some(PERIOD)));
    desk.files.private_key = Slot::Missing;
    desk.down(HOUR);
    assert_eq!(desk.ring.served(), [key(2), key(1), key(3)], "the standby is promoted");
}

#[test]
fn a_staged_key_whose_file_is_gone_is_retained_and_another_is_staged() {
    let mut desk = Desk::start(policy(Some(PERIOD)));
    desk.files.next_key = Slot::Missing;
    desk.run();
    assert_eq!(desk.ring.served(), [key(1), key(2), key(3)]);
    assert_eq!(desk.state(key(2)), "retired");
    desk.wait(LEAD);
    assert_eq!(desk.ring.served(), [key(1), key(3)]);
}

#[test]
fn a_revoked_current_key_is_replaced_by_one_that_was_never_published() {
    let mut desk = Desk::start(policy(Some(PERIOD)));
    desk.wait(LEAD);
    desk.revoke(key(1));
    assert_eq!(desk.ring.served(), [key(3), key(2)], "not by the standby");
    assert_eq!(desk.state(key(3)), "current");
}

#[test]
fn a_revocation_that_was_cut_short_is_completed_at_the_next_start() {
    let mut desk = Desk::start(policy(None));
    let tombstone = desk.files.records[&key(1).kid()].revoked(desk.now, "leaked");
    desk.files.records.insert(key(1).kid(), tombstone);
    desk.down(HOUR);
    assert_eq!(desk.ring.served(), [key(2)]);
}

#[test]
fn a_revoked_key_that_a_person_puts_back_is_neither_served_nor_overwritten() {
    let mut desk = Desk::start(policy(None));
    desk.revoke(key(1));
    desk.files.private_key = Slot::Holds(key(1));
    desk.files.dropped.insert("again.pem".into(), Some(key(1)));
    desk.run();
    assert_eq!(desk.ring.served(), [key(2)]);
    desk.down(HOUR);
    assert_eq!(desk.ring.served(), [key(2)]);
    assert_eq!(desk.files.private_key, Slot::Holds(key(1)));
}

#[test]
fn a_revoked_next_key_is_discarded() {
    let mut desk = Desk::start(policy(Some(PERIOD)));
    desk.revoke(key(2));
    assert_eq!(desk.ring.served(), [key(1), key(3)]);
}

#[test]
fn a_clock_that_moves_back_never_un_retires_a_key() {
    let mut desk = Desk::start(policy(None));
    desk.files.private_key = Slot::Holds(key(9));
    desk.run();
    let retired = desk.files.records[&key(1).kid()].clone();
    desk.now -= Duration::from_secs(100 * 24 * HOUR);
    desk.restart();
    assert_eq!(desk.files.records[&key(1).kid()], retired);
}

#[test]
fn shortening_the_retention_does_not_shorten_what_was_promised() {
    let mut desk = Desk::start(policy(None));
    desk.files.private_key = Slot::Holds(key(9));
    desk.run();
    let settings = PolicySettings { retain_for: Duration::from_secs(60), ..Default::default() };
    desk.policy = Policy::new(settings).unwrap();
    desk.restart();
    desk.wait(LEAD - 1);
    assert_eq!(desk.ring.served(), [key(9), key(1)]);
    desk.wait(1);
    assert_eq!(desk.ring.served(), [key(9)]);
    // A promise that is lost is that of the policy.
    desk.files.private_key = Slot::Holds(key(10));
    desk.run();
    desk.kept.clear();
    desk.restart();
    desk.wait(60);
    assert_eq!(desk.ring.served(), [key(10)]);
}

/// A small generator of numbers, so that a failing seed can be run again.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        // Marsaglia, "Xorshift RNGs", 2003.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// Whatever people and time do, what the directory promises is served.
#[test]
fn promises_hold_whatever_people_and_time_do() {
    for seed in 1..=500_u64 {
        let mut dice = Dice(0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(seed));
        let scheduled = (dice.below(2) == 0).then_some(PERIOD);
        let mut desk = Desk::start(policy(scheduled));
        desk.made = 100;
        for turn in 0..30 {
            let any_key = key(u16::try_from(dice.below(6)).unwrap() + 1);
            match dice.below(10) {
                0 => desk.files.private_key = Slot::Holds(any_key),
                1 => desk.files.private_key = Slot::Refused,
                2 => desk.files.private_key = Slot::Missing,
                3 => desk.files.next_key = Slot::Holds(any_key),
                4 => desk.files.next_key = Slot::Missing,
                5 => drop(desk.files.dropped.insert("a.pem".into(), Some(any_key))),
                6 => desk.files.dropped.clear(),
                7 if desk.files.records.contains_key(&any_key.kid()) => desk.revoke(any_key),
                8 => desk.run_blind(),
                _ => {}
            }
            let promised: Vec<_> = desk
                .ring
                .records()
                .filter(|record| record.retired_at().is_some())
                .map(|record| (record.key, desk.served.retention_left(record.kid(), &desk.policy)))
                .map(|(key, left)| {
                    (key, desk.really.get(&key.kid()).copied().unwrap_or_default() + left)
                })
                .collect();
            let before = desk.now;
            match dice.below(4) {
                0 => desk.down(dice.below(2 * PERIOD)),
                1 => desk.wait(dice.below(2 * PERIOD)),
                2 => desk.wait(dice.below(2 * LEAD)),
                _ => drop(desk.run()),
            }
            let context = format!("seed {seed}, turn {turn}");
            let served = desk.ring.served();
            for (key, owed) in promised {
                let really = desk.really.get(&key.kid()).copied().unwrap_or_default();
                assert!(
                    served.contains(&key) || really >= owed || desk.ring.is_revoked(key.kid()),
                    "{context}: retired key gone after {really:?}, owed {owed:?}"
                );
            }
            if let Some(held) = desk.files.private_key.key()
                && !desk.ring.is_revoked(held.kid())
            {
                assert_eq!(served.first(), Some(&held), "{context}: the signing key comes first");
            }
            let revoked = |key: &Jwk| desk.ring.is_revoked(key.kid());
            assert!(!served.iter().any(revoked), "{context}: a revoked key is served");
            for (at, kid) in desk.promotions().into_iter().filter(|(at, _)| *at >= before) {
                let really = desk.really.get(&kid).copied().unwrap_or_default();
                assert!(
                    really >= desk.policy.publish_lead(),
                    "{context}: promoted at {at}, after {really:?}"
                );
            }
            let current =
                desk.ring.records().filter(|record| matches!(record.state, State::Current { .. }));
            assert!(current.count() <= 1, "{context}: two keys are current");
        }
    }
}
