//! The manager on a real directory, in virtual time: a restart is a new manager, a crash is one that
//! was dropped wherever it was.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jwks_server::clock::{Clock, Moment};
use jwks_server::command::revoke;
use jwks_server::jwk::KeyId;
use jwks_server::key::{KeyFormat, parse_pem};
use jwks_server::lifecycle::{Policy, Time};
use jwks_server::manager::{Manager, Unread};
use jwks_server::store::Store;
use support::{
    Process, Standing, beginning as now, config, new_key, paths, policy, record_of, records,
    write_key,
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(24 * 3_600);

fn kid_in(file: &Path) -> KeyId {
    parse_pem(&std::fs::read(file).unwrap()).unwrap().jwk().kid()
}

#[test]
fn keys_roll_for_years_and_the_current_one_is_always_first() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::start(dir.path(), policy(Some(30 * DAY)), now());
    let mut current = BTreeSet::new();
    for _ in 0..100 {
        process.wait(10 * DAY);
        let kid = kid_in(&dir.path().join("private_key.pem")).to_string();
        assert_eq!(process.kids().first(), Some(&kid));
        assert!((2..=3).contains(&process.kids().len()), "{:?}", process.kids());
        current.insert(kid);
    }
    assert!((32..=34).contains(&current.len()), "a rotation every 30 days: {}", current.len());
    assert_eq!(process.degraded(), BTreeSet::new());
}

#[test]
fn a_restart_at_any_time_serves_the_same_set() {
    let dir = tempfile::tempdir().unwrap();
    let rotating = policy(Some(30 * DAY));
    let mut process = Process::start(dir.path(), rotating, now());
    for _ in 0..50 {
        process.wait(5 * DAY + 7 * HOUR);
        let (before, wall) = (process.snapshot.load(), process.wall);
        drop(process);
        process = Process::start(dir.path(), rotating, wall);
        assert_eq!(*process.snapshot.load(), *before);
    }
}

#[test]
fn retain_after_sign_holds_through_a_key_overwritten_while_the_server_was_down() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("private_key.pem");
    let process = Process::start(dir.path(), policy(None), now());
    let old = process.kids();
    drop(process);
    let new = new_key();
    write_key(&file, &new);
    let mut process = Process::start(dir.path(), policy(None), now() + 5 * DAY);
    let new = new.jwk().kid().to_string();
    assert_eq!(process.kids(), [new.clone(), old[0].clone()]);
    process.wait(Duration::from_secs(25 * 3_600 - 60));
    assert_eq!(process.kids().len(), 2);
    process.wait(Duration::from_secs(60));
    assert_eq!(process.kids(), [new]);
}

#[test]
fn what_a_killed_command_has_left_is_finished_when_its_change_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::start(dir.path(), policy(None), now());
    let left = dir.path().join(".private_key.pem.0123456789abcdef.tmp");
    write_key(&left, &new_key());
    process.look();
    assert!(left.exists(), "nothing has changed, so no command was at work");
    write_key(&dir.path().join("private_key.pem"), &new_key());
    process.look();
    assert!(!left.exists());
}

#[test]
fn a_key_dropped_in_before_it_signs_is_a_rotation_without_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::start(dir.path(), policy(None), now());
    let old = process.kids()[0].clone();
    let new = new_key();
    write_key(&dir.path().join("keys/new.pem"), &new);
    process.wait(25 * HOUR);
    let kid = new.jwk().kid().to_string();
    assert_eq!(process.kids(), [old.clone(), kid.clone()]);
    write_key(&dir.path().join("private_key.pem"), &new);
    process.look();
    assert_eq!(process.kids(), [kid.clone(), old.clone()]);
    std::fs::remove_file(dir.path().join("keys/new.pem")).unwrap();
    process.look();
    assert_eq!(process.kids(), [kid, old]);
}

