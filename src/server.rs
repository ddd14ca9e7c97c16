//! The serving process: the manager's loop beside the HTTP side, until one of them ends.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::info;

use crate::clock::Clock;
use crate::config::Config;
use crate::health::Health;
use crate::http::{self, KEY_SET_PATH, KeySets, Limits};
use crate::manager::{Manager, SWEEP, StartError, Unread};
use crate::snapshot::{Reader, Snapshot, channel};
use crate::store::{LockError, Problem, Store};
use crate::watch::{Pulse, Watcher, watch};

/// After the last event of a burst the manager looks once more, after this much quiet.
const QUIET: Duration = Duration::from_millis(100);
/// The least time between two looks in a burst. A key that is copied in under another name and then
/// renamed is two events: clients sign with it after the second, so that is not to wait for quiet.
const GAP: Duration = Duration::from_millis(10);
const LONGEST_GAP: Duration = Duration::from_millis(500);
/// How long a start waits for another server to make the first key, and for a record to be readable.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why the process had to end.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// There is no key set to serve.
    #[error("start")]
    Start(#[from] StartError),
    /// The manager ended, which it never should; what is served would not change any more.
    #[error("keep the keys: the manager died")]
    ManagerDied,
}

/// Binds the listening socket: one that takes IPv4 and IPv6 unless an address is given.
///
/// # Errors
///
/// If the address cannot be had, for example because the port is in use.
pub fn bind(config: &Config) -> io::Result<TcpListener> {
    let listen = |ip| http::listen(SocketAddr::new(ip, config.port), &limits(config));
    if let Some(ip) = config.bind {
        return listen(ip);
    }
    match listen(Ipv6Addr::UNSPECIFIED.into()) {
        // IPv6 is switched off on some machines and in some containers.
        Err(error)
            if !matches!(
                error.kind(),
                io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied
            ) =>
        {
            listen(Ipv4Addr::UNSPECIFIED.into())
        }
        bound => bound,
    }
}

fn limits(config: &Config) -> Limits {
    Limits { max_connections: config.max_connections.into(), ..Limits::default() }
}

/// Serves until `shutdown`, and then until the open requests are answered, 3 s at most.
///
/// `ready` is called once a set is served and the directory has been brought up to date.
///
/// # Errors
///
/// If there is no key set to serve, or the manager dies.
pub async fn run(
    config: &Config,
    listener: TcpListener,
    clock: impl Clock,
    ready: impl FnOnce(),
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let clock = Arc::new(clock);
    // The watch begins before the first look, so that no change falls between the two.
    let (watcher, pulse) = watch([config.paths.root().to_owned(), config.paths.keys_dir.clone()]);
    let mut shutdown = pin!(shutdown);
    let started = tokio::select! {
        started = start(config.clone(), Arc::clone(&clock)) => started?,
        () = &mut shutdown => return Ok(()),
    };
    let (manager, snapshot, health) = started;

    let mut manager = pin!(keep(manager, watcher, pulse, clock, ready));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let sets = KeySets::from([(KEY_SET_PATH.to_owned(), snapshot)]);
    // Held, so that sets could come and go.
    let (_sets, sets) = channel(sets);
    let serving = http::serve(listener, sets, health, limits(config), async {
        // The sender is dropped when this function ends early; that is a stop as well.
        let _ = stopped.await;
    });
    let mut serving = pin!(serving);
    tokio::select! {
        () = &mut manager => Err(ServeError::ManagerDied),
        () = &mut serving => Ok(()),
        () = &mut shutdown => {
            info!("stopping");
            // The receiver is there as long as `serving` is.
            let _ = stop.send(());
            serving.await;
            Ok(())
        }
    }
}

/// What a start yields: the manager, and the readers of what it publishes.
type Started = (Manager, Reader<Snapshot>, Reader<Health>);

/// Starts the manager. A second server on an empty directory waits for the first to make a key, and
/// a server whose disk does not yield a record waits before it serves a set without that key.
async fn start(config: Config, clock: Arc<impl Clock>) -> Result<Started, ServeError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let store = Store::new(config.paths.clone(), config.key_format);
        let clock = Arc::clone(&clock);
        let waits = Instant::now() < deadline;
        let unread = if waits { Unread::Refuse } else { Unread::Ignore };
        let work = tokio::task::spawn_blocking(move || {
            Manager::start(store, config.policy, &*clock, unread)
        });
        match work.await.map_err(|_| ServeError::ManagerDied)? {
            Err(
                StartError::NoKey { source: LockError::Held { .. }, .. } | StartError::Unread(_),
            ) if waits => sleep(QUIET).await,
            started => return Ok(started?),
        }
    }
}

/// Reconciles at once, at each pulse, after it, and when the manager has something to do by itself.
/// Returns only if the manager panicked. `ready` is called after the first time.
async fn keep(
    mut manager: Manager,
    mut watcher: Watcher,
    mut pulse: Pulse,
    clock: Arc<impl Clock>,
    ready: impl FnOnce(),
) {
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
        let clock = Arc::clone(&clock);
        // The one seam between the runtime and the plain functions that wait on disks.
        let work = tokio::task::spawn_blocking(move || {
            watcher.rearm();
            let trouble = watcher.trouble().map(|reason| Problem {
                code: "no_file_events",
                file: None,
                reason: format!(
                    "there are no file events, so changes are found within 10 s: {reason}"
                ),
            });
            let wake_after = manager.reconcile(&*clock, trouble);
            (manager, watcher, wake_after)
        });
        let Ok((kept, watching, wake_after)) = work.await else { return };
        (manager, watcher) = (kept, watching);
        if let Some(ready) = ready.take() {
            ready();
        }
        wake_at = Instant::now() + wake_after.min(SWEEP);
        // Events that come meanwhile are one pulse: however many there are, looking takes a fifth of
        // the time, unless the directory is so large that changes would be served too late.
        sleep((looked_at.elapsed() * 4).clamp(GAP, LONGEST_GAP)).await;
    }
}

/// The next SIGHUP; never, if they cannot be listened for.
async fn hangup(hangups: &mut Option<Signal>) {
    match hangups {
        Some(hangups) => drop(hangups.recv().await),
        None => std::future::pending().await,
    }
}
