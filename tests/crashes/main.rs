//! The power fails between any two durable operations, and again while the restart recovers; then
//! a restart must find what verifiers need.
//!
//! Every state of the disk that `model` allows is tried, none is drawn by chance. For a part of the
//! cases, say which: `CRASHES_CASE=revoke cargo test --test crashes`. With
//! `JWKS_SERVER_TESTS=long` a file that was not synced is cut at every eighth byte, not only in the middle
//! and near both ends.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]
#![allow(unreachable_pub, reason = "the modules of a test have no other users")]

mod cases;
mod disk;
#[path = "../support/form.rs"]
mod form;
mod intruder;
mod judge;
mod model;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use cases::{After, Case};
use disk::{Disk, Image, KEYS, Op, ROOT};
use judge::judge;
use model::crash;
use parking_lot::Mutex;

const WORKERS: usize = 2;

/// What was tried.
#[derive(Debug, Default)]
struct Tally {
    /// States of the disk, each time that one was reached.
    states: usize,
    /// Those that differ.
    distinct: usize,
    violations: Vec<String>,
}

/// The verdict on each state that was judged: what the restart did, or which promise was broken. It
/// depends on whether success had been reported before.
type Judged = HashMap<(Image, bool), Result<Vec<Op>, String>>;

impl Tally {
    fn judge<'a>(
        &mut self,
        case: &Case,
        image: Image,
        succeeded: bool,
        judged: &'a mut Judged,
    ) -> Option<&'a Vec<Op>> {
        self.states += 1;
        let verdict = judged.entry((image, succeeded)).or_insert_with_key(|(image, succeeded)| {
            self.distinct += 1;
            judge(case, image, *succeeded)
        });
        if let Err(broken) = verdict {
            self.violations.push(format!("{}: {broken}", case.name));
        }
        verdict.as_ref().ok()
    }
}

/// The operations of a run that no power cut ends.
fn operations(case: &Case) -> Vec<Op> {
    let disk = Disk::of(&case.before, 1);
    case.run(&disk, &After(0)).unwrap();
    assert!(case.is_done(&disk.image()), "{}", case.name);
    disk.log()
}

/// Cuts the power after each of these operations and, if `twice`, after each of each recovery.
fn cut(case: &Case, log: &[Op], twice: bool, judged: &mut Judged) -> Tally {
    let mut tally = Tally::default();
    let mut firsts = Vec::new();
    for len in 0..=log.len() {
        let succeeded = len == log.len();
        crash(&case.before, &log[..len], &mut |image| {
            let distinct = tally.distinct;
            let recovery = tally.judge(case, image.clone(), succeeded, judged).cloned();
            if tally.distinct > distinct {
                firsts.extend(recovery.map(|recovery| (image, succeeded, recovery)));
            }
        });
    }
    for (image, succeeded, recovery) in firsts.iter().filter(|_| twice) {
        for len in 1..=recovery.len() {
            crash(image, &recovery[..len], &mut |image| {
                tally.judge(case, image, *succeeded, judged);
            });
        }
    }
    tally
}

#[test]
fn a_power_cut_at_any_operation_and_another_in_the_recovery_break_no_promise() {
    let chosen = std::env::var("CRASHES_CASE").unwrap_or_default();
    let cases: Vec<_> =
        cases::all().into_iter().filter(|case| case.name.contains(&chosen)).collect();
    let next = AtomicUsize::new(0);
    let total = Mutex::new(Tally::default());
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let log = operations(case);
                    let tally = cut(case, &log, true, &mut Judged::new());
                    println!(
                        "{}: operations: {}, states: {}, distinct: {}, violations: {}",
                        case.name,
                        log.len(),
                        tally.states,
                        tally.distinct,
                        tally.violations.len()
                    );
                    let mut total = total.lock();
                    total.states += tally.states;
                    total.distinct += tally.distinct;
                    total.violations.extend(tally.violations);
                }
            });
        }
    });
    let total = total.into_inner();
    println!(
        "states: {}, distinct: {}, violations: {}",
        total.states,
        total.distinct,
        total.violations.len()
    );
    assert_eq!(total.violations, Vec::<String>::new());
    assert!(!chosen.is_empty() || total.states >= 10_000, "{} states", total.states);
}

/// A change of the order of the operations that must be missed.
struct Control {
    name: &'static str,
    case: &'static str,
    breaks: fn(&Case, &mut Vec<Op>),
    told: &'static str,
}

const CONTROLS: [Control; 4] = [
    Control {
        name: "the key before its record",
        case: "the first start",
        breaks: |_, log| {
            let key = position(log, |op| matches!(op, Op::Create { dir: ROOT, .. }));
            let record = position(log, |op| matches!(op, Op::Create { dir: KEYS, .. }));
            assert!(record < key);
            let after = key + position(&log[key..], |op| *op == Op::SyncDir(ROOT)) + 1;
            log[record..after].rotate_left(key - record);
        },
        told: "signs without a record",
    },
    Control {
        name: "the key written in place",
        case: "revoke of the current key",
        breaks: |case, log| {
            let names = case.before.0[ROOT].as_ref().unwrap().keys();
            let target = names.take_while(|name| *name != "private_key.pem").count();
            let rename = position(log, is_promotion);
            let Op::Exchange { one: (_, file), .. } = log[rename].clone() else { unreachable!() };
            let bytes = log.iter().find_map(|op| match op {
                Op::Write { file: written, bytes } if *written == file => Some(bytes.clone()),
                _ => None,
            });
            let overwrite = Op::Overwrite { file: target, bytes: bytes.unwrap() };
            log.splice(rename..=rename, [overwrite, Op::SyncFile(target)]);
        },
        told: "private_key.pem is torn",
    },
    Control {
        name: "the old key deleted before the new one has its name",
        case: "rotate, which promotes a key",
        breaks: |_, log| {
            let rename = position(log, is_promotion);
            log.insert(rename, Op::Unlink { dir: ROOT, name: "private_key.pem".into() });
        },
        told: "there is no private_key.pem",
    },
    Control {
        name: "success before the last sync",
        case: "rotate, which promotes a key",
        breaks: |_, log| {
            let rename = position(log, is_promotion);
            log.truncate(rename + 1);
        },
        told: "success was reported, and is lost",
    },
];

