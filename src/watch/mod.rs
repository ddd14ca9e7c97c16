//! File events as pulses that say "look", never "what".
//!
//! Directories are watched, not files: a file is replaced by a rename, and Kubernetes swaps a
//! symbolic link that no event names. So are the directories that a link leads through, and those in
//! which a directory has its name, for the names that lead on. What an event claims is not trusted:
//! its name is read only to leave out what concerns others.
//!
//! Events come from the `notify` crate, in a thread of its own. Where there are none, because the
//! system refuses the thread or a descriptor or the file system tells nothing, the manager's own sweep
//! finds what changed.

mod silent;
mod trail;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Directories beside the places themselves that are watched at the most: somebody may put in any
/// number of links.
const MAX_LED: usize = 64;
/// How often to look where the file system tells nothing of changes.
const SILENT_SWEEP: Duration = Duration::from_secs(1);
/// How often to look where events could not be had.
const SWEEP: Duration = Duration::from_secs(10);

const NO_THREAD: &str = "no thread can be had";

/// A directory to watch.
#[derive(Debug, Clone)]
pub struct Place {
    /// The directory; it need not exist.
    pub dir: PathBuf,
    /// The files in it that count, also where they are links into other directories.
    pub files: Files,
}

/// Which files of a directory count.
#[derive(Debug, Clone)]
pub enum Files {
    /// Those of these names.
    Named(Vec<OsString>),
    /// Those whose names end so.
    EndingIn(&'static str),
}

/// Watches a few places.
#[derive(Debug)]
pub struct Watcher {
    places: Vec<Place>,
    pulse: Arc<Notify>,
    counts: Arc<Mutex<Counts>>,
    events: Result<Events, String>,
    /// What stands in the way of some event.
    unheard: Option<String>,
}

/// The end of a [`Watcher`] that hears of changes.
#[derive(Debug)]
pub struct Pulse(Arc<Notify>);

/// Why changes are found by looking alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Silence {
    /// What stands in the way, as a sentence fragment.
    pub reason: String,
    /// How often to look.
    pub sweep: Duration,
}

/// The names that count in each watched directory; all where there is `None`.
type Counts = BTreeMap<PathBuf, Option<BTreeSet<OsString>>>;

/// Watches `places` from the first [`Watcher::rearm`] on; those that do not exist then, from when a
/// later one finds them.
pub fn watch(places: impl IntoIterator<Item = Place>) -> (Watcher, Pulse) {
    let pulse = Arc::new(Notify::new());
    let watcher = Watcher {
        places: places.into_iter().collect(),
        pulse: Arc::clone(&pulse),
        counts: Arc::default(),
        events: Err("not tried yet".into()),
        unheard: None,
    };
    (watcher, Pulse(pulse))
}

/// Why changes in these directories may make no events, whoever watches them.
pub fn silence<'a>(dirs: impl IntoIterator<Item = &'a Path>) -> Option<Silence> {
    let (dir, name) = dirs.into_iter().find_map(|dir| Some((dir, silent::name_of(dir)?)))?;
    Some(Silence {
        reason: format!("{} is on {name}, which does not tell of all changes", dir.display()),
        sweep: SILENT_SWEEP,
    })
}

impl std::fmt::Display for Silence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = self.sweep.as_secs();
        write!(
            f,
            "there are no file events, so changes are found within {seconds} s: {}",
            self.reason
        )
    }
}

impl Watcher {
    /// Watches again each directory that was made, or made again, or that a link leads to since the
    /// last call, and tries again to have events if there were none. What changed before the watch was
    /// there made no event: look after this, not before.
    ///
    /// Nothing tells whether a watch is still that of the directory: one that is made again may have
    /// the same inode number, and notify may have dropped it for an event of the one before. To watch
    /// what is watched already changes nothing.
    pub fn rearm(&mut self) {
        let plan = Plan::of(&self.places);
        *self.counts.lock() =
            plan.dirs.iter().map(|(path, dir)| (path.clone(), dir.names.clone())).collect();
        if !self.events.as_ref().is_ok_and(Events::are_heard) {
            self.events = Events::open(&self.pulse, &self.counts);
        }
        self.unheard = match &mut self.events {
            Ok(events) => events.watch(&plan).or(plan.unheard),
            Err(reason) => Some(reason.clone()),
        };
    }

