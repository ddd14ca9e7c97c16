//! What the system refuses after the start, and what nobody reads, ends and stalls nothing.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod support;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{FileType, Mode};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};
use support::{Connection, Key, Server, Start, dir, eventually, program};

/// A server that becomes a user of whom nothing else runs, in a directory of hers, and who may have so
/// many threads; none unless this is root.
fn confined(dir: &Path, threads: u32) -> Option<(Server, u32)> {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can start a process of a user who has no other");
        return None;
    }
    let user = 3_000_000 + 10 * std::process::id() + threads;
    std::os::unix::fs::chown(dir, Some(user), Some(user)).unwrap();
    let mut command = Command::new("prlimit");
    command.arg(format!("--nproc={threads}")).arg(program(dir, &[]).get_program());
    command.args(["--port", "0"]).current_dir(dir);
    match Server::try_spawn(dir, command) {
        Start::Serves(server) => Some((server, user)),
        Start::Ended(finished) => panic!("the server did not start: {finished:?}"),
    }
}

/// The threads of a process, with their names.
fn threads(server: &Server) -> BTreeMap<String, String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
    tasks
        .flatten()
        .filter_map(|task| {
            let name = fs::read_to_string(task.path().join("comm")).ok()?;
            Some((task.file_name().into_string().unwrap(), name.trim().to_owned()))
        })
        .collect()
}

fn limit(server: &Server, resource: Resource, current: Option<u64>) {
    let pid = Pid::from_raw(server.pid().try_into().unwrap());
    let maximum = getrlimit(resource).maximum;
    prlimit(pid, resource, Rlimit { current, maximum }).unwrap();
}

#[test]
fn no_thread_is_made_after_the_start() {
    let dir = dir();
    let Some((server, user)) = confined(dir.path(), 5) else { return };
    let current = server.kids().remove(0);
    let names = ["disk", "jwks-server", "log", "notify-rs inoti"];
    let before = eventually("only the threads that stay are there", || {
        let threads = threads(&server);
        let mut found: Vec<_> = threads.values().map(String::as_str).collect();
        found.sort_unstable();
        (found == names).then_some(threads)
    });
    // Another process of that user takes the last slot.
    let mut other = Command::new("sleep").arg("600").uid(user).spawn().unwrap();
    let key = Key::new();
    fs::write(dir.path().join("keys/new.pem"), key.spki()).unwrap();
    server.serves(&[&current, &key.kid()]);
    let new = Key::new();
    // Its mode and owner stay.
    fs::write(dir.path().join("private_key.pem"), new.sec1()).unwrap();
    server.serves(&[&new.kid(), &current, &key.kid()]);
    assert_eq!(threads(&server), before, "the very same");
    other.kill().unwrap();
    other.wait().unwrap();
    assert_eq!(server.stop(Signal::TERM).code, Some(0));
}

#[test]
fn a_thread_that_notify_cannot_have_leads_to_the_sweep_and_is_asked_for_again() {
    let dir = dir();
    // One for each thread but notify's, until the one that says where the set is has said so.
    let Some((server, _)) = confined(dir.path(), 4) else { return };
    eventually("it is told", || (server.logged("no thread can be had") > 0).then_some(()));
    eventually("it is tried again", || {
        server.signal(Signal::HUP);
        (server.readiness() == r#"{"status":"ready","degraded":[]}"#).then_some(())
    });
    let current = server.kids().remove(0);
    let key = Key::new();
    fs::write(dir.path().join("keys/new.pem"), key.spki()).unwrap();
    server.serves(&[&current, &key.kid()]);
}

#[test]
fn without_descriptors_what_was_served_stays_and_is_tried_again() {
    let dir = dir();
    let server = Server::start(dir.path(), &[]);
    let current = server.kids().remove(0);
    let mut connection = Connection::new(server.address());
    let before = connection.key_set().unwrap().body;
    let full = getrlimit(Resource::Nofile).current;
    limit(&server, Resource::Nofile, Some(3));
    let key = Key::new();
    fs::write(dir.path().join("keys/new.pem"), key.spki()).unwrap();
    eventually("it is reported", || (server.logged("unreadable_directory") > 0).then_some(()));
    assert_eq!(connection.key_set().unwrap().body, before);
    limit(&server, Resource::Nofile, full);
    server.serves(&[&current, &key.kid()]);
    server.is_degraded_by("[]");
}

#[test]
fn a_start_waits_for_what_may_pass() {
    let dir = dir();
    let mut command = Command::new("sh");
    let (few, more) = ("--nofile=16:1024", "--nofile=1024:1024");
    let script = "prlimit --pid $$ $2; (sleep 0.5; prlimit --pid $$ $3) & exec \"$1\" --port 0";
    command.args(["-c", script, "sh"]).arg(program(dir.path(), &[]).get_program());
    command.args([few, more]).current_dir(dir.path());
    let Start::Serves(server) = Server::try_spawn(dir.path(), command) else {
        panic!("the server did not wait");
    };
    println!("{}", server.log());
    assert_eq!(server.kids().len(), 1);
}

#[test]
fn a_log_that_nobody_reads_holds_nothing_up_and_what_is_lost_is_counted() {
    for is_read_at_last in [false, true] {
        let dir = dir();
        let keys = dir.path().join("keys");
        fs::create_dir(&keys).unwrap();
        // A line for each, together more than may wait.
        for n in 0..1500 {
            fs::write(keys.join(format!("{}{n}.pem", "x".repeat(200))), "").unwrap();
        }
        let outside = support::dir();
        let pipe = outside.path().join("pipe");
        let (kind, mode) = (FileType::Fifo, Mode::RUSR | Mode::WUSR);
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, kind, mode, 0).unwrap();
        let mut reader = File::options().read(true).write(true).open(&pipe).unwrap();
        let mut command = Command::new("sh");
        let server = program(dir.path(), &[]);
        command.args(["-c", "exec \"$1\" --port 0 2>\"$2\"", "sh"]);
        command.arg(server.get_program()).arg(&pipe).current_dir(dir.path());
        let Start::Serves(server) = Server::try_spawn(dir.path(), command) else {
            panic!("the server did not start");
        };
        let current = server.kids().remove(0);
        let key = Key::new();
        fs::write(keys.join("a.pem"), key.spki()).unwrap();
        server.serves(&[&current, &key.kid()]);
        assert_eq!(server.get("/readyz").status, 200);
        if is_read_at_last {
            let mut told = Vec::new();
            while !String::from_utf8_lossy(&told).contains("lines of the log were lost") {
                let mut part = [0; 4096];
                let read = reader.read(&mut part).unwrap();
                told.extend(&part[..read]);
            }
        }
        assert_eq!(server.stop(Signal::TERM).code, Some(0), "{is_read_at_last}");
    }
}

#[test]
fn a_command_that_fails_says_so_by_its_exit_code_whatever_becomes_of_its_words() {
    let dir = dir();
    let kid = Key::new().kid();
    let full = || Stdio::from(File::options().write(true).open("/dev/full").unwrap());
    let closed = || Stdio::from(std::io::pipe().unwrap().1);
    for sink in [full(), closed()] {
        let mut command = program(dir.path(), &["revoke", &kid, "--reason", "test"]);
        let status = command.stdout(Stdio::null()).stderr(sink).status().unwrap();
        assert_eq!(status.code(), Some(1), "{status}");
    }
}
