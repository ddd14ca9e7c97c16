//! What keys cost on their way from files to the served document, each beside the least that it
//! could cost, measured in the same run: the same files only read, only looked at, and p256 alone.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on fails")]

use std::ffi::OsStr;
use std::path::Path;
use std::time::Duration;

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use getrandom::SysRng;
use jwks_server::clock::{Clock, Moment, SystemClock};
use jwks_server::jwk::{Jwk, JwkSet};
use jwks_server::key::{KeyFormat, SigningKey, parse_pem};
use jwks_server::lifecycle::{KeyRing, Policy, PolicySettings, Record, Time};
use jwks_server::manager::{Manager, Unread};
use jwks_server::snapshot::Snapshot;
use jwks_server::store::{Paths, Store};
use p256::elliptic_curve::sec1::ToSec1Point as _;
use tempfile::TempDir;

const KEYS: usize = 1_000;
/// By then the files have been left alone for long enough to be trusted by their stamps.
const SETTLED: Duration = Duration::from_secs(60);

fn main() {
    divan::main();
}

fn keys() -> impl Iterator<Item = SigningKey> {
    (0..KEYS).map(|_| SigningKey::generate(&mut SysRng).unwrap())
}

fn paths(dir: &Path) -> Paths {
    Paths { private_key: dir.join("private_key.pem"), keys_dir: dir.join("keys") }
}

fn store(dir: &TempDir) -> Store {
    Store::new(paths(dir.path()), KeyFormat::Sec1)
}

fn now() -> Time {
    SystemClock::wall()
}

/// A directory with a record of each of [`KEYS`] keys.
fn records() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let locked = store.lock().unwrap();
    let at = now();
    let policy = Policy::new(PolicySettings::default()).unwrap();
    for key in keys() {
        // Retired, so that a server finds nothing to do about it.
        let record = Record::staged(*key.jwk(), at, false).published(at).retired(at, &policy);
        store.save(&record, &locked).unwrap();
    }
    dir
}

fn render(keys: Vec<Jwk>) -> Snapshot {
    Snapshot::render(&JwkSet::new(keys).unwrap(), Duration::from_secs(60)).unwrap()
}

fn load_and_render(dir: &TempDir, at: Time) -> Snapshot {
    let mut ring = KeyRing::default();
    let (seen, _) = store(dir).look(at);
    ring.observe(&*seen);
    render(ring.records().map(|record| record.key).collect())
}

/// The peer of [`records_rendered`]: the same files, opened, read and closed.
#[divan::bench]
fn records_only_read(bencher: Bencher) {
    let dir = records();
    let keys_dir = dir.path().join("keys");
    bencher.counter(ItemsCount::new(KEYS)).bench_local(|| {
        let files = std::fs::read_dir(&keys_dir).unwrap();
        files.map(|file| std::fs::read(file.unwrap().path()).unwrap().len()).sum::<usize>()
    });
}

#[divan::bench]
fn records_rendered(bencher: Bencher) {
    let dir = records();
    let at = now() + SETTLED;
    bencher.counter(ItemsCount::new(KEYS)).bench_local(|| load_and_render(&dir, at));
}

/// The peer of the two sweeps: the names, and a `stat` of each.
#[divan::bench]
fn files_only_listed(bencher: Bencher) {
    let dir = records();
    let keys_dir = dir.path().join("keys");
    bencher.counter(ItemsCount::new(KEYS)).bench_local(|| {
        let opened = rustix::fs::open(
            &keys_dir,
            rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY,
            rustix::fs::Mode::empty(),
        );
        let opened = opened.unwrap();
        let mut size = 0;
        for entry in rustix::fs::Dir::read_from(&opened).unwrap() {
            let entry = entry.unwrap();
            let name = OsStr::new(entry.file_name().to_str().unwrap());
            size +=
                rustix::fs::statat(&opened, name, rustix::fs::AtFlags::empty()).unwrap().st_size;
        }
        size
    });
}

/// A look at files that have not changed.
#[divan::bench]
fn sweep_of_the_store(bencher: Bencher) {
    let dir = records();
    let at = now() + SETTLED;
    let mut store = store(&dir);
    store.look(at);
    bencher.counter(ItemsCount::new(KEYS)).bench_local(|| store.look(black_box(at)));
}

/// A clock that stands.
struct Stopped(Moment);

impl Clock for Stopped {
    fn now(&self) -> Moment {
        self.0
    }
}

/// The whole of what the server does when there is nothing to do.
#[divan::bench]
fn sweep_of_the_manager(bencher: Bencher) {
    let dir = records();
    let policy = Policy::new(PolicySettings::default()).unwrap();
    let clock = |wall| Stopped(Moment { wall, elapsed: Duration::ZERO });
    let started = clock(now());
    let (mut manager, _snapshot, _health) =
        Manager::start(store(&dir), policy, &started, Unread::Ignore).unwrap();
    let later = clock(now() + SETTLED);
    manager.reconcile(&later, None);
    bencher
        .counter(ItemsCount::new(KEYS))
        .bench_local(|| manager.reconcile(black_box(&later), None));
}

/// The peer of [`private_keys_rendered`]: the way that p256's own parsers go, which derives the
/// public key once to check the one in the file and once to hand it out.
#[divan::bench]
fn scalars_multiplied_twice(bencher: Bencher) {
    let scalars: Vec<p256::SecretKey> =
        keys().map(|key| p256::SecretKey::from_slice(&scalar(&key)).unwrap()).collect();
    bencher.counter(ItemsCount::new(KEYS)).bench_local(|| {
        for scalar in &scalars {
            for _ in 0..2 {
                black_box(black_box(scalar).public_key().to_sec1_point(false));
            }
        }
    });
}

#[divan::bench]
fn private_keys_rendered(bencher: Bencher) {
    let pems: Vec<_> = keys().map(|key| key.to_pem(KeyFormat::Sec1)).collect();
    bencher.counter(ItemsCount::new(KEYS)).bench_local(|| {
        render(pems.iter().map(|pem| *parse_pem(pem.as_bytes()).unwrap().jwk()).collect())
    });
}

#[divan::bench]
fn keys_rendered(bencher: Bencher) {
    let keys: Vec<_> = keys().map(|key| *key.jwk()).collect();
    bencher.counter(ItemsCount::new(KEYS)).bench_local(|| render(black_box(keys.clone())));
}

/// The scalar in a SEC1 file: 32 bytes after a header of seven.
fn scalar(key: &SigningKey) -> Vec<u8> {
    use base64::Engine as _;
    let pem = key.to_pem(KeyFormat::Sec1);
    let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    base64::engine::general_purpose::STANDARD.decode(body).unwrap()[7..39].to_vec()
}
