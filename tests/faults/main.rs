//! Every system call by which a change is made is killed, or fails, once, and the power is cut there;
//! then a restart must find what verifiers need.
//!
//! These tests need `strace`, those of the power also root, and all of them minutes;
//! `interop/faults/run` and `interop/powercut/run` run them.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]
#![allow(clippy::similar_names, reason = "a case has a cast")]

#[path = "../support/mod.rs"]
mod support;

mod cases;
mod judge;
mod power;
mod power_control;
mod strace;
mod tally;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use cases::{CASES, Case, Cast, chosen_cases, private, record};
use judge::judge;
use strace::{Fault, Point, Run};
use support::{Key, finish, pause, program, record_of, short_or_long};
use tally::Tally;

/// Tries one fault; returns whether it came to it. Panics if a promise was broken.
fn try_fault(case: &Case, point: &Point, fault: Fault) -> bool {
    let outer = support::dir();
    let dir = outer.path().join("root");
    let trace = outer.path().join("trace");
    fs::create_dir(&dir).unwrap();
    let cast = case.prepare(&dir);
    let run = case.run(&dir, &cast, &trace, &[(point, fault)]);
    let mut succeeded = false;
    let mut served = BTreeSet::new();
    match (run, fault) {
        (Run::Serves(mut server), Fault::Kill) => served = Case::watch(&mut server, &dir, &cast),
        (Run::Serves(mut server), _) => {
            // The step is given up, the set goes on, and the next try works.
            let settled = || Case::settles(&server, &dir, &cast);
            if let Err(panic) = catch_unwind(AssertUnwindSafe(settled)) {
                // Every thread has an n-th call; and the runtime ends if it cannot wake itself,
                // which no disk can bring about.
                let ended = (0..2_000).any(|_| {
                    pause(Duration::from_millis(5));
                    !server.runs()
                });
                if ended && could_not_wake(&trace) {
                    return false;
                }
                resume_unwind(panic);
            }
            succeeded = true;
        }
        (Run::Ended(_), Fault::Kill) => {}
        (Run::Ended(finished), _) => {
            succeeded = finished.code == Some(0);
            if !succeeded {
                assert_eq!(finished.code, Some(1), "{finished:?}");
                let line = finished.stderr.strip_suffix('\n').unwrap();
                assert!(line.starts_with("jwks-server: failed to "), "{finished:?}");
                assert!(!line.contains('\n'), "{finished:?}");
                assert_eq!(finished.stdout, "", "{finished:?}");
            }
        }
    }
    let trace = fs::read_to_string(&trace).unwrap();
    let hit = match fault {
        Fault::Kill => trace.contains("+++ killed by SIGKILL"),
        _ => trace.lines().any(is_injected),
    };
    judge(case, &dir, &cast, succeeded || !hit && case.command.is_some(), &served);
    hit
}

fn is_injected(line: &str) -> bool {
    line.ends_with("(INJECTED)")
}

/// Whether a call failed as it was told to that was to wake the runtime.
fn could_not_wake(trace: &Path) -> bool {
    let trace = fs::read_to_string(trace).unwrap();
    let mut last = BTreeMap::new();
    trace.lines().any(|line| {
        let thread = line.split(' ').next().unwrap();
        // Another thread may have come between the beginning of the call and its end.
        let begun = last.insert(thread, line).filter(|_| line.contains("resumed>"));
        is_injected(line) && begun.unwrap_or(line).contains("[eventfd")
    })
}

/// Tries `faults` at every point of every case.
fn try_all(faults: impl Fn(&Point, &str) -> Vec<Fault>) {
    let mut tally = Tally::default();
    for case in chosen_cases() {
        let points = case.points();
        let mut work = Vec::new();
        for (point, about) in &points {
            work.extend(faults(point, about).into_iter().map(|fault| (point, fault)));
        }
        // In the short form not each of many faults. Three to five errors belong to one call, so that
        // with 7 as the step every kind of error comes, at other calls.
        let step = if work.len() > points.len() { short_or_long(7, 1) } else { 1 };
        let work: Vec<_> = work.into_iter().step_by(step).collect();
        tally.add(&format!("{}: {} points", case.name, points.len()), &work, |(point, fault)| {
            try_fault(case, point, *fault)
        });
    }
    tally.end(100);
}

#[test]
#[ignore = "needs strace: interop/faults/run"]
fn a_kill_at_any_call_loses_nothing() {
    try_all(|_, _| vec![Fault::Kill]);
}

