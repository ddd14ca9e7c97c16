//! File events as pulses that say "look", never "what".
//!
//! Directories are watched, not files: a file is replaced by a rename, and Kubernetes swaps a
//! symbolic link that no event names. What an event claims is not trusted, and not even read. Only
//! changes make events: to read a file is none, and neither is to open and close a lock file. Without
//! events (another system than Linux, no inotify, a network file system) the manager's own sweep
//! finds what changed.

use std::future::{pending, poll_fn};
use std::io;
use std::path::PathBuf;
use std::task::Poll;

/// More events at a time than one pulse takes in, so that somebody who makes events without an end
/// does not hold up the one who listens.
const MAX_EVENTS: usize = 10_000;

/// Watches a few directories.
#[derive(Debug)]
pub struct Watcher {
    watches: io::Result<os::Watches>,
    /// The directories, each with its watch if that is in place.
    dirs: Vec<(PathBuf, Option<os::Descriptor>)>,
}

/// The end of a [`Watcher`] that hears of changes.
#[derive(Debug)]
pub struct Pulse {
    events: Option<os::Events>,
}

/// Watches `dirs`, those that exist from now on and the others from when [`Watcher::rearm`] finds
/// them.
///
/// # Panics
///
/// Outside a tokio runtime.
pub fn watch(dirs: impl IntoIterator<Item = PathBuf>) -> (Watcher, Pulse) {
    let (mut watcher, pulse) = match os::open() {
        Ok((watches, events)) => (Watcher::of(Ok(watches), dirs), Pulse { events: Some(events) }),
        Err(error) => (Watcher::of(Err(error), dirs), Pulse { events: None }),
    };
    watcher.rearm();
    (watcher, pulse)
}

impl Watcher {
    fn of(watches: io::Result<os::Watches>, dirs: impl IntoIterator<Item = PathBuf>) -> Self {
        Self { watches, dirs: dirs.into_iter().map(|dir| (dir, None)).collect() }
    }

    /// Watches again each directory that was made, or made again, since the last call. What changed
    /// before the watch was there made no event: look after this, not before.
    ///
    /// Nothing tells whether a watch is still that of the directory: one that is made again may have
    /// the same inode number. To watch what is watched already changes nothing.
    pub fn rearm(&mut self) {
        let Ok(watches) = &mut self.watches else {
            return;
        };
        for index in 0..self.dirs.len() {
            let (dir, watch) = &mut self.dirs[index];
            let before = std::mem::replace(watch, os::add(watches, dir).ok());
            // One directory may have two paths, and then it has one watch.
            let is_used = |watch: &os::Descriptor| {
                self.dirs.iter().any(|(_, used)| used.as_ref() == Some(watch))
            };
            if let Some(before) = before.filter(|before| !is_used(before)) {
                os::remove(watches, before);
            }
        }
    }

    /// Why changes are found by the sweep alone, if they are; a directory that does not exist does
    /// not count.
    pub fn trouble(&self) -> Option<String> {
        match &self.watches {
            Err(error) => Some(error.to_string()),
            Ok(_) => self
                .dirs
                .iter()
                .find(|(dir, watch)| watch.is_none() && dir.is_dir())
                .map(|(dir, _)| format!("{} cannot be watched", dir.display())),
        }
    }
}

impl Pulse {
    /// Ends once something changed since the last pulse; any number of changes are one.
    pub async fn next(&mut self) {
        let Some(events) = &mut self.events else {
            return pending().await;
        };
        let mut ended = false;
        poll_fn(|context| {
            let mut pulse = Poll::Pending;
            for _ in 0..MAX_EVENTS {
                match os::poll(events, context) {
                    Poll::Pending => break,
                    Poll::Ready(event) => {
                        (pulse, ended) = (Poll::Ready(()), event.is_none());
                        if ended {
                            break;
                        }
                    }
                }
            }
            pulse
        })
        .await;
        if ended {
            // What cannot be read once would be tried for ever. The sweep goes on.
            tracing::error!("file events have ended; changes are found within 10 s");
            self.events = None;
        }
    }
}

#[cfg(target_os = "linux")]
mod os {
    use std::io;
    use std::path::Path;
    use std::task::{Context, Poll};

    use inotify::{EventStream, Inotify, StreamExt as _, WatchMask};

    pub(super) type Watches = inotify::Watches;
    pub(super) type Descriptor = inotify::WatchDescriptor;
    pub(super) type Events = EventStream<Vec<u8>>;

    /// Room for some events; one takes 272 bytes at the most.
    const BUFFER_LEN: usize = 4096;

    pub(super) fn open() -> io::Result<(Watches, Events)> {
        let events = Inotify::init()?.into_event_stream(vec![0; BUFFER_LEN])?;
        Ok((events.watches(), events))
    }

