//! The real program rotates real files by its schedule, and no verifier ever meets a set without
//! the key that it needs.
//!
//! What is judged is a log: every set that was fetched, every state of `private_key.pem` that was
//! read, and tokens signed with it, each with the moments before and after. A promise counts as
//! broken only if the log proves it, however slow the machine was.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use support::{
    Key, Observer, Report, Sample, Server, Since, eventually, kids_of, pause, read_current,
    short_or_long, token_verifies, within,
};

const LEAD: Duration = Duration::from_secs(1);
const RETENTION: Duration = Duration::from_secs(2);
const ARGS: [&str; 8] =
    ["--rotate-every", "2s", "--publish-lead", "1s", "--retain-for", "2s", "--cache-max-age", "1s"];

/// One reading of `private_key.pem`.
#[derive(Debug, Clone)]
struct Reading {
    from: Since,
    to: Since,
    /// `None` if there was no good key in it.
    kid: Option<String>,
}

/// Something signed with what `private_key.pem` held at that time.
#[derive(Debug, Clone)]
struct Token {
    from: Since,
    to: Since,
    kid: String,
    message: Vec<u8>,
    signature: Vec<u8>,
}

/// All that was seen.
#[derive(Debug, Clone, Default)]
struct Log {
    sets: Vec<Sample>,
    readings: Vec<Reading>,
    tokens: Vec<Token>,
}

/// For how long `private_key.pem` is known to have held a key.
#[derive(Debug, Clone)]
struct Reign {
    kid: String,
    /// It held another key then.
    not_before: Since,
    /// It held this key by then.
    held_by: Since,
    /// It held this key then, and nobody knows for how much longer.
    held_at: Since,
}

impl Log {
    /// The keys of `private_key.pem`, in order.
    fn reigns(&self) -> Vec<Reign> {
        let mut reigns: Vec<Reign> = Vec::new();
        for reading in &self.readings {
            let Some(kid) = &reading.kid else { continue };
            match reigns.last_mut() {
                Some(reign) if reign.kid == *kid => reign.held_at = reading.from,
                last => {
                    let not_before = last.map_or(Since::ZERO, |before| before.held_at);
                    reigns.push(Reign {
                        kid: kid.clone(),
                        not_before,
                        held_by: reading.to,
                        held_at: reading.from,
                    });
                }
            }
        }
        reigns
    }

    /// Each promise that the log proves broken.
    fn broken(&self) -> Vec<String> {
        let reigns = self.reigns();
        let report = Report {
            samples: self.sets.clone(),
            promises: Vec::new(),
            currents: reigns.iter().map(|reign| (reign.kid.clone(), reign.not_before)).collect(),
            known: None,
        };
        let mut broken = report.broken_sets();
        broken.extend(report.broken_order());
        broken.extend(self.broken_file());
        for (rank, reign) in reigns.iter().enumerate() {
            broken.extend(self.broken_overlap(reign, rank == 0));
        }
        for token in &self.tokens {
            broken.extend(self.broken_token(token));
        }
        broken
    }

    fn broken_file(&self) -> Vec<String> {
        self.readings
            .iter()
            .filter(|reading| reading.kid.is_none())
            .map(|reading| format!("no whole key in private_key.pem: {reading:?}"))
            .collect()
    }

    /// The key is in every set from `LEAD` before it signs to `RETENTION` after.
    fn broken_overlap(&self, reign: &Reign, is_first: bool) -> Vec<String> {
        // Nobody can have cached a set before the first key of all.
        let lead = if is_first { Duration::ZERO } else { LEAD };
        let mut broken = Vec::new();
        for set in self.sets.iter().filter(|set| !set.kids.contains(&reign.kid)) {
            if set.asked + lead > reign.held_by && set.answered < reign.held_by {
                broken.push(format!("lacked {lead:?} before it signed: {reign:?}: {set:?}"));
            } else if set.asked + lead > reign.held_by && set.answered < reign.held_at + RETENTION {
                broken.push(format!(
                    "lacked until {RETENTION:?} after it signed: {reign:?}: {set:?}"
                ));
            }
        }
        broken
    }

    /// A token verifies with every set that was fetched up to `LEAD` before it was signed and up to
    /// `RETENTION` after.
    fn broken_token(&self, token: &Token) -> Vec<String> {
        let mut judged = BTreeMap::new();
        let mut broken = Vec::new();
        let first = self.reigns()[0].kid == token.kid;
        let lead = if first { Duration::ZERO } else { LEAD };
        for set in &self.sets {
            if set.asked + lead < token.to || set.answered > token.from + RETENTION {
                continue;
            }
            let verifies = *judged.entry(&*set.body).or_insert_with(|| {
                token_verifies(&set.body, &token.kid, &token.message, &token.signature)
            });
            if !verifies {
                broken.push(format!("rejected: {token:?}: {set:?}"));
            }
        }
        broken
    }

    /// The longest time between a new key in `private_key.pem` and its first place in the set.
    fn longest_lag(&self) -> Duration {
        let lag = |reign: &Reign| {
            let first = self.sets.iter().find(|set| {
                set.kids.first() == Some(&reign.kid) && set.answered >= reign.not_before
            })?;
            Some(first.answered.saturating_sub(reign.held_by))
        };
        self.reigns().iter().filter_map(lag).max().unwrap_or_default()
    }
}

/// A client: reads `private_key.pem` all the time, and signs with it now and then.
struct Client {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<Log>>,
}