#[test]
#[ignore = "needs strace: interop/faults/run"]
fn an_error_at_any_call_gives_up_the_step_and_no_more() {
    try_all(|point, about| {
        // Loading the program is not ours, nor is telling a person that it is done.
        if about.is_empty() {
            return Vec::new();
        }
        let errors: &[_] = match point.call.as_str() {
            "open" | "openat" | "openat2" => &["EIO", "ENOSPC", "EROFS", "EMFILE", "EACCES"],
            // An interrupted write is not lost, but begun anew.
            "write" => &["EIO", "ENOSPC", "EROFS", "EINTR"],
            "fsync" => &["EIO", "ENOSPC", "EROFS"],
            "flock" => &["EIO", "ENOLCK", "EINTR"],
            _ => &["EIO", "ENOSPC", "EROFS", "EACCES"],
        };
        errors.iter().copied().map(Fault::Error).collect()
    });
}

/// `strace` cannot cut a write short: it would leave the bytes out that it says were written. A limit
/// on the size of files can, at any byte: what follows is refused, or the process is killed.
#[test]
#[ignore = "run with the others: interop/faults/run"]
fn a_write_that_is_cut_short_leaves_a_whole_file_or_none() {
    let mut tally = Tally::default();
    for case in chosen_cases().filter(|case| case.command.is_some()) {
        let limits = (0..720).step_by(41);
        let work: Vec<_> = limits.flat_map(|size| [(size, "ignore"), (size, "default")]).collect();
        tally.add(&format!("{}: written in part", case.name), &work, |(size, on_signal)| {
            let dir = support::dir();
            let cast = case.prepare(dir.path());
            let args = case.args(&cast);
            let args: Vec<_> = args.iter().map(String::as_str).collect();
            let inner = program(dir.path(), &args);
            let mut command = Command::new("prlimit");
            command.arg(format!("--fsize={size}"));
            command.args(["env", "-u", "RUST_LOG", &format!("--{on_signal}-signal=XFSZ")]);
            command.arg(inner.get_program()).args(inner.get_args()).current_dir(dir.path());
            let finished = finish(command);
            let succeeded = finished.code == Some(0);
            judge(case, dir.path(), &cast, succeeded, &BTreeSet::new());
            !succeeded
        });
    }
    tally.end(100);
}

/// The judge itself: each of these states breaks a promise, and it says so.
#[test]
#[ignore = "run with the others: interop/faults/run"]
fn a_broken_state_is_judged_as_broken() {
    type Break = fn(&Path, &Cast);
    let breaks: [(&str, usize, Break); 7] = [
        ("a retired key's record is deleted", 1, |dir, cast| {
            fs::remove_file(record_of(dir, &cast.promised.kid()).unwrap().0).unwrap();
        }),
        ("the next key is lost", 1, |dir, cast| {
            fs::remove_file(record_of(dir, &cast.next.as_ref().unwrap().kid()).unwrap().0).unwrap();
            fs::remove_file(dir.join("next_key.pem")).unwrap();
        }),
        ("private_key.pem is cut short", 1, |dir, _| {
            fs::write(dir.join("private_key.pem"), "-----BEGIN EC PRIVATE KEY-----\n").unwrap();
        }),
        ("private_key.pem is missing", 1, |dir, _| {
            fs::remove_file(dir.join("private_key.pem")).unwrap();
        }),
        ("an unannounced key signs", 1, |dir, _| {
            let key = Key::new();
            record(dir, &key, "Activated-At: 2020-01-02T00:00:00Z\n");
            private(&dir.join("private_key.pem"), &key);
        }),
        ("others may read the key", 1, |dir, _| {
            let open = fs::Permissions::from_mode(0o644);
            fs::set_permissions(dir.join("private_key.pem"), open).unwrap();
        }),
        ("a revocation without a tombstone", 5, |_, _| {}),
    ];
    for (what, case, make) in breaks {
        let outer = support::dir();
        let case = &CASES[case];
        let cast = case.prepare(outer.path());
        make(outer.path(), &cast);
        let judged = catch_unwind(AssertUnwindSafe(|| {
            judge(case, outer.path(), &cast, true, &BTreeSet::new());
        }));
        assert!(judged.is_err(), "not noticed: {what}");
        println!("noticed: {what}");
    }
    // The positive control.
    let outer = support::dir();
    let cast = CASES[1].prepare(outer.path());
    judge(&CASES[1], outer.path(), &cast, true, &BTreeSet::new());
}