    /// Why changes are found by looking alone, if they are; a directory that does not exist does not
    /// count.
    pub fn silence(&self) -> Option<Silence> {
        let silent = || silence(self.places.iter().map(|place| &*place.dir));
        let unheard = || Some(Silence { reason: self.unheard.clone()?, sweep: SWEEP });
        silent().or_else(unheard)
    }
}

impl Pulse {
    /// Ends once something changed since the last pulse; any number of changes are one.
    pub async fn next(&mut self) {
        self.0.notified().await;
    }
}

/// The directories to watch, each once, by a path that has no link in it.
#[derive(Debug, Default)]
struct Plan {
    dirs: BTreeMap<PathBuf, Watched>,
    /// The path of each.
    paths: BTreeMap<Identity, PathBuf>,
    unheard: Option<String>,
}

#[derive(Debug)]
struct Watched {
    identity: Identity,
    names: Option<BTreeSet<OsString>>,
    /// Whether changes go unheard if it cannot be watched: not where a directory merely has its name,
    /// which may be one that others may not list.
    is_needed: bool,
}

/// The device and number of a directory.
type Identity = (u64, u64);

impl Plan {
    fn of(places: &[Place]) -> Self {
        let mut plan = Self::default();
        let mut steps = Vec::new();
        for place in places {
            // Where it leads to is not there if links lead in a circle.
            if let Ok((dir, led_by)) = trail::follow(&place.dir) {
                plan.add(&dir, None, true);
                steps.extend(led_by);
            }
        }
        for place in places {
            for link in links(place) {
                steps.extend(trail::follow(&link).into_iter().flat_map(|(_, led_by)| led_by));
            }
        }
        let limit = plan.dirs.len() + MAX_LED;
        for step in steps {
            if plan.dirs.len() < limit || plan.has(&step.dir) {
                plan.add(&step.dir, Some(step.name), step.is_led);
            } else {
                plan.unheard = Some(format!("links lead through more than {MAX_LED} directories"));
            }
        }
        plan
    }

    fn has(&self, dir: &Path) -> bool {
        identity(dir).is_some_and(|identity| self.paths.contains_key(&identity))
    }

    /// Adds `dir` for one name, or for all, if it is there.
    fn add(&mut self, dir: &Path, name: Option<OsString>, is_needed: bool) {
        let Some(identity) = identity(dir) else { return };
        let path = self.paths.entry(identity).or_insert_with(|| dir.to_owned()).clone();
        let none_yet = Watched { identity, names: Some(BTreeSet::new()), is_needed: false };
        let watched = self.dirs.entry(path).or_insert(none_yet);
        watched.is_needed |= is_needed;
        match (name, &mut watched.names) {
            (Some(name), Some(names)) => drop(names.insert(name)),
            (None, names) => *names = None,
            (Some(_), None) => {}
        }
    }
}

fn identity(dir: &Path) -> Option<Identity> {
    let found = std::fs::metadata(dir).ok().filter(std::fs::Metadata::is_dir)?;
    Some((found.dev(), found.ino()))
}

/// The files of a place that are links.
fn links(place: &Place) -> Vec<PathBuf> {
    match &place.files {
        Files::Named(names) => {
            let paths = names.iter().map(|name| place.dir.join(name));
            paths.filter(|path| path.is_symlink()).collect()
        }
        Files::EndingIn(end) => {
            let entries = std::fs::read_dir(&place.dir).into_iter().flatten().flatten();
            let counts = |entry: &std::fs::DirEntry| {
                entry.file_type().is_ok_and(|kind| kind.is_symlink())
                    && entry.file_name().as_bytes().ends_with(end.as_bytes())
            };
            entries.filter(counts).map(|entry| entry.path()).collect()
        }
    }
}

