//! The program under `strace`, which kills it, or makes a call fail, at a chosen point.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use crate::cases::{Case, Cast};
use crate::support::{self, Finished, Server, Start, finish, program};

/// The calls that open, change or lock a file; a question mark for those that not every machine has.
pub(crate) const CALLS: &str = "?open,openat,?openat2,write,fsync,?rename,renameat,?renameat2,?link,linkat,?unlink,\
                     unlinkat,?mkdir,mkdirat,flock,ftruncate";
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The process ends before the call is made.
    Kill,
    /// The call is not made, and fails.
    Error(&'static str),
    /// The call is not made, and says that it succeeded.
    Lie,
}

/// The n-th call of this name, in whichever thread comes to it first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Point {
    pub(crate) call: String,
    pub(crate) n: usize,
}

impl Case {
    /// The points of a run without a fault.
    pub(crate) fn points(&self) -> Vec<(Point, String)> {
        let dir = support::dir();
        let trace = dir.path().join("trace");
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        let cast = self.prepare(&root);
        let run = self.run(&root, &cast, &trace, &[]);
        assert!(!matches!(run, Run::Ended(Finished { code: Some(1..), .. })), "{run:?}");
        if let Run::Serves(server) = run {
            Self::settles(&server, &root, &cast);
            drop(server);
        }
        points(&fs::read_to_string(&trace).unwrap(), root.to_str().unwrap())
    }

    /// Runs the command or the server with these faults.
    pub(crate) fn run(
        &self,
        dir: &Path,
        cast: &Cast,
        trace: &Path,
        faults: &[(&Point, Fault)],
    ) -> Run {
        run(dir, &self.args(cast), trace, faults)
    }
}

/// Runs the program under `strace`: a command to its end, the server until it serves.
pub(crate) fn run(dir: &Path, args: &[String], trace: &Path, faults: &[(&Point, Fault)]) -> Run {
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let inner = program(dir, &args);
    let mut command = Command::new("strace");
    command.args(["-f", "-q", "-y", "-o"]).arg(trace);
    command.args(["-e", &format!("trace={CALLS}")]);
    for (Point { call, n }, fault) in faults {
        let fault = match fault {
            Fault::Kill => "signal=SIGKILL".to_owned(),
            Fault::Error(errno) => format!("error={errno}"),
            Fault::Lie => "retval=0".to_owned(),
        };
        command.args(["-e", &format!("inject={call}:{fault}:when={n}")]);
    }
    command.arg(inner.get_program()).args(inner.get_args()).current_dir(dir);
    for (name, _) in inner.get_envs() {
        command.env_remove(name);
    }
    // Lines of the log are calls of `write`, and none of them is of interest.
    command.env("RUST_LOG", "off");
    if !args[0].starts_with("--") {
        return Run::Ended(finish(command));
    }
    // What drops the server kills both.
    command.process_group(0);
    match Server::try_spawn(dir, command) {
        Start::Serves(server) => Run::Serves(server),
        Start::Ended(finished) => Run::Ended(finished),
    }
}

#[derive(Debug)]
pub(crate) enum Run {
    Ended(Finished),
    Serves(Server),
}

/// The calls in a trace, in the order in which they were made, each with what it was about.
pub(crate) fn points(trace: &str, root: &str) -> Vec<(Point, String)> {
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut points: BTreeMap<Point, (usize, String)> = BTreeMap::new();
    for (order, line) in trace.lines().enumerate() {
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
        let (_, known) = points.entry(point).or_insert((order, about));
        if call == "write" && !ours {
            known.clear();
        }
    }
    let mut points: Vec<_> = points.into_iter().collect();
    points.sort_by_key(|(_, (order, _))| *order);
    points.into_iter().map(|(point, (_, about))| (point, about)).collect()
}
