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
use jwks_server::key::{KeyFormat, SigningKey, parse_pem, public_pem};
use jwks_server::lifecycle::{KeyRing, Policy, PolicySettings, Record, Time};
use jwks_server::manager::{Manager, Unread};
use jwks_server::snapshot::Snapshot;
use jwks_server::store::{Paths, Store};
use p256::elliptic_curve::sec1::ToSec1Point as _;
use parking_lot::Mutex;
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

/// So many public keys; they are made once.
fn public_keys(count: usize) -> &'static [Jwk] {
    static PUBLIC: Mutex<Vec<Jwk>> = Mutex::new(Vec::new());
    let mut made = PUBLIC.lock();
    while made.len() < count {
        made.push(*SigningKey::generate(&mut SysRng).unwrap().jwk());
    }
    made[..count].to_vec().leak()
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

/// A directory with a record of each of `count` keys.
fn records(count: usize) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let locked = store.lock().unwrap();
    let at = now();
    let policy = Policy::new(PolicySettings::default()).unwrap();
    for key in public_keys(count) {
        // Retired, so that a server finds nothing to do about it.
        let record = Record::staged(*key, at, false).published(at).retired(at, &policy);
        store.save(&record, &locked).unwrap();
    }
    dir
}

/// A directory with so many dropped public keys.
fn dropped(count: usize) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("keys")).unwrap();
    for (number, key) in public_keys(count).iter().enumerate() {
        std::fs::write(dir.path().join(format!("keys/{number}.pem")), public_pem(key)).unwrap();
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
    render(ring.served())
}

const COUNTS: [usize; 5] = [1, 10, 100, 1_000, 10_000];

/// The peer of [`records_rendered`]: the same files, opened, read and closed.
#[divan::bench(args = COUNTS)]
fn records_only_read(bencher: Bencher, count: usize) {
    let dir = records(count);
    bencher.counter(ItemsCount::new(count)).bench_local(|| only_read(&dir));
}

#[divan::bench(args = COUNTS)]
fn records_rendered(bencher: Bencher, count: usize) {
    let dir = records(count);
    let at = now() + SETTLED;
    bencher.counter(ItemsCount::new(count)).bench_local(|| load_and_render(&dir, at));
}

/// The peer of [`dropped_rendered`].
#[divan::bench(args = COUNTS)]
fn dropped_only_read(bencher: Bencher, count: usize) {
    let dir = dropped(count);
    bencher.counter(ItemsCount::new(count)).bench_local(|| only_read(&dir));
}

#[divan::bench(args = COUNTS)]
fn dropped_rendered(bencher: Bencher, count: usize) {
    let dir = dropped(count);
    let at = now() + SETTLED;
    bencher.counter(ItemsCount::new(count)).bench_local(|| load_and_render(&dir, at));
}

fn only_read(dir: &TempDir) -> usize {
    let files = std::fs::read_dir(dir.path().join("keys")).unwrap();
    files.map(|file| std::fs::read(file.unwrap().path()).unwrap().len()).sum()
}

/// The peer of the two sweeps: the names, and a `stat` of each.
#[divan::bench]
fn files_only_listed(bencher: Bencher) {
    let dir = records(KEYS);
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
    let dir = records(KEYS);
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
    let dir = records(KEYS);
    let policy = Policy::new(PolicySettings::default()).unwrap();
    let clock =
        |wall| Stopped(Moment { wall, elapsed: Duration::ZERO, with_sleep: Duration::ZERO });
    let started = clock(now());
    let (mut manager, _snapshot, _health) =
        Manager::start(store(&dir), policy, &started, Unread::Ignore).unwrap();
    let later = clock(now() + SETTLED);
    manager.reconcile(&later, None);
    bencher
        .counter(ItemsCount::new(KEYS))
        .bench_local(|| manager.reconcile(black_box(&later), None));
}

/// A file renamed into `keys/` among [`KEYS`] others, and away again, each time until the set is
/// published: what [`files_only_listed`] bounds from below.
#[divan::bench]
fn file_renamed_in_and_away(bencher: Bencher) {
    let dir = dropped(KEYS);
    let policy = Policy::new(PolicySettings::default()).unwrap();
    let clock =
        |wall| Stopped(Moment { wall, elapsed: Duration::ZERO, with_sleep: Duration::ZERO });
    let (mut manager, _snapshot, _health) =
        Manager::start(store(&dir), policy, &clock(now()), Unread::Ignore).unwrap();
    let later = clock(now() + SETTLED);
    let (outside, inside) = (dir.path().join("new"), dir.path().join("keys/new.pem"));
    std::fs::write(&outside, public_pem(public_keys(KEYS + 1).last().unwrap())).unwrap();
    manager.reconcile(&later, None);
    bencher.counter(ItemsCount::new(2_usize)).bench_local(|| {
        std::fs::rename(&outside, &inside).unwrap();
        manager.reconcile(black_box(&later), None);
        std::fs::rename(&inside, &outside).unwrap();
        manager.reconcile(black_box(&later), None);
    });
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
