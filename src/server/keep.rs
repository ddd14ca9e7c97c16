//! The manager's task: it decides when the manager looks, and hands the look to the disk's thread.
//!
//! It never waits for a disk itself: while a look takes too long it says so in the health, beside the
//! manager that hangs, and HTTP goes on.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{info, warn};

use super::ServeError;
use super::disk::Disk;
use crate::clock::Clock;
use crate::config::Config;
use crate::error::chain;
use crate::health::{Degradation, Health};
use crate::manager::{Manager, SWEEP, Unread};
use crate::snapshot::{Publisher, Reader, Snapshot, channel};
use crate::store::{Problem, Store};
use crate::watch::{Pulse, Watcher};

/// After the last event of a burst the manager looks once more, after this much quiet.
const QUIET: Duration = Duration::from_millis(100);
/// The least time between two looks in a burst. A key that is copied in under another name and then
/// renamed is two events: clients sign with it after the second, so that is not to wait for quiet.
const GAP: Duration = Duration::from_millis(10);
const LONGEST_GAP: Duration = Duration::from_millis(500);
/// How long a start waits for another server to make the first key, and for what may pass.
const PATIENCE: Duration = Duration::from_secs(5);
/// A look that takes longer is reported.
pub(super) const STUCK: Duration = Duration::from_secs(5);

/// What the task keeps, and what it needs for it.
pub(super) struct Set<'a, C> {
    disk: &'a Disk,
    root: PathBuf,
    /// How long a look may take before it is reported.
    stuck: Duration,
    clock: Arc<C>,
    /// With the disk's thread during a look.
    manager: Manager,
    watcher: Watcher,
    /// What the manager says of itself.
    inner: Reader<Health>,
    /// What is served: the same, and what only this task can know.
    health: Publisher<Health>,
}

/// The set, and the readers of what it publishes.
pub(super) type Started<'a, C> = (Set<'a, C>, Reader<Snapshot>, Reader<Health>);

/// Starts the manager. A second server on an empty directory waits for the first to make a key, and
/// one to which the system does not give what it needs tries again.
///
/// The watch begins before the first look, so that no change falls between the two.
pub(super) async fn start<'a, C: Clock>(
    config: &Config,
    disk: &'a Disk,
    mut watcher: Watcher,
    clock: C,
    stuck: Duration,
) -> Result<Started<'a, C>, ServeError> {
    let mut clock = Arc::new(clock);
    let deadline = Instant::now() + PATIENCE;
    let mut is_told = false;
    loop {
        let store = Store::new(config.paths.clone(), config.key_format);
        let policy = config.policy;
        let waits = Instant::now() < deadline;
        let unread = if waits { Unread::Refuse } else { Unread::Ignore };
        let work = disk.run(move || {
            watcher.rearm();
            (Manager::start(store, policy, &*clock, unread), watcher, clock)
        });
        let done = unless_stuck(work, config.paths.root(), stuck, || {}).await;
        let started;
        (started, watcher, clock) = done.ok_or(ServeError::ManagerDied)?;
        match started {
            Err(error) if waits && error.may_pass() => {
                if !std::mem::replace(&mut is_told, true) {
                    let within = PATIENCE.as_secs();
                    warn!("the start is tried again for {within} s: {}", chain(&error));
                }
                sleep(QUIET).await;
            }
            started => {
                let (manager, snapshot, inner) = started?;
                let (publisher, health) = channel(Health::default());
                let root = config.paths.root().to_owned();
                let set =
                    Set { disk, root, stuck, clock, manager, watcher, inner, health: publisher };
                return Ok((set, snapshot, health));
            }
        }
    }
}

impl<C: Clock> Set<'_, C> {
    /// Reconciles at once, at each pulse, after it, and when the manager has something to do by itself.
    /// Returns only if the manager panicked. `ready` is called after the first time.
    pub(super) async fn keep(mut self, mut pulse: Pulse, ready: impl FnOnce()) {
        let mut ready = Some(ready);
        // Operators send it to make a server reload; without a handler it would end the process.
        let mut hangups = signal(SignalKind::hangup()).ok();
        let mut quiet_at = None::<Instant>;
        let mut wake_at = Instant::now();
        loop {
            tokio::select! {
                () = pulse.next() => quiet_at = Some(Instant::now() + QUIET),
                () = sleep_until(quiet_at.unwrap_or(wake_at).min(wake_at)) => quiet_at = None,
                () = hangup(&mut hangups) => {}
            }
            let looked_at = Instant::now();
            let Some((set, wake_after)) = self.look().await else { return };
            self = set;
            if let Some(ready) = ready.take() {
                ready();
            }
            wake_at = Instant::now() + wake_after;
            // Events that come meanwhile are one pulse: however many there are, looking takes a fifth of
            // the time, unless the directory is so large that changes would be served too late.
            sleep((looked_at.elapsed() * 4).clamp(GAP, LONGEST_GAP)).await;
        }
    }

    /// Has the manager look once, and says when to do so again; `None` if it panicked.
    async fn look(self) -> Option<(Self, Duration)> {
        let Self { disk, root, stuck, clock, mut manager, mut watcher, inner, mut health } = self;
        let work = disk.run({
            let clock = Arc::clone(&clock);
            move || {
                watcher.rearm();
                let silence = watcher.silence();
                let sweep = silence.as_ref().map_or(SWEEP, |silence| silence.sweep);
                let trouble = silence.map(|silence| Problem {
                    code: "no_file_events",
                    file: None,
                    reason: silence.to_string(),
                });
                let wake_after = manager.reconcile(&*clock, trouble).min(sweep);
                (manager, watcher, wake_after)
            }
        });
        let report = || {
            let mut degraded = inner.load().degraded.clone();
            degraded.insert(Degradation { code: "set_stuck", file: None });
            health.publish(Health { degraded });
        };
        let (manager, watcher, wake_after) = unless_stuck(work, &root, stuck, report).await?;
        health.publish(Health::clone(&inner.load()));
        Some((Self { disk, root, stuck, clock, manager, watcher, inner, health }, wake_after))
    }
}

