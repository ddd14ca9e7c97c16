//! Clocks that are wrong for a while, or set for good, in virtual time: no promise becomes shorter, and
//! nothing stops for ever.

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

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(24 * 3_600);

/// Asks for a rotation while the clock says `wall`.
fn rotate_at(dir: &Path, wall: Time, rotate_every: Option<Duration>) {
    rotate(&config(dir, policy(rotate_every)), &Standing::at(wall), false).unwrap();
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
fn a_clock_that_is_set_removes_and_rotates_nothing_at_first() {
    for days in [400_i64, -2] {
        let dir = tempfile::tempdir().unwrap();
        let mut process = Process::start(dir.path(), policy(Some(30 * DAY)), now());
        process.wait(30 * DAY + HOUR);
        let kids = process.kids();
        assert_eq!(kids.len(), 3);
        process.wall += chrono::TimeDelta::days(days);
        process.look();
        process.wait(Duration::from_secs(300));
        assert_eq!(process.kids(), kids, "{days} days");
        assert_eq!(process.degraded(), BTreeSet::from(["clock_set"]));
        process.wait(Duration::from_secs(400));
        assert_eq!(process.degraded(), BTreeSet::new());
        // No time has passed that this process has not seen, so nothing is due.
        assert_eq!(process.kids(), kids, "{days} days");
        process.wait(26 * HOUR);
        assert_eq!(process.kids().len(), 2, "the retired key goes as if it were retired now");
        process.wait(29 * DAY);
        assert_ne!(process.kids()[0], kids[0], "and the next rotation comes when it would have");
    }
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
    // Ten years ahead, the next key is promoted at once.
    rotate_at(dir.path(), process.wall + 3_650 * DAY, Some(30 * DAY));
    process.look();
    let kids = process.kids();
    assert_eq!(kids.len(), 3);
    process.wait(29 * DAY);
    assert_eq!(process.kids(), kids, "a removal only ever moves later, whatever the reason");
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
            process.wall += 8 * HOUR;
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
    assert_eq!(second.degraded(), BTreeSet::from(["clock_set", "follower"]));
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
    process.wait(2 * DAY);
    assert!(process.kids().contains(&old));
}
