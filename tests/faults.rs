//! Every system call by which a change is made is killed, or fails, once; then a restart must find
//! what verifiers need.
//!
//! These tests need `strace` and a few minutes; `interop/faults/run` runs them.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]
#![allow(clippy::similar_names, reason = "a case has a cast")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use rustix::process::Signal;
use support::{
    Finished, Key, Server, Start, eventually, finish, jwks, kid_in, kids_of, names, pause, program,
    read_current, record_of,
};

/// The calls that open, change or lock a file; a question mark for those that not every machine has.
const CALLS: &str = "?open,openat,?openat2,write,fsync,?rename,renameat,?renameat2,?unlink,\
                     unlinkat,?mkdir,mkdirat,flock,ftruncate";
const RULES: [&str; 6] = ["--publish-lead", "1s", "--retain-for", "1h", "--cache-max-age", "0s"];
/// How many points are tried at once.
const WORKERS: usize = 4;

/// Who takes part in a case.
struct Cast {
    current: Key,
    /// Published long ago, and ready.
    next: Option<Key>,
    /// Retired, and promised for decades.
    promised: Key,
    /// Retired, and to be removed.
    expired: Option<Key>,
    /// What the command revokes.
    revoked: Option<String>,
}

/// What is done while something fails.
struct Case {
    name: &'static str,
    /// The command; none for the server's own rotation.
    command: Option<fn(&Cast) -> Vec<String>>,
    with_next: bool,
    /// Whether a key may sign that was published to nobody.
    in_haste: bool,
}

const CASES: [Case; 7] = [
    Case {
        name: "rotate, which stages a key",
        command: Some(|_| vec!["rotate".into()]),
        with_next: false,
        in_haste: false,
    },
    Case {
        name: "rotate, which promotes a key",
        command: Some(|_| vec!["rotate".into()]),
        with_next: true,
        in_haste: false,
    },
    Case {
        name: "rotate --now",
        command: Some(|_| vec!["rotate".into(), "--now".into()]),
        with_next: false,
        in_haste: true,
    },
    Case {
        name: "revoke of the current key",
        command: Some(|cast| revoke(&cast.current)),
        with_next: true,
        in_haste: true,
    },
    Case {
        name: "revoke of the next key",
        command: Some(|cast| revoke(cast.next.as_ref().unwrap())),
        with_next: true,
        in_haste: false,
    },
    Case {
        name: "revoke of a retired key",
        command: Some(|cast| revoke(&cast.promised)),
        with_next: true,
        in_haste: false,
    },
    Case { name: "the server's own rotation", command: None, with_next: true, in_haste: false },
];

fn revoke(key: &Key) -> Vec<String> {
    ["revoke", &key.kid(), "--reason", "test"].map(str::to_owned).into()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Kill,
    Error(&'static str),
}

/// The n-th call of this name, in whichever thread comes to it first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Point {
    call: String,
    n: usize,
}

impl Case {
    /// Puts everybody in place.
    fn prepare(&self, dir: &Path) -> Cast {
        fs::create_dir(dir.join("keys")).unwrap();
        let cast = Cast {
            current: Key::new(),
            next: self.with_next.then(Key::new),
            promised: Key::new(),
            expired: self.command.is_none().then(Key::new),
            revoked: None,
        };
        let retired = "Activated-At: 2020-01-01T00:00:00Z\nRetired-At: 2020-01-02T00:00:00Z\n";
        record(dir, &cast.current, "Activated-At: 2020-01-02T00:00:00Z\n");
        record(dir, &cast.promised, &format!("{retired}Remove-At: 2099-01-01T00:00:00Z\n"));
        private(&dir.join("private_key.pem"), &cast.current);
        if let Some(next) = &cast.next {
            record(dir, next, "");
            private(&dir.join("next_key.pem"), next);
        }
        if let Some(expired) = &cast.expired {
            record(dir, expired, &format!("{retired}Remove-At: 2020-01-03T00:00:00Z\n"));
        }
        let args = self.command.map(|command| command(&cast)).unwrap_or_default();
        let revoked = (args.first().map(String::as_str) == Some("revoke")).then(|| args[1].clone());
        Cast { revoked, ..cast }
    }

