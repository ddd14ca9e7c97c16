//! Whose a directory of keys is, and what it remembers of the server that kept it last.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rustix::process::Signal;
use support::{Finished, Key, Server, Start, dir, jwks, record_of};

const A: [&str; 2] = ["--key-file", "a.pem"];
const B: [&str; 2] = ["--key-file", "b.pem"];

/// A directory that a server has kept with these arguments, and the kid of its first key.
fn kept(dir: &Path, args: &[&str]) -> String {
    let server = Server::start(dir, args);
    let kid = server.kids().remove(0);
    server.is_degraded_by("[]");
    server.stop(Signal::TERM);
    kid
}

fn put_key(file: &Path) {
    fs::write(file, Key::new().sec1()).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
}

fn refused(dir: &Path, args: &[&str]) -> Finished {
    match Server::try_start(dir, &[&["--port", "0"], args].concat(), &[]) {
        Start::Ended(finished) => finished,
        Start::Serves(_) => panic!("the server starts"),
    }
}

/// The one line with which the program gives up.
fn gave_up(finished: &Finished) -> &str {
    assert_eq!(finished.code, Some(1), "{finished:?}");
    finished.stderr.lines().last().unwrap()
}

fn retained(dir: &Path, kid: &str) -> chrono::TimeDelta {
    let (_, text) = record_of(dir, kid).unwrap();
    let time = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        chrono::DateTime::parse_from_rfc3339(value).unwrap()
    };
    time("Remove-At: ") - time("Retired-At: ")
}

#[test]
fn the_keys_of_one_client_are_not_served_or_changed_with_another_key_file() {
    let home = dir();
    let dir = home.path();
    let kid = kept(dir, &A);
    put_key(&dir.join("b.pem"));
    let before = support::names(dir.join("keys"));

    let told = "keys belongs to the key file ../a.pem (seen from there), not to ../b.pem; give this \
                client a --keys-dir of its own or, if its key file was renamed or moved, run \
                `jwks-server adopt`";
    let start = refused(dir, &B);
    assert_eq!(gave_up(&start), format!("jwks-server: failed to start: {told}"));
    let of_b = |args: &[&str]| jwks(dir, &[&B, args].concat());
    for command in [
        &["rotate"][..],
        &["rotate", "--now"],
        &["revoke", &kid, "--reason", "x"],
        &["assertion", "--client-id", "x", "--audience", "x"],
    ] {
        let finished = of_b(command);
        assert_eq!(
            gave_up(&finished),
            format!("jwks-server: failed to open the key directory: {told}")
        );
    }
    let check = of_b(&["check"]);
    assert_eq!((check.code, check.stdout), (Some(1), format!("problem: {told}\n")));
    assert!(!of_b(&["status"]).done().contains(&kid));
    assert_eq!(support::names(dir.join("keys")), before);

    let server = Server::start(dir, &A);
    assert_eq!(server.kids(), [kid]);
    server.is_degraded_by("[]");
}

#[test]
fn a_directory_of_its_own_is_all_that_a_second_client_needs() {
    let home = dir();
    let dir = home.path();
    let a = Server::start(dir, &A);
    let b = Server::start(dir, &[&B[..], &["--keys-dir", "b"]].concat());
    assert_ne!(a.kids(), b.kids());
    b.is_degraded_by("[]");
}

#[test]
fn a_renamed_key_file_goes_on_once_the_directory_is_adopted() {
    let home = dir();
    let dir = home.path();
    let kid = kept(dir, &A);
    fs::rename(dir.join("a.pem"), dir.join("b.pem")).unwrap();
    refused(dir, &B);
    let told = jwks(dir, &[&B[..], &["adopt"]].concat()).done();
    assert!(
        told.starts_with("adopted  keys: it belonged to ../a.pem, seen from there\n"),
        "{told}"
    );
    let server = Server::start(dir, &B);
    assert_eq!(server.kids(), [kid]);
    // From now on it is the other name that is refused.
    put_key(&dir.join("a.pem"));
    assert!(gave_up(&refused(dir, &A)).contains("belongs to the key file ../b.pem"));
}

