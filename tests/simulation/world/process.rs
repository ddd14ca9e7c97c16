//! The operating system and the clocks, as one simulated process has them.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chrono::DateTime;
use jwks_server::clock::{Clock, Moment};
use jwks_server::store::{Dir, Existing, HeldLock, LockError, NewFile, Os, ReadError, Stamp};
use parking_lot::MutexGuard;
use zeroize::Zeroizing;

use super::{State, World};
use crate::disk::{KEYS, NAMES, ROOT};
use crate::judge::Who;
use crate::scenario::Breakage;
use crate::verifiers::SECOND;

/// How many random bytes are asked for where a key is made.
const KEY_LEN: usize = 32;

/// The operating system and the clocks, as one process has them.
#[derive(Clone)]
pub struct Process {
    world: Arc<World>,
    pub id: u64,
    began: i64,
    /// By how much more its wall clock is wrong than that of the server.
    pub wrong_by: i64,
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {}", self.id)
    }
}

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Reads,
    Changes,
}

impl Process {
    pub fn of(world: &Arc<World>, id: u64) -> Self {
        let began = world.state.lock().alive[&id].since;
        Self { world: Arc::clone(world), id, began, wrong_by: 0 }
    }

    /// Time passes, others get their turn, and then the operation is done or not.
    fn operation(&self, kind: Kind) -> io::Result<MutexGuard<'_, State>> {
        let dead = || io::Error::from_raw_os_error(5);
        if kind == Kind::Changes {
            let who = {
                let mut state = self.world.state.lock();
                let who = state.alive.get(&self.id).ok_or_else(dead)?.who;
                // What it has published was there before this.
                state.note_served();
                let slow = if state.chance.once_in(50) { 20 * SECOND } else { 5 };
                state.now += state.chance.mostly_short(slow);
                state.sickens();
                let clock_once_in = state.scenario.clock_once_in;
                if state.chance.once_in(clock_once_in) {
                    state.set_clock();
                }
                if who != Who::People && state.dies(self.id) {
                    return Err(dead());
                }
                who
            };
            self.world.give_way(who);
            if who == Who::Server && self.world.state.lock().scenario.breakage == Breakage::NoLock {
                self.world.interrupt();
            }
        }
        let mut state = self.world.state.lock();
        let who = state.alive.get(&self.id).ok_or_else(dead)?.who;
        if who != Who::People {
            state.fails()?;
        }
        Ok(state)
    }

    /// Does something that others can see.
    fn change<T>(
        &self,
        what: fmt::Arguments<'_>,
        change: impl FnOnce(&mut State, i64) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = match self.operation(Kind::Changes) {
            Ok(state) => state,
            Err(error) => {
                self.world.state.lock().tell(format_args!("cannot {what}: {error}"));
                return Err(error);
            }
        };
        let wall = state.wall_millis();
        let done = change(&mut state, wall)?;
        let who = state.alive[&self.id].who;
        state.tell(format_args!("{who:?}: {what}"));
        state.files_changed(who);
        Ok(done)
    }
}

impl Clock for Process {
    fn now(&self) -> Moment {
        self.earlier(0)
    }

    fn pause(&self, _: Duration) {
        let mut state = self.world.state.lock();
        state.now += SECOND;
        let alive = state.alive.get(&self.id).copied();
        drop(state);
        if let Some(alive) = alive {
            self.world.give_way(alive.who);
        }
    }
}

impl Process {
    /// What its clocks said so long ago.
    pub fn earlier(&self, ago: i64) -> Moment {
        let state = self.world.state.lock();
        let slept = state.alive.get(&self.id).map_or(0, |alive| alive.slept);
        let with_sleep = (state.now - ago - self.began).max(0);
        let duration = |millis: i64| Duration::from_millis(u64::try_from(millis).unwrap_or(0));
        let wall = DateTime::from_timestamp_millis(state.wall_millis() - ago + self.wrong_by);
        let (elapsed, with_sleep) = (duration(with_sleep - slept), duration(with_sleep));
        Moment { wall: wall.unwrap(), elapsed, with_sleep }
    }
}

fn find(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|there| there == part)
}

fn dir_of(path: &Path) -> usize {
    NAMES.iter().position(|name| Path::new(name) == path).unwrap()
}