fn is_promotion(op: &Op) -> bool {
    matches!(op, Op::Exchange { dir: ROOT, other, .. } if other.0 == "private_key.pem")
}

fn position(log: &[Op], is_it: impl Fn(&Op) -> bool) -> usize {
    log.iter().position(is_it).unwrap()
}

#[test]
fn another_order_of_the_operations_is_told() {
    let cases = cases::all();
    for control in &CONTROLS {
        let case = cases.iter().find(|case| case.name == control.case).unwrap();
        let mut log = operations(case);
        (control.breaks)(case, &mut log);
        let tally = cut(case, &log, false, &mut Judged::new());
        assert!(
            tally.violations.iter().any(|broken| broken.contains(control.told)),
            "{}: {:?}",
            control.name,
            tally.violations
        );
    }
}

/// The syncs, by their place among the operations, that the proof does without: what would be lost
/// with them is made again from what is there, or another sync of the same directory follows, or it is
/// counts, which are counted anew. They stay, since each change is to be durable by itself.
const SPARE: [(&str, &[usize]); 12] = [
    ("rotate, which stages a key", &[6]),
    ("rotate, which promotes a key", &[8, 13, 18, 23]),
    ("rotate --now", &[11, 15, 18, 23, 28]),
    ("rotate --now of a standby", &[5, 8, 13, 18, 23]),
    ("revoke of the current key", &[6, 23]),
    ("revoke of the next key", &[6]),
    ("revoke of a retired key", &[6]),
    ("the server's rotation", &[6, 12, 15, 20, 25, 30, 35, 40, 50]),
    ("the server's removal", &[6, 13]),
    ("the first start", &[1, 8, 23, 28]),
    ("the first start with a schedule", &[1, 8, 23, 28, 33, 43, 48]),
    ("a key dropped in as current", &[6, 11, 16, 21, 26, 31]),
];

/// Whether there is anything to sync in `dir`.
fn has_changed(dir: usize, before: &[Op]) -> bool {
    let is_change = |op: &&Op| match op {
        Op::MakeKeys => dir == ROOT,
        Op::Create { dir: changed, .. }
        | Op::Link { dir: changed, .. }
        | Op::Rename { dir: changed, .. }
        | Op::Exchange { dir: changed, .. }
        | Op::Unlink { dir: changed, .. } => *changed == dir,
        _ => false,
    };
    before.iter().rev().take_while(|op| **op != Op::SyncDir(dir)).any(|op| is_change(&op))
}

/// Whether `file` was written for a name that begins with a dot.
fn is_of_the_directory_itself(synced: usize, log: &[Op]) -> bool {
    log.iter().any(|op| {
        matches!(op, Op::Create { name, file, .. }
            if *file == synced && name.as_encoded_bytes().starts_with(b".."))
    })
}

/// Whether some power cut after these operations breaks a promise.
fn breaks_a_promise(case: &Case, log: &[Op], judged: &mut Judged) -> bool {
    let mut tally = Tally::default();
    (0..=log.len()).any(|len| {
        crash(&case.before, &log[..len], &mut |image| {
            if tally.violations.is_empty() {
                tally.judge(case, image, len == log.len(), judged);
            }
        });
        !tally.violations.is_empty()
    })
}

/// The syncs that the proof does without, by their place among the operations.
fn spare_syncs(case: &Case) -> Vec<usize> {
    let log = operations(case);
    let mut judged = Judged::new();
    // A start and a command sync what a killed process may have left; here it left nothing.
    let syncs = (0..log.len()).filter(|at| match log[*at] {
        // What the directory says of itself is written anew where it is lost or torn.
        Op::SyncFile(file) => !is_of_the_directory_itself(file, &log),
        Op::SyncDir(dir) => has_changed(dir, &log[..*at]),
        _ => false,
    });
    let (told, spare): (Vec<_>, Vec<_>) = syncs.partition(|at| {
        let mut without = log.clone();
        without.remove(*at);
        breaks_a_promise(case, &without, &mut judged)
    });
    println!("{}: syncs that carry the proof: {told:?}, that do not: {spare:?}", case.name);
    for at in &spare {
        assert!(matches!(log[*at], Op::SyncDir(_)), "{}: {at} of {log:?}", case.name);
    }
    spare
}

#[test]
fn each_sync_that_carries_the_proof_is_missed() {
    let cases = cases::all();
    let found: Vec<_> = std::thread::scope(|scope| {
        let searches: Vec<_> =
            cases.iter().map(|case| (case.name, scope.spawn(|| spare_syncs(case)))).collect();
        searches.into_iter().map(|(name, search)| (name, search.join().unwrap())).collect()
    });
    let found: Vec<_> = found.into_iter().filter(|(_, spare)| !spare.is_empty()).collect();
    let known: Vec<_> = SPARE.iter().map(|(name, spare)| (*name, spare.to_vec())).collect();
    assert_eq!(found, known);
}
