//! The commands, beside running servers and without one.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, Utc};
use rustix::process::Signal;
use serde_json::{Value, json};
use support::{
    Finished, Key, Observer, Server, Start, dir, eventually, jwks, kid_in, names, read_current,
    record_of, records, within,
};

/// Keys may sign soon after they are published, and leave late.
const QUICK: [&str; 6] = ["--publish-lead", "2s", "--retain-for", "1h", "--cache-max-age", "1s"];
/// Nothing is ready within a test.
const SLOW: [&str; 0] = [];

fn done(finished: Finished) -> String {
    finished.done()
}

/// The one line with which a command gives up.
fn gave_up(finished: &Finished) -> &str {
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert_eq!(finished.stdout, "", "{finished:?}");
    let line = finished.stderr.strip_suffix('\n').unwrap();
    assert!(!line.contains('\n'), "{line}");
    line.strip_prefix("jwks-server: failed to ").unwrap_or_else(|| panic!("{line}"))
}

fn started(dir: &Path, args: &[&str]) -> (Server, String) {
    let server = Server::start(dir, args);
    let kid = server.kids().remove(0);
    (server, kid)
}

fn status(dir: &Path) -> Value {
    status_by(dir, &[])
}

fn status_by(dir: &Path, rules: &[&str]) -> Value {
    serde_json::from_str(&done(jwks(dir, &[&["status", "--json"], rules].concat()))).unwrap()
}

fn row(dir: &Path, kid: &str) -> Value {
    let status = status(dir);
    let keys = status["keys"].as_array().unwrap();
    keys.iter().find(|key| key["kid"] == kid).cloned().unwrap_or(Value::Null)
}

/// A field of a record, as it stands in the file.
fn field(dir: &Path, kid: &str, name: &str) -> Option<String> {
    let (_, text) = record_of(dir, kid)?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    value.map(str::to_owned)
}

fn time(text: &str) -> DateTime<Utc> {
    DateTime::parse_from_rfc3339(text).unwrap().to_utc()
}

/// Waits until the record of `kid` says when it was published.
fn published_at(dir: &Path, kid: &str) -> String {
    eventually("a record tells of the publication", || field(dir, kid, "Published-At"))
}

fn next_kid(dir: &Path) -> String {
    kid_in(dir.join("next_key.pem")).unwrap()
}

fn current_kid(dir: &Path) -> String {
    kid_in(dir.join("private_key.pem")).unwrap()
}

#[test]
fn rotate_without_a_server_stages_a_key_that_a_server_then_promotes() {
    let dir = dir();
    let (server, current) = started(dir.path(), &QUICK);
    server.stop(Signal::TERM);

    let told = done(jwks(dir.path(), &[&["rotate"][..], &QUICK].concat()));
    let next = next_kid(dir.path());
    assert_eq!(
        told,
        format!(
            "staged   {next}: in next_key.pem\n\
             current  {current}: clients sign with it until then\n\
             The server promotes the next key 2s after a server first publishes it, when every \
             verifier can know it. `rotate --now` would not wait.\n\
             No server runs on this directory: nothing is published now.\n"
        )
    );
    assert_eq!(field(dir.path(), &next, "Published-At"), None, "published to nobody");
    assert_eq!(current_kid(dir.path()), current);
    // Asked again, it stays with the same key, however long ago it was made.
    done(jwks(dir.path(), &[&["rotate"][..], &QUICK].concat()));
    assert_eq!((next_kid(dir.path()), current_kid(dir.path())), (next.clone(), current.clone()));

    let server = Server::start(dir.path(), &QUICK);
    assert_eq!(server.kids(), [&*current, &next]);
    server.serves(&[&next, &current]);
    assert_eq!(current_kid(dir.path()), next);
    assert_eq!(names(dir.path()), ["keys", "private_key.pem"]);
    let published = time(&published_at(dir.path(), &next));
    let activated = eventually("it is recorded", || field(dir.path(), &next, "Activated-At"));
    assert!((time(&activated) - published).num_seconds() >= 2, "{published} {activated}");
}

