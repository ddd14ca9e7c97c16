//! What is done in a run: drawn from its seed.

use std::time::Duration;

use jwks_server::lifecycle::{Policy, PolicySettings};

use crate::chance::Chance;
use crate::judge::Promises;
use crate::verifiers::{DAY, HOUR, MINUTE, SECOND, YEAR};

/// How the service is broken on purpose, so that the judge has something to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breakage {
    None,
    /// Durations that are not those that are promised.
    ShortLead,
    ShortRetention,
    ShortPeriod,
    LongPeriod,
    /// A sync does nothing: that of files, or that of `keys/`.
    NoFileSync,
    NoKeysSync,
    /// A rename deletes what is in its place first.
    UnlinksFirst,
    /// Everybody has the lock.
    NoLock,
    OverlooksDropped,
    /// A revocation leaves nothing behind.
    NoTombstone,
    /// What was counted for a key before it retired counts for its retention.
    CountsOn,
    /// A process counts the time for which it was stopped.
    CountsStops,
    /// A rotation does not wait until the process that was stopped has answered for a while.
    NoProof,
}

#[derive(Debug, Clone)]
pub struct Scenario {
    pub seed: u64,
    /// In milliseconds, as all durations here.
    pub length: i64,
    pub promises: Promises,
    /// How often something of each kind happens, about; never if 0.
    pub people_every: i64,
    pub clock_every: i64,
    pub stop_every: i64,
    /// How often the server is stopped for a while (SIGSTOP), or its host sleeps.
    pub freeze_every: i64,
    /// One operation in so many is the last of its process, or of all.
    pub kill_once_in: u64,
    pub power_cut_once_in: u64,
    /// After one in so many, operations fail for a while, or the clock is set.
    pub faults_once_in: u64,
    pub clock_once_in: u64,
    pub breakage: Breakage,
    /// Part of the only violation that counts.
    pub only: &'static str,
}

impl Scenario {
    pub fn of(seed: u64) -> Self {
        let mut chance = Chance::of(seed ^ 0x5ce7_a510);
        let max_age = *chance.pick(&[MINUTE, MINUTE, 0, SECOND, 5 * MINUTE, 15 * MINUTE]).unwrap();
        let long = |chance: &mut Chance, durations: &[i64]| {
            (*chance.pick(durations).unwrap()).max(max_age)
        };
        let lead = long(&mut chance, &[25 * HOUR, 25 * HOUR, 25 * HOUR, 15 * MINUTE, 2 * HOUR]);
        let retain = long(&mut chance, &[25 * HOUR, 25 * HOUR, 25 * HOUR, 10 * MINUTE, 7 * DAY]);
        let periods =
            [None, Some(2 * DAY), Some(7 * DAY), Some(30 * DAY), Some(90 * DAY), Some(365 * DAY)];
        let period = *chance.pick(&periods).unwrap();
        let rhythm = period.unwrap_or(30 * DAY);
        let mut every = |means: &[i64]| *chance.pick(means).unwrap() * rhythm / 10;
        Self {
            seed,
            length: (25 * rhythm).min(25 * YEAR),
            people_every: every(&[0, 0, 50, 10, 2]),
            clock_every: every(&[0, 0, 0, 50, 10, 2]),
            stop_every: every(&[0, 50, 20, 5, 1]),
            freeze_every: every(&[0, 0, 20, 5, 1]),
            kill_once_in: *chance.pick(&[0, 0, 500, 100, 20]).unwrap(),
            faults_once_in: *chance.pick(&[0, 0, 500, 100, 20]).unwrap(),
            power_cut_once_in: *chance.pick(&[0, 0, 500, 100, 20]).unwrap(),
            promises: Promises { period, lead, retain, max_age },
            clock_once_in: *chance.pick(&[0, 0, 500, 50]).unwrap(),
            breakage: Breakage::None,
            only: "",
        }
    }

    /// The same where verifiers hold a set for as long as a key is published before it signs, and servers
    /// are stopped again and again.
    pub fn stopped(self) -> Self {
        let (lead, period) = (15 * MINUTE, Some(2 * DAY));
        let promises = Promises { period, lead, retain: HOUR, max_age: lead };
        Self { promises, length: 100 * DAY, freeze_every: 2 * HOUR, ..self.undisturbed() }
    }

    /// The same without people, faults, stops and settings of the clock.
    pub fn undisturbed(self) -> Self {
        Self {
            people_every: 0,
            clock_every: 0,
            stop_every: 0,
            freeze_every: 0,
            kill_once_in: 0,
            faults_once_in: 0,
            power_cut_once_in: 0,
            clock_once_in: 0,
            ..self
        }
    }

    /// The rules that the service is given.
    pub fn policy(&self) -> Policy {
        let Promises { period, lead, retain, max_age } = self.promises;
        let lead = if self.breakage == Breakage::ShortLead { max_age } else { lead };
        let retain = if self.breakage == Breakage::ShortRetention { max_age } else { retain };
        let period = match self.breakage {
            Breakage::ShortPeriod => period.map(|period| lead + (period - lead) / 2),
            Breakage::LongPeriod => period.map(|period| 2 * period),
            _ => period,
        };
        let duration = |millis: i64| Duration::from_millis(u64::try_from(millis).unwrap());
        Policy::new(PolicySettings {
            rotate_every: period.map(duration),
            publish_lead: duration(lead),
            retain_for: duration(retain),
            cache_max_age: duration(max_age),
        })
        .unwrap()
    }
}
