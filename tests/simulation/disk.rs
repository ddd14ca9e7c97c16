//! A disk that loses what was not synced when the power fails.
//!
//! It is as weak as POSIX lets a file system be (Pillai et al., "All File Systems Are Not Created
//! Equal", OSDI 2014): of the changes to a directory since its last sync any subset may be there
//! afterwards, each whole; of the content of a file since its last sync nothing, a part, zeros or
//! all. The sync of a file says nothing of its name.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;

use jwks_server::jwk::KeyId;
use jwks_server::key::{PemKey, parse_pem};
use jwks_server::store::Paths;

use crate::chance::Chance;

/// The directory of the private keys, and `keys/` in it.
pub const ROOT: usize = 0;
pub const KEYS: usize = 1;
pub const NAMES: [&str; 2] = ["/simulated", "/simulated/keys"];
pub const CURRENT: &str = "private_key.pem";
pub const NEXT: &str = "next_key.pem";

pub fn paths() -> Paths {
    Paths { private_key: Path::new(NAMES[ROOT]).join(CURRENT), keys_dir: NAMES[KEYS].into() }
}

type Entries = BTreeMap<OsString, u64>;

#[derive(Debug, Default)]
pub struct Disk {
    /// What processes see. Files have numbers, so that a name can be given to another.
    entries: [Option<Entries>; 2],
    /// What is there after a power cut in any case.
    durable: [Option<Entries>; 2],
    pending: [Vec<Change>; 2],
    files: BTreeMap<u64, File>,
    last: u64,
    /// Counts the changes that processes can see.
    pub version: u64,
    /// How often `keys/` was made.
    pub keys_made: u64,
    /// Whether the sync of a file is skipped.
    pub forgets_file_syncs: bool,
    /// Whether the sync of `keys/` is skipped.
    pub forgets_keys_syncs: bool,
}

#[derive(Debug)]
struct File {
    bytes: Vec<u8>,
    is_synced: bool,
    /// In milliseconds of the wall clock.
    changed: i64,
    /// What private key it holds, once somebody has asked.
    holds: Option<Held>,
}

/// A change to the entries of a directory.
#[derive(Debug, Clone)]
enum Change {
    MakeKeys,
    Put { dir: usize, name: OsString, file: u64 },
    Move { dir: usize, from: OsString, to: OsString, file: u64 },
    Exchange { dir: usize, one: (OsString, u64), other: (OsString, u64) },
    Remove { dir: usize, name: OsString },
}

/// What is in the place of a private key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    Missing,
    Broken,
    Key(KeyId),
}

fn apply(change: &Change, entries: &mut [Option<Entries>; 2]) {
    match change {
        Change::MakeKeys => drop(entries[KEYS].get_or_insert_default()),
        Change::Put { dir, name, file } => {
            if let Some(entries) = &mut entries[*dir] {
                entries.insert(name.clone(), *file);
            }
        }
        Change::Move { dir, from, to, file } => {
            if let Some(entries) = &mut entries[*dir] {
                entries.retain(|name, there| name != from || there != file);
                entries.insert(to.clone(), *file);
            }
        }
        Change::Exchange { dir, one, other } => {
            if let Some(entries) = &mut entries[*dir] {
                entries.insert(one.0.clone(), other.1);
                entries.insert(other.0.clone(), one.1);
            }
        }
        Change::Remove { dir, name } => {
            if let Some(entries) = &mut entries[*dir] {
                entries.remove(name);
            }
        }
    }
}

