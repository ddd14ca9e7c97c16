//! File events as pulses that say "look", never "what".
//!
//! Directories are watched, not files: a file is replaced by a rename, and Kubernetes swaps a
//! symbolic link that no event names. What an event claims is not trusted; any event but a mere
//! access makes the manager look at everything. Without events (no inotify, a network file system)
//! the manager's own sweep finds what changed.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

/// Watches a few directories.
#[derive(Debug)]
pub struct Watcher {
    events: Result<RecommendedWatcher, notify::Error>,
    pulse: Arc<Notify>,
    /// The directories, each with the device and inode that is watched now.
    armed: HashMap<PathBuf, Option<(u64, u64)>>,
}

impl Watcher {
    /// Watches `dirs`, those that exist from now on and the others from when
    /// [`rearm`](Self::rearm) finds them.
    pub fn new(dirs: impl IntoIterator<Item = PathBuf>) -> Self {
        let pulse = Arc::new(Notify::new());
        let on_event = {
            let pulse = Arc::clone(&pulse);
            move |event: notify::Result<notify::Event>| {
                if event.map_or(true, |event| tells_of_change(event.kind)) {
                    pulse.notify_one();
                }
            }
        };
        let events = notify::recommended_watcher(on_event);
        let armed = dirs.into_iter().map(|dir| (dir, None)).collect();
        let mut watcher = Self { events, pulse, armed };
        watcher.rearm();
        watcher
    }

    /// Pulses: any number of events since the last pulse are one.
    pub fn pulse(&self) -> Arc<Notify> {
        Arc::clone(&self.pulse)
    }

    /// Watches again each directory that was made, or made again, since the last call.
    pub fn rearm(&mut self) {
        let Ok(events) = &mut self.events else {
            return;
        };
        for (dir, armed) in &mut self.armed {
            let found = identity(dir);
            if found == *armed {
                continue;
            }
            if armed.is_some() {
                // The kernel has dropped the watch already if the directory is gone.
                let _ = events.unwatch(dir);
            }
            *armed = match events.watch(dir, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    // A change before the watch was there made no event.
                    self.pulse.notify_one();
                    found
                }
                Err(_) => None,
            };
        }
    }

    /// Why changes are found by the sweep alone, if they are; a directory that does not exist does
    /// not count.
    pub fn trouble(&self) -> Option<String> {
        match &self.events {
            Err(error) => Some(error.to_string()),
            Ok(_) => self
                .armed
                .iter()
                .find(|(dir, armed)| armed.is_none() && identity(dir).is_some())
                .map(|(dir, _)| format!("{} cannot be watched", dir.display())),
        }
    }
}

/// Reading a file is no change, and neither is the opening and closing of a lock file.
fn tells_of_change(kind: EventKind) -> bool {
    !matches!(kind, EventKind::Access(_))
}

/// What tells a directory from another of the same name.
fn identity(dir: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata(dir).ok().filter(std::fs::Metadata::is_dir)?;
    Some((metadata.dev(), metadata.ino()))
}
