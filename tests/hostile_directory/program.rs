//! What only a process can show of hostile files: how it ends, what it hears of while it serves, what
//! reaches a terminal, and what the commands do.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;

use serde_json::json;

use crate::home::{remove, write};
use crate::support::{
    Key, Observer, Server, Start, dir, eventually, json_of, jwks, kid_in, problems, records,
};
use crate::table::{Case, Verdict, kinds, sizes};

/// What is no key file at all, with the reason.
fn hostile() -> Vec<(Case, String)> {
    let cases = kinds().into_iter().chain(sizes());
    cases
        .filter_map(|case| match &case.verdict {
            Verdict::Refused(reason) => {
                let reason = reason.clone();
                Some((case, reason))
            }
            Verdict::Private(_) | Verdict::Public(_) => None,
        })
        .collect()
}

/// A server that made its own key.
fn started(dir: &Path) -> (Server, String) {
    let server = Server::start(dir, &[]);
    let kid = server.kids().remove(0);
    (server, kid)
}

#[test]
fn a_hostile_private_key_at_a_first_start_ends_it() {
    for (case, reason) in hostile() {
        let dir = dir();
        (case.make)(&dir.path().join("private_key.pem"));
        let Start::Ended(finished) = Server::try_start(dir.path(), &["--port", "0"], &[]) else {
            panic!("the server started with {}", case.what);
        };
        assert_eq!(finished.code, Some(1), "{}", case.what);
        let line = format!("jwks-server: failed to start: private_key.pem: {reason}\n");
        assert_eq!(finished.stderr, line, "{}", case.what);
    }
}

#[test]
fn a_hostile_private_key_changes_nothing_that_was_promised() {
    let dir = dir();
    let file = dir.path().join("private_key.pem");
    let (server, kid) = started(dir.path());
    let pem = fs::read(&file).unwrap();
    let observer = Observer::of(&server);
    for (case, reason) in hostile() {
        remove(&file);
        (case.make)(&file);
        server.is_degraded_by(r#"[{"code":"refused_file","file":"private_key.pem"}]"#);
        assert_eq!(server.kids(), [&*kid], "{}", case.what);
        assert_eq!(problems(dir.path()), [("private_key.pem".into(), reason)], "{}", case.what);
        remove(&file);
        write(&file, &pem);
        server.is_degraded_by("[]");
        let _ = fs::remove_file(dir.path().join("target"));
    }
    observer.finish();
}

#[test]
fn a_hostile_next_key_is_reported_and_no_command_overwrites_it() {
    let dir = dir();
    let file = dir.path().join("next_key.pem");
    let (server, current) = started(dir.path());
    let observer = Observer::of(&server);
    for (case, reason) in hostile() {
        (case.make)(&file);
        server.is_degraded_by(r#"[{"code":"refused_file","file":"next_key.pem"}]"#);
        assert_eq!(problems(dir.path()), [("next_key.pem".into(), reason)], "{}", case.what);
        let refused = jwks(dir.path(), &["rotate"]);
        let line = "jwks-server: failed to use next_key.pem: there is no good key in it, see \
                    `jwks-server check`; mend or delete it\n";
        assert_eq!((refused.code, &*refused.stderr), (Some(1), line), "{}", case.what);
        assert_eq!(records(dir.path()).len(), 1, "{}: nothing was made", case.what);
        assert_eq!(kid_in(dir.path().join("private_key.pem")), Some(current.clone()));
        remove(&file);
        let _ = fs::remove_file(dir.path().join("target"));
        server.is_degraded_by("[]");
    }
    observer.finish();
}

#[test]
fn hostile_files_in_keys_disturb_nobody() {
    let dir = dir();
    let keys = dir.path().join("keys");
    let (mut server, current) = started(dir.path());
    let good = Key::new();
    write(&keys.join("good.pem"), good.sec1());
    server.serves(&[&current, &good.kid()]);
    let observer = Observer::of(&server);
    let mut expected = Vec::new();
    let mut degraded = Vec::new();
    for (n, (case, reason)) in hostile().into_iter().enumerate() {
        let name = format!("hostile-{n:02}.pem");
        (case.make)(&keys.join(&name));
        // Two of them have a file beside them that is no PEM file, and do not need it here.
        let _ = fs::remove_file(keys.join("target"));
        expected.push((format!("keys/{name}"), reason));
        degraded.push(json!({ "code": "refused_file", "file": name }));
    }
    server.is_degraded_by(&json!(degraded).to_string());
    server.has_looked_while(&observer);
    server.has_looked_while(&observer);
    assert_eq!(server.kids(), [&*current, &good.kid()]);
    let found = problems(dir.path());
    assert_eq!(found.len(), expected.len());
    for (file, reason) in &found {
        server.has_logged(&format!("{file}: {reason}"), 1);
        server.has_logged(file, 1);
    }
    let check = jwks(dir.path(), &["check"]);
    let lines: Vec<_> =
        found.iter().map(|(file, reason)| format!("problem: {file}: {reason}")).collect();
    assert_eq!((check.code, check.stdout), (Some(1), lines.join("\n") + "\n"));
    observer.finish();

    for (file, _) in &expected {
        remove(&dir.path().join(file));
    }
    server.is_degraded_by("[]");
    assert!(server.runs());
    for (file, _) in &expected {
        server.has_logged(&format!("resolved: {file}"), 1);
    }
}

/// Something in the place of `keys/`.
type Place = fn(&Path);

/// Exchanges two names, if there is something of each.
fn exchange(one: &Path, other: &Path) -> Option<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).ok()
}

