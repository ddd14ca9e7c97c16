//! The power is cut: a file system of its own, on which ext4 is told to shut down at once.
//!
//! The `shutdown` ioctl drops all that is not on the disk yet; mounting the image again replays its
//! journal, as a machine does that starts after a power cut.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;

use crate::cases::{Case, Cast, chosen_cases};
use crate::judge::judge;
use crate::strace::{self, Fault, Point, Run};
use crate::support::{self, eventually, short_or_long};
use crate::tally::Tally;

/// What is left of the journal that was not written yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// It is written first: every rename is on the disk, with or without the data of its file.
    JournalFlushed = 1,
    /// It is lost: nothing is on the disk but what was synced.
    JournalLost = 2,
}

/// How the image is mounted. By default ext4 guesses that a file which replaces another should be on
/// the disk first, which hides a missing sync; the second does not, and the third writes the size of
/// a file before its content. None writes the journal because time has passed.
pub(crate) const MOUNTS: [&str; 3] = [
    "commit=300",
    "commit=300,noauto_da_alloc",
    "commit=300,noauto_da_alloc,data=writeback,nodelalloc",
];

/// How often the power was cut.
pub(crate) static CUTS: AtomicUsize = AtomicUsize::new(0);

/// An image with an ext4 file system, mounted unless its power is off.
pub(crate) struct Disk {
    outer: TempDir,
    mounted: bool,
    options: &'static str,
}

impl Disk {
    /// An empty one.
    pub(crate) fn new() -> Self {
        let mut disk = Self { outer: support::dir(), mounted: false, options: MOUNTS[0] };
        let image = fs::File::create(disk.image()).unwrap();
        image.set_len(8 << 20).unwrap();
        let now = "lazy_itable_init=0,lazy_journal_init=0";
        command("mkfs.ext4", &["-q", "-F", "-E", now], &[&disk.image()]);
        fs::create_dir(disk.mount_point()).unwrap();
        disk.switch_on();
        fs::create_dir(disk.root()).unwrap();
        disk
    }

    /// Another with the same content, that is switched off as this one is.
    pub(crate) fn copy(&self, options: &'static str) -> Self {
        assert!(!self.mounted);
        let outer = support::dir();
        command("cp", &["--sparse=always"], &[&self.image(), &outer.path().join("image")]);
        fs::create_dir(outer.path().join("mnt")).unwrap();
        Self { outer, mounted: false, options }
    }

    fn image(&self) -> PathBuf {
        self.outer.path().join("image")
    }

    fn mount_point(&self) -> PathBuf {
        self.outer.path().join("mnt")
    }

    /// The directory that the program works in.
    pub(crate) fn root(&self) -> PathBuf {
        self.mount_point().join("root")
    }

    pub(crate) fn trace(&self) -> PathBuf {
        self.outer.path().join("trace")
    }

    pub(crate) fn traced(&self) -> String {
        fs::read_to_string(self.trace()).unwrap()
    }

    pub(crate) fn switch_on(&mut self) {
        let options = format!("loop,{}", self.options);
        command("mount", &["-t", "ext4", "-o", &options], &[&self.image(), &self.mount_point()]);
        self.mounted = true;
    }

    /// Writes everything and switches off.
    pub(crate) fn switch_off(&mut self) {
        // A process that was killed may hold it for a moment.
        eventually("the image is unmounted", || {
            let status = Command::new("umount").arg(self.mount_point()).output().unwrap().status;
            status.success().then_some(())
        });
        self.mounted = false;
    }

    /// Cuts the power. What still runs, runs against a dead disk.
    pub(crate) fn cut(&self, cut: Cut) {
        let ioctl = "open my $dir, '<', $ARGV[0] or die $!; \
                     ioctl $dir, 0x8004587d, pack('L', $ARGV[1]) or die $!";
        let flag = PathBuf::from((cut as u32).to_string());
        command("perl", &["-e", ioctl], &[&self.mount_point(), &flag]);
        CUTS.fetch_add(1, Ordering::Relaxed);
    }