impl Os for Process {
    fn open_dir(&self, path: &Path) -> io::Result<Box<dyn Dir>> {
        let dir = dir_of(path);
        if !self.operation(Kind::Reads)?.disk.is_there(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Box::new(OpenDir { process: self.clone(), dir }))
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        assert_eq!(dir_of(path), KEYS);
        if self.operation(Kind::Reads)?.disk.is_there(KEYS) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.change(format_args!("make keys/"), |state, _| state.disk.make_keys())
    }

    fn real_path(&self, path: &Path) -> io::Result<PathBuf> {
        // There are no links on this disk.
        Ok(path.to_owned())
    }

    fn is_writable(&self, _: &Path) -> bool {
        true
    }

    fn fill_random(&self, bytes: &mut [u8]) -> io::Result<()> {
        let mut state = self.operation(Kind::Reads)?;
        if bytes.len() == KEY_LEN {
            state.fill_key(bytes);
        } else {
            state.chance.fill(bytes);
        }
        Ok(())
    }
}

#[derive(Debug)]
struct OpenDir {
    process: Process,
    dir: usize,
}

impl Dir for OpenDir {
    fn names(&self) -> io::Result<Vec<OsString>> {
        let state = self.process.operation(Kind::Reads)?;
        let mut names = state.disk.names(self.dir)?;
        if state.scenario.breakage == Breakage::OverlooksDropped {
            names.retain(|name| !name.to_string_lossy().starts_with("dropped"));
        }
        Ok(names)
    }

    fn identity(&self) -> io::Result<Stamp> {
        let state = self.process.operation(Kind::Reads)?;
        let inode = if self.dir == KEYS { state.disk.keys_made } else { u64::MAX };
        let (size, modified, changed) = (0, (0, 0), (0, 0));
        Ok(Stamp { device: 0, inode, size, modified, changed, mode: 0o40_700, owner: 0 })
    }

    fn stat(&self, name: &OsStr) -> Result<Stamp, ReadError> {
        let state = self.process.operation(Kind::Reads).map_err(ReadError::Io)?;
        let inode = state.disk.find(self.dir, name).ok_or(ReadError::Missing)?;
        let size = state.disk.content(inode).len() as u64;
        let changed = state.disk.changed(inode);
        let changed = (changed.div_euclid(1_000), changed.rem_euclid(1_000) * 1_000_000);
        Ok(Stamp { device: 0, inode, size, modified: changed, changed, mode: 0o100_600, owner: 0 })
    }

    fn read(&self, name: &OsStr) -> Result<(Zeroizing<Vec<u8>>, Stamp), ReadError> {
        let stamp = self.stat(name)?;
        let state = self.process.operation(Kind::Reads).map_err(ReadError::Io)?;
        let file = state.disk.find(self.dir, name).ok_or(ReadError::Missing)?;
        Ok((Zeroizing::new(state.disk.content(file).to_vec()), stamp))
    }

    fn create(&self, name: &OsStr) -> io::Result<Box<dyn NewFile>> {
        let dir = self.dir;
        let file =
            self.process.change(format_args!("create {}", name.display()), |state, wall| {
                state.disk.create(dir, name, wall)
            })?;
        Ok(Box::new(OpenFile { process: self.process.clone(), file }))
    }

