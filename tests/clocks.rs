//! Clocks that are wrong, or set, processes that are stopped or killed, and hosts that sleep, in virtual
//! time: what counts is for how long a key was served, so no promise becomes shorter, and nothing stops
//! for ever.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use jwks_server::command::rotate;
use jwks_server::jwk::KeyId;
use jwks_server::key::KeyFormat;
use jwks_server::lifecycle::{Policy, PolicySettings, State, Time};
use jwks_server::store::Store;
use support::{
    Process, Standing, beginning as now, config, kid_in, new_key, paths, policy, write_key,
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(24 * 3_600);

/// Asks for a rotation while the clock says `wall`.
fn rotate_at(dir: &Path, wall: Time, rotate_every: Option<Duration>) -> String {
    rotate(&config(dir, policy(rotate_every)), &Standing::at(wall), false).unwrap()
}

#[test]
fn a_time_that_a_wrong_clock_has_written_shortens_no_retention() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::start(dir.path(), policy(None), now());
    let old = process.kids()[0].clone();
    // What a command leaves that ran while the clock was a year behind.
    let mut store = Store::new(paths(dir.path()), KeyFormat::Sec1);
    let (seen, _) = store.look(now());
    let retired =
        seen.records[&old.parse::<KeyId>().unwrap()].retired(now() - 365 * DAY, &policy(None));
    store.save(&retired, &store.lock().unwrap()).unwrap();
    write_key(&dir.path().join("private_key.pem"), &new_key());
    process.look();
    process.wait(DAY);
    assert_eq!(process.kids().get(1), Some(&old));
    process.wait(2 * HOUR);
    assert_eq!(process.kids().len(), 1);
}

#[test]
fn a_time_that_a_wrong_clock_has_written_shortens_no_lead() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::start(dir.path(), policy(None), now());
    let next = new_key();
    write_key(&dir.path().join("next_key.pem"), &next);
    process.look();
    let kids = process.kids();
    let mut store = Store::new(paths(dir.path()), KeyFormat::Sec1);
    let (seen, _) = store.look(now());
    let requested = State::Next { promotion_requested_at: Some(now()) };
    let mut record = seen.records[&next.jwk().kid()].with(requested);
    record.published_at = Some(now() - 365 * DAY);
    store.save(&record, &store.lock().unwrap()).unwrap();
    process.look();
    process.wait(DAY);
    assert_eq!(process.kids(), kids);
    process.wait(2 * HOUR);
    assert_eq!(process.kids().first(), kids.last());
}

#[test]
fn a_clock_that_is_set_changes_no_duration() {
    for days in [400_i64, -2] {
        let dir = tempfile::tempdir().unwrap();
        let mut process = Process::start(dir.path(), policy(Some(30 * DAY)), now());
        process.wait(30 * DAY + HOUR);
        let kids = process.kids();
        assert_eq!(kids.len(), 3);
        process.wall += chrono::TimeDelta::days(days);
        process.look();
        process.wait(23 * HOUR);
        assert_eq!(process.kids(), kids, "{days} days");
        process.wait(2 * HOUR);
        assert!(!process.kids().contains(&kids[1]), "{days} days: the retired key goes in time");
        assert_eq!(process.degraded(), BTreeSet::new());
        // A rotation that is wanted early waits for the lead all the same; set back, the count wants it.
        process.wait(30 * DAY);
        assert_ne!(process.kids()[0], kids[0], "{days} days");
    }
}

/// A command has no other clock, and goes by what servers have counted.
#[test]
fn a_command_whose_clock_is_wrong_promotes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::start(dir.path(), policy(None), now());
    rotate_at(dir.path(), process.wall, None);
    process.look();
    let kids = process.kids();
    process.wait(MINUTE);
    let requested = rotate_at(dir.path(), process.wall + 26 * HOUR, None);
    assert!(requested.starts_with("staged"), "{requested}");
    drop(process);
    for wall in [now() + 365 * DAY, now() - 365 * DAY, now()] {
        let told = rotate_at(dir.path(), wall, None);
        assert!(told.starts_with("staged"), "{told}");
        assert_eq!(kid_in(dir.path().join("private_key.pem")).as_ref(), Some(&kids[0]));
    }
    // The control: what was served for the lead, by whatever clock.
    let mut process = Process::start(dir.path(), policy(None), now() - 365 * DAY);
    process.wait(25 * HOUR);
    assert_eq!(process.kids()[0], kids[1]);
}