#[test]
fn last_good_wins_when_everything_in_the_directory_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::start(dir.path(), policy(Some(30 * DAY)), now());
    process.wait(31 * DAY);
    let kids = process.kids();
    assert!(kids.len() >= 2);
    std::fs::remove_dir_all(dir.path().join("keys")).unwrap();
    std::fs::remove_file(dir.path().join("private_key.pem")).unwrap();
    process.look();
    assert_eq!(process.kids(), kids);
    assert!(process.degraded().contains("missing_private_key"));
    assert!(!dir.path().join("private_key.pem").exists(), "nothing is generated");
    let wall = process.wall;
    drop(process);
    // The records were written again, so a restart still knows what was promised.
    let restarted = Process::start(dir.path(), policy(Some(30 * DAY)), wall);
    assert!(restarted.kids().contains(&kids[0]));
}

#[test]
fn a_refused_key_file_ends_a_start_that_has_nothing_else_to_serve() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("private_key.pem");
    std::fs::write(&file, "no key").unwrap();
    let error = Process::try_start(dir.path(), policy(None), now()).err().unwrap();
    assert_eq!(error.to_string(), format!("{}: no PEM block in it", file.display()));
    assert_eq!(std::fs::read(&file).unwrap(), b"no key");
}

#[test]
fn a_refused_key_file_does_not_keep_promised_keys_from_being_served() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("private_key.pem");
    let kids = Process::start(dir.path(), policy(None), now()).kids();
    std::fs::write(&file, "no key").unwrap();
    let process = Process::start(dir.path(), policy(None), now() + HOUR);
    assert_eq!(process.kids(), kids);
    assert_eq!(process.degraded(), BTreeSet::from(["refused_file"]));
    assert_eq!(std::fs::read(&file).unwrap(), b"no key");
}

#[test]
fn a_second_server_makes_no_change_and_takes_over_when_the_first_ends() {
    let dir = tempfile::tempdir().unwrap();
    let first = Process::start(dir.path(), policy(None), now());
    let mut second = Process::start(dir.path(), policy(Some(30 * DAY)), now());
    assert_eq!(second.kids(), first.kids());
    assert_eq!(second.degraded(), BTreeSet::from(["follower"]));
    second.wait(HOUR);
    assert!(!dir.path().join("next_key.pem").exists());
    drop(first);
    second.wait(Duration::from_secs(60));
    assert_eq!(second.degraded(), BTreeSet::new());
    assert!(dir.path().join("next_key.pem").exists(), "its own schedule is followed now");
}

#[test]
fn a_follower_forgets_what_the_other_server_removed() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = Process::start(dir.path(), policy(None), now());
    let mut second = Process::start(dir.path(), policy(None), now());
    write_key(&dir.path().join("private_key.pem"), &new_key());
    first.look();
    second.look();
    assert_eq!(second.kids().len(), 2);
    first.wait(2 * DAY);
    assert_eq!(first.kids().len(), 1);
    second.wait(2 * DAY);
    assert_eq!(second.kids(), first.kids());
    drop(first);
    second.wait(HOUR);
    assert_eq!(second.degraded(), BTreeSet::new(), "it has taken over");
    assert_eq!(second.kids().len(), 1);
}

/// It may be a tombstone, written by somebody whose files this process cannot read.
#[test]
fn a_record_that_cannot_be_read_is_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::start(dir.path(), policy(None), now());
    let old = process.kids()[0].clone();
    let keys = std::fs::read_dir(dir.path().join("keys")).unwrap();
    let record = keys.map(|entry| entry.unwrap().path()).find(|path| path.extension().is_some());
    let record = record.unwrap();
    std::fs::write(&record, "unreadable").unwrap();
    let new = new_key();
    write_key(&dir.path().join("private_key.pem"), &new);
    process.wait(HOUR);
    assert_eq!(process.kids(), [new.jwk().kid().to_string(), old]);
    assert_eq!(std::fs::read(&record).unwrap(), b"unreadable");
    assert_eq!(process.degraded(), BTreeSet::from(["refused_file"]));
}