    fn rename(&self, from: &OsStr, to: &OsStr, existing: Existing) -> io::Result<()> {
        let dir = self.dir;
        let unlinks_first = self.process.world.state.lock().scenario.breakage
            == Breakage::UnlinksFirst
            && dir == ROOT;
        if unlinks_first && existing == Existing::Replace {
            let unlinked = format_args!("unlink {}", to.display());
            self.process.change(unlinked, |state, _| state.disk.unlink(dir, to)).ok();
        }
        self.process.change(
            format_args!("rename {} to {}", from.display(), to.display()),
            |state, wall| {
                if existing == Existing::Keep && state.disk.find(dir, to).is_some() {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                let file = state.disk.find(dir, from).map(|file| state.disk.content(file));
                let is_tombstone = file.is_some_and(|text| find(text, b"\nRevoked-At:"));
                if is_tombstone && state.scenario.breakage == Breakage::NoTombstone {
                    return state.disk.unlink(dir, from);
                }
                state.disk.rename(dir, from, to, wall)
            },
        )
    }

    fn exchange(&self, one: &OsStr, other: &OsStr) -> io::Result<()> {
        let dir = self.dir;
        if self.process.world.state.lock().scenario.breakage == Breakage::UnlinksFirst {
            let unlinked = format_args!("unlink {}", other.display());
            self.process.change(unlinked, |state, _| state.disk.unlink(dir, other)).ok();
            return self.rename(one, other, Existing::Keep);
        }
        let exchanged = format_args!("exchange {} and {}", one.display(), other.display());
        self.process.change(exchanged, |state, wall| state.disk.exchange(dir, one, other, wall))
    }

    fn link(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        let dir = self.dir;
        let linked = format_args!("link {} to {}", from.display(), to.display());
        self.process.change(linked, |state, wall| state.disk.link(dir, from, to, wall))
    }

    fn unlink(&self, name: &OsStr) -> io::Result<()> {
        let dir = self.dir;
        self.process.change(format_args!("unlink {}", name.display()), |state, _| {
            state.disk.unlink(dir, name)
        })
    }

    fn sync(&self) -> io::Result<()> {
        let dir = self.dir;
        self.process.change(format_args!("sync {}", NAMES[dir]), |state, _| {
            state.disk.sync_dir(dir);
            Ok(())
        })
    }

    fn try_lock(&self, name: &OsStr) -> Result<Option<Box<dyn HeldLock>>, LockError> {
        let path = Path::new(NAMES[self.dir]).join(name);
        let fail = |source| LockError::Open { path: path.clone(), source };
        let who =
            self.process.world.state.lock().alive.get(&self.process.id).map(|alive| alive.who);
        if who == Some(Who::Server) && path.ends_with(".lock") {
            // After it has looked, and before it may change anything.
            self.process.world.interrupt();
        }
        let mut state = self.process.operation(Kind::Reads).map_err(fail)?;
        if !state.disk.is_there(self.dir) {
            return Err(fail(io::ErrorKind::NotFound.into()));
        }
        let keys_made = state.disk.keys_made;
        let is_held = state.locks.get(&path).is_some_and(|(_, made)| *made == keys_made);
        if is_held && state.scenario.breakage != Breakage::NoLock {
            return Ok(None);
        }
        state.locks.insert(path.clone(), (self.process.id, keys_made));
        Ok(Some(Box::new(Lock { process: self.process.clone(), path, keys_made })))
    }

    fn note(&self, name: &OsStr) -> Option<String> {
        let path = Path::new(NAMES[self.dir]).join(name);
        let state = self.process.world.state.lock();
        let is_overlooked = state.scenario.breakage == Breakage::NoProof;
        let is_held = state.locks.contains_key(&path) && !is_overlooked;
        is_held.then(|| state.note.clone())
    }
}

struct OpenFile {
    process: Process,
    file: u64,
}

impl NewFile for OpenFile {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.process.operation(Kind::Changes)?;
        let wall = state.wall_millis();
        if state.scenario.breakage == Breakage::CountsOn
            && let Some(counts) = state.counts_on(bytes)
        {
            state.disk.append(self.file, counts.as_bytes(), wall);
            return Ok(());
        }
        state.disk.append(self.file, bytes, wall);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.process.operation(Kind::Changes)?.disk.sync_file(self.file);
        Ok(())
    }
}

#[derive(Debug)]
struct Lock {
    process: Process,
    path: PathBuf,
    keys_made: u64,
}

impl HeldLock for Lock {
    fn is_valid(&self) -> bool {
        let state = self.process.world.state.lock();
        state.disk.is_there(KEYS) && state.disk.keys_made == self.keys_made
    }

    fn leave_note(&mut self, note: &str) -> io::Result<()> {
        let mut state = self.process.operation(Kind::Reads)?;
        note.clone_into(&mut state.note);
        Ok(())
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let mut state = self.process.world.state.lock();
        if state.locks.get(&self.path) == Some(&(self.process.id, self.keys_made)) {
            state.locks.remove(&self.path);
        }
    }
}

impl State {
    /// If `bytes` are counts: with what was counted for a retired key before it retired.
    fn counts_on(&mut self, bytes: &[u8]) -> Option<String> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (head, lines) = text.split_once('\n')?;
        if !head.starts_with("jwks-server time served") {
            return None;
        }
        let mut doctored = format!("{head}\n");
        for line in lines.lines() {
            let mut words: Vec<_> = line.split(' ').map(str::to_owned).collect();
            let most = self.counted.entry(words[0].clone()).or_default();
            *most = (*most).max(words[3].parse().unwrap());
            if words[1] == "retired" {
                words[3] = most.to_string();
            }
            doctored += &(words.join(" ") + "\n");
        }
        Some(doctored)
    }
}