/// What is watched now, and the thread that hears of it.
#[derive(Debug)]
struct Events {
    /// There until the end.
    watcher: Option<RecommendedWatcher>,
    /// Held by the thread that hears. Without it a call of the watcher would panic, as would its end,
    /// and notify does not say that it could have no thread.
    thread: Weak<()>,
    watched: BTreeMap<PathBuf, Identity>,
}

impl Events {
    fn open(pulse: &Arc<Notify>, counts: &Arc<Mutex<Counts>>) -> Result<Self, String> {
        let (pulse, counts) = (Arc::clone(pulse), Arc::clone(counts));
        let alive = Arc::new(());
        let thread = Arc::downgrade(&alive);
        let hear = move |event: notify::Result<notify::Event>| {
            let _ = &alive;
            // An error is a reason to look as well.
            if event.is_ok_and(|event| !concerns(&event, &counts.lock())) {
                return;
            }
            pulse.notify_one();
        };
        // First one that ends at once: what is given up for want of a thread leaves a descriptor behind.
        let probe = std::thread::Builder::new().spawn(|| {}).map(std::thread::JoinHandle::join);
        if probe.is_err() {
            return Err(NO_THREAD.into());
        }
        let watcher = RecommendedWatcher::new(hear, notify::Config::default())
            .map_err(|error| error.to_string())?;
        let events = Self { watcher: Some(watcher), thread, watched: BTreeMap::new() };
        if events.are_heard() { Ok(events) } else { Err(NO_THREAD.into()) }
    }

    fn are_heard(&self) -> bool {
        self.thread.strong_count() > 0
    }

    /// Watches what the plan has and nothing else; returns what cannot be watched.
    ///
    /// Each directory was looked at just now by the plan: one on a mount that hangs holds up whoever
    /// made that, and not the thread that hears of all.
    fn watch(&mut self, plan: &Plan) -> Option<String> {
        let watcher = self.watcher.as_mut()?;
        let is_same = |path: &PathBuf, identity: &Identity| {
            plan.dirs.get(path).is_some_and(|dir| dir.identity == *identity)
        };
        for (path, _) in self.watched.extract_if(.., |path, identity| !is_same(path, identity)) {
            // notify has dropped it already if the directory is gone.
            let _ = watcher.unwatch(&path);
        }
        let mut unheard = None;
        for (path, dir) in &plan.dirs {
            match watcher.watch(path, RecursiveMode::NonRecursive) {
                Ok(()) => drop(self.watched.insert(path.clone(), dir.identity)),
                Err(_) if !dir.is_needed || !path.is_dir() => {}
                Err(error) => {
                    // The path is shown once, as it is everywhere.
                    let reason = error.set_paths(Vec::new());
                    unheard = Some(format!("{} cannot be watched: {reason}", path.display()));
                }
            }
        }
        unheard
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        if !self.are_heard() {
            std::mem::forget(self.watcher.take());
        }
    }
}

/// Whether an event may be about what is watched.
fn concerns(event: &notify::Event, counts: &Counts) -> bool {
    // To open a file is no change, and each look opens many.
    if matches!(event.kind, EventKind::Access(_)) {
        return false;
    }
    let counts_for = |path: &PathBuf| {
        let names = path.parent().and_then(|dir| counts.get(dir)).and_then(Option::as_ref);
        // A directory that is watched itself, or one of which all counts, or none that is known.
        counts.contains_key(path)
            || names.is_none_or(|names| path.file_name().is_some_and(|name| names.contains(name)))
    };
    event.paths.is_empty() || event.paths.iter().any(counts_for)
}

#[cfg(test)]
mod tests;