#[test]
fn what_was_dropped_stays_served_when_its_directory_goes() {
    let dir = dir();
    let (keys, away) = (dir.path().join("keys"), dir.path().join("away"));
    let (server, current) = started(dir.path());
    let dropped = Key::new();
    write(&keys.join("good.pem"), dropped.spki());
    server.serves(&[&current, &dropped.kid()]);
    let observer = Observer::of(&server);
    let places: [(&str, Place); 3] = [
        ("nothing", |_| {}),
        ("a file", |keys| fs::write(keys, "").unwrap()),
        ("a link that leads nowhere", |keys| std::os::unix::fs::symlink("gone", keys).unwrap()),
    ];
    for (what, put) in places {
        // In one step, or the server would be quicker and make another.
        put(&away);
        if exchange(&keys, &away).is_none() {
            fs::rename(&keys, &away).unwrap();
        }
        let is_told = || server.readiness().contains(r#""replaced_directory","file":"keys""#);
        eventually(what, || is_told().then_some(()));
        assert_eq!(server.kids(), [&*current, &dropped.kid()], "{what}");
        // If there was nothing, the server makes a directory.
        eventually("it is back", || exchange(&keys, &away));
        eventually("it is not told any more", || (!is_told()).then_some(()));
        assert_eq!(server.kids(), [&*current, &dropped.kid()], "{what}");
        remove(&away);
    }
    observer.finish();
    // From its own directory it goes.
    fs::remove_file(keys.join("good.pem")).unwrap();
    server.serves(&[&current]);
}

/// Names that a terminal, a log or a parser may choke on.
fn strange_names() -> Vec<OsString> {
    let mut names: Vec<OsString> = [
        "new\nline.pem",
        "escape\u{1b}[2J\u{1b}]0;title\u{7}.pem",
        "-rf.pem",
        "\"quoted\\.pem",
        "tab\t.pem",
        "del\u{7f}\u{9b}31m.pem",
        "\u{202e}mep\u{2066}\u{200d}\u{2028}\u{feff}\u{e0041}.pem",
        "20261122T170300Z-notakid.pem",
    ]
    .map(OsString::from)
    .into();
    names.push(OsString::from_vec(b"not-utf8-\xff\xfe.pem".to_vec()));
    names.push(format!("{}.pem", "n".repeat(251)).into());
    names
}

/// No byte of the text does anything to a terminal.
fn assert_plain(what: &str, text: &str) {
    let hidden = ['\u{202e}', '\u{2066}', '\u{200d}', '\u{2028}', '\u{feff}', '\u{e0041}'];
    let bad = |c: &char| c.is_control() && !matches!(c, '\n' | '\t') || hidden.contains(c);
    assert_eq!(text.chars().find(bad), None, "{what}: {text:?}");
}

#[test]
fn strange_names_do_no_harm() {
    for good in [false, true] {
        let dir = dir();
        let keys = dir.path().join("keys");
        let (server, current) = started(dir.path());
        let observer = Observer::of(&server);
        let mut kids = vec![current.clone()];
        let names = strange_names();
        for name in &names {
            let key = Key::new();
            if good {
                kids.push(key.kid());
            }
            let text = if good { key.spki() } else { "garbage".to_owned() };
            by_rename_beside(&keys.join(name), &text);
        }
        kids.sort();
        eventually("all is seen", || {
            let mut found = server.kids();
            found.sort();
            let degraded = server.get("/readyz").json()["degraded"].as_array().unwrap().len();
            let expected = if good { 0 } else { names.len() };
            (found == kids && degraded == expected).then_some(())
        });
        let mut report = observer.stop();
        report.known = None;
        report.assert_kept();
        assert_plain("log", &server.log());
        assert_plain("readyz", &server.readiness());

        let status = jwks(dir.path(), &["status"]);
        assert_eq!(status.code, Some(0), "{status:?}");
        assert_plain("status", &status.stdout);
        let rows = 3 + names.len();
        assert_eq!(status.stdout.lines().count(), rows, "{}", status.stdout);
        let check = jwks(dir.path(), &["check"]);
        assert_plain("check", &check.stdout);
        assert_eq!(check.code, Some(i32::from(!good)), "{check:?}");
        let json = jwks(dir.path(), &["status", "--json"]);
        assert_plain("status --json", &json.stdout);
        let json = json_of(dir.path(), &["status", "--json"]);
        assert_eq!(json["problems"].as_array().unwrap().len(), if good { 0 } else { names.len() });
        assert_eq!(json["keys"].as_array().unwrap().len(), kids.len());
    }
}

/// Into place in one step, by way of a name of bounded length.
fn by_rename_beside(file: &Path, text: &str) {
    let new = file.with_file_name(".new");
    write(&new, text);
    fs::rename(new, file).unwrap();
}