#[test]
fn rotate_beside_a_server_waits_until_every_verifier_can_know_the_key() {
    let dir = dir();
    let (server, current) = started(dir.path(), &QUICK);
    let mut observer = Observer::of(&server);
    observer.knows_not();
    let told = done(jwks(dir.path(), &["rotate"]));
    let next = next_kid(dir.path());
    observer.becomes_current(&next);
    assert_eq!(
        told,
        format!(
            "staged   {next}: in next_key.pem\n\
             current  {current}: clients sign with it until then\n\
             The server promotes the next key 2s from now, when every verifier can know it. \
             `rotate --now` would not wait.\n"
        )
    );
    // The command follows the rules of the running server, not its own.
    let published = published_at(dir.path(), &next);
    let ready = time(&published) + Duration::from_secs(2);
    let told = done(jwks(dir.path(), &["rotate", "--publish-lead", "2h"]));
    // A kid may have these letters.
    assert!(!told.contains(" 2h "), "{told}");
    server.serves(&[&next, &current]);
    observer.finish();
    let activated = eventually("it is recorded", || field(dir.path(), &next, "Activated-At"));
    assert!(time(&activated) >= ready, "{published} {activated}");
    let removed = eventually("the old one is retired", || field(dir.path(), &current, "Remove-At"));
    let retired = field(dir.path(), &current, "Retired-At").unwrap();
    assert_eq!(time(&removed) - time(&retired), chrono::TimeDelta::hours(1));
    assert_eq!(server.logged("unannounced_activation"), 0);
}

#[test]
fn rotate_promotes_a_key_that_is_ready_at_once() {
    let dir = dir();
    let (server, current) = started(dir.path(), &QUICK);
    // A key that a person put there: nobody asked for its promotion.
    let key = Key::new();
    fs::write(dir.path().join("next_key.pem"), key.sec1()).unwrap();
    server.serves(&[&current, &key.kid()]);
    // A command goes by what the server has kept.
    eventually("its lead is kept", || {
        let kept = fs::read_to_string(dir.path().join("keys/.served")).unwrap_or_default();
        let mut lines = kept.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        lines.any(|line| line[0] == key.kid() && line[3] == "2").then_some(())
    });
    let mut observer = Observer::of(&server);
    observer.becomes_current(&key.kid());
    let told = done(jwks(dir.path(), &["rotate"]));
    assert_eq!(current_kid(dir.path()), key.kid());
    assert_eq!(
        told,
        format!(
            "promoted {}: private_key.pem holds it, and clients sign with it now\n\
             retired  {current}: stays published for 1h\n",
            key.kid()
        )
    );
    server.serves(&[&key.kid(), &current]);
    observer.finish();
}

#[expect(clippy::disallowed_methods, reason = "compared with what the program wrote down")]
fn now_by_the_wall() -> DateTime<Utc> {
    std::time::SystemTime::now().into()
}

/// What `status` says of when something ends that lasts so long: by what was counted since `began`, and as
/// if it went on without a break.
fn assert_ends(told: &Value, began: &str, lasts: Duration) {
    let told = time(told.as_str().unwrap());
    let second = Duration::from_secs(1);
    assert!(time(began) + lasts - second <= told, "{told}: since {began}, {lasts:?}");
    assert!(told <= now_by_the_wall() + lasts + second, "{told}: since {began}, {lasts:?}");
}

#[test]
fn rotate_now_does_not_wait_and_says_what_that_means() {
    let dir = dir();
    let (server, current) = started(dir.path(), &SLOW);
    let mut observer = Observer::of(&server);
    observer.knows_not();
    let told = done(jwks(dir.path(), &["rotate", "--now"]));
    let new = current_kid(dir.path());
    observer.becomes_current(&new);
    assert_ne!(new, current);
    assert_eq!(
        told,
        format!(
            "promoted {new}: private_key.pem holds it, and clients sign with it now\n\
             retired  {current}: stays published for 25h\n\
             warning: the new key was not published for 25h before it signs. Until they fetch the \
             set again, verifiers that hold an older one reject its signatures: Keycloak for up \
             to 11 s, servers that obey Cache-Control for 1m, libraries for 5 to 75 min, and some \
             for 24 h.\n"
        )
    );
    server.serves(&[&new, &current]);
    let mut report = observer.stop();
    // The server may have been faster than the command told of it.
    report.currents[1].1 = Duration::ZERO;
    report.assert_kept();

    // At once again, it would only wear keys out.
    let told = done(jwks(dir.path(), &["rotate", "--now"]));
    assert_eq!(
        told,
        format!(
            "nothing done: {new} replaced {current} less than 1m ago, and caches are still learning it\n"
        )
    );
    assert_eq!(current_kid(dir.path()), new);
}