#[test]
fn a_directory_is_not_adopted_away_from_a_server_that_keeps_it() {
    let home = dir();
    let dir = home.path();
    let server = Server::start(dir, &A);
    let kids = server.kids();
    let finished = jwks(dir, &[&B[..], &["adopt"]].concat());
    assert!(gave_up(&finished).contains("stop the server that keeps it first"), "{finished:?}");
    assert_eq!(server.kids(), kids);
    server.is_degraded_by("[]");
}

#[test]
fn moved_as_a_whole_it_is_the_same_directory() {
    let home = dir();
    let dir = home.path();
    let before = dir.join("before");
    fs::create_dir(&before).unwrap();
    let kid = kept(&before, &A);
    fs::rename(&before, dir.join("after")).unwrap();
    let server = Server::start(&dir.join("after"), &A);
    assert_eq!(server.kids(), [kid]);
    server.is_degraded_by("[]");
}

#[test]
fn what_a_later_version_has_kept_is_left_alone() {
    let home = dir();
    let dir = home.path();
    kept(dir, &[]);
    fs::write(dir.join("keys/.directory"), "{\"format\":2}\n").unwrap();
    let told = gave_up(&refused(dir, &[])).to_owned();
    assert!(told.contains("keys is of format 2, and this version knows 1 at most"), "{told}");
    let finished = jwks(dir, &["rotate"]);
    assert!(gave_up(&finished).contains("is of format 2"));
}

#[test]
fn the_directory_of_another_client_put_in_place_of_a_served_one_takes_nothing_out() {
    let (home, others) = (dir(), dir());
    let (dir, other) = (home.path(), others.path());
    let foreign = kept(other, &B);
    let server = Server::start(dir, &A);
    let dropped = Key::new();
    fs::write(dir.join("keys/dropped.pem"), dropped.spki()).unwrap();
    let kid = server.kids().remove(0);
    server.serves(&[&kid, &dropped.kid()]);

    fs::rename(dir.join("keys"), dir.join("away")).unwrap();
    fs::rename(other.join("keys"), dir.join("keys")).unwrap();
    support::eventually("it is found", || {
        server.readiness().contains("foreign_directory").then_some(())
    });
    assert_eq!(server.kids(), [kid.clone(), dropped.kid()]);

    fs::rename(dir.join("keys"), other.join("keys")).unwrap();
    fs::rename(dir.join("away"), dir.join("keys")).unwrap();
    support::eventually("its own is found again", || {
        (!server.readiness().contains("foreign_directory")).then_some(())
    });
    assert_eq!(server.kids(), [kid, dropped.kid()]);
    assert!(!server.kids().contains(&foreign));
}

#[test]
fn a_command_without_a_server_follows_the_settings_of_the_last_one() {
    let home = dir();
    let dir = home.path();
    let kid = kept(dir, &["--retain-for", "30d", "--publish-lead", "72h"]);
    jwks(dir, &["rotate", "--now", "--retain-for", "26h"]).done();
    assert_eq!(retained(dir, &kid), chrono::TimeDelta::days(30));
    // The control: where no server has left its settings, they are the command's own.
    fs::remove_file(dir.join("keys/.directory")).unwrap();
    let kid = support::kid_in(dir.join("private_key.pem")).unwrap();
    let finished = jwks(dir, &["rotate", "--now", "--retain-for", "26h", "--cache-max-age", "0s"]);
    finished.done();
    assert_eq!(retained(dir, &kid), chrono::TimeDelta::hours(26));
}

#[test]
fn a_start_with_other_settings_leaves_those_behind() {
    let home = dir();
    let dir = home.path();
    kept(dir, &["--retain-for", "30d"]);
    let kid = kept(dir, &["--retain-for", "40d"]);
    jwks(dir, &["rotate", "--now"]).done();
    assert_eq!(retained(dir, &kid), chrono::TimeDelta::days(40));
}

#[test]
fn what_cannot_be_understood_is_written_anew() {
    let home = dir();
    let dir = home.path();
    let kid = kept(dir, &A);
    let file = dir.join("keys/.directory");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, "{").unwrap();
    assert_eq!(kept(dir, &A), kid);
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
    assert_eq!(jwks(dir, &[&A[..], &["check"]].concat()).done(), "no problems\n");
}
