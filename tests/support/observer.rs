//! Verifiers that fetch the set all the time, and what must hold for every set that they got.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::client::Connection;
use super::keys::kids_of;
use super::{Server, now, pause};

/// How many verifiers there are, and how long each of them rests between two fetches.
const VERIFIERS: usize = 3;
const REST: Duration = Duration::from_millis(2);

/// Stands for every kid.
const ANY: &str = "*";

/// A moment, counted from the start of the observation.
pub(crate) type Since = Duration;

/// One answer.
#[derive(Clone)]
pub(crate) struct Sample {
    /// Before the request was sent.
    pub(crate) asked: Since,
    /// After the whole answer was read.
    pub(crate) answered: Since,
    pub(crate) status: u16,
    pub(crate) etag: String,
    pub(crate) body: Arc<str>,
    pub(crate) kids: Arc<[String]>,
}

impl std::fmt::Debug for Sample {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (asked, answered) = (self.asked, self.answered);
        write!(f, "asked {asked:?}, answered {answered:?}: {} {:?}", self.status, self.kids)
    }
}

/// Everything that was answered in a stretch of time, and what was promised of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Report {
    pub(crate) samples: Vec<Sample>,
    /// From when, and until when, a kid must be in every set.
    pub(crate) promises: Vec<(String, Since, Option<Since>)>,
    /// The kids that may come first, in the order in which they become current, each with the
    /// moment before which it must not.
    pub(crate) currents: Vec<(String, Since)>,
    /// The kids that may be served at all, if that is known.
    pub(crate) known: Option<BTreeSet<String>>,
}

/// Fetches the set until [`Observer::finish`].
pub(crate) struct Observer {
    began: Instant,
    stop: Arc<AtomicBool>,
    verifiers: Vec<JoinHandle<Vec<Sample>>>,
    report: Report,
    known: Mutex<BTreeSet<String>>,
}

