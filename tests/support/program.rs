//! The program as a child process that no failed test leaves behind.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, getpgid, kill_process, kill_process_group};
use serde_json::Value;

use super::client::{Answer, KEY_SET, get};
use super::keys::kids_of;
use super::{PATIENCE, eventually, now, pause};

#[derive(Debug)]
/// A serving process; it is killed when this is dropped.
pub(crate) struct Server {
    child: Child,
    dir: PathBuf,
    output: tempfile::TempDir,
    pub(crate) port: u16,
}

/// How a start went.
pub(crate) enum Start {
    Serves(Server),
    Ended(Finished),
}

/// What a process said before it ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Finished {
    /// What it printed; it has succeeded.
    pub(crate) fn done(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout
    }
}

impl Server {
    /// Starts the server in `dir` on a free port, and waits until it serves.
    pub(crate) fn start(dir: &Path, args: &[&str]) -> Self {
        let args = [&["--port", "0"], args].concat();
        match Self::try_start(dir, &args, &[]) {
            Start::Serves(server) => server,
            Start::Ended(finished) => panic!("the server did not start: {finished:?}"),
        }
    }

    /// Starts the server, and waits until it serves or ends.
    pub(crate) fn try_start(dir: &Path, args: &[&str], env: &[(&str, &str)]) -> Start {
        let mut command = program(dir, args);
        command.envs(env.iter().copied());
        Self::try_spawn(dir, command)
    }

    /// The same for a command that leads to the program in the end.
    pub(crate) fn try_spawn(dir: &Path, mut command: Command) -> Start {
        let output = tempfile::tempdir().unwrap();
        let child = spawn(with_output(&mut command, output.path()));
        // From here on it is killed whatever happens.
        let mut server = Self { child, dir: dir.to_owned(), output, port: 0 };
        let port = eventually("the server starts", || {
            let told = read(server.output.path(), "stdout");
            // Two whole lines.
            if told.matches('\n').count() == 2 {
                let port = told.split(':').nth(3).unwrap();
                return Some(Some(port.split('/').next().unwrap().parse().unwrap()));
            }
            server.child.try_wait().unwrap().map(|_| None)
        });
        if let Some(port) = port {
            server.port = port;
            return Start::Serves(server);
        }
        let status = server.child.wait().unwrap();
        Start::Ended(Finished::new(status, server.output.path()))
    }

    pub(crate) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        get(self.address(), path)
    }

    /// The key set, which must be there.
    pub(crate) fn key_set(&self) -> Answer {
        let answer = self.get(KEY_SET);
        assert_eq!(answer.status, 200);
        answer
    }

    /// The kids that are served, in order.
    pub(crate) fn kids(&self) -> Vec<String> {
        kids_of(&self.key_set().body)
    }

    /// Waits until exactly these are served, in this order.
    pub(crate) fn serves(&self, kids: &[&str]) {
        let mut last = Vec::new();
        let deadline = now() + PATIENCE;
        while now() < deadline {
            last = self.kids();
            if last == kids {
                return;
            }
            pause(super::PACE);
        }
        panic!(
            "waited {PATIENCE:?} in vain for the kids {kids:?}, and got {last:?}\n{}",
            self.log()
        );
    }

    /// `/readyz` without its head.
    pub(crate) fn readiness(&self) -> String {
        self.get("/readyz").body
    }

    /// Waits until `/readyz` says exactly this.
    pub(crate) fn is_degraded_by(&self, degraded: &str) {
        let expected = if degraded == "[]" {
            r#"{"status":"ready","degraded":[]}"#.to_owned()
        } else {
            format!(r#"{{"status":"degraded","degraded":{degraded}}}"#)
        };
        let mut last = String::new();
        let deadline = now() + PATIENCE;
        while now() < deadline {
            last = self.readiness();
            if last == expected {
                return;
            }
            pause(super::PACE);
        }
        panic!("waited {PATIENCE:?} in vain for {expected}, and got {last}");
    }

    /// Waits until the server has looked at the directory once more from beginning to end, by way of
    /// a change that it cannot overlook, while everything that is served is observed.
    pub(crate) fn has_looked_while(&self, observer: &super::Observer) {
        let key = super::Key::new();
        observer.allow(&key.kid());
        let file = self.dir.join("keys").join("zzz-has-looked.pem");
        std::fs::write(&file, key.spki()).unwrap();
        let has = |kids: &[String]| kids.contains(&key.kid());
        eventually("a dropped key is served", || has(&self.kids()).then_some(()));
        std::fs::remove_file(&file).unwrap();
        eventually("a dropped key is gone", || (!has(&self.kids())).then_some(()));
    }

    /// What the process logged so far.
    pub(crate) fn log(&self) -> String {
        read(self.output.path(), "stderr")
    }

    /// How many lines of the log have `text` in them.
    pub(crate) fn logged(&self, text: &str) -> usize {
        let log = self.log();
        log.lines().filter(|line| line.contains(text)).count()
    }

    /// Waits until so many lines of the log have `text` in them, and no more: a thread of its own writes
    /// them, so that one may come a moment after what it tells of.
    pub(crate) fn has_logged(&self, text: &str, times: usize) {
        eventually(text, || (self.logged(text) >= times).then_some(()));
        assert_eq!(self.logged(text), times, "{text}\n{}", self.log());
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Whether the process still runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Asks the process to stop, and waits until it has.
    pub(crate) fn stop(mut self, signal: Signal) -> Finished {
        self.signal(signal);
        let status = eventually("the server stops", || self.child.try_wait().unwrap());
        Finished::new(status, self.output.path())
    }

    /// As a power cut would, as far as the process is concerned.
    pub(crate) fn kill(self) -> Finished {
        self.stop(Signal::KILL)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = Pid::from_child(&self.child);
        // A group of its own has the program in it that `strace` runs.
        if self.runs() && getpgid(Some(pid)) == Ok(pid) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of the server in {}:\n{}", self.dir.display(), self.log());
        }
    }
}

