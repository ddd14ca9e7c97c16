//! A person changes the files by every means there is, beside a server that serves all the while.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod support;

use std::fs::{self, File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::process::Signal;
use support::{
    Key, Observer, Server, Start, dir, eventually, json_of, jwks, names, now, pause, problems,
    read_current, record_of, records,
};

/// A server that made its own key.
fn started(dir: &Path) -> (Server, String) {
    let server = Server::start(dir, &[]);
    let kid = server.kids().remove(0);
    (server, kid)
}

/// A private file as a person puts it beside the others.
fn write(file: &Path, text: &str) {
    fs::write(file, text).unwrap();
    fs::set_permissions(file, Permissions::from_mode(0o600)).unwrap();
}

/// Whether the server hears of changes; without events it finds them by looking every 10 s.
fn has_events(server: &Server) -> bool {
    let has = server.logged("no_file_events") == 0;
    if !has {
        println!("there are no file events on this machine; the sweep is tested alone");
    }
    has
}

/// How long each of several changes took to be served.
///
/// Each follows the look that found the one before it. Had the sweep found them, each would have
/// taken 10 s; so one that took less than half proves that events were heard, however slow the
/// machine is.
#[derive(Default)]
struct Lags(Vec<Duration>);

impl Lags {
    fn measure(&mut self, what: &str, server: &Server, first: &str) {
        let began = now();
        eventually(what, || (server.kids()[0] == first).then_some(()));
        self.0.push(began.elapsed());
        println!("served after {:?}: {what}", began.elapsed());
    }

    fn tell_of_events(&self, server: &Server) {
        assert!(self.are_by_event() || !has_events(server), "{:?}", self.0);
        assert!(self.0.iter().max() < Some(&Duration::from_secs(20)), "{:?}", self.0);
    }

    fn are_by_event(&self) -> bool {
        self.0.iter().min() < Some(&Duration::from_secs(5))
    }
}

fn states(dir: &Path) -> Vec<(String, String)> {
    let status = json_of(dir, &["status", "--json"]);
    let keys = status["keys"].as_array().unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    keys.iter().map(|key| (text(&key["kid"]), text(&key["state"]))).collect()
}

/// A way of replacing a file.
type Replace = fn(&Path, &str);

fn by_rename(file: &Path, text: &str) {
    let new = file.with_extension("new");
    write(&new, text);
    fs::rename(new, file).unwrap();
}

fn by_copy(file: &Path, text: &str) {
    fs::write(file, text).unwrap();
}

fn byte_by_byte(file: &Path, text: &str) {
    let mut file = File::create(file).unwrap();
    for byte in text.bytes() {
        file.write_all(&[byte]).unwrap();
        pause(Duration::from_millis(2));
    }
}

fn without_truncation(file: &Path, text: &str) {
    let mut file = File::options().write(true).open(file).unwrap();
    for part in text.as_bytes().chunks(50) {
        file.write_all(part).unwrap();
        pause(Duration::from_millis(20));
    }
    file.set_len(text.len() as u64).unwrap();
}

fn with_the_same_mtime(file: &Path, text: &str) {
    let modified = fs::metadata(file).unwrap().modified().unwrap();
    let new = file.with_extension("new");
    write(&new, text);
    File::options().write(true).open(&new).unwrap().set_modified(modified).unwrap();
    fs::rename(new, file).unwrap();
}

fn with_an_older_mtime(file: &Path, text: &str) {
    let new = file.with_extension("new");
    write(&new, text);
    let past = SystemTime::UNIX_EPOCH + Duration::from_secs(978_307_200);
    File::options().write(true).open(&new).unwrap().set_modified(past).unwrap();
    fs::rename(new, file).unwrap();
}

fn after_a_deletion(file: &Path, text: &str) {
    fs::remove_file(file).unwrap();
    write(file, text);
}

fn as_a_link(file: &Path, text: &str) {
    let target = file.with_extension("target");
    let link = file.with_extension("link");
    write(&target, text);
    symlink(target.file_name().unwrap(), &link).unwrap();
    fs::rename(link, file).unwrap();
}

const WAYS: [(&str, Replace); 9] = [
    ("a rename", by_rename),
    ("a second rename", by_rename),
    ("a copy over it", by_copy),
    ("a write of one byte after another", byte_by_byte),
    ("a write in place", without_truncation),
    ("a rename of a file of the same mtime", with_the_same_mtime),
    ("a rename of a file from 2001", with_an_older_mtime),
    ("a deletion and a new file", after_a_deletion),
    ("a symbolic link", as_a_link),
];

#[test]
fn a_private_key_that_is_replaced_by_any_means_is_served_and_the_old_ones_still_are() {
    let dir = dir();
    let (server, first) = started(dir.path());
    let file = dir.path().join("private_key.pem");
    let mut observer = Observer::of(&server);
    let mut kids = vec![first];
    for (n, (way, replace)) in WAYS.iter().enumerate() {
        let mut replace_once = |_| {
            let key = Key::new();
            observer.becomes_current(&key.kid());
            let text = if n % 2 == 0 { key.sec1() } else { key.pkcs8() };
            replace(&file, &text);
            let mut lags = Lags::default();
            lags.measure(way, &server, &key.kid());
            observer.promise(&key.kid());
            kids.insert(0, key.kid());
            // Retired within one second, they stand in the order of their kids.
            let mut found = server.kids();
            assert_eq!(found[0], kids[0]);
            found.sort();
            let mut expected = kids.clone();
            expected.sort();
            assert_eq!(found, expected);
            lags.are_by_event()
        };
        // A machine may be very slow once.
        assert!((0..3).any(&mut replace_once) || !has_events(&server), "{way} makes no event");
    }
    server.is_degraded_by("[]");
    observer.finish();
    let expected: Vec<_> =
        (0..kids.len()).map(|n| if n == 0 { "current" } else { "retired" }).collect();
    let found: Vec<_> = states(dir.path()).into_iter().map(|(_, state)| state).collect();
    assert_eq!(found, expected);
}

/// The kernel tells of a change in the directory by whose name for the file it was made, and no other.
#[test]
fn a_change_that_makes_no_event_is_served_after_the_next_sweep() {
    let dir = dir();
    let (server, first) = started(dir.path());
    let (old, new) = (Key::new(), Key::new());
    let (inside, outside) = (dir.path().join("keys/a.pem"), dir.path().join("outside"));
    fs::create_dir(&outside).unwrap();
    fs::write(&inside, old.spki()).unwrap();
    fs::hard_link(&inside, outside.join("a.pem")).unwrap();
    server.serves(&[&first, &old.kid()]);
    // Until the look that follows the last event is over.
    pause(Duration::from_millis(300));
    fs::write(outside.join("a.pem"), new.spki()).unwrap();
    let began = now();
    server.serves(&[&first, &new.kid()]);
    println!("served after {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[test]
fn a_key_that_is_replaced_without_a_lead_is_reported() {
    let dir = dir();
    let (server, _) = started(dir.path());
    let key = Key::new();
    by_rename(&dir.path().join("private_key.pem"), &key.sec1());
    eventually("it is reported", || (server.logged("unannounced_activation") == 1).then_some(()));
    eventually("it is served", || (server.logged(&key.kid()) == 2).then_some(()));
}

#[test]
fn a_pem_in_keys_is_served_while_it_is_there() {
    let dir = dir();
    let (server, current) = started(dir.path());
    let mut observer = Observer::of(&server);
    let (a, b, c) = (Key::new(), Key::new(), Key::new());
    let keys = dir.path().join("keys");
    for key in [&a, &b, &c] {
        observer.allow(&key.kid());
    }
    write(&keys.join("a.pem"), &a.sec1());
    server.serves(&[&current, &a.kid()]);
    observer.promise(&a.kid());
    by_rename(&keys.join("b.pem"), &b.pkcs8());
    server.serves(&[&current, &a.kid(), &b.kid()]);
    observer.promise(&b.kid());
    byte_by_byte(&keys.join("c.pem"), &c.spki());
    server.serves(&[&current, &a.kid(), &b.kid(), &c.kid()]);
    observer.promise(&c.kid());
    server.is_degraded_by("[]");
    // The same key in a second file is served once, and until the last file is gone.
    write(&keys.join("0.pem"), &c.spki());
    server.serves(&[&current, &c.kid(), &a.kid(), &b.kid()]);
    fs::remove_file(keys.join("c.pem")).unwrap();
    server.has_looked_while(&observer);
    server.serves(&[&current, &c.kid(), &a.kid(), &b.kid()]);

    // A copy of a dropped key into place is a rotation without a gap.
    observer.becomes_current(&a.kid());
    by_copy(&dir.path().join("private_key.pem"), &a.sec1());
    server.serves(&[&a.kid(), &current, &c.kid(), &b.kid()]);
    // From then on the server remembers it, and the dropped file is of no account.
    fs::remove_file(keys.join("a.pem")).unwrap();
    for (name, key) in [("b.pem", &b), ("0.pem", &c)] {
        observer.release(&key.kid());
        fs::remove_file(keys.join(name)).unwrap();
    }
    server.serves(&[&a.kid(), &current]);
    observer.finish();
}

#[test]
fn a_kubernetes_swap_is_served_each_time() {
    let dir = dir();
    let root = dir.path();
    let mount = |dir: &Path, n: usize, name: &str, text: &str| {
        let version = format!("..{n}");
        fs::create_dir(dir.join(&version)).unwrap();
        write(&dir.join(&version).join(name), text);
        symlink(&version, dir.join("..data_tmp")).unwrap();
        fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
        if n > 0 {
            fs::remove_dir_all(dir.join(format!("..{}", n - 1))).unwrap();
        }
    };
    let first = Key::new();
    mount(root, 0, "private_key.pem", &first.sec1());
    symlink("..data/private_key.pem", root.join("private_key.pem")).unwrap();
    let (server, _) = started(root);
    let mut observer = Observer::of(&server);
    let mut lags = Lags::default();
    for n in 1..=8 {
        let key = Key::new();
        observer.becomes_current(&key.kid());
        mount(root, n, "private_key.pem", &key.pkcs8());
        lags.measure("a swap", &server, &key.kid());
        observer.promise(&key.kid());
    }
    lags.tell_of_events(&server);
    // Swaps that come faster than anybody can look: the last one counts.
    let mut last = String::new();
    for n in 9..=40 {
        let key = Key::new();
        observer.becomes_current(&key.kid());
        mount(root, n, "private_key.pem", &key.sec1());
        last = key.kid();
    }
    lags.measure("the last of many swaps", &server, &last);

    // The same for a mounted directory below `keys/`.
    let keys = root.join("keys");
    symlink("..data/extra.pem", keys.join("extra.pem")).unwrap();
    let mut before: Option<String> = None;
    for n in 0..4 {
        let key = Key::new();
        observer.allow(&key.kid());
        mount(&keys, n, "extra.pem", &key.spki());
        eventually("a swap below keys/", || {
            let kids = server.kids();
            let old_is_gone = before.as_ref().is_none_or(|kid| !kids.contains(kid));
            (kids.contains(&key.kid()) && old_is_gone).then_some(())
        });
        before = Some(key.kid());
    }
    server.is_degraded_by("[]");
    observer.finish();
}

#[test]
fn what_changes_where_links_lead_is_heard() {
    let dir = dir();
    let root = dir.path();
    let at = |path: &str| root.join(path);
    for version in ["v1", "v2"] {
        fs::create_dir_all(at(version).join("vault")).unwrap();
        fs::create_dir_all(at(version).join("keys/sub")).unwrap();
    }
    let keys: Vec<_> = (0..6).map(|_| Key::new()).collect();
    let put = |path: &str, text: &str| by_rename(&at(path), text);
    let link = |target: &str, name: &str| {
        symlink(target, at("new")).unwrap();
        fs::rename(at("new"), at(name)).unwrap();
    };
    put("v1/vault/secret", &keys[0].sec1());
    put("v2/vault/secret", &keys[2].sec1());
    for version in ["v1", "v2"] {
        link("vault/secret", &format!("{version}/private_key.pem"));
        link("sub/extra", &format!("{version}/keys/extra.pem"));
    }
    link("v1", "live");
    let server = Server::start(root, &["--key-file", "live/private_key.pem"]);
    let mut lags = Lags::default();
    let current = |n: usize| move |kids: &[String], keys: &[Key]| kids[0] == keys[n].kid();
    let has = |n: usize| move |kids: &[String], keys: &[Key]| kids.contains(&keys[n].kid());
    let mut shows = |what: &str, is_so: &dyn Fn(&[String], &[Key]) -> bool| {
        let began = now();
        eventually(what, || is_so(&server.kids(), &keys).then_some(()));
        lags.0.push(began.elapsed());
    };
    put("v1/vault/secret", &keys[1].sec1());
    shows("a private key behind a link, replaced", &current(1));
    put("v1/keys/sub/extra", &keys[3].spki());
    shows("what a link in keys/ did not find, made", &has(3));
    fs::write(at("v1/keys/sub/extra"), keys[4].spki()).unwrap();
    shows("a dropped key behind a link, written", &has(4));
    link("v2", "live");
    shows("a directory behind a link, swapped", &current(2));
    put("v2/vault/secret", &keys[5].sec1());
    shows("a private key in the new one, replaced", &current(5));
    println!("{:?}", lags.0);
    // The sweep would have found each 10 s after the one before.
    let by_event = lags.0.iter().all(|lag| *lag < Duration::from_secs(8));
    assert!(by_event || !has_events(&server), "{:?}", lags.0);
}

#[test]
fn keys_that_is_deleted_and_made_again_loses_nothing() {
    let dir = dir();
    let keys = dir.path().join("keys");
    let (server, first) = started(dir.path());
    let second = Key::new();
    by_rename(&dir.path().join("private_key.pem"), &second.sec1());
    server.serves(&[&second.kid(), &first]);
    let third = Key::new();
    write(&dir.path().join("next_key.pem"), &third.sec1());
    server.serves(&[&second.kid(), &first, &third.kid()]);
    let revoked = Key::new();
    write(&keys.join("revoked.pem"), &revoked.spki());
    server.serves(&[&second.kid(), &first, &revoked.kid(), &third.kid()]);
    let done = jwks(dir.path(), &["revoke", &revoked.kid(), "--reason", "test"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    server.serves(&[&second.kid(), &first, &third.kid()]);
    fs::remove_file(keys.join("revoked.pem")).unwrap();
    let before = eventually("all records are complete", || {
        let records = records(dir.path());
        let published = |text: &str| text.contains("Published-At") || text.contains("Revoked-At");
        let complete = records.iter().all(|(_, text)| published(text));
        (records.len() == 4 && complete).then_some(records)
    });

    let observer = Observer::of(&server);
    let remove = || {
        // The server may write into it meanwhile.
        eventually("keys/ is deleted", || fs::remove_dir_all(&keys).ok());
    };
    let ways: [(&str, &dyn Fn()); 4] = [
        ("deleted", &remove),
        ("deleted and made again", &|| {
            remove();
            // The server may have been first.
            let _ = fs::create_dir(&keys);
        }),
        ("moved away", &|| fs::rename(&keys, dir.path().join("away")).unwrap()),
        ("emptied", &|| {
            for (file, _) in records(dir.path()) {
                fs::remove_file(file).unwrap();
            }
        }),
    ];
    for (way, change) in ways {
        change();
        eventually(way, || (records(dir.path()) == before).then_some(()));
        server.is_degraded_by("[]");
    }
    // The new directory is watched as the first one was.
    let mut lags = Lags::default();
    for _ in 0..3 {
        let began = now();
        let key = Key::new();
        observer.allow(&key.kid());
        write(&keys.join("late.pem"), &key.spki());
        eventually("a key in the new keys/", || server.kids().contains(&key.kid()).then_some(()));
        lags.0.push(began.elapsed());
    }
    println!("in the new directory: {:?}", lags.0);
    lags.tell_of_events(&server);
    observer.finish();
    // A revoked key does not come back by way of a deleted tombstone.
    write(&keys.join("late.pem"), &revoked.spki());
    server.serves(&[&second.kid(), &first, &third.kid()]);
}

#[test]
fn a_next_key_that_is_put_in_place_is_published() {
    let dir = dir();
    let (server, current) = started(dir.path());
    let mut observer = Observer::of(&server);
    let next = Key::new();
    observer.allow(&next.kid());
    byte_by_byte(&dir.path().join("next_key.pem"), &next.pkcs8());
    server.serves(&[&current, &next.kid()]);
    observer.promise(&next.kid());
    let expected = [(current.clone(), "current".into()), (next.kid(), "next".into())];
    assert_eq!(states(dir.path()), expected);
    // The rename that the server would do.
    observer.becomes_current(&next.kid());
    fs::rename(dir.path().join("next_key.pem"), dir.path().join("private_key.pem")).unwrap();
    server.serves(&[&next.kid(), &current]);
    let expected = [(next.kid(), "current".into()), (current, "retired".into())];
    eventually("the records follow", || (states(dir.path()) == expected).then_some(()));
    observer.finish();
}

#[test]
fn a_next_key_that_is_taken_away_was_promised() {
    let dir = dir();
    let (server, current) = started(dir.path());
    let next = Key::new();
    write(&dir.path().join("next_key.pem"), &next.sec1());
    server.serves(&[&current, &next.kid()]);
    let observer = Observer::of(&server);
    // Somebody may sign with it from now on.
    fs::remove_file(dir.path().join("next_key.pem")).unwrap();
    let expected = [(current, "current".into()), (next.kid(), "retired".into())];
    eventually("it is retired", || (states(dir.path()) == expected).then_some(()));
    server.has_looked_while(&observer);
    observer.finish();
}

#[test]
fn a_private_key_that_vanishes_while_the_server_runs_is_still_served_and_reported() {
    let dir = dir();
    let file = dir.path().join("private_key.pem");
    let (server, current) = started(dir.path());
    let pem = fs::read(&file).unwrap();
    let record = record_of(dir.path(), &current);
    let observer = Observer::of(&server);
    let away = dir.path().join("away");
    fs::rename(&file, &away).unwrap();
    server.is_degraded_by(r#"[{"code":"missing_private_key","file":"private_key.pem"}]"#);
    server.has_looked_while(&observer);
    assert_eq!(names(dir.path()), ["away", "keys"], "no key was made");
    assert_eq!(server.kids(), [&*current]);
    let reason = "there is no such file; the key that it held last is still served";
    assert_eq!(problems(dir.path()), [("private_key.pem".into(), reason.into())]);

    fs::rename(&away, &file).unwrap();
    server.is_degraded_by("[]");
    server.has_logged("resolved: private_key.pem", 1);
    observer.finish();
    assert_eq!(fs::read(&file).unwrap(), pem);
    assert_eq!(record_of(dir.path(), &current), record);
}

#[test]
fn a_key_that_was_overwritten_while_no_server_ran_is_published_as_retired() {
    let dir = dir();
    let (server, old) = started(dir.path());
    server.stop(Signal::TERM);
    let new = Key::new();
    by_copy(&dir.path().join("private_key.pem"), &new.sec1());
    let server = Server::start(dir.path(), &[]);
    // From the very first answer.
    assert_eq!(server.kids(), [&*new.kid(), &old]);
    let expected = [(new.kid(), "current".into()), (old, "retired".into())];
    assert_eq!(states(dir.path()), expected);
}

#[test]
fn a_missing_private_key_at_start_is_the_next_key() {
    let dir = dir();
    let (server, old) = started(dir.path());
    let next = Key::new();
    write(&dir.path().join("next_key.pem"), &next.pkcs8());
    server.serves(&[&old, &next.kid()]);
    server.stop(Signal::TERM);
    fs::remove_file(dir.path().join("private_key.pem")).unwrap();
    let server = Server::start(dir.path(), &[]);
    assert_eq!(server.kids(), [&*next.kid(), &old]);
    assert_eq!(names(dir.path()), ["keys", "private_key.pem"]);
    let pem = fs::read_to_string(dir.path().join("private_key.pem")).unwrap();
    assert_eq!(pem, next.pkcs8());
}

#[test]
fn a_missing_private_key_at_start_is_made_and_the_recorded_ones_stay() {
    let dir = dir();
    let (server, old) = started(dir.path());
    server.stop(Signal::TERM);
    fs::remove_file(dir.path().join("private_key.pem")).unwrap();
    let server = Server::start(dir.path(), &[]);
    let new = read_current(dir.path()).kid();
    assert_ne!(new, old);
    assert_eq!(server.kids(), [&*new, &old]);
    let expected = [(new, "current".into()), (old, "retired".into())];
    assert_eq!(states(dir.path()), expected);
}

#[test]
fn a_directory_that_cannot_be_written_is_served() {
    let dir = dir();
    let file = dir.path().join("private_key.pem");
    let key = Key::new();
    write(&file, &key.sec1());
    // Neither root nor anybody else can make a lock file below this.
    fs::write(dir.path().join("keys"), "").unwrap();
    let server = Server::start(dir.path(), &[]);
    assert_eq!(server.kids(), [key.kid()]);
    let degraded =
        r#"[{"code":"read_only","file":"keys"},{"code":"unreadable_directory","file":"keys"}]"#;
    server.is_degraded_by(degraded);
    let told = jwks(dir.path(), &["status"]).done();
    assert!(
        told.contains("next: nothing, since nothing can be changed\nproblem: keys: "),
        "{told}"
    );
    assert!(told.contains("problem: keys: cannot be written: "), "{told}");
    assert_eq!(jwks(dir.path(), &["check"]).code, Some(1));
    jwks(dir.path(), &["assertion", "--client-id", "a", "--audience", "b"]).done();
    // The overlap is kept in memory.
    let mut observer = Observer::of(&server);
    let new = Key::new();
    observer.becomes_current(&new.kid());
    by_rename(&file, &new.sec1());
    server.serves(&[&new.kid(), &key.kid()]);
    observer.finish();
    assert_eq!(names(dir.path()), ["keys", "private_key.pem"]);
    // When it can be written again, it is.
    fs::remove_file(dir.path().join("keys")).unwrap();
    server.is_degraded_by("[]");
    assert_eq!(server.kids(), [new.kid(), key.kid()]);
    assert_eq!(records(dir.path()).len(), 2);
}

#[test]
fn a_directory_that_cannot_be_written_and_has_no_key_ends_the_start() {
    let dir = dir();
    fs::write(dir.path().join("keys"), "").unwrap();
    let Start::Ended(finished) = Server::try_start(dir.path(), &["--port", "0"], &[]) else {
        panic!("the server started without a key");
    };
    assert_eq!(finished.code, Some(1));
    assert_eq!(
        finished.stderr,
        "jwks-server: failed to start: there is no key in private_key.pem and none can be made: \
         open keys: Not a directory (os error 20)\n"
    );
    assert_eq!(names(dir.path()), ["keys"]);
}