impl Observer {
    /// Begins with a server whose keys are these, the current one first; all are promised.
    pub(crate) fn of(server: &Server) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let began = now();
        let kids = server.kids();
        let address = server.address();
        let verify = |_| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                let mut connection = Connection::new(address);
                let mut samples = Samples::default();
                // However soon it is over, each has seen what came of it.
                while !stop.load(Ordering::Relaxed) || samples.list.len() < 2 {
                    let asked = began.elapsed();
                    let answer = connection.key_set().expect("the server answers");
                    samples.add(asked, began.elapsed(), answer);
                    pause(REST);
                }
                samples.list
            })
        };
        let verifiers = (0..VERIFIERS).map(verify).collect();
        let mut observer =
            Self { began, stop, verifiers, report: Report::default(), known: Mutex::default() };
        observer.report.currents = vec![(kids[0].clone(), Since::ZERO)];
        for kid in &kids {
            observer.allow(kid);
            let promise = (kid.clone(), Since::ZERO, None);
            observer.report.promises.push(promise);
        }
        observer
    }

    /// The moment from which [`Since`] counts.
    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    pub(crate) fn since(&self) -> Since {
        self.began.elapsed()
    }

    /// From now on every set that is asked for must have `kid`.
    pub(crate) fn promise(&mut self, kid: &str) {
        self.allow(kid);
        let from = self.since();
        self.report.promises.push((kid.to_owned(), from, None));
    }

    /// From now on sets may lack `kid`.
    pub(crate) fn release(&mut self, kid: &str) {
        let until = self.since();
        for promise in &mut self.report.promises {
            if promise.0 == kid && promise.2.is_none() {
                promise.2 = Some(until);
            }
        }
    }

    /// From now on `kid` may come first; once it has, no key before it may.
    pub(crate) fn becomes_current(&mut self, kid: &str) {
        self.allow(kid);
        let from = self.since();
        self.report.currents.push((kid.to_owned(), from));
    }

    /// From the beginning sets may have any other kid, as one that the program makes.
    pub(crate) fn knows_not(&self) {
        self.known.lock().insert(ANY.to_owned());
    }

    /// From now on sets may have `kid`.
    pub(crate) fn allow(&self, kid: &str) {
        self.known.lock().insert(kid.to_owned());
    }

    /// Ends the observation; the test fails if any set broke a promise.
    pub(crate) fn finish(self) -> Report {
        let report = self.stop();
        report.assert_kept();
        report
    }

    /// Ends the observation without a judgement.
    pub(crate) fn stop(mut self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        for verifier in self.verifiers.drain(..) {
            let samples = verifier.join().expect("a verifier failed");
            self.report.samples.extend(samples);
        }
        self.report.samples.sort_by_key(|sample| sample.answered);
        let known = std::mem::take(&mut *self.known.lock());
        self.report.known = (!known.contains(ANY)).then_some(known);
        std::mem::take(&mut self.report)
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Samples that share the bodies that are equal.
#[derive(Default)]
struct Samples {
    list: Vec<Sample>,
    bodies: BTreeMap<String, (Arc<str>, Arc<[String]>)>,
}

impl Samples {
    fn add(&mut self, asked: Since, answered: Since, answer: super::Answer) {
        let etag = answer.header("etag").to_owned();
        let (body, kids) = self
            .bodies
            .entry(answer.body)
            .or_insert_with_key(|body| (body.as_str().into(), kids_of(body).into()));
        self.list.push(Sample {
            asked,
            answered,
            status: answer.status,
            etag,
            body: Arc::clone(body),
            kids: Arc::clone(kids),
        });
    }
}

impl Report {
    /// The test fails if any set broke a promise.
    pub(crate) fn assert_kept(&self) {
        let broken = self.broken();
        assert!(
            broken.is_empty(),
            "{} of {} answers broke a promise, the first ones:\n{}",
            broken.len(),
            self.samples.len(),
            broken[..broken.len().min(10)].join("\n")
        );
        assert!(self.samples.len() > VERIFIERS, "too few answers to judge");
    }

    /// Each promise that a set broke.
    pub(crate) fn broken(&self) -> Vec<String> {
        let mut broken = self.broken_sets();
        broken.extend(self.broken_promises());
        broken.extend(self.broken_order());
        broken
    }

    /// The answers that would be bad at any time.
    pub(crate) fn broken_sets(&self) -> Vec<String> {
        let mut broken = Vec::new();
        let mut etags = BTreeMap::new();
        let mut bodies = BTreeMap::new();
        for sample in &self.samples {
            let mut say = |what: &str| broken.push(format!("{what}: {sample:?}"));
            if sample.status != 200 {
                say("status");
            }
            if sample.kids.is_empty() {
                say("an empty set");
            }
            let distinct: BTreeSet<_> = sample.kids.iter().collect();
            if distinct.len() != sample.kids.len() {
                say("a kid twice");
            }
            if *etags.entry(&*sample.body).or_insert(&sample.etag) != &sample.etag {
                say("two ETags for one body");
            }
            if *bodies.entry(&sample.etag).or_insert(&*sample.body) != &*sample.body {
                say("two bodies for one ETag");
            }
            if let Some(known) = &self.known
                && !sample.kids.iter().all(|kid| known.contains(kid))
            {
                say("a kid that nobody knows");
            }
        }
        broken
    }

    fn broken_promises(&self) -> Vec<String> {
        let mut broken = Vec::new();
        for (kid, from, until) in &self.promises {
            for sample in &self.samples {
                let counts =
                    sample.asked >= *from && until.is_none_or(|until| sample.answered <= until);
                if counts && !sample.kids.contains(kid) {
                    broken.push(format!("{kid} was promised from {from:?}: {sample:?}"));
                }
            }
        }
        broken
    }

    /// The first key is the current one or, for a while after a change, the one before it.
    pub(crate) fn broken_order(&self) -> Vec<String> {
        let mut broken = Vec::new();
        // The newest key that came first in a set, at each moment such a set was answered.
        let mut newest: Vec<(Since, usize)> = Vec::new();
        for sample in &self.samples {
            let rank = self.currents.iter().position(|(kid, from)| {
                sample.kids.first() == Some(kid) && sample.answered >= *from
            });
            let Some(rank) = rank else {
                broken.push(format!("not a current key first: {sample:?}"));
                continue;
            };
            let before = newest.partition_point(|(answered, _)| *answered < sample.asked);
            if before > 0 && newest[before - 1].1 > rank {
                broken.push(format!("an older key first again: {sample:?}"));
            }
            let best = newest.last().map_or(0, |(_, rank)| *rank).max(rank);
            newest.push((sample.answered, best));
        }
        broken
    }
}