    /// What a person finds there.
    fn content(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let root = self.root();
        let mut content = BTreeMap::new();
        for dir in [&root, &root.join("keys")] {
            for name in support::names(dir) {
                let file = dir.join(name);
                if file.extension().is_some_and(|extension| extension == "pem") {
                    content.insert(file.clone(), fs::read(file).unwrap());
                }
            }
        }
        content
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            // Only a failed test comes here with something that still runs there.
            let _ = Command::new("umount").arg("--lazy").arg(self.mount_point()).output();
        }
    }
}

/// Runs a tool, which must succeed.
fn command(name: &str, options: &[&str], paths: &[&Path]) {
    let output = Command::new(name).args(options).args(paths).output().unwrap();
    assert!(output.status.success(), "{name} {options:?} {paths:?}: {output:?}");
}

/// A case whose cast is in place on an image that is switched off.
pub(crate) struct Stage {
    case: &'static Case,
    cast: Cast,
    disk: Disk,
}

/// What was cut: at these faults, in this way, or when all was done.
pub(crate) type Script = (Vec<(Point, Fault)>, Cut, &'static str);

/// What the world knew when the power was cut.
struct Known {
    hit: bool,
    /// What a command said that it did is done.
    succeeded: bool,
    served: BTreeSet<String>,
}

impl Stage {
    pub(crate) fn set(case: &'static Case) -> Self {
        let mut disk = Disk::new();
        let cast = case.prepare(&disk.root());
        disk.switch_off();
        Self { case, cast, disk }
    }

    /// The operations that change something on the disk, in a run without a fault.
    pub(crate) fn operations(&self) -> Vec<(Point, String)> {
        let mut disk = self.disk.copy(MOUNTS[0]);
        disk.switch_on();
        let run = self.case.run(&disk.root(), &self.cast, &disk.trace(), &[]);
        if let Run::Serves(server) = run {
            Case::settles(&server, &disk.root(), &self.cast);
        }
        let operations = durable(&disk);
        disk.switch_off();
        operations
    }

    /// Runs until a kill, or the end; cuts the power; and returns the disk, switched off.
    fn run_and_cut(&self, (faults, cut, options): &Script) -> (Disk, Known) {
        let mut disk = self.disk.copy(options);
        disk.switch_on();
        let root = disk.root();
        let faults: Vec<_> = faults.iter().map(|(point, fault)| (point, *fault)).collect();
        let mut known = Known { hit: false, succeeded: false, served: BTreeSet::new() };
        let run = self.case.run(&root, &self.cast, &disk.trace(), &faults);
        let ended = match run {
            Run::Serves(mut server) => {
                known.served = Case::watch(&mut server, &root, &self.cast);
                disk.cut(*cut);
                drop(server);
                None
            }
            Run::Ended(finished) => {
                known.succeeded = finished.code == Some(0);
                let content = known.succeeded.then(|| disk.content());
                disk.cut(*cut);
                content
            }
        };
        disk.switch_off();
        known.hit = faults.is_empty() || disk.traced().contains("+++ killed by SIGKILL");
        if let Some(content) = ended {
            disk.switch_on();
            let found = disk.content();
            disk.switch_off();
            assert!(content == found, "a success was undone: {:?}", difference(&content, &found));
        }
        (disk, known)
    }

    fn judge(&self, disk: &mut Disk, known: &Known) {
        disk.switch_on();
        judge(self.case, &disk.root(), &self.cast, known.succeeded, &known.served);
        disk.switch_off();
    }

    /// One cut, and a restart.
    pub(crate) fn survives(&self, script: &Script) -> bool {
        let (mut disk, known) = self.run_and_cut(script);
        self.judge(&mut disk, &known);
        known.hit
    }

    /// One cut, and another at each operation of the restart that follows.
    fn survives_twice(&self, script: &Script) -> usize {
        let (disk, known) = self.run_and_cut(script);
        let (_, cut, options) = *script;
        let args: Vec<_> = self.case.serve_args().into_iter().map(str::to_owned).collect();
        let start = |disk: &mut Disk, faults: &[(&Point, Fault)]| {
            disk.switch_on();
            let mut served = known.served.clone();
            let run = strace::run(&disk.root(), &args, &disk.trace(), faults);
            if let Run::Serves(mut server) = run {
                served.extend(Case::watch(&mut server, &disk.root(), &self.cast));
            }
            disk.cut(cut);
            disk.switch_off();
            Known { hit: true, succeeded: known.succeeded, served }
        };
        let mut trial = disk.copy(options);
        let served = start(&mut trial, &[]);
        self.judge(&mut trial, &served);
        let operations = durable(&trial);
        for (point, _) in &operations {
            let mut second = disk.copy(options);
            let known = start(&mut second, &[(point, Fault::Kill)]);
            self.judge(&mut second, &known);
        }
        operations.len()
    }
}

fn difference<'a>(
    left: &'a BTreeMap<PathBuf, Vec<u8>>,
    right: &'a BTreeMap<PathBuf, Vec<u8>>,
) -> Vec<&'a PathBuf> {
    left.keys().chain(right.keys()).filter(|path| left.get(*path) != right.get(*path)).collect()
}