    fn serve_args(&self) -> Vec<&'static str> {
        let mut args = vec!["--port", "0"];
        args.extend(RULES);
        if self.command.is_none() {
            args.extend(["--rotate-every", "90d"]);
        }
        args
    }

    fn args(&self, cast: &Cast) -> Vec<String> {
        match self.command {
            Some(command) => {
                let mut args = command(cast);
                args.extend(RULES.map(str::to_owned));
                args
            }
            None => self.serve_args().into_iter().map(str::to_owned).collect(),
        }
    }

    /// The points of a run without a fault.
    fn points(&self) -> Vec<(Point, String)> {
        let dir = support::dir();
        let trace = dir.path().join("trace");
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        let cast = self.prepare(&root);
        let run = self.run(&root, &cast, &trace, None);
        assert!(!matches!(run, Run::Ended(Finished { code: Some(1..), .. })), "{run:?}");
        if let Run::Serves(server) = run {
            Self::settles(&server, &root, &cast);
            drop(server);
        }
        points(&fs::read_to_string(&trace).unwrap(), root.to_str().unwrap())
    }

    /// Runs the command or the server under `strace`.
    fn run(&self, dir: &Path, cast: &Cast, trace: &Path, inject: Option<(&Point, Fault)>) -> Run {
        let args = self.args(cast);
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        let inner = program(dir, &args);
        let mut command = Command::new("strace");
        command.args(["-f", "-q", "-y", "-o"]).arg(trace);
        command.args(["-e", &format!("trace={CALLS}")]);
        if let Some((Point { call, n }, fault)) = inject {
            let fault = match fault {
                Fault::Kill => "signal=SIGKILL".to_owned(),
                Fault::Error(errno) => format!("error={errno}"),
            };
            command.args(["-e", &format!("inject={call}:{fault}:when={n}")]);
        }
        command.arg(inner.get_program()).args(inner.get_args()).current_dir(dir);
        for (name, _) in inner.get_envs() {
            command.env_remove(name);
        }
        // Lines of the log are calls of `write`, and none of them is of interest.
        command.env("RUST_LOG", "off");
        if self.command.is_some() {
            return Run::Ended(finish(command));
        }
        // What drops the server kills both.
        command.process_group(0);
        match Server::try_spawn(dir, command) {
            Start::Serves(server) => Run::Serves(server),
            Start::Ended(finished) => Run::Ended(finished),
        }
    }

    /// Waits until the rotation is done, and sees that no set lacks a promised key meanwhile.
    fn settles(server: &Server, dir: &Path, cast: &Cast) {
        let next = cast.next.as_ref().unwrap().kid();
        let (current, promised) = (cast.current.kid(), cast.promised.kid());
        let mut round = 0;
        eventually("the rotation is done", || {
            let kids = server.kids();
            for kid in [&next, &current, &promised] {
                assert!(kids.contains(kid), "{kid} is missing: {kids:?}");
            }
            // An event makes the server look; otherwise its next try is 10 s away.
            round += 1;
            if round % 20 == 0 {
                fs::write(dir.join("poke"), "").unwrap();
                fs::remove_file(dir.join("poke")).unwrap();
            }
            let says = |kid: &str, field: &str| {
                record_of(dir, kid).is_some_and(|(_, text)| text.contains(field))
            };
            let expired = cast.expired.as_ref().is_some_and(|key| kids.contains(&key.kid()));
            let promoted = kids[0] == next && says(&current, "Remove-At") && !expired;
            // A kill may have left the record of a key that nobody has; it stays as a retired one.
            let standby = kid_in(dir.join("next_key.pem"))?;
            let staged = kids.last() == Some(&standby) && says(&standby, "Published-At");
            (promoted && staged).then_some(())
        });
    }
}

#[derive(Debug)]
enum Run {
    Ended(Finished),
    Serves(Server),
}

fn record(dir: &Path, key: &Key, state: &str) {
    let kid = key.kid();
    let text = format!(
        "jwks-server key record, version 1\nKid: {kid}\nCreated-At: 2020-01-01T00:00:00Z\n\
         Published-At: 2020-01-01T00:00:00Z\n{state}{}",
        key.spki()
    );
    fs::write(dir.join(format!("keys/20200101T000000Z-{kid}.pem")), text).unwrap();
}

fn private(file: &Path, key: &Key) {
    fs::write(file, key.sec1()).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
}