#[test]
fn a_clock_that_was_wrong_at_the_start_and_is_put_right_shortens_no_lead() {
    for wrong_by in [-30_i64, 30] {
        let rotating = policy(Some(7 * DAY));
        let wrong_by = chrono::TimeDelta::days(wrong_by);
        let dir = tempfile::tempdir().unwrap();
        let mut process = Process::start(dir.path(), rotating, now() + wrong_by);
        let kids = process.kids();
        process.wait(MINUTE);
        process.wall -= wrong_by;
        process.wait(MINUTE);
        let wall = process.wall;
        drop(process);
        let mut process = Process::start(dir.path(), rotating, wall);
        process.wait(24 * HOUR);
        assert_eq!(process.kids(), kids, "{wrong_by}");
        process.wait(7 * DAY);
        assert_eq!(process.kids()[0], kids[1], "{wrong_by}");
    }
}

/// It answers nobody, so that nobody learns a key from it.
#[test]
fn a_process_that_is_stopped_or_whose_host_sleeps_counts_nothing() {
    let stops: [fn(&mut Process, Duration); 2] = [Process::freeze, Process::sleep];
    for stop in stops {
        let dir = tempfile::tempdir().unwrap();
        let mut process = Process::start(dir.path(), policy(None), now());
        rotate_at(dir.path(), process.wall, None);
        process.look();
        let kids = process.kids();
        for _ in 0..10 {
            process.wait(HOUR);
            stop(&mut process, 25 * HOUR);
        }
        process.wait(14 * HOUR + 59 * MINUTE);
        assert_eq!(process.kids(), kids);
        // Once it is ready, a verifier whose last fetch failed must have had the time for another.
        stop(&mut process, 21 * SECOND);
        process.pass(59 * SECOND);
        stop(&mut process, 21 * SECOND);
        process.pass(SECOND);
        assert_eq!(process.kids(), kids);
        process.pass(58 * SECOND);
        assert_eq!(process.kids(), kids);
        process.pass(SECOND);
        assert_eq!(process.kids()[0], kids[1]);
    }
}

#[test]
fn lives_of_half_a_minute_remove_keys_and_say_that_they_are_too_short_to_promote_any() {
    let dir = tempfile::tempdir().unwrap();
    let settings = PolicySettings {
        publish_lead: 10 * MINUTE,
        retain_for: 10 * MINUTE,
        ..PolicySettings::default()
    };
    let policy = Policy::new(settings).unwrap();
    let process = Process::start(dir.path(), policy, now());
    let old = process.kids().remove(0);
    drop(process);
    write_key(&dir.path().join("private_key.pem"), &new_key());
    drop(Process::start(dir.path(), policy, now()));
    let mut wall = now() + HOUR;
    rotate(&config(dir.path(), policy), &Standing::at(wall), false).unwrap();
    let mut lives = 0;
    loop {
        let mut process = Process::start(dir.path(), policy, wall);
        lives += 1;
        for _ in 0..30 {
            process.pass(SECOND);
        }
        wall = process.wall + HOUR;
        if process.kids().len() == 2 && process.degraded().contains("rotation_starved") {
            break;
        }
        assert!(lives < 60, "{:?} {:?}", process.kids(), process.degraded());
    }
    assert!(lives > 20, "{lives} lives of 30 s are no 10 min");
    let mut process = Process::start(dir.path(), policy, wall);
    assert!(!process.kids().contains(&old));
    assert_eq!(process.degraded(), BTreeSet::from(["rotation_starved"]));
    process.wait(MINUTE);
    assert_eq!(process.degraded(), BTreeSet::new());
    assert!(!dir.path().join("next_key.pem").exists(), "it is promoted");
}

#[test]
fn counts_that_cannot_be_kept_hold_up_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::start(dir.path(), policy(Some(30 * DAY)), now());
    process.wait(MINUTE);
    let served = dir.path().join("keys/.served");
    let kept = std::fs::read(&served).unwrap();
    std::fs::remove_file(&served).unwrap();
    std::fs::create_dir(&served).unwrap();
    process.wait(31 * DAY);
    assert_eq!(process.degraded(), BTreeSet::from(["unkept_counts"]));
    assert_eq!(process.kids().len(), 3, "it has rotated");
    let kids = process.kids();
    let wall = process.wall;
    drop(process);
    let mut process = Process::start(dir.path(), policy(Some(30 * DAY)), wall);
    assert_eq!(process.kids(), kids);
    process.wait(24 * HOUR);
    assert_eq!(process.kids(), kids, "what was not kept is counted anew");
    std::fs::remove_dir(&served).unwrap();
    process.wait(2 * HOUR);
    assert_eq!(process.kids().len(), 2);
    assert_eq!(process.degraded(), BTreeSet::new());
    assert!(std::fs::read(&served).unwrap().len() < 2 * kept.len(), "and is kept again");
}

#[test]
fn a_request_that_a_wrong_clock_has_put_in_the_future_is_one_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::start(dir.path(), policy(None), now());
    rotate_at(dir.path(), now() + 365 * DAY, None);
    process.look();
    let kids = process.kids();
    process.wait(DAY);
    assert_eq!(process.kids(), kids);
    process.wait(2 * HOUR);
    assert_eq!(process.kids()[0], kids[1]);
}