/// The operations in a trace that change something on the disk, each with what it was about.
pub(crate) fn durable(disk: &Disk) -> Vec<(Point, String)> {
    strace::points(&disk.traced(), disk.root().to_str().unwrap())
        .into_iter()
        .filter(|(_, about)| !about.is_empty())
        .filter(|(point, about)| !point.call.starts_with("open") || about.contains("O_CREAT"))
        .filter(|(point, _)| point.call != "flock")
        .collect()
}

/// Whether only the part is to run that takes a minute or two: the weakest of the mounts, and the
/// journal lost.
pub(crate) fn quick() -> bool {
    short_or_long(true, false)
}

pub(crate) fn weathers() -> Vec<(Cut, &'static str)> {
    if quick() {
        return vec![(Cut::JournalLost, MOUNTS[1])];
    }
    let cuts = [Cut::JournalFlushed, Cut::JournalLost];
    MOUNTS.into_iter().flat_map(|options| cuts.map(|cut| (cut, options))).collect()
}

#[test]
#[ignore = "needs root, loop devices and strace: interop/powercut/run"]
fn power_a_cut_at_any_operation_loses_nothing() {
    let mut tally = Tally::default();
    for case in chosen_cases() {
        let stage = Stage::set(case);
        let operations = stage.operations();
        let mut work: Vec<Script> = Vec::new();
        for (cut, options) in weathers() {
            for (point, _) in &operations {
                work.push((vec![(point.clone(), Fault::Kill)], cut, options));
            }
            // When all is done.
            work.push((Vec::new(), cut, options));
        }
        let what = format!("{}: {} operations", case.name, operations.len());
        tally.add(&what, &work, |script| stage.survives(script));
    }
    tally.end(50);
    println!("{} cuts", CUTS.swap(0, Ordering::Relaxed));
}

#[test]
#[ignore = "needs root, loop devices and strace: interop/powercut/run"]
fn power_a_second_cut_during_recovery_loses_nothing() {
    let mut tally = Tally::default();
    let states = AtomicUsize::new(0);
    for case in chosen_cases() {
        let stage = Stage::set(case);
        let operations = stage.operations();
        // In a short run, in the middle of the case alone.
        let (skip, step) = if quick() { (operations.len() / 2, usize::MAX) } else { (0, 1) };
        let mut work: Vec<Script> = Vec::new();
        for cut in [Cut::JournalFlushed, Cut::JournalLost] {
            for (point, _) in operations.iter().skip(skip).step_by(step) {
                work.push((vec![(point.clone(), Fault::Kill)], cut, MOUNTS[1]));
            }
        }
        let what = format!("{}: a cut again", case.name);
        tally.add(&what, &work, |script| {
            states.fetch_add(stage.survives_twice(script), Ordering::Relaxed);
            true
        });
    }
    tally.end(7);
    let cuts = CUTS.swap(0, Ordering::Relaxed);
    println!("{cuts} cuts, {} of them at an operation of a restart", states.into_inner());
}
