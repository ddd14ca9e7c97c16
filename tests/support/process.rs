//! A serving process in virtual time: the manager on a real directory, with a clock that stands
//! until the test moves it.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jwks_server::clock::{Clock, Moment};
use jwks_server::config::Config;
use jwks_server::health::Health;
use jwks_server::key::{KeyFormat, SigningKey};
use jwks_server::lifecycle::{Policy, PolicySettings, Time};
use jwks_server::manager::{Manager, StartError, Unread};
use jwks_server::snapshot::{Reader, Snapshot};
use jwks_server::store::{Paths, Store};

use super::SPAWNING;

pub(crate) fn paths(dir: &Path) -> Paths {
    Paths { private_key: dir.join("private_key.pem"), keys_dir: dir.join("keys") }
}

pub(crate) fn policy(rotate_every: Option<Duration>) -> Policy {
    Policy::new(PolicySettings { rotate_every, ..PolicySettings::default() }).unwrap()
}

/// A serving process in virtual time.
pub(crate) struct Process {
    manager: Manager,
    pub(crate) snapshot: Reader<Snapshot>,
    health: Reader<Health>,
    pub(crate) wall: Time,
    elapsed: Duration,
    slept: Duration,
}

/// A clock that stands, unless somebody waits.
pub(crate) struct Standing {
    moment: Moment,
    waited: AtomicU64,
}

impl Standing {
    /// The clock of a command, which has just begun.
    pub(crate) fn at(wall: Time) -> Self {
        Self::of(Moment { wall, elapsed: Duration::ZERO, with_sleep: Duration::ZERO })
    }

    fn of(moment: Moment) -> Self {
        Self { moment, waited: AtomicU64::new(0) }
    }
}

impl Clock for Standing {
    fn now(&self) -> Moment {
        let waited = Duration::from_secs(self.waited.load(Ordering::Relaxed));
        Moment { elapsed: self.moment.elapsed + waited, ..self.moment }
    }

    /// Nobody else does anything meanwhile, so it is over at once.
    fn pause(&self, _: Duration) {
        self.waited.fetch_add(60, Ordering::Relaxed);
    }
}

pub(crate) fn new_key() -> SigningKey {
    SigningKey::generate(&mut getrandom::SysRng).unwrap()
}

pub(crate) fn write_key(file: &Path, key: &SigningKey) {
    std::fs::write(file, key.to_pem(KeyFormat::Sec1)).unwrap();
}

/// What a command is told.
pub(crate) fn config(dir: &Path, policy: Policy) -> Config {
    let (paths, key_format) = (paths(dir), KeyFormat::Sec1);
    Config {
        port: 0,
        bind: None,
        max_connections: 1,
        trusted_proxies: Vec::new(),
        shutdown_delay: Duration::ZERO,
        paths,
        key_format,
        policy,
    }
}

impl Process {
    pub(crate) fn try_start(dir: &Path, policy: Policy, wall: Time) -> Result<Self, StartError> {
        let store = Store::new(paths(dir), KeyFormat::Sec1);
        let clock = Standing::at(wall);
        let started = {
            let _alone = SPAWNING.read();
            Manager::start(store, policy, &clock, Unread::Ignore)
        };
        let (manager, snapshot, health) = started?;
        let (elapsed, slept) = (Duration::ZERO, Duration::ZERO);
        let mut process = Self { manager, snapshot, health, wall, elapsed, slept };
        process.look();
        Ok(process)
    }

    pub(crate) fn start(dir: &Path, policy: Policy, wall: Time) -> Self {
        Self::try_start(dir, policy, wall).unwrap()
    }

    pub(crate) fn look(&mut self) -> Duration {
        let _alone = SPAWNING.read();
        self.manager.reconcile(&self.clock(), None)
    }

    fn clock(&self) -> Standing {
        Standing::of(Moment {
            wall: self.wall,
            elapsed: self.elapsed,
            with_sleep: self.elapsed + self.slept,
        })
    }

    /// Lets time pass on all clocks, and looks. Until then it has looked all the while and found nothing.
    pub(crate) fn pass(&mut self, time: Duration) {
        self.wall += time;
        self.elapsed += time;
        self.manager.idle(&self.clock());
        self.look();
    }

    /// Lets time pass on all clocks, in about fifty steps.
    pub(crate) fn wait(&mut self, time: Duration) {
        let until = self.elapsed + time;
        while self.elapsed < until {
            let step =
                (time / 50).max(Duration::from_secs(60)).min(until.saturating_sub(self.elapsed));
            self.pass(step);
        }
    }

    /// The process is stopped, and everything else goes on.
    pub(crate) fn freeze(&mut self, time: Duration) {
        self.wall += time;
        self.elapsed += time;
        self.look();
    }

    /// The host sleeps, and no monotonic clock counts that.
    pub(crate) fn sleep(&mut self, time: Duration) {
        self.wall += time;
        self.slept += time;
        self.look();
    }

    pub(crate) fn kids(&self) -> Vec<String> {
        let set: serde_json::Value = serde_json::from_slice(&self.snapshot.load().body).unwrap();
        let keys = set["keys"].as_array().unwrap();
        keys.iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
    }

    pub(crate) fn degraded(&self) -> BTreeSet<&'static str> {
        self.health.load().degraded.iter().map(|degraded| degraded.code).collect()
    }
}

/// When a test in virtual time begins.
pub(crate) fn beginning() -> Time {
    chrono::DateTime::from_timestamp(1_795_000_000, 0).unwrap()
}
