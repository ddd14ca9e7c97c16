//! What a change of the key set costs, and what a request costs without its connection.

#![expect(clippy::unwrap_used, reason = "helpers of tests, which clippy does not take for tests")]

use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use axum::http::header::IF_NONE_MATCH;
use axum::http::request::Builder;
use divan::{Bencher, black_box};
use jwks_server::health::Health;
use jwks_server::http::{Answers, KEY_SET_PATH, KeySets};
use jwks_server::jwk::{Jwk, JwkSet};
use jwks_server::snapshot::{Snapshot, channel};

fn main() {
    divan::main();
}

#[divan::bench(args = [1, 10, 100, 1000])]
fn render(bencher: Bencher, keys: u16) {
    let set = key_set(keys);
    bencher.bench(|| Snapshot::render(black_box(&set), Duration::from_mins(1)));
}

#[divan::bench]
fn load_of_the_newest_snapshot(bencher: Bencher) {
    let (_publisher, reader) = channel(snapshot());
    bencher.bench(|| reader.load());
}

#[divan::bench]
fn get_200(bencher: Bencher) {
    answer(bencher, || Request::get(KEY_SET_PATH));
}

#[divan::bench]
fn head_200(bencher: Bencher) {
    answer(bencher, || Request::head(KEY_SET_PATH));
}

#[divan::bench]
fn get_304(bencher: Bencher) {
    let etag = snapshot().etag;
    answer(bencher, || Request::get(KEY_SET_PATH).header(IF_NONE_MATCH, &etag));
}

#[divan::bench]
fn get_404(bencher: Bencher) {
    answer(bencher, || Request::get("/"));
}

/// Measures the answer to `request`, which is built outside of the measurement.
fn answer(bencher: Bencher, request: impl Fn() -> Builder) {
    let (_publisher, snapshot) = channel(snapshot());
    let (_health, health) = channel(Health::default());
    let (_sets, sets) = channel(KeySets::from([(KEY_SET_PATH.to_owned(), snapshot)]));
    let answers = Answers::new(sets, health);
    bencher
        .with_inputs(|| request().body(Body::empty()).unwrap())
        .bench_local_values(|request| now(answers.answer(request)));
}

/// What `future` comes to; an answer waits for nothing.
fn now<T>(future: impl Future<Output = T>) -> Poll<T> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

fn snapshot() -> Snapshot {
    Snapshot::render(&key_set(3), Duration::from_mins(1)).unwrap()
}

fn key_set(keys: u16) -> JwkSet {
    let key = |n: u16| {
        let mut x = [0x5a; 32];
        x[..2].copy_from_slice(&n.to_be_bytes());
        Jwk::from_coordinates(x, [0xa5; 32])
    };
    JwkSet::new((0..keys).map(key).collect()).unwrap()
}