/// The calls in a trace, each with what it was about.
fn points(trace: &str, root: &str) -> Vec<(Point, String)> {
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut points = BTreeMap::new();
    for line in trace.lines() {
        let (thread, line) = line.split_once(' ').unwrap();
        let Some((call, about)) = line.trim_start().split_once('(') else { continue };
        if line.contains("resumed>") || line.trim_start().starts_with(['-', '+']) {
            continue;
        }
        let n = counts.entry((thread, call)).or_default();
        *n += 1;
        let point = Point { call: call.to_owned(), n: *n };
        let elsewhere = ["\"/lib", "\"/usr", "\"/etc", "\"/proc", "\"/sys", "\"/dev"];
        let ours = about.contains(root) && !elsewhere.iter().any(|path| about.contains(path));
        // Another thread may come to the same number first, and be the one that is hit. If what it
        // writes goes to a terminal or wakes a thread, an error there is another story.
        let about = if ours { about.to_owned() } else { String::new() };
        let known = points.entry(point).or_insert(about);
        if call == "write" && !ours {
            known.clear();
        }
    }
    points.into_iter().collect()
}

/// Tries one fault; returns whether it came to it. Panics if a promise was broken.
fn try_fault(case: &Case, point: &Point, fault: Fault) -> bool {
    let outer = support::dir();
    let dir = outer.path().join("root");
    let trace = outer.path().join("trace");
    fs::create_dir(&dir).unwrap();
    let cast = case.prepare(&dir);
    let run = case.run(&dir, &cast, &trace, Some((point, fault)));
    let mut succeeded = false;
    match (run, fault) {
        (Run::Serves(mut server), Fault::Kill) => {
            eventually("the server is killed, or done", || {
                if !server.runs() {
                    return Some(());
                }
                let kids = kids_of_live(&server)?;
                let removed = !kids.contains(&cast.expired.as_ref()?.kid());
                let staged = kids.last() == kid_in(dir.join("next_key.pem")).as_ref();
                (removed && staged && kids[0] == cast.next.as_ref()?.kid()).then_some(())
            });
        }
        (Run::Serves(server), Fault::Error(_)) => {
            // The step is given up, the set goes on, and the next try works.
            Case::settles(&server, &dir, &cast);
            succeeded = true;
        }
        (Run::Ended(_), Fault::Kill) => {}
        (Run::Ended(finished), Fault::Error(_)) => {
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
        Fault::Error(_) => trace.contains("(INJECTED)"),
    };
    judge(case, &dir, &cast, succeeded || !hit && case.command.is_some());
    hit
}

/// The kids that are served, unless the server is just being killed.
fn kids_of_live(server: &Server) -> Option<Vec<String>> {
    let mut connection = support::Connection::new(server.address());
    Some(kids_of(&connection.key_set().ok()?.body))
}

/// Invariants 3 to 7 on what a fault left behind.
fn judge(case: &Case, dir: &Path, cast: &Cast, succeeded: bool) {
    let file = dir.join("private_key.pem");
    let tombstone =
        |kid: &String| record_of(dir, kid).is_some_and(|(_, text)| text.contains("Revoked-At"));

    // Never without a whole private_key.pem, nor with one that nobody was told of.
    let held = kid_in(&file).expect("private_key.pem holds a key");
    let mut may_sign = vec![cast.current.kid()];
    may_sign.extend(cast.next.as_ref().map(Key::kid));
    assert!(case.in_haste || may_sign.contains(&held), "{held} signs unannounced");
    assert!(record_of(dir, &held).is_some(), "{held} signs without a record");
    for name in ["private_key.pem", "next_key.pem"] {
        if let Ok(metadata) = fs::metadata(dir.join(name)) {
            assert_eq!(metadata.permissions().mode() & 0o777, 0o600, "{name}");
        }
    }
    let revoked = cast.revoked.clone().filter(tombstone);
    assert!(!succeeded || cast.revoked == revoked, "a revocation that succeeded left no tombstone");
    let was_removed = cast.expired.as_ref().is_some_and(|key| record_of(dir, &key.kid()).is_none());

    // The restart.
    let server = Server::start(dir, &case.serve_args()[2..]);
    let before = kid_in(&file);
    let kids = server.kids();
    let after = kid_in(&file);
    let first = Some(kids[0].clone());
    assert!(first == before || first == after, "the current key is not first: {kids:?}");
    let distinct: BTreeSet<_> = kids.iter().collect();
    assert_eq!(distinct.len(), kids.len());
    let promised = [Some(&cast.current), Some(&cast.promised), cast.next.as_ref()];
    for kid in promised.into_iter().flatten().map(Key::kid) {
        if Some(&kid) == revoked.as_ref() {
            assert!(!kids.contains(&kid), "{kid} came back: {kids:?}");
        } else {
            assert!(kids.contains(&kid), "{kid} is missing: {kids:?}");
        }
    }
    if let Some(expired) = &cast.expired {
        assert!(!was_removed || !kids.contains(&expired.kid()), "a removed key came back");
    }
    for dir in [dir, &dir.join("keys")] {
        let left: Vec<_> = names(dir)
            .into_iter()
            .filter(|name| name.to_string_lossy().ends_with(".tmp"))
            .collect();
        assert!(left.is_empty(), "left behind: {left:?}");
    }
    server.is_degraded_by("[]");

    // The next try.
    match case.command {
        None => Case::settles(&server, dir, cast),
        Some(_) => {
            let args = case.args(cast);
            let args: Vec<_> = args.iter().map(String::as_str).collect();
            let finished = jwks(dir, &args);
            assert_eq!(finished.code, Some(0), "the next try: {finished:?}");
        }
    }
    if let Some(revoked) = &cast.revoked {
        eventually("the revoked key is gone", || (!server.kids().contains(revoked)).then_some(()));
        let held = read_current(dir).kid();
        eventually("the current key is first", || (server.kids()[0] == held).then_some(()));
        if *revoked == cast.current.kid() {
            let known = [Some(&cast.promised), cast.next.as_ref()];
            assert!(
                known.into_iter().flatten().all(|key| key.kid() != held),
                "a standby took over"
            );
        }
    }
    server.is_degraded_by("[]");
    assert_eq!(server.stop(Signal::TERM).code, Some(0));
}

/// Tries `faults` at every point of every case; returns how many were tried and what failed.
fn try_all(faults: impl Fn(&Point, &str) -> Vec<Fault>) {
    let mut passed = 0;
    let mut failures = Vec::new();
    for case in &CASES {
        let points = case.points();
        let mut work = Vec::new();
        for (point, about) in &points {
            work.extend(faults(point, about).into_iter().map(|fault| (point, fault)));
        }
        let next = AtomicUsize::new(0);
        let hits = AtomicUsize::new(0);
        let failed = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..WORKERS {
                scope.spawn(|| {
                    while let Some((point, fault)) = work.get(next.fetch_add(1, Ordering::Relaxed))
                    {
                        let tried =
                            catch_unwind(AssertUnwindSafe(|| try_fault(case, point, *fault)));
                        match tried {
                            Ok(hit) => drop(hits.fetch_add(usize::from(hit), Ordering::Relaxed)),
                            Err(panic) => {
                                let why = panic.downcast_ref::<String>().cloned();
                                let why = why.unwrap_or_else(|| "a panic".into());
                                failed
                                    .lock()
                                    .push(format!("{}: {fault:?} at {point:?}: {why}", case.name));
                            }
                        }
                        pause(std::time::Duration::ZERO);
                    }
                });
            }
        });
        let failed = failed.into_inner();
        println!(
            "{}: {} points, {} tries, {} of them came to their call, {} failed",
            case.name,
            points.len(),
            work.len(),
            hits.into_inner(),
            failed.len()
        );
        passed += work.len() - failed.len();
        failures.extend(failed);
    }
    for failure in &failures {
        println!("FAILED {failure}");
    }
    println!("tries: {passed} passed, {} failed", failures.len());
    assert!(failures.is_empty());
    assert!(passed > 100, "too few points were found to prove anything");
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
        // The disk breaks at every point; of what else can happen there, one thing at each.
        let others: &[_] = match point.call.as_str() {
            "open" | "openat" | "openat2" => &["ENOSPC", "EROFS", "EMFILE", "EACCES"],
            "write" | "fsync" | "ftruncate" => &["ENOSPC"],
            "flock" => &["ENOLCK"],
            _ => &["ENOSPC", "EROFS", "EACCES"],
        };
        vec![Fault::Error("EIO"), Fault::Error(others[point.n % others.len()])]
    });
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
        let judged = catch_unwind(AssertUnwindSafe(|| judge(case, outer.path(), &cast, true)));
        assert!(judged.is_err(), "not noticed: {what}");
        println!("noticed: {what}");
    }
    // The positive control.
    let outer = support::dir();
    let cast = CASES[1].prepare(outer.path());
    judge(&CASES[1], outer.path(), &cast, true);
}
