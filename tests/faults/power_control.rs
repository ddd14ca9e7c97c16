//! The control of the power cuts: a sync that says it is done and is not, which some cut must show.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use rustix::process::Signal;

use crate::cases::chosen_cases;
use crate::power::{CUTS, Cut, Disk, MOUNTS, Script, Stage, durable, quick, weathers};
use crate::strace::{self, Fault, Point, Run};
use crate::support::{Server, eventually, kid_in};
use crate::tally::Tally;

/// Without any of these, some cut breaks a promise. `next_key.pem` is what becomes `private_key.pem`.
const CARRYING: [&str; 4] = [
    "a record's content",
    "the directory of the records",
    "the content of next_key.pem",
    "the directory of the private keys",
];

/// What a sync is for, by the path in its trace.
fn purpose(about: &str) -> &'static str {
    let path = about.split_once('<').unwrap().1.split('>').next().unwrap();
    let (dir, name) = path.rsplit_once('/').unwrap();
    match name {
        "keys" => "the directory of the records",
        "root" => "the directory of the private keys",
        _ if dir.ends_with("/keys") && name.starts_with('.') => "a record's content",
        _ if name.starts_with(".private_key.pem.") => "the content of private_key.pem",
        _ if name.starts_with(".next_key.pem.") => "the content of next_key.pem",
        _ => panic!("an unknown sync: {about}"),
    }
}

#[test]
#[ignore = "needs root, loop devices and strace: interop/powercut/run"]
fn power_a_sync_that_is_left_out_is_noticed() {
    let mut tally = Tally::default();
    let noticed: Mutex<BTreeMap<&str, (usize, usize)>> = Mutex::default();
    // In a short run, the two commands that between them make all of these syncs.
    for case in chosen_cases().take(if quick() { 2 } else { usize::MAX }) {
        let stage = Stage::set(case);
        let operations = stage.operations();
        let syncs: Vec<_> = (0..operations.len())
            .filter(|at| operations[*at].0.call == "fsync")
            .map(|at| (at, operations[at].0.n))
            .collect();
        let what = format!("{}: {} syncs left out", case.name, syncs.len());
        tally.add(&what, &syncs, |(at, _)| {
            let (sync, about) = &operations[*at];
            // The same call cannot be made to lie and to kill; there is another just before it.
            let later = operations[*at..].iter().map(|(point, _)| point);
            let kills = later.filter(|point| point.call != "fsync");
            let mut scripts: Vec<Script> = Vec::new();
            for (cut, options) in weathers() {
                let lie = (sync.clone(), Fault::Lie);
                scripts.push((vec![lie.clone()], cut, options));
                for kill in kills.clone() {
                    scripts.push((vec![lie.clone(), (kill.clone(), Fault::Kill)], cut, options));
                }
            }
            let caught = scripts
                .iter()
                .any(|script| catch_unwind(AssertUnwindSafe(|| stage.survives(script))).is_err());
            let mut noticed = noticed.lock();
            let (caught_so_far, tried) = noticed.entry(purpose(about)).or_default();
            *caught_so_far += usize::from(caught);
            *tried += 1;
            caught
        });
    }
    let noticed = noticed.into_inner();
    for (purpose, (caught, tried)) in &noticed {
        println!("left out: the sync of {purpose}: noticed {caught} times of {tried}");
    }
    println!("{} cuts", CUTS.swap(0, Ordering::Relaxed));
    for purpose in CARRYING {
        assert!(noticed.get(purpose).is_some_and(|(caught, _)| *caught > 0), "missed: {purpose}");
    }
    tally.end(3);
}

/// Starts in an empty directory, cuts the power once a key is served, and returns what was served,
/// what `private_key.pem` holds after that, and the operations.
fn first_start(faults: &[(&Point, Fault)]) -> (String, Option<String>, Vec<(Point, String)>) {
    let mut disk = Disk::new();
    disk.switch_off();
    let mut disk = disk.copy(MOUNTS[1]);
    disk.switch_on();
    let args = ["--port", "0"].map(str::to_owned);
    let Run::Serves(server) = strace::run(&disk.root(), &args, &disk.trace(), faults) else {
        panic!("the server did not start");
    };
    let served = eventually("a key is served", || server.kids().first().cloned());
    disk.cut(Cut::JournalLost);
    drop(server);
    disk.switch_off();
    let operations = durable(&disk);
    disk.switch_on();
    let held = kid_in(disk.root().join("private_key.pem"));
    if faults.is_empty() {
        let server = Server::start(&disk.root(), &[]);
        assert_eq!(server.kids(), std::slice::from_ref(&served));
        assert_eq!(server.stop(Signal::TERM).code, Some(0));
    }
    disk.switch_off();
    (served, held, operations)
}

/// The only time that a new key goes straight into `private_key.pem`.
#[test]
#[ignore = "needs root, loop devices and strace: interop/powercut/run"]
fn power_the_first_key_is_on_the_disk_when_it_is_served() {
    let (served, held, operations) = first_start(&[]);
    assert_eq!(held, Some(served));
    let content = "the content of private_key.pem";
    let syncs = operations.iter().filter(|(point, _)| point.call == "fsync");
    let (sync, _) = syncs.clone().find(|(_, about)| purpose(about) == content).unwrap();
    let (served, held, _) = first_start(&[(sync, Fault::Lie)]);
    assert_ne!(held, Some(served), "missed: {content}");
    println!("left out: the sync of {content}: noticed 1 times of 1");
    println!("{} cuts", CUTS.swap(0, Ordering::Relaxed));
}