#[test]
fn a_key_served_while_another_process_holds_the_lock_is_retained() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::start(dir.path(), policy(Some(30 * DAY)), now());
    let first = process.kids();
    let locked = Store::new(paths(dir.path()), KeyFormat::Sec1).lock().unwrap();
    let mut expected = first;
    for _ in 0..2 {
        let key = new_key();
        write_key(&dir.path().join("private_key.pem"), &key);
        process.look();
        expected.insert(0, key.jwk().kid().to_string());
    }
    let served: BTreeSet<_> = process.kids().into_iter().collect();
    assert_eq!(process.kids()[0], expected[0], "what signs comes first");
    assert_eq!(served, expected.iter().cloned().collect());
    assert_eq!(process.degraded(), BTreeSet::new());
    process.wait(HOUR);
    assert_eq!(process.degraded(), BTreeSet::from(["lock_held"]));
    drop(locked);
    process.look();
    assert_eq!(process.degraded(), BTreeSet::new());
    let served: BTreeSet<_> = process.kids().into_iter().collect();
    assert!(expected.iter().all(|kid| served.contains(kid)));
}

#[test]
fn a_follower_drops_a_revoked_key_although_none_takes_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = Process::start(dir.path(), policy(None), now());
    write_key(&dir.path().join("private_key.pem"), &new_key());
    first.look();
    let mut second = Process::start(dir.path(), policy(None), now());
    let kids = second.kids();
    std::fs::write(dir.path().join("private_key.pem"), "garbage").unwrap();
    let mut store = Store::new(paths(dir.path()), KeyFormat::Sec1);
    let (seen, _) = store.look(now());
    let current: KeyId = kids[0].parse().unwrap();
    let tombstone = seen.records[&current].revoked(now(), "test");
    store.save(&tombstone, &store.lock().unwrap()).unwrap();
    for process in [&mut first, &mut second] {
        process.look();
        process.wait(HOUR);
        assert_eq!(process.kids(), [kids[1].clone()]);
    }
}

#[test]
fn a_key_counts_as_published_only_once_its_set_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let is_published = || records(dir.path())[0].1.contains("Published-At");
    let store = || Store::new(paths(dir.path()), KeyFormat::Sec1);
    let clock = Standing::at(now());
    let started = Manager::start(store(), policy(None), &clock, Unread::Refuse).unwrap();
    assert!(!is_published(), "nobody can have fetched it");
    let (mut manager, _snapshot, _health) = started;
    manager.reconcile(&clock, None);
    assert!(is_published());
}

#[test]
fn a_start_can_be_told_to_wait_for_a_record_that_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(dir.path(), policy(Some(30 * DAY)), now());
    let kids = process.kids();
    drop(process);
    let (file, _) = record_of(dir.path(), &kids[1]).unwrap();
    let away = file.with_extension("away");
    std::fs::rename(&file, &away).unwrap();
    std::fs::create_dir(&file).unwrap();
    let start = |unread| {
        let store = Store::new(paths(dir.path()), KeyFormat::Sec1);
        Manager::start(store, policy(None), &Standing::at(now()), unread).map(drop)
    };
    let refused = start(Unread::Refuse).unwrap_err();
    assert_eq!(refused.to_string(), format!("{}: a directory, not a regular file", file.display()));
    start(Unread::Ignore).unwrap();
    std::fs::remove_dir(&file).unwrap();
    std::fs::rename(&away, &file).unwrap();
    start(Unread::Refuse).unwrap();
}

#[test]
fn a_revocation_takes_the_place_of_a_record_that_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(dir.path(), policy(None), now());
    let current = process.kids()[0].clone();
    let (record, _) = record_of(dir.path(), &current).unwrap();
    std::fs::write(&record, "unreadable").unwrap();
    let told = revoke(
        &config(dir.path(), policy(None)),
        &Standing::at(now()),
        current.parse().unwrap(),
        "test",
    )
    .unwrap();
    assert!(told.starts_with(&format!("revoked  {current}")), "{told}");
    assert!(std::fs::read_to_string(&record).unwrap().contains("Revoked-At"));
    let restarted = Process::start(dir.path(), policy(None), now());
    assert!(!restarted.kids().contains(&current));
}

#[test]
fn a_start_that_could_not_make_a_key_goes_on_trying() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("private_key.pem");
    let lock = dir.path().join("keys/.lock");
    let kids = Process::start(dir.path(), policy(None), now()).kids();
    std::fs::remove_file(&file).unwrap();
    std::fs::remove_file(&lock).unwrap();
    std::fs::create_dir(&lock).unwrap();
    let mut process = Process::start(dir.path(), policy(None), now());
    assert_eq!(process.kids(), kids, "what was promised is served");
    assert!(!file.exists());
    std::fs::remove_dir(&lock).unwrap();
    process.wait(MINUTE);
    assert_eq!(process.kids(), [kid_in(&file).to_string(), kids[0].clone()]);
    std::fs::remove_file(&file).unwrap();
    process.wait(MINUTE);
    assert!(!file.exists(), "from now on a missing file is for a person to explain");
}

