//! Invariant 1, under a storm of changes: an answer is one whole snapshot, never parts of two.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use crate::server::{snapshot, start, wide};

const VERSIONS: u32 = 5000;
const CLIENTS: u32 = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_body_is_one_whole_snapshot_with_its_own_tag() {
    let mut server = start(wide()).await;
    // Of different lengths, so that a length taken from another version would show.
    let versions = (1..=VERSIONS).map(|version| snapshot(version, 1 + (version % 3) as u16));
    let versions: Vec<_> = versions.collect();
    let published: HashMap<_, _> = versions
        .iter()
        .map(|snapshot| (snapshot.etag.to_str().unwrap().to_owned(), snapshot.body.clone()))
        .chain([(snapshot(1, 1).etag.to_str().unwrap().to_owned(), snapshot(1, 1).body)])
        .collect();
    let published = Arc::new(published);
    let done = Arc::new(AtomicBool::new(false));
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = server.connect().await;
        let (published, done) = (Arc::clone(&published), Arc::clone(&done));
        clients.push(tokio::spawn(async move {
            let mut seen = Vec::new();
            while !done.load(Ordering::Relaxed) || seen.len() < 100 {
                let answer = client.get().await;
                let etag = answer.header("etag").unwrap().to_owned();
                let hash = Sha256::digest(&answer.body.0);
                let tag = format!("\"{}\"", URL_SAFE_NO_PAD.encode(&hash[..16]));
                assert_eq!(etag, tag);
                assert_eq!(published[&etag], answer.body.0);
                seen.push(etag);
            }
            seen.dedup();
            seen.len()
        }));
    }
    let storm = std::thread::spawn(move || {
        for snapshot in versions {
            server.snapshot.publish(snapshot);
            std::thread::sleep(std::time::Duration::from_micros(100));
        }
        done.store(true, Ordering::Relaxed);
        server
    });
    let mut changes = 0;
    for client in clients {
        changes += client.await.unwrap();
    }
    storm.join().unwrap();
    assert!(changes > 100, "the clients saw only {changes} changes");
}
