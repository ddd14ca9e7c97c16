//! The serving process: the manager's task beside the HTTP side, until one of them ends.
//!
//! [`bind`] comes first, while the process has one thread; [`run`] makes the others: the disk's,
//! notify's, and none later.

mod disk;
mod keep;

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::pin::pin;
use std::time::Duration;

use tracing::info;

use self::disk::Disk;
use crate::clock::Clock;
use crate::config::Config;
use crate::http::{self, KEY_SET_PATH, KeySets, Limits};
use crate::manager::StartError;
use crate::snapshot::channel;
use crate::store::Paths;
use crate::watch::{Files, Place, watch};

/// How long the end of the process waits for a disk.
const LAST_WORK: Duration = Duration::from_secs(1);

/// Why the process had to end.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The system refuses what the process needs from its start to its end.
    #[error("make the {0}")]
    Refused(&'static str, #[source] io::Error),
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
    Limits {
        max_connections: config.max_connections.into(),
        trusted_proxies: config.trusted_proxies.clone(),
        shutdown_delay: config.shutdown_delay,
        ..Limits::default()
    }
}

/// Makes the threads and the runtime, and serves until `shutdown` and its delay, and then until the
/// open requests are answered, 3 s at most.
///
/// `ready` is called once a set is served and the directory has been brought up to date. `shutdown` is
/// polled inside the runtime.
///
/// # Errors
///
/// If there is no key set to serve, the system refuses a thread now, or the manager dies.
pub fn run(
    config: &Config,
    listener: TcpListener,
    clock: impl Clock,
    ready: impl FnOnce(),
    shutdown: impl Future<Output = io::Result<()>>,
) -> Result<(), ServeError> {
    let disk = Disk::start().map_err(refused("disk's thread"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let served = runtime.map_err(refused("runtime"))?.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener).map_err(refused("listener"))?;
        serve(config, &disk, listener, clock, ready, shutdown).await
    });
    disk.finish(LAST_WORK);
    served
}

/// That the system does not give what the process needs.
fn refused(what: &'static str) -> impl FnOnce(io::Error) -> ServeError {
    move |error| ServeError::Refused(what, error)
}

async fn serve(
    config: &Config,
    disk: &Disk,
    listener: tokio::net::TcpListener,
    clock: impl Clock,
    ready: impl FnOnce(),
    shutdown: impl Future<Output = io::Result<()>>,
) -> Result<(), ServeError> {
    let mut shutdown = pin!(shutdown);
    let (watcher, pulse) = watch(places(&config.paths));
    let (set, snapshot, health) = tokio::select! {
        started = keep::start(config, disk, watcher, clock, keep::STUCK) => started?,
        asked = &mut shutdown => return asked.map_err(refused("signal handlers")),
    };

    let sets = KeySets::from([(KEY_SET_PATH.to_owned(), snapshot)]);
    // Held, so that sets could come and go.
    let (_sets, sets) = channel(sets);
    let mut asked = Ok(());
    let serving = http::serve(listener, sets, health, limits(config), async {
        asked = shutdown.await;
        info!("stopping");
    });
    // The keys are kept for as long as they are served.
    tokio::select! {
        () = set.keep(pulse, ready) => return Err(ServeError::ManagerDied),
        () = serving => {}
    }
    asked.map_err(refused("signal handlers"))
}

/// The directories in which changes are to be heard.
fn places(paths: &Paths) -> [Place; 2] {
    let name = |path: &std::path::Path| path.file_name().unwrap_or_default().to_owned();
    let own = vec![name(&paths.private_key), name(&paths.next_key())];
    [
        Place { dir: paths.root().to_owned(), files: Files::Named(own) },
        Place { dir: paths.keys_dir.clone(), files: Files::EndingIn(".pem") },
    ]
}