#[test]
fn a_revocation_that_was_cut_short_is_carried_on_without_the_file_of_the_key() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("private_key.pem");
    let mut process = Process::start(dir.path(), policy(None), now());
    let current = process.kids()[0].parse().unwrap();
    std::fs::remove_file(&file).unwrap();
    let mut store = Store::new(paths(dir.path()), KeyFormat::Sec1);
    let tombstone = store.look(now()).0.records[&current].revoked(now(), "test");
    store.save(&tombstone, &store.lock().unwrap()).unwrap();
    process.look();
    assert_eq!(process.kids(), [kid_in(&file).to_string()]);
    assert_ne!(kid_in(&file), current);
}

#[test]
fn without_a_current_key_the_manager_does_not_look_all_the_time() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::start(dir.path(), policy(None), now());
    let current = process.kids()[0].parse().unwrap();
    let mut store = Store::new(paths(dir.path()), KeyFormat::Sec1);
    let (seen, _) = store.look(now());
    std::fs::write(dir.path().join("private_key.pem"), "no key").unwrap();
    let tombstone = seen.records[&current].revoked(now(), "test");
    store.save(&tombstone, &store.lock().unwrap()).unwrap();
    assert!(process.look() < Duration::from_secs(1), "somebody may be about to put one there");
    process.wait(MINUTE);
    assert!(process.look() >= Duration::from_secs(1));
}

/// Two on one host; the second has no file events, and looks 5 s later.
fn replace_key(dir: &Path, first: &mut Process, second: &mut Process) {
    write_key(&dir.join("private_key.pem"), &new_key());
    first.look();
    for process in [first, second] {
        process.pass(5 * SECOND);
    }
}

#[test]
fn a_follower_forgets_what_was_removed_although_another_key_was_just_retired() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = Process::start(dir.path(), policy(None), now());
    let mut second = Process::start(dir.path(), policy(None), now());
    assert_eq!(second.degraded(), BTreeSet::from(["follower"]));
    for _ in 0..8 {
        replace_key(dir.path(), &mut first, &mut second);
        for _ in 0..4 {
            first.pass(5 * HOUR);
            second.pass(5 * HOUR);
        }
    }
    assert_eq!(first.kids().len(), 2);
    assert_eq!(second.kids(), first.kids());
}

/// A process that cannot be the keeper, and lets go of `old` when its time is up; with what stands in its
/// way.
fn lets_go_of(dir: &Path, old: &String, policy: Policy, wall: Time) -> (Process, PathBuf) {
    // Nobody can take that for a lock.
    let lock = dir.join("keys/.server");
    std::fs::remove_file(&lock).unwrap();
    std::fs::create_dir(&lock).unwrap();
    let mut process = Process::start(dir, policy, wall);
    assert_eq!(process.degraded(), BTreeSet::from(["read_only"]));
    process.wait(30 * HOUR);
    assert!(!process.kids().contains(old));
    (process, lock)
}

#[test]
fn a_key_that_was_let_go_of_is_deleted_once_that_is_possible() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::start(dir.path(), policy(None), now());
    let old = process.kids()[0].clone();
    write_key(&dir.path().join("private_key.pem"), &new_key());
    process.look();
    let wall = process.wall;
    drop(process);
    let (mut process, lock) = lets_go_of(dir.path(), &old, policy(None), wall);
    assert!(record_of(dir.path(), &old).is_some());
    std::fs::remove_dir(&lock).unwrap();
    process.wait(HOUR);
    assert_eq!(process.degraded(), BTreeSet::new());
    assert!(record_of(dir.path(), &old).is_none());
}

