//! Years of an issuer in virtual time: the real manager, store and commands on a simulated operating
//! system, with crashes, power cuts, errors, clocks that are set, and people who do what people do;
//! and every kind of verifier, none of which may ever reject what a promoted key has signed.
//!
//! Each run follows from its seed alone. A failure names the seed and tells what led there;
//! `SIMULATION_SEED=n cargo test --test simulation years` runs that seed again.
//!
//! Every test run has 200 years of it, and with `JWKS_SERVER_TESTS=long` 2,000. For as many as wanted:
//! `SIMULATION_YEARS=1000000 cargo test --profile simulation --features remembered-keys --test
//! simulation years -- --nocapture`. The feature repeats no arithmetic of a key that it has done for
//! another issuer, which makes a year cost half; it changes no history of a seed.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]
#![allow(unreachable_pub, reason = "the modules of a test have no other users")]

mod chance;
mod disk;
#[path = "../support/form.rs"]
mod form;
mod judge;
mod people;
mod scenario;
mod verifiers;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use scenario::{Breakage, Scenario};
use verifiers::YEAR;
use world::{Tally, World};

const WORKERS: usize = 2;
/// How often a long run says how far it is.
const TOLD_EVERY: i64 = 25_000 * YEAR;

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

/// Runs scenarios from `first` on until that many years have passed in all.
fn simulate(first: u64, years: i64) -> (u64, Tally) {
    let next = AtomicU64::new(first);
    let total = Mutex::new(Tally::default());
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while total.lock().time < years * YEAR {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    match World::run(&Scenario::of(seed), false) {
                        Ok(tally) => {
                            let mut total = total.lock();
                            let before = total.time / TOLD_EVERY;
                            *total += &tally;
                            if total.time / TOLD_EVERY > before {
                                println!("{} years: {total:?}", total.time / YEAR);
                            }
                        }
                        Err(told) => {
                            println!("{}", told.lines().next().unwrap_or_default());
                            failed.lock().push(seed);
                        }
                    }
                }
            });
        }
    });
    if let Some(seed) = failed.lock().iter().min() {
        // Once more, and told. Of the others only what was broken is said.
        panic!("{}", World::run(&Scenario::of(*seed), true).unwrap_err());
    }
    (next.into_inner() - first, total.into_inner())
}

#[test]
fn years_pass_and_no_verifier_rejects_a_valid_signature() {
    if let Some(seed) = from_environment("SIMULATION_SEED") {
        println!("{:?}", Scenario::of(seed));
        println!("{:?}", World::run(&Scenario::of(seed), true).map_err(|told| panic!("{told}")));
        return;
    }
    let years = from_environment("SIMULATION_YEARS").unwrap_or(form::short_or_long(4, 1_000));
    let first = from_environment("SIMULATION_FROM").unwrap_or(1);
    let (seeds, tally) = simulate(first, i64::try_from(years).unwrap());
    println!("{} years, {seeds} seeds: {tally:?}", tally.time / YEAR);
    // Nothing was shown if nothing happened.
    for (what, count) in [
        ("starts", tally.starts),
        ("kills", tally.kills),
        ("power cuts", tally.power_cuts),
        ("errors", tally.errors),
        ("deeds", tally.deeds),
        ("settings of the clock", tally.clock_steps),
        ("stops of the process", tally.freezes),
        ("promotions", tally.promotions),
        ("removals", tally.removals),
        ("verifications", tally.verifications),
    ] {
        assert!(count >= 30, "{what}: {count}");
    }
}

/// A broken service, and the violation that it must lead to; no other is listened to. The long form tries
/// all, the short one those that are found within moments.
const CONTROLS: [(Breakage, &str); 18] = [
    (Breakage::ShortLead, "3: "),
    (Breakage::ShortLead, "rejects"),
    (Breakage::ShortRetention, "4: "),
    (Breakage::ShortRetention, "rejects"),
    (Breakage::ShortPeriod, "is promoted"),
    (Breakage::LongPeriod, "is late"),
    (Breakage::NoFileSync, "7: "),
    (Breakage::NoFileSync, "no durable record"),
    (Breakage::UnlinksFirst, "7: "),
    (Breakage::NoLock, "5: "),
    (Breakage::NoTombstone, "5: "),
    // From here on in the long form alone.
    (Breakage::NoKeysSync, "4: "),
    (Breakage::NoKeysSync, "5: "),
    (Breakage::OverlooksDropped, "6: "),
    (Breakage::CountsOn, "4: "),
    (Breakage::CountsOn, "rejects"),
    (Breakage::CountsStops, "3: "),
    (Breakage::NoProof, "rejects"),
];
const QUICK: usize = 11;

#[test]
fn each_breakage_is_found() {
    let chosen = std::env::var("SIMULATION_BREAKAGE").unwrap_or_default();
    let is_chosen = |breakage: Breakage| format!("{breakage:?}").contains(&chosen);
    let count = if chosen.is_empty() { form::short_or_long(QUICK, CONTROLS.len()) } else { 18 };
    let controls = CONTROLS.into_iter().take(count);
    for (breakage, only) in controls.filter(|(breakage, _)| is_chosen(*breakage)) {
        let found = (1..400).find_map(|seed| {
            let scenario = Scenario::of(seed);
            let scenario = Scenario { breakage, only, ..scenario };
            // That something is late is said only where nothing disturbs.
            let scenario = match breakage {
                Breakage::LongPeriod | Breakage::ShortPeriod => scenario.undisturbed(),
                Breakage::CountsStops | Breakage::NoProof => scenario.stopped(),
                _ => scenario,
            };
            World::run(&scenario, false).err()
        });
        println!("{breakage:?}, {only:?}: {}", found.as_deref().unwrap_or("nothing found"));
        assert!(found.is_some(), "{breakage:?}, {only:?}");
    }
}