#[test]
fn an_activation_that_a_wrong_clock_has_put_in_the_future_does_not_stop_the_schedule() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::start(dir.path(), policy(Some(30 * DAY)), now());
    process.wait(2 * DAY);
    // Ten years ahead, by the clock of the command.
    rotate_at(dir.path(), process.wall + 3_650 * DAY, Some(30 * DAY));
    process.look();
    let kids = process.kids();
    assert_eq!(kids.len(), 3);
    process.wait(29 * DAY);
    assert_eq!(process.kids(), [kids[0].clone(), kids[2].clone()]);
    process.wait(2 * DAY);
    assert_eq!(process.kids()[0], kids[2]);
}

#[test]
fn a_host_that_sleeps_every_night_removes_retired_keys() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::start(dir.path(), policy(None), now());
    write_key(&dir.path().join("private_key.pem"), &new_key());
    process.look();
    // Awake for 16 h, and then asleep, which the monotonic clock does not count.
    let mut awake = Duration::ZERO;
    while process.kids().len() == 2 && awake < 100 * DAY {
        process.wait(4 * HOUR);
        awake += 4 * HOUR;
        if awake.as_secs().is_multiple_of(57_600) {
            process.sleep(8 * HOUR);
        }
    }
    assert!((25..=40).contains(&(awake.as_secs() / 3_600)), "{awake:?}");
}

fn both_wait(first: &mut Process, second: &mut Process, time: Duration) {
    for _ in 0..4 {
        first.wait(time / 4);
        second.wait(time / 4);
    }
}

/// A key is staged beside `first`, and it is asked for; then `second`, which follows, takes over. What
/// signs an hour and a half after the key was published?
fn signs_early(
    dir: &Path,
    first: Process,
    second: &mut Process,
    set: impl FnOnce(&mut Process),
) -> bool {
    let mut first = first;
    let next = new_key();
    write_key(&dir.join("next_key.pem"), &next);
    first.look();
    rotate_at(dir, first.wall, None);
    first.look();
    second.look();
    set(second);
    both_wait(&mut first, second, 20 * MINUTE);
    drop(first);
    second.wait(HOUR);
    kid_in(dir.join("private_key.pem")) == Some(next.jwk().kid().to_string())
}

#[test]
fn a_follower_that_saw_the_clock_set_back_shortens_no_lead() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = Process::start(dir.path(), policy(None), now());
    let mut second = Process::start(dir.path(), policy(None), now());
    both_wait(&mut first, &mut second, HOUR);
    // The clock of their host was a day ahead. The first is started again for it.
    second.wall -= DAY;
    drop(first);
    let mut first = Process::start(dir.path(), policy(None), second.wall);
    second.look();
    both_wait(&mut first, &mut second, 5 * MINUTE);
    assert_eq!(second.degraded(), BTreeSet::from(["follower"]));
    assert!(!signs_early(dir.path(), first, &mut second, |_| {}));
}

#[test]
fn a_follower_on_another_host_whose_clock_is_put_right_shortens_no_lead() {
    let dir = tempfile::tempdir().unwrap();
    let first = Process::start(dir.path(), policy(None), now());
    let mut second = Process::start(dir.path(), policy(None), now() + DAY);
    assert!(!signs_early(dir.path(), first, &mut second, |second| second.wall -= DAY));
}

#[test]
fn a_follower_that_takes_over_soon_after_its_clock_was_put_right_shortens_no_lead() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = Process::start(dir.path(), policy(None), now());
    let mut second = Process::start(dir.path(), policy(None), now() + DAY);
    let next = new_key();
    write_key(&dir.path().join("next_key.pem"), &next);
    first.look();
    rotate_at(dir.path(), first.wall, None);
    first.look();
    second.wall -= DAY;
    second.look();
    both_wait(&mut first, &mut second, 5 * MINUTE);
    drop(first);
    second.wait(2 * HOUR);
    assert_ne!(kid_in(dir.path().join("private_key.pem")), Some(next.jwk().kid().to_string()));
}

#[test]
fn what_was_promised_for_longer_outlasts_a_clock_that_was_wrong_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let settings = PolicySettings { retain_for: 7 * DAY, ..PolicySettings::default() };
    let mut process = Process::start(dir.path(), Policy::new(settings).unwrap(), now());
    let old = process.kids()[0].clone();
    write_key(&dir.path().join("private_key.pem"), &new_key());
    process.look();
    let wall = process.wall;
    drop(process);
    let mut process = Process::start(dir.path(), policy(None), wall - 365 * DAY);
    process.wait(MINUTE);
    process.wall += 365 * DAY;
    process.wait(6 * DAY + 23 * HOUR + 58 * MINUTE);
    assert!(process.kids().contains(&old));
    process.wait(3 * MINUTE);
    assert!(!process.kids().contains(&old));
}