#[test]
fn a_key_that_was_let_go_of_and_signs_again_keeps_its_record() {
    let dir = tempfile::tempdir().unwrap();
    let rotating = policy(Some(30 * DAY));
    let file = dir.path().join("private_key.pem");
    let mut process = Process::start(dir.path(), rotating, now());
    let old = process.kids()[0].clone();
    let pem = std::fs::read(&file).unwrap();
    write_key(&file, &new_key());
    process.look();
    let wall = process.wall;
    drop(process);
    // Once it is the keeper again it has more to do than one thing: there is no next key.
    std::fs::remove_file(dir.path().join("next_key.pem")).unwrap();
    let (mut process, lock) = lets_go_of(dir.path(), &old, rotating, wall);
    std::fs::write(&file, pem).unwrap();
    process.wait(HOUR);
    std::fs::remove_dir(&lock).unwrap();
    process.pass(11 * SECOND);
    assert_eq!(process.kids()[0], old);
    assert!(record_of(dir.path(), &old).unwrap().1.contains("Activated-At"));
    let wall = process.wall;
    drop(process);
    write_key(&file, &new_key());
    let process = Process::start(dir.path(), rotating, wall);
    assert!(process.kids().contains(&old), "it has signed, and is retained");
}

#[test]
fn a_record_that_cannot_be_deleted_keeps_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::start(dir.path(), policy(None), now());
    let first = process.kids()[0].clone();
    for _ in 0..2 {
        write_key(&dir.path().join("private_key.pem"), &new_key());
        process.look();
        process.pass(HOUR);
    }
    let second = process.kids()[1].clone();
    let (file, _) = record_of(dir.path(), &first).unwrap();
    let chattr = |flag| {
        let mut command = std::process::Command::new("chattr");
        command.arg(flag).arg(&file).stderr(std::process::Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    if !chattr("+i") {
        println!("no file can be made immutable here; the lifecycle's own test stands alone");
        return;
    }
    for _ in 0..40 {
        process.pass(HOUR);
    }
    let (kids, degraded) = (process.kids(), process.degraded());
    assert!(chattr("-i"));
    assert!(kids.contains(&first) && !kids.contains(&second), "{kids:?}");
    assert_eq!(degraded, BTreeSet::from(["write_failed"]));
    process.pass(HOUR);
    assert!(!process.kids().contains(&first));
}

#[test]
fn what_failed_is_not_tried_again_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let lock = dir.path().join("keys/.lock");
    let mut process = Process::start(dir.path(), policy(None), now());
    std::fs::remove_file(&lock).unwrap();
    std::fs::create_dir(&lock).unwrap();
    let new = new_key();
    write_key(&dir.path().join("private_key.pem"), &new);
    process.look();
    assert_eq!(process.degraded(), BTreeSet::from(["write_failed"]));
    std::fs::remove_dir(&lock).unwrap();
    let is_recorded = || record_of(dir.path(), &new.jwk().kid().to_string()).is_some();
    process.pass(9 * SECOND);
    assert!(!is_recorded(), "each try makes file events, and would be the next one's cause");
    process.pass(SECOND);
    assert!(is_recorded());
    assert_eq!(process.degraded(), BTreeSet::new());
}

/// A clock that tells how often it was asked.
struct Told(Standing, std::sync::mpsc::Sender<()>);

impl Clock for Told {
    fn now(&self) -> Moment {
        // Nobody listens any more once enough was heard.
        let _ = self.1.send(());
        self.0.now()
    }
}

#[test]
fn a_command_that_waited_does_not_write_again_what_was_removed_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::start(dir.path(), policy(None), now());
    let old = process.kids()[0].clone();
    write_key(&dir.path().join("private_key.pem"), &new_key());
    process.look();
    let current = process.kids()[0].parse().unwrap();
    drop(process);
    let (file, _) = record_of(dir.path(), &old).unwrap();
    let locked = Store::new(paths(dir.path()), KeyFormat::Sec1).lock().unwrap();
    let (asked, was_asked) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let clock = Told(Standing::at(now()), asked);
        let config = config(dir.path(), policy(None));
        let command = scope.spawn(move || revoke(&config, &clock, current, "test").unwrap());
        // Before its first look and after it.
        for _ in 0..2 {
            was_asked.recv_timeout(support::PATIENCE).unwrap();
        }
        std::fs::remove_file(&file).unwrap();
        drop(locked);
        command.join().unwrap();
    });
    assert!(record_of(dir.path(), &old).is_none());
}