impl Finished {
    fn new(status: ExitStatus, output: &Path) -> Self {
        Self { code: status.code(), stdout: read(output, "stdout"), stderr: read(output, "stderr") }
    }
}

/// Runs a command in `dir` to its end.
pub(crate) fn jwks(dir: &Path, args: &[&str]) -> Finished {
    jwks_with(dir, args, &[])
}

/// What a command that must succeed says with `--json`.
pub(crate) fn json_of(dir: &Path, args: &[&str]) -> Value {
    let finished = jwks(dir, args);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    serde_json::from_str(&finished.stdout).unwrap()
}

/// The problems that `status --json` names: file, without a leading `./`, and reason.
pub(crate) fn problems(dir: &Path) -> Vec<(String, String)> {
    let status = json_of(dir, &["status", "--json"]);
    let problems = status["problems"].as_array().unwrap().iter();
    problems
        .map(|problem| {
            let text = |name: &str| problem[name].as_str().unwrap_or_default();
            let file = text("file");
            (file.to_owned(), text("reason").to_owned())
        })
        .collect()
}

/// The same with environment variables.
pub(crate) fn jwks_with(dir: &Path, args: &[&str], env: &[(&str, &str)]) -> Finished {
    let mut command = program(dir, args);
    command.envs(env.iter().copied());
    finish(command)
}

/// Runs a prepared command to its end.
pub(crate) fn finish(mut command: Command) -> Finished {
    let output = tempfile::tempdir().unwrap();
    let mut child = spawn(with_output(&mut command, output.path()));
    let deadline = now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if now() > deadline {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("the command {command:?} does not end");
        }
        pause(super::PACE);
    };
    Finished::new(status, output.path())
}

/// The program, with no setting from outside.
pub(crate) fn program(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jwks-server"));
    command.args(args).current_dir(dir);
    for (name, _) in std::env::vars_os() {
        if name == "RUST_LOG" || name.to_string_lossy().starts_with("JWKS_SERVER_") {
            command.env_remove(name);
        }
    }
    command
}

/// Between fork and exec a child has the locks that this process holds.
fn spawn(command: &mut Command) -> Child {
    let _alone = super::SPAWNING.write();
    command.spawn().unwrap()
}

fn with_output<'a>(command: &'a mut Command, output: &Path) -> &'a mut Command {
    let file = |name| File::create(output.join(name)).unwrap();
    command.stdin(Stdio::null()).stdout(file("stdout")).stderr(file("stderr"))
}

fn read(output: &Path, name: &str) -> String {
    let bytes = std::fs::read(output.join(name)).unwrap();
    String::from_utf8(bytes).expect("what the program says is UTF-8")
}
