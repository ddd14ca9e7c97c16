//! Serving never waits on a disk, a clock, a lock or the manager; and if the manager dies, so does the
//! server.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod support;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;

use jwks_server::clock::{Clock, Moment, SystemClock};
use jwks_server::config::Config;
use jwks_server::key::KeyFormat;
use jwks_server::server::{self, ServeError};
use jwks_server::store::Store;
use parking_lot::Mutex;
use support::{KEY_SET, Key, PATIENCE, dir, eventually, get, paths, policy, record_of};

/// What a clock does when it is asked for the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Tells,
    Hangs,
    Panics,
}

/// A clock by which a test takes hold of the manager, which asks for the time all along its way.
#[derive(Debug, Clone)]
struct Reins {
    clock: SystemClock,
    mood: Arc<Mutex<Mood>>,
    /// Held by the test while the clock hangs.
    gate: Arc<Mutex<()>>,
    asked: mpsc::Sender<Mood>,
}

impl Clock for Reins {
    fn now(&self) -> Moment {
        let mood = *self.mood.lock();
        // The test may have heard enough.
        let _ = self.asked.send(mood);
        match mood {
            Mood::Tells => {}
            Mood::Hangs => drop(self.gate.lock()),
            Mood::Panics => panic!("the clock broke"),
        }
        self.clock.now()
    }
}

struct Serving {
    address: SocketAddr,
    reins: Reins,
    asked: mpsc::Receiver<Mood>,
    stop: tokio::sync::oneshot::Sender<()>,
    thread: JoinHandle<Result<(), ServeError>>,
}

/// The whole server, in a thread of this process, on a runtime like that of the program.
fn serve(dir: &Path) -> Serving {
    let (asked, was_asked) = mpsc::channel();
    let mood = Arc::new(Mutex::new(Mood::Tells));
    let reins = Reins { clock: SystemClock::start(), mood, gate: Arc::default(), asked };
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let (ready, is_ready) = mpsc::channel();
    let config = Config {
        trusted_proxies: Vec::new(),
        shutdown_delay: std::time::Duration::ZERO,
        port: 0,
        bind: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        max_connections: 64,
        paths: paths(dir),
        key_format: KeyFormat::Sec1,
        policy: policy(None),
    };
    let clock = reins.clone();
    let thread = std::thread::spawn(move || {
        let listener = server::bind(&config).unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = async {
            let _ = stopped.await;
            Ok(())
        };
        server::run(&config, listener, clock, || ready.send(address).unwrap(), shutdown)
    });
    let address = is_ready.recv_timeout(PATIENCE).unwrap();
    Serving { address, reins, asked: was_asked, stop, thread }
}

impl Serving {
    /// Waits until the manager has come to ask a clock in this mood.
    fn await_manager(&self, mood: Mood) {
        while self.asked.recv_timeout(PATIENCE).unwrap() != mood {}
    }
}

#[test]
fn serving_never_waits_for_a_manager_that_hangs() {
    let dir = dir();
    let serving = serve(dir.path());
    let before = get(serving.address, KEY_SET);
    assert_eq!(before.status, 200);

    let gate = Arc::clone(&serving.reins.gate);
    let closed = gate.lock();
    *serving.reins.mood.lock() = Mood::Hangs;
    // A change makes the manager look, and there it hangs.
    let key = Key::new();
    std::fs::write(dir.path().join("keys/new.pem"), key.spki()).unwrap();
    serving.await_manager(Mood::Hangs);
    for path in [KEY_SET, "/healthz", "/readyz"] {
        for _ in 0..100 {
            assert_eq!(get(serving.address, path).status, 200, "{path}");
        }
    }
    // The control: it hung all the while, so the key that it was to publish is not there.
    assert_eq!(get(serving.address, KEY_SET).body, before.body);
    *serving.reins.mood.lock() = Mood::Tells;
    drop(closed);
    eventually("the key is served", || {
        let after = get(serving.address, KEY_SET);
        (after.status == 200 && after.body != before.body).then_some(())
    });
    serving.stop.send(()).unwrap();
    serving.thread.join().unwrap().unwrap();
}

#[test]
fn a_manager_that_hangs_does_not_keep_the_server_from_ending() {
    let dir = dir();
    let serving = serve(dir.path());
    let gate = Arc::clone(&serving.reins.gate);
    let _closed = gate.lock();
    *serving.reins.mood.lock() = Mood::Hangs;
    std::fs::write(dir.path().join("keys/new.pem"), Key::new().spki()).unwrap();
    serving.await_manager(Mood::Hangs);
    serving.stop.send(()).unwrap();
    eventually("the server ends", || serving.thread.is_finished().then_some(()));
    serving.thread.join().unwrap().unwrap();
}

#[test]
fn serving_never_waits_for_the_lock() {
    let dir = dir();
    let serving = serve(dir.path());
    let store = Store::new(paths(dir.path()), KeyFormat::Sec1);
    let locked = store.lock().unwrap();
    // It wants a record, which cannot be written now.
    let key = Key::new();
    std::fs::write(dir.path().join("private_key.pem"), key.sec1()).unwrap();
    eventually("the key is served", || {
        get(serving.address, KEY_SET).body.contains(&key.kid()).then_some(())
    });
    for _ in 0..100 {
        assert_eq!(get(serving.address, KEY_SET).status, 200);
    }
    assert!(
        record_of(dir.path(), &key.kid()).is_none(),
        "the control: it had to wait all the while"
    );
    drop(locked);
    eventually("the record is written", || record_of(dir.path(), &key.kid()));
    serving.stop.send(()).unwrap();
    serving.thread.join().unwrap().unwrap();
}

#[test]
fn a_manager_that_dies_ends_the_server_with_an_error() {
    let dir = dir();
    let serving = serve(dir.path());
    assert_eq!(get(serving.address, KEY_SET).status, 200);
    *serving.reins.mood.lock() = Mood::Panics;
    std::fs::write(dir.path().join("keys/new.pem"), "").unwrap();
    let ended = serving.thread.join().unwrap().unwrap_err();
    assert_eq!(ended.to_string(), "keep the keys: the manager died");
}