    pub(super) fn add(watches: &mut Watches, dir: &Path) -> io::Result<Descriptor> {
        let changes = WatchMask::ATTRIB
            | WatchMask::CREATE
            | WatchMask::DELETE
            | WatchMask::DELETE_SELF
            | WatchMask::MODIFY
            | WatchMask::MOVE
            | WatchMask::MOVE_SELF;
        watches.add(dir, changes | WatchMask::ONLYDIR)
    }

    pub(super) fn remove(watches: &mut Watches, descriptor: Descriptor) {
        // The kernel has dropped the watch already if the directory is gone.
        let _ = watches.remove(descriptor);
    }

    /// An event, or `None` if there will be no more.
    pub(super) fn poll(events: &mut Events, context: &mut Context<'_>) -> Poll<Option<()>> {
        events.poll_next_unpin(context).map(|event| event?.ok().map(drop))
    }
}

#[cfg(not(target_os = "linux"))]
mod os {
    use std::convert::Infallible;
    use std::io;
    use std::path::Path;
    use std::task::{Context, Poll};

    pub(super) type Watches = Infallible;
    pub(super) type Descriptor = Infallible;
    pub(super) type Events = Infallible;

    pub(super) fn open() -> io::Result<(Watches, Events)> {
        Err(io::Error::other("this system has no inotify"))
    }

    pub(super) fn add(watches: &mut Watches, _: &Path) -> io::Result<Descriptor> {
        match *watches {}
    }

    pub(super) fn remove(_: &mut Watches, descriptor: Descriptor) {
        match descriptor {}
    }

    pub(super) fn poll(events: &mut Events, _: &mut Context<'_>) -> Poll<Option<()>> {
        match *events {}
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs;
    use std::future::Future as _;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    /// Whether something changed. The kernel queues an event before the change returns, so there is
    /// nothing to wait for but the runtime's own look at its descriptors.
    async fn heard(pulse: &mut Pulse) -> bool {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        let mut context = Context::from_waker(Waker::noop());
        pin!(pulse.next()).poll(&mut context).is_ready()
    }

    #[tokio::test]
    async fn changes_pulse_once_and_mere_reading_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.pem");
        let (_watcher, mut pulse) = watch([dir.path().to_owned()]);
        assert!(!heard(&mut pulse).await);
        fs::write(&file, "one").unwrap();
        fs::write(&file, "two").unwrap();
        assert!(heard(&mut pulse).await);
        assert!(!heard(&mut pulse).await, "any number of changes are one pulse");
        fs::read(&file).unwrap();
        drop(fs::OpenOptions::new().write(true).open(&file).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(!heard(&mut pulse).await);
        fs::rename(&file, dir.path().join("b.pem")).unwrap();
        assert!(heard(&mut pulse).await);
        fs::remove_file(dir.path().join("b.pem")).unwrap();
        assert!(heard(&mut pulse).await);
    }

    #[tokio::test]
    async fn a_directory_that_is_made_again_is_watched_again() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("keys");
        let (mut watcher, mut pulse) = watch([dir.clone()]);
        assert_eq!(watcher.trouble(), None, "a directory that does not exist is no trouble");
        for moved in ["first", "second"] {
            fs::create_dir(&dir).unwrap();
            assert!(watcher.trouble().is_some());
            watcher.rearm();
            assert_eq!(watcher.trouble(), None);
            heard(&mut pulse).await;
            fs::write(dir.join("a.pem"), "").unwrap();
            assert!(heard(&mut pulse).await);

            let moved = root.path().join(moved);
            fs::rename(&dir, &moved).unwrap();
            assert!(heard(&mut pulse).await);
            watcher.rearm();
            heard(&mut pulse).await;
            fs::write(moved.join("b.pem"), "").unwrap();
            assert!(!heard(&mut pulse).await, "what has another name is not watched");
        }
    }

    #[tokio::test]
    async fn a_directory_that_is_made_again_at_once_is_watched_again() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("keys");
        fs::create_dir(&dir).unwrap();
        let (mut watcher, mut pulse) = watch([dir.clone()]);
        for _ in 0..3 {
            // Most file systems give it the same inode number.
            fs::remove_dir_all(&dir).unwrap();
            fs::create_dir(&dir).unwrap();
            watcher.rearm();
            heard(&mut pulse).await;
            fs::write(dir.join("a.pem"), "").unwrap();
            assert!(heard(&mut pulse).await);
        }
    }

    #[tokio::test]
    async fn two_paths_to_one_directory_do_not_end_each_others_watch() {
        let root = tempfile::tempdir().unwrap();
        let link = root.path().join("link");
        let (dir, other) = (root.path().join("dir"), root.path().join("other"));
        fs::create_dir(&dir).unwrap();
        fs::create_dir(&other).unwrap();
        std::os::unix::fs::symlink("dir", &link).unwrap();
        let (mut watcher, mut pulse) = watch([dir.clone(), link.clone()]);
        fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink("other", &link).unwrap();
        watcher.rearm();
        heard(&mut pulse).await;
        for place in [dir, other] {
            fs::write(place.join("a.pem"), "").unwrap();
            assert!(heard(&mut pulse).await, "{}", place.display());
        }
    }
}