/// What comes of `work` on the directory `root`; `report` is called if that takes longer than `stuck`.
async fn unless_stuck<T>(
    work: impl Future<Output = Option<T>>,
    root: &Path,
    stuck: Duration,
    report: impl FnOnce(),
) -> Option<T> {
    let mut work = pin!(work);
    if let Ok(done) = timeout(stuck, &mut work).await {
        return done;
    }
    let root = root.display().to_string();
    let reason = format!(
        "{}: a look has taken more than {} s, so a disk does not answer; what is served stays as it is",
        root.escape_debug(),
        stuck.as_secs()
    );
    warn!(code = "set_stuck", "{reason}");
    report();
    let done = work.await;
    info!(code = "set_stuck", "resolved: {reason}");
    done
}

/// The next SIGHUP; never, if they cannot be listened for.
async fn hangup(hangups: &mut Option<Signal>) {
    match hangups {
        Some(hangups) => drop(hangups.recv().await),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use parking_lot::Mutex;

    use super::*;
    use crate::clock::{Moment, SystemClock};
    use crate::key::KeyFormat;
    use crate::lifecycle::{Policy, PolicySettings};
    use crate::store::Paths;
    use crate::watch::watch;

    /// A clock that hangs while the test holds the gate, as a call to a dead disk would, at the same
    /// place: in the middle of a look, on the disk's thread.
    struct Gate(SystemClock, Arc<Mutex<()>>);

    impl Clock for Gate {
        fn now(&self) -> Moment {
            drop(self.1.lock());
            self.0.now()
        }
    }

    #[tokio::test]
    async fn a_look_that_hangs_is_reported_beside_it_until_it_returns() {
        let dir = tempfile::tempdir().unwrap();
        let keys_dir = dir.path().join("keys");
        let paths = Paths { private_key: dir.path().join("private_key.pem"), keys_dir };
        let policy = Policy::new(PolicySettings::default()).unwrap();
        let key_format = KeyFormat::Sec1;
        let config = Config {
            port: 0,
            bind: None,
            max_connections: 1,
            trusted_proxies: Vec::new(),
            shutdown_delay: Duration::ZERO,
            paths,
            key_format,
            policy,
        };
        let disk = Disk::start().unwrap();
        let (watcher, pulse) = watch([]);
        let gate = Arc::new(Mutex::new(()));
        let clock = Gate(SystemClock::start(), Arc::clone(&gate));
        let (set, snapshot, health) =
            start(&config, &disk, watcher, clock, Duration::from_millis(1)).await.unwrap();
        let codes = || {
            let codes =
                health.load().degraded.iter().map(|problem| problem.code).collect::<Vec<_>>();
            codes.join(" ")
        };

        // Held by a thread of its own, so that no lock is held where this one waits.
        let (open, closed) = mpsc::channel::<()>();
        let (held, is_held) = mpsc::channel();
        let holder = std::thread::spawn(move || {
            let _closed = gate.lock();
            held.send(()).unwrap();
            let _ = closed.recv();
        });
        is_held.recv().unwrap();
        let before = snapshot.load();
        let (ready, is_ready) = tokio::sync::oneshot::channel();
        let mut keeping = pin!(set.keep(pulse, || ready.send(()).unwrap()));
        let reported = async {
            while codes() != "set_stuck" {
                sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            () = &mut keeping => panic!("the manager died"),
            () = reported => {}
        }
        assert!(Arc::ptr_eq(&before, &snapshot.load()), "what is served stays as it is");
        drop(open);
        tokio::select! {
            () = &mut keeping => panic!("the manager died"),
            is_ready = is_ready => is_ready.unwrap(),
        }
        assert_eq!(codes(), "", "it has returned");
        holder.join().unwrap();
    }
}