#[test]
fn a_rotated_key_keeps_the_format_of_the_one_before() {
    let dir = dir();
    let key = Key::new();
    fs::write(dir.path().join("private_key.pem"), key.pkcs8()).unwrap();
    drop(Server::start(dir.path(), &SLOW));
    done(jwks(dir.path(), &["rotate", "--now"]));
    let new = read_current(dir.path());
    let text = fs::read_to_string(dir.path().join("private_key.pem")).unwrap();
    assert_eq!(text, new.pkcs8());
}

/// Runs the same command in many processes at once.
fn many(dir: &Path, args: &[&str]) -> Vec<Finished> {
    let run = || jwks(dir, args);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..50).map(|_| scope.spawn(run)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn fifty_rotations_at_once_are_one() {
    for (args, wait) in [(&["rotate", "--now"][..], false), (&["rotate"], true)] {
        let dir = dir();
        // Long enough that the last of fifty processes counts as at once on a slow machine.
        let rules = ["--publish-lead", "60s", "--retain-for", "1h"];
        let (server, first) = started(dir.path(), &rules);
        let answers = many(dir.path(), args);
        let first_words: Vec<_> = answers
            .into_iter()
            .map(|finished| {
                let told = done(finished);
                told.split_whitespace().next().unwrap().to_owned()
            })
            .collect();
        let count = |word: &str| first_words.iter().filter(|found| *found == word).count();
        if wait {
            assert_eq!(count("staged"), 50, "{first_words:?}");
            let next = next_kid(dir.path());
            server.serves(&[&first, &next]);
            assert_eq!(current_kid(dir.path()), first);
        } else {
            assert_eq!((count("promoted"), count("nothing")), (1, 49), "{first_words:?}");
            server.serves(&[&current_kid(dir.path()), &first]);
            assert_eq!(names(dir.path()), ["keys", "private_key.pem"]);
        }
        assert_eq!(records(dir.path()).len(), 2, "one key was made");
    }
}

#[test]
fn a_rotation_without_a_current_key_is_refused() {
    let dir = dir();
    let finished = jwks(dir.path(), &["rotate"]);
    assert_eq!(
        gave_up(&finished),
        "use private_key.pem: there is no such file; start the server, which makes one"
    );
    assert!(names(dir.path()).is_empty(), "nothing is left behind");
    fs::write(dir.path().join("private_key.pem"), "garbage").unwrap();
    gave_up(&jwks(dir.path(), &["rotate", "--now"]));
    assert_eq!(fs::read(dir.path().join("private_key.pem")).unwrap(), b"garbage");
    assert_eq!(records(dir.path()), []);
}

/// Tries every way by which a revoked key might return, and sees that it does not.
fn never_returns(dir: &Path, server: Server, revoked: &Key) {
    let kid = revoked.kid();
    let kids = server.kids();
    assert!(!kids.contains(&kid));
    let observer = Observer::of(&server);
    fs::write(dir.join("keys/again.pem"), revoked.spki()).unwrap();
    fs::write(dir.join("keys/private-again.pem"), revoked.sec1()).unwrap();
    fs::write(dir.join("next_key.pem"), revoked.sec1()).unwrap();
    eventually("a revoked next key is deleted", || {
        (!dir.join("next_key.pem").exists()).then_some(())
    });
    let good = fs::read(dir.join("private_key.pem")).unwrap();
    fs::write(dir.join("private_key.pem"), revoked.sec1()).unwrap();
    eventually("all three files are reported", || {
        let degraded = server.get("/readyz").json()["degraded"].clone();
        let codes = degraded.as_array().unwrap().iter();
        (codes.filter(|problem| problem["code"] == "revoked_key").count() == 3).then_some(())
    });
    server.has_looked_while(&observer);
    assert_eq!(server.kids(), kids);
    observer.finish();
    server.stop(Signal::TERM);
    // A start with the revoked key in every place.
    fs::write(dir.join("next_key.pem"), revoked.pkcs8()).unwrap();
    let server = Server::start(dir, &SLOW);
    assert_eq!(server.kids(), kids);
    assert_eq!(kid_in(dir.join("private_key.pem")), Some(kid), "a person's file is left alone");
    fs::write(dir.join("private_key.pem"), good).unwrap();
    for name in ["keys/again.pem", "keys/private-again.pem"] {
        fs::remove_file(dir.join(name)).unwrap();
    }
    server.is_degraded_by("[]");
    assert_eq!(server.kids(), kids);
}

#[test]
fn a_revoked_retired_key_is_gone_for_good() {
    let dir = dir();
    let (server, first) = started(dir.path(), &SLOW);
    let old = read_current(dir.path());
    let new = Key::new();
    fs::write(dir.path().join("private_key.pem"), new.sec1()).unwrap();
    server.serves(&[&new.kid(), &first]);
    let mut observer = Observer::of(&server);
    observer.release(&first);
    let told = done(jwks(dir.path(), &["revoke", &first, "--reason", "leaked"]));
    assert_eq!(
        told.lines().next().unwrap(),
        format!("revoked  {first}: out of the set, never to return")
    );
    assert_eq!(told.lines().count(), 2, "{told}");
    server.serves(&[&new.kid()]);
    observer.finish();
    assert_eq!(field(dir.path(), &first, "Revoked-Reason").as_deref(), Some("leaked"));
    assert_eq!(row(dir.path(), &first)["state"], "revoked");
    never_returns(dir.path(), server, &old);
}

#[test]
fn a_revoked_next_key_is_gone_for_good() {
    let dir = dir();
    let (server, current) = started(dir.path(), &SLOW);
    let next = Key::new();
    fs::write(dir.path().join("next_key.pem"), next.sec1()).unwrap();
    server.serves(&[&current, &next.kid()]);
    let mut observer = Observer::of(&server);
    observer.release(&next.kid());
    done(jwks(dir.path(), &["revoke", &next.kid(), "--reason", "test"]));
    server.serves(&[&current]);
    assert!(!dir.path().join("next_key.pem").exists());
    observer.finish();
    never_returns(dir.path(), server, &next);
}

#[test]
fn a_revoked_current_key_is_replaced_by_one_that_was_never_served() {
    let dir = dir();
    let (server, first) = started(dir.path(), &SLOW);
    let old = read_current(dir.path());
    // A standby, which Keycloak would know already, and so would go on with its cached set.
    let next = Key::new();
    fs::write(dir.path().join("next_key.pem"), next.sec1()).unwrap();
    server.serves(&[&first, &next.kid()]);
    let mut observer = Observer::of(&server);
    observer.knows_not();
    observer.release(&first);
    let told = done(jwks(dir.path(), &["revoke", &first, "--reason", "stolen\n\u{1b}[2Jx"]));
    let new = current_kid(dir.path());
    assert!(![&first, &next.kid()].contains(&&new));
    let lines: Vec<_> = told.lines().collect();
    assert_eq!(lines.len(), 3, "{told}");
    assert_eq!(lines[0], format!("revoked  {first}: out of the set, never to return"));
    assert_eq!(
        lines[1],
        format!("current  {new}: in private_key.pem now; clients must sign with it from now on")
    );
    server.serves(&[&new, &next.kid()]);
    let mut report = observer.stop();
    report.currents.push((new.clone(), Duration::ZERO));
    report.assert_kept();
    assert!(!server.log().contains('\u{1b}'), "{}", server.log());
    never_returns(dir.path(), server, &old);
}

#[test]
fn the_only_key_can_be_revoked() {
    let dir = dir();
    let (server, first) = started(dir.path(), &SLOW);
    let mut observer = Observer::of(&server);
    observer.knows_not();
    observer.release(&first);
    done(jwks(dir.path(), &["revoke", &first, "--reason", "test"]));
    let new = current_kid(dir.path());
    server.serves(&[&new]);
    let mut report = observer.stop();
    report.currents.push((new.clone(), Duration::ZERO));
    report.assert_kept();
    // Revoked twice is no error, and changes nothing.
    let again = done(jwks(dir.path(), &["revoke", &first, "--reason", "another"]));
    assert!(again.starts_with(&format!("{first} was revoked at ")), "{again}");
    assert_eq!(field(dir.path(), &first, "Revoked-Reason").as_deref(), Some("test"));
    assert_eq!(current_kid(dir.path()), new);
}

#[test]
fn where_no_other_key_is_known_the_revoked_one_stays_in_the_set_and_that_is_said() {
    let dir = dir();
    let (server, first) = started(dir.path(), &SLOW);
    let file = dir.path().join("private_key.pem");
    fs::write(&file, "not a key").unwrap();
    let told = done(jwks(dir.path(), &["revoke", &first, "--reason", "test"]));
    assert!(told.contains("no other key is known"), "{told}");
    assert!(!told.contains("out of the set"), "{told}");
    server.is_degraded_by(
        r#"[{"code":"no_current_key"},{"code":"refused_file","file":"private_key.pem"},{"code":"unpublished_set"}]"#,
    );
    server.serves(&[&first]);
    fs::remove_file(&file).unwrap();
    server.is_degraded_by("[]");
    server.serves(&[&current_kid(dir.path())]);
}

#[test]
fn a_revocation_without_a_server_holds_for_the_next_one() {
    let dir = dir();
    let (server, first) = started(dir.path(), &SLOW);
    server.stop(Signal::TERM);
    let told = done(jwks(dir.path(), &["revoke", &first, "--reason", "test"]));
    assert_eq!(
        told.lines().last(),
        Some("No server runs on this directory: nothing is published now.")
    );
    let server = Server::start(dir.path(), &SLOW);
    let kids = server.kids();
    assert_eq!(kids, [current_kid(dir.path())]);
    assert_ne!(kids, [first]);
}

#[test]
fn an_unknown_kid_is_refused_with_the_known_ones() {
    let dir = dir();
    let (server, first) = started(dir.path(), &SLOW);
    let dropped = Key::new();
    fs::write(dir.path().join("keys/dropped.pem"), dropped.spki()).unwrap();
    server.serves(&[&first, &dropped.kid()]);
    let unknown = Key::new().kid();
    let mut known = [first.clone(), dropped.kid()];
    known.sort();
    assert_eq!(
        gave_up(&jwks(dir.path(), &["revoke", &unknown, "--reason", "x"])),
        format!("find the key {unknown}; the kids known here are: {}", known.join(", "))
    );
    server.serves(&[&first, &dropped.kid()]);
}

#[test]
fn a_kid_that_begins_with_a_hyphen_is_no_option() {
    let dir = dir();
    for beginning in ["-", "--", "-h", "-V", "-hV", "--help", "--reason", "--port", "---"] {
        let kid = format!("{beginning:A<43}");
        for args in [["revoke", &kid, "--reason", "x"], ["revoke", "--reason", "x", &kid]] {
            let finished = jwks(dir.path(), &args);
            let reason =
                "use private_key.pem: there is no such file; start the server, which makes one";
            assert_eq!(gave_up(&finished), reason, "{kid}");
        }
    }
}

#[test]
fn status_as_json_is_exactly_this() {
    let dir = dir();
    let empty = json!({ "keys": [], "next_action": null, "problems": [] });
    assert_eq!(status(dir.path()), empty);
    assert!(names(dir.path()).is_empty(), "it makes nothing");

    let rules = ["--rotate-every", "90d", "--publish-lead", "1h", "--retain-for", "2h"];
    let (server, first) = started(dir.path(), &rules);
    let next = eventually("a standby is served", || server.kids().get(1).cloned());
    let dropped = Key::new();
    fs::write(dir.path().join("keys/my.pem"), dropped.spki()).unwrap();
    server.serves(&[&first, &dropped.kid(), &next]);
    let published = [&first, &next].map(|kid| published_at(dir.path(), kid));
    let activated = field(dir.path(), &first, "Activated-At").unwrap();
    let shown = |time: DateTime<Utc>| time.format("%Y-%m-%dT%H:%M:%SZ").to_string();
    let found = status(dir.path());
    let ready = found["keys"][2]["ready_at"].clone();
    assert_ends(&ready, &published[1], Duration::from_secs(3_600));
    let due = shown(time(&activated) + Duration::from_secs(90 * 86_400));
    let current_row = json!({
        "kid": first, "state": "current", "published_at": published[0], "activated_at": activated,
        "ready_at": null, "retired_at": null, "remove_at": null, "file": "private_key.pem",
    });
    let dropped_row = json!({
        "kid": dropped.kid(), "state": "dropped", "published_at": null, "activated_at": null,
        "ready_at": null, "retired_at": null, "remove_at": null, "file": "keys/my.pem",
    });
    let next_row = json!({
        "kid": next, "state": "next", "published_at": published[1], "activated_at": null,
        "ready_at": ready, "retired_at": null, "remove_at": null, "file": "next_key.pem",
    });
    assert_eq!(
        found,
        json!({
            "keys": [current_row, dropped_row, next_row],
            "next_action": { "action": "promote", "kid": next, "at": due },
            "problems": [],
        })
    );
    // The same as a table: tabs, no colour, since nobody sits at a terminal.
    let told = done(jwks(dir.path(), &["status"]));
    let ready = told.lines().nth(3).and_then(|line| line.split('\t').nth(4)).unwrap();
    assert_ends(&ready.into(), &published[1], Duration::from_secs(3_600));
    assert_eq!(
        told,
        format!(
            "KID\tSTATE\tPUBLISHED\tACTIVATED\tREADY AT\tRETIRED\tREMOVE AT\tFILE\n\
             {first}\tcurrent\t{}\t{activated}\t-\t-\t-\tprivate_key.pem\n\
             {}\tdropped\t-\t-\t-\t-\t-\tkeys/my.pem\n\
             {next}\tnext\t{}\t-\t{ready}\t-\t-\tnext_key.pem\n\
             next: promote {next} at {due}\n",
            published[0],
            dropped.kid(),
            published[1],
        )
    );

    // After a rotation and a revocation, without a server.
    server.stop(Signal::TERM);
    done(jwks(dir.path(), &[&["rotate", "--now"][..], &rules].concat()));
    done(jwks(dir.path(), &["revoke", &dropped.kid(), "--reason", "test"]));
    fs::remove_file(dir.path().join("keys/my.pem")).unwrap();
    fs::write(dir.path().join("keys/bad.pem"), "garbage").unwrap();
    let record = |kid: &str| {
        let (path, _) = record_of(dir.path(), kid).unwrap();
        format!("keys/{}", path.file_name().unwrap().to_str().unwrap())
    };
    let of = |kid: &str, name: &str| field(dir.path(), kid, name).unwrap();
    let found = status_by(dir.path(), &rules);
    let remove_at = found["keys"][1]["remove_at"].clone();
    assert_ends(&remove_at, &of(&first, "Retired-At"), Duration::from_secs(7_200));
    assert_eq!(
        found,
        json!({
            "keys": [
                {
                    "kid": next, "state": "current", "published_at": published[1],
                    "activated_at": of(&next, "Activated-At"), "ready_at": null,
                    "retired_at": null, "remove_at": null, "file": "private_key.pem",
                },
                {
                    "kid": first, "state": "retired", "published_at": published[0],
                    "activated_at": activated, "ready_at": null,
                    "retired_at": of(&first, "Retired-At"), "remove_at": remove_at,
                    "file": record(&first),
                },
                {
                    "kid": dropped.kid(), "state": "revoked", "published_at": null,
                    "activated_at": null, "ready_at": null, "retired_at": null,
                    "remove_at": null, "file": record(&dropped.kid()),
                },
            ],
            "next_action": null,
            "problems": [{ "file": "keys/bad.pem", "reason": "no PEM block in it" }],
        })
    );
}

#[test]
fn check_exits_with_1_if_anything_is_wrong() {
    let dir = dir();
    let (server, _) = started(dir.path(), &SLOW);
    assert_eq!(done(jwks(dir.path(), &["check"])), "no problems\n");
    // What is allowed and may hurt is no problem.
    assert_eq!(
        done(jwks(dir.path(), &["check", "--retain-for", "9m"])),
        "warning: retain-for 9m is shorter than 10m: assertions that are still valid, or signers \
         that reload the key late, will be rejected\n\
         no problems\n"
    );
    fs::write(dir.path().join("keys/bad.pem"), "garbage").unwrap();
    let finished = jwks(dir.path(), &["check"]);
    assert_eq!(finished.code, Some(1));
    assert_eq!(finished.stdout, "problem: keys/bad.pem: no PEM block in it\n");
    fs::remove_file(dir.path().join("keys/bad.pem")).unwrap();
    drop(server);
    assert_eq!(done(jwks(dir.path(), &["check"])), "no problems\n");
}

#[test]
fn a_token_is_made_only_with_a_key_that_a_server_has_seen() {
    let dir = dir();
    let args = ["assertion", "--client-id", "me", "--audience", "https://as.example"];
    let path = dir.path().join("private_key.pem");
    assert_eq!(gave_up(&jwks(dir.path(), &args)), "use private_key.pem: there is no such file");
    let key = Key::new();
    fs::write(&path, key.sec1()).unwrap();
    assert_eq!(
        gave_up(&jwks(dir.path(), &args)),
        format!(
            "use private_key.pem: the key {} has no record; start the server, which makes one",
            key.kid()
        )
    );
    let server = Server::start(dir.path(), &SLOW);
    let token = done(jwks(dir.path(), &args));
    let (message, signature) = token.trim_end().rsplit_once('.').unwrap();
    let signature = decode(signature);
    let body = server.key_set().body;
    assert!(support::token_verifies(&body, &key.kid(), message.as_bytes(), &signature));
    let header: Value =
        serde_json::from_slice(&decode(message.split_once('.').unwrap().0)).unwrap();
    assert_eq!(header, json!({ "typ": "JWT", "alg": "ES256", "kid": key.kid() }));

    let proof = ["dpop", "--method", "POST", "--url", "https://as.example/token"];
    let token = done(jwks(dir.path(), &proof));
    let (message, signature) = token.trim_end().rsplit_once('.').unwrap();
    assert!(support::token_verifies(&body, &key.kid(), message.as_bytes(), &decode(signature)));

    // A revoked key signs nothing.
    done(jwks(dir.path(), &["revoke", &key.kid(), "--reason", "test"]));
    fs::write(&path, key.sec1()).unwrap();
    for args in [&args[..], &proof] {
        assert_eq!(
            gave_up(&jwks(dir.path(), args)),
            format!("use private_key.pem: the key {} is revoked", key.kid())
        );
    }
}

fn decode(part: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).unwrap()
}

