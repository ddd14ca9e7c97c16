//! `jwks-server serve`: the order in which a serving process begins, and its last words.
//!
//! Nothing here waits for whoever should read what it says.

use std::io::{stderr, stdout};
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::time::Duration;

use tracing::level_filters::LevelFilter;
use tracing::{error, warn};

use super::{Failure, become_owner, log_to};
use crate::clock::SystemClock;
use crate::config::{Config, LogFormat};
use crate::http::KEY_SET_PATH;
use crate::output::Output;
use crate::server;

/// How long the end waits for what was said last to be read.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Serves until a signal asks for the end.
pub(super) fn serve(config: &Config, clock: SystemClock, format: LogFormat) -> ExitCode {
    let log = Output::default();
    let writer = log.clone();
    log_to(move || writer.clone(), LevelFilter::INFO, format);
    for warning in config.policy.warnings() {
        warn!(code = "policy", "{warning}");
    }
    let prepared = prepare(config);
    // From here on the process has more than one thread.
    let report = |lost| {
        warn!(code = "log_lost", lost, "lines of the log were lost: nobody read standard error");
    };
    let served = log
        .start("log", stderr(), report)
        .map_err(|error| Failure(format!("make a thread for the log: {error}")))
        .and_then(|()| run(config, prepared?, clock, &log));
    if let Err(failure) = &served {
        log.say(failure.line().as_bytes());
    }
    log.finish(LAST_WORDS);
    if served.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What is done while the process has one thread: what it is for one thread then, it is for all.
fn prepare(config: &Config) -> Result<TcpListener, Failure> {
    let listener = server::bind(config)
        .map_err(|error| Failure(format!("listen on {}: {error}", address(config))))?;
    become_owner(config)?;
    Ok(listener)
}

fn run(
    config: &Config,
    listener: TcpListener,
    clock: SystemClock,
    log: &Output,
) -> Result<(), Failure> {
    report_panics(log.clone());
    // A closed standard output is no reason to stop serving, nor is one that nobody reads.
    let banner = Output::default();
    banner
        .start("banner", stdout(), |_| {})
        .map_err(|error| Failure(format!("make a thread for the banner: {error}")))?;
    let port = listener.local_addr().map_or(config.port, |address| address.port());
    server::run(config, listener, clock, || announce(port, &banner), shutdown_signal())?;
    banner.finish(LAST_WORDS);
    Ok(())
}

fn address(config: &Config) -> String {
    match config.bind {
        Some(ip) => SocketAddr::new(ip, config.port).to_string(),
        None => format!("port {}", config.port),
    }
}

/// Has a panic told in the log and not on standard error by itself, which may be one that nobody
/// reads: the process would hang there instead of ending.
fn report_panics(log: Output) {
    std::panic::set_hook(Box::new(move |panic| {
        error!(code = "defect", "{panic}");
        log.finish(LAST_WORDS);
    }));
}

/// Where the set is to be found, for the person who configures the authorization server.
fn announce(port: u16, banner: &Output) {
    let told = format!(
        "JWKS:                          http://localhost:{port}{KEY_SET_PATH}\n\
         JWKS for Keycloak in Docker:   http://host.docker.internal:{port}{KEY_SET_PATH}\n"
    );
    banner.say(told.as_bytes());
    banner.end();
}

/// Ends when the process is asked to stop.
async fn shutdown_signal() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