impl Client {
    fn of(dir: &Path, began: Instant) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let dir = dir.to_owned();
        let thread = std::thread::spawn(move || read_and_sign(&dir, began, &stopped));
        Self { stop, thread: Some(thread) }
    }

    fn finish(mut self) -> Log {
        self.stop.store(true, Ordering::Relaxed);
        let log = self.thread.take().map(std::thread::JoinHandle::join);
        log.expect("it is joined once").expect("the client failed")
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn read_and_sign(dir: &Path, began: Instant, stopped: &AtomicBool) -> Log {
    let file: PathBuf = dir.join("private_key.pem");
    let mut log = Log::default();
    let mut known: BTreeMap<Vec<u8>, Option<Key>> = BTreeMap::new();
    let mut sign_at = Since::ZERO;
    while !stopped.load(Ordering::Relaxed) {
        let from = began.elapsed();
        let pem = std::fs::read(&file).unwrap_or_default();
        let to = began.elapsed();
        let key = known.entry(pem).or_insert_with_key(|pem| {
            let good = jwks_server::key::parse_pem(pem).is_ok();
            // The file may hold the next key by now, which is as good.
            good.then(|| read_current(dir))
        });
        let kid = key.as_ref().map(Key::kid);
        log.readings.push(Reading { from, to, kid: kid.clone() });
        if let (Some(key), Some(kid)) = (key, kid)
            && from >= sign_at
        {
            let message = format!("signed at {from:?}").into_bytes();
            log.tokens.push(Token {
                from,
                to,
                kid,
                signature: key.0.sign(&message).to_vec(),
                message,
            });
            sign_at = from + Duration::from_millis(250);
        }
        pause(Duration::from_millis(3));
    }
    log
}

#[test]
fn no_verifier_ever_meets_a_set_without_the_key_it_needs() {
    let dir = support::dir();
    let server = Server::start(dir.path(), &ARGS);
    let observer = Observer::of(&server);
    let client = Client::of(dir.path(), observer.began());

    let mut seen = server.kids()[..1].to_vec();
    // How many must be seen.
    let rotations = short_or_long(4, 12);
    for rotation in 1..=rotations {
        let first = within(Duration::from_secs(120), "a rotation", || {
            let first = server.kids().swap_remove(0);
            (Some(&first) != seen.last()).then_some(first)
        });
        println!("rotation {rotation} at {:?}: {first}", observer.since());
        seen.push(first);
    }
    // The first keys have had their time.
    eventually("the first keys are removed", || {
        let kids = server.kids();
        (!seen[..rotations - 2].iter().any(|kid| kids.contains(kid))).then_some(())
    });

    let mut log = client.finish();
    log.sets = observer.stop().samples;
    let reigns = log.reigns();
    println!(
        "{} sets of {} kinds, {} readings, {} tokens, {} reigns, current key first after {:?} at most",
        log.sets.len(),
        log.sets.iter().map(|set| &set.etag).collect::<std::collections::BTreeSet<_>>().len(),
        log.readings.len(),
        log.tokens.len(),
        reigns.len(),
        log.longest_lag(),
    );
    let broken = log.broken();
    assert!(
        broken.is_empty(),
        "{} promises broken, the first ones:\n{}\n{}",
        broken.len(),
        broken[..broken.len().min(5)].join("\n"),
        server.log()
    );
    assert!(reigns.len() > rotations);
    let kids: std::collections::BTreeSet<_> = reigns.iter().map(|reign| &reign.kid).collect();
    assert_eq!(kids.len(), reigns.len(), "no key came back");
    let most = log.sets.iter().map(|set| set.kids.len()).max();
    assert!(most <= Some(5), "{most:?} keys at once");
    assert!(log.longest_lag() < Duration::from_secs(20));

    // Negative control: the same log with one defect each is judged as broken.
    let doctored = |what: &str, doctor: &dyn Fn(&mut Log)| {
        let mut log = log.clone();
        // To judge a token is costly in a debug build.
        log.tokens.drain(..log.tokens.len() - 5);
        doctor(&mut log);
        assert!(!log.broken().is_empty(), "not noticed: {what}");
    };
    let third = reigns[2].kid.clone();
    doctored("a set without the current key", &|log| {
        let sets = &mut log.sets;
        let at = sets.iter().rposition(|set| set.kids[0] == third).unwrap();
        sets[at] = without(&sets[at], &third);
    });
    doctored("a lead that is too short", &|log| {
        let late = reigns[2].held_by.saturating_sub(LEAD / 2);
        for set in log.sets.iter_mut().filter(|set| set.asked < late) {
            *set = without(set, &third);
        }
    });
    doctored("a retention that is too short", &|log| {
        let early = reigns[2].held_at + RETENTION / 2;
        for set in log.sets.iter_mut().filter(|set| set.asked > early) {
            *set = without(set, &third);
        }
    });
    doctored("a torn private_key.pem", &|log| {
        let middle = log.readings.len() / 2;
        log.readings[middle].kid = None;
    });
    doctored("a token by a key that was never published", &|log| {
        let token = log.tokens.last_mut().unwrap();
        token.signature = Key::new().0.sign(&token.message).to_vec();
        token.from = log.sets[log.sets.len() / 2].asked;
        token.to = token.from;
    });
    doctored("one ETag for two bodies", &|log| {
        let etag = log.sets[0].etag.clone();
        log.sets.last_mut().unwrap().etag = etag;
    });
    drop(server);
}

/// The same set without one of its keys.
fn without(set: &Sample, kid: &str) -> Sample {
    let mut document: serde_json::Value = serde_json::from_str(&set.body).unwrap();
    let keys = document["keys"].as_array_mut().unwrap();
    keys.retain(|key| key["kid"] != kid);
    let body = document.to_string();
    Sample {
        kids: kids_of(&body).into(),
        etag: format!("{} without {kid}", set.etag),
        body: body.into(),
        ..set.clone()
    }
}