#[test]
fn a_command_that_can_change_nothing_says_so_in_one_line() {
    let dir = dir();
    // Nobody, root included, can make a lock file below this.
    fs::write(dir.path().join("keys"), "").unwrap();
    fs::write(dir.path().join("private_key.pem"), Key::new().sec1()).unwrap();
    let kid = Key::new().kid();
    let commands: [&[&str]; 3] =
        [&["rotate"], &["rotate", "--now"], &["revoke", &kid, "--reason", "x"]];
    for command in commands {
        assert_eq!(
            gave_up(&jwks(dir.path(), command)),
            "lock the key directory: open keys: Not a directory (os error 20)"
        );
    }
}

#[test]
fn two_servers_that_start_cold_make_one_key() {
    for _ in 0..5 {
        let dir = dir();
        let servers: Vec<_> = std::thread::scope(|scope| {
            let start = || Server::try_start(dir.path(), &["--port", "0"], &[]);
            let threads: Vec<_> = (0..3).map(|_| scope.spawn(start)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let servers: Vec<_> = servers
            .into_iter()
            .map(|start| match start {
                Start::Serves(server) => server,
                Start::Ended(finished) => panic!("a server did not start: {finished:?}"),
            })
            .collect();
        let bodies: BTreeSet<_> = servers.iter().map(|server| server.key_set().body).collect();
        assert_eq!(bodies.len(), 1, "{bodies:?}");
        assert_eq!(records(dir.path()).len(), 1);
        let follower = r#"{"status":"degraded","degraded":[{"code":"follower","file":"keys"}]}"#;
        eventually("one keeps the directory and two follow", || {
            let mut roles: Vec<_> = servers.iter().map(Server::readiness).collect();
            roles.sort();
            (roles == [follower, follower, r#"{"status":"ready","degraded":[]}"#]).then_some(())
        });
    }
}

#[test]
fn a_second_server_follows_the_first_and_takes_over_from_it() {
    let dir = dir();
    let (first, current) = started(dir.path(), &QUICK);
    let (second, followed) = started(dir.path(), &QUICK);
    assert_eq!(followed, current);
    second.is_degraded_by(r#"[{"code":"follower","file":"keys"}]"#);
    first.is_degraded_by("[]");
    let observer = Observer::of(&second);
    observer.knows_not();
    done(jwks(dir.path(), &["rotate"]));
    let next = next_kid(dir.path());
    first.serves(&[&next, &current]);
    second.serves(&[&next, &current]);
    let mut report = observer.stop();
    report.currents.push((next.clone(), Duration::ZERO));
    report.assert_kept();
    assert_eq!(records(dir.path()).len(), 2);

    first.kill();
    within(Duration::from_secs(120), "the second takes over", || {
        (second.readiness() == r#"{"status":"ready","degraded":[]}"#).then_some(())
    });
    // A rotation that follows another at once is refused; how soon this is, is the machine's affair.
    let third = eventually("a third key is staged", || {
        done(jwks(dir.path(), &["rotate"]));
        kid_in(dir.path().join("next_key.pem"))
    });
    second.serves(&[&third, &next, &current]);
    second.has_logged("role changed", 1);
}

#[test]
fn a_follower_lets_go_of_what_the_first_server_removed() {
    let dir = dir();
    let rules = ["--publish-lead", "1s", "--retain-for", "2s", "--cache-max-age", "1s"];
    let (first, current) = started(dir.path(), &rules);
    let (second, _) = started(dir.path(), &rules);
    let new = Key::new();
    fs::write(dir.path().join("private_key.pem"), new.sec1()).unwrap();
    for server in [&first, &second] {
        server.serves(&[&new.kid(), &current]);
    }
    for server in [&first, &second] {
        server.serves(&[&new.kid()]);
    }
    // Nor does it bring it back when it takes over.
    first.kill();
    within(Duration::from_secs(120), "the second takes over", || {
        assert_eq!(second.kids(), [new.kid()]);
        (second.readiness() == r#"{"status":"ready","degraded":[]}"#).then_some(())
    });
    assert_eq!(records(dir.path()).len(), 1);
}

#[test]
fn help_names_every_option_with_its_variable() {
    let dir = dir();
    let told = done(jwks(dir.path(), &["--help"]));
    for name in [
        "port",
        "bind",
        "key-file",
        "keys-dir",
        "key-format",
        "rotate-every",
        "publish-lead",
        "retain-for",
        "cache-max-age",
        "max-connections",
        "log-format",
    ] {
        let variable = format!("[env: JWKS_SERVER_{}]", name.to_uppercase().replace('-', "_"));
        assert!(told.contains(&format!("--{name} <")), "{told}");
        assert!(told.contains(&variable), "{variable}: {told}");
    }
    for command in ["serve", "rotate", "revoke", "status", "check", "assertion", "dpop"] {
        assert!(told.contains(&format!("\n  {command} ")), "{told}");
        done(jwks(dir.path(), &[command, "--help"]));
    }
}