fn missing() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Disk {
    pub fn new() -> Self {
        let empty = || [Some(Entries::new()), None];
        Self { entries: empty(), durable: empty(), ..Self::default() }
    }

    fn dir(&self, dir: usize) -> io::Result<&Entries> {
        self.entries[dir].as_ref().ok_or_else(missing)
    }

    pub fn is_there(&self, dir: usize) -> bool {
        self.entries[dir].is_some()
    }

    pub fn names(&self, dir: usize) -> io::Result<Vec<OsString>> {
        Ok(self.dir(dir)?.keys().cloned().collect())
    }

    pub fn find(&self, dir: usize, name: &OsStr) -> Option<u64> {
        self.dir(dir).ok()?.get(name).copied()
    }

    pub fn content(&self, file: u64) -> &[u8] {
        &self.files[&file].bytes
    }

    pub fn changed(&self, file: u64) -> i64 {
        self.files[&file].changed
    }

    fn change(&mut self, dir: usize, change: Change) {
        apply(&change, &mut self.entries);
        self.pending[dir].push(change);
        self.version += 1;
    }

    fn new_file(&mut self, bytes: &[u8], changed: i64) -> u64 {
        if self.files.len() > 1_000 {
            self.forget_unnamed();
        }
        self.last += 1;
        let file = File { bytes: bytes.to_vec(), is_synced: true, changed, holds: None };
        self.files.insert(self.last, file);
        self.last
    }

    fn forget_unnamed(&mut self) {
        let Self { entries, durable, pending, files, .. } = self;
        let is_pending = |number: &u64| {
            pending.iter().flatten().any(|change| match change {
                Change::Put { file, .. } | Change::Move { file, .. } => file == number,
                Change::Exchange { one, other, .. } => one.1 == *number || other.1 == *number,
                Change::MakeKeys | Change::Remove { .. } => false,
            })
        };
        let named: Vec<_> = entries
            .iter()
            .chain(durable.iter())
            .flatten()
            .flat_map(|entries| entries.values().copied())
            .collect();
        files.retain(|number, _| named.contains(number) || is_pending(number));
    }

    // What processes do.

    pub fn make_keys(&mut self) -> io::Result<()> {
        if self.is_there(KEYS) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.keys_made += 1;
        self.change(ROOT, Change::MakeKeys);
        Ok(())
    }

    pub fn create(&mut self, dir: usize, name: &OsStr, changed: i64) -> io::Result<u64> {
        if self.dir(dir)?.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = self.new_file(&[], changed);
        self.change(dir, Change::Put { dir, name: name.to_owned(), file });
        Ok(file)
    }

    pub fn append(&mut self, file: u64, bytes: &[u8], changed: i64) {
        let Some(file) = self.files.get_mut(&file) else { return };
        file.bytes.extend(bytes);
        (file.is_synced, file.changed, file.holds) = (false, changed, None);
        self.version += 1;
    }

    pub fn sync_file(&mut self, file: u64) {
        if let Some(file) = self.files.get_mut(&file)
            && !self.forgets_file_syncs
        {
            file.is_synced = true;
        }
    }

    pub fn rename(&mut self, dir: usize, from: &OsStr, to: &OsStr, changed: i64) -> io::Result<()> {
        let file = self.find(dir, from).ok_or_else(missing)?;
        self.files.get_mut(&file).unwrap().changed = changed;
        self.change(dir, Change::Move { dir, from: from.to_owned(), to: to.to_owned(), file });
        Ok(())
    }

    pub fn exchange(&mut self, dir: usize, one: &OsStr, other: &OsStr, at: i64) -> io::Result<()> {
        let mut found = |name: &OsStr| {
            let file = self.find(dir, name).ok_or_else(missing)?;
            self.files.get_mut(&file).unwrap().changed = at;
            Ok::<_, io::Error>((name.to_owned(), file))
        };
        let (one, other) = (found(one)?, found(other)?);
        self.change(dir, Change::Exchange { dir, one, other });
        Ok(())
    }

    pub fn link(&mut self, dir: usize, from: &OsStr, to: &OsStr, changed: i64) -> io::Result<()> {
        let file = self.find(dir, from).ok_or_else(missing)?;
        if self.find(dir, to).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.files.get_mut(&file).unwrap().changed = changed;
        self.change(dir, Change::Put { dir, name: to.to_owned(), file });
        Ok(())
    }

    pub fn unlink(&mut self, dir: usize, name: &OsStr) -> io::Result<()> {
        self.find(dir, name).ok_or_else(missing)?;
        self.change(dir, Change::Remove { dir, name: name.to_owned() });
        Ok(())
    }

    pub fn sync_dir(&mut self, dir: usize) {
        if dir != KEYS || !self.forgets_keys_syncs {
            for change in std::mem::take(&mut self.pending[dir]) {
                apply(&change, &mut self.durable);
            }
        }
    }

    // What the power does.

    pub fn power_cut(&mut self, chance: &mut Chance) {
        for pending in std::mem::take(&mut self.pending) {
            for change in pending.iter().filter(|_| chance.once_in(2)) {
                apply(change, &mut self.durable);
            }
        }
        self.entries = self.durable.clone();
        for file in self.files.values_mut().filter(|file| !file.is_synced) {
            let len = file.bytes.len();
            match chance.between(0, 3) {
                0 => file.bytes.clear(),
                1 => file.bytes.fill(0),
                2 => file.bytes.truncate(usize::try_from(chance.next()).unwrap() % len.max(1)),
                _ => {}
            }
            (file.is_synced, file.holds) = (true, None);
        }
        self.version += 1;
    }

    // What people do; it is durable at once.

    pub fn write(&mut self, dir: usize, name: &str, bytes: &[u8], changed: i64) {
        let file = self.new_file(bytes, changed);
        if self.is_there(dir) {
            self.change(dir, Change::Put { dir, name: name.into(), file });
            self.sync_for_people(dir);
        }
    }

    pub fn delete(&mut self, dir: usize, name: &OsStr) {
        if self.unlink(dir, name).is_ok() {
            self.sync_for_people(dir);
        }
    }

    pub fn delete_keys(&mut self) {
        self.pending[KEYS].clear();
        (self.entries[KEYS], self.durable[KEYS]) = (None, None);
        self.version += 1;
    }

    /// Changes of others that were not synced stay so, unless they came before one of these, or what
    /// people put into `keys/` would be lost with it.
    fn sync_for_people(&mut self, dir: usize) {
        if dir == KEYS && self.durable[KEYS].is_none() {
            self.sync_for_people(ROOT);
        }
        for change in std::mem::take(&mut self.pending[dir]) {
            apply(&change, &mut self.durable);
        }
    }

    // What the judge asks.

    pub fn held(&mut self, name: &str) -> Held {
        let Some(number) = self.find(ROOT, OsStr::new(name)) else { return Held::Missing };
        let file = self.files.get_mut(&number).unwrap();
        *file.holds.get_or_insert_with(|| match parse_pem(&file.bytes) {
            Ok(PemKey::Private { key, .. }) => Held::Key(key.jwk().kid()),
            Ok(PemKey::Public(_)) | Err(_) => Held::Broken,
        })
    }

    /// The record of `kid`, as processes see it.
    pub fn record(&self, kid: KeyId) -> Option<OsString> {
        record_in(self.entries[KEYS].as_ref()?, kid)
    }

    /// Whether `kid` has a record that a power cut does not take away.
    pub fn has_durable_record(&self, kid: KeyId) -> bool {
        let name = self.durable[KEYS].as_ref().and_then(|entries| record_in(entries, kid));
        name.is_some_and(|name| {
            let number = self.durable[KEYS].as_ref().unwrap()[&name];
            self.files.get(&number).is_some_and(|file| file.is_synced)
        })
    }
}

fn record_in(entries: &Entries, kid: KeyId) -> Option<OsString> {
    let end = format!("-{kid}.pem");
    let is_record = |name: &&OsString| {
        name.to_str().is_some_and(|name| name.ends_with(&end) && !name.starts_with('.'))
    };
    entries.keys().find(is_record).cloned()
}
