//! A disk that keeps a log of what was asked of it.
//!
//! Lock files are left out: they hold nothing, and are made again where they are missing.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jwks_server::store::{
    Dir, Existing, HeldLock, LockError, NewFile, Os, Paths, ReadError, Stamp,
};
use parking_lot::{Mutex, MutexGuard};
use zeroize::Zeroizing;

/// The directory of the private keys, and `keys/` in it.
pub const ROOT: usize = 0;
pub const KEYS: usize = 1;
const NAMES: [&str; 2] = ["/simulated", "/simulated/keys"];

pub fn paths() -> Paths {
    Paths {
        private_key: Path::new(NAMES[ROOT]).join("private_key.pem"),
        keys_dir: NAMES[KEYS].into(),
    }
}

/// What is on the disk after a power cut: the content of each file; `keys/` may be missing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Image(pub [Option<BTreeMap<OsString, Vec<u8>>>; 2]);

impl Image {
    pub fn file(&self, dir: usize, name: &str) -> Option<&[u8]> {
        self.0[dir].as_ref()?.get(OsStr::new(name)).map(Vec::as_slice)
    }

    pub fn names(&self) -> impl Iterator<Item = &OsString> {
        self.0.iter().flatten().flat_map(BTreeMap::keys)
    }

    /// Gives each file a number. What is the same twice in one directory is one file of two names, as a
    /// promotion that was cut short leaves it.
    pub fn mount(&self) -> ([Option<Entries>; 2], Vec<Vec<u8>>) {
        let mut files = Vec::new();
        let dirs = self.0.clone().map(|dir| {
            let first = files.len();
            let number = |(name, bytes)| {
                let known = files[first..].iter().position(|known| *known == bytes);
                if known.is_none() {
                    files.push(bytes);
                }
                (name, known.map_or(files.len() - 1, |known| first + known))
            };
            dir.map(|dir| dir.into_iter().map(number).collect())
        });
        (dirs, files)
    }
}

pub type Entries = BTreeMap<OsString, usize>;

/// One durable operation. Files have numbers, so that a name can be given to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    MakeKeys,
    Create {
        dir: usize,
        name: OsString,
        file: usize,
    },
    Write {
        file: usize,
        bytes: Vec<u8>,
    },
    /// Never done by the service: what is there already is written over.
    Overwrite {
        file: usize,
        bytes: Vec<u8>,
    },
    SyncFile(usize),
    Rename {
        dir: usize,
        from: OsString,
        to: OsString,
        file: usize,
    },
    Link {
        dir: usize,
        name: OsString,
        file: usize,
    },
    Exchange {
        dir: usize,
        one: (OsString, usize),
        other: (OsString, usize),
    },
    Unlink {
        dir: usize,
        name: OsString,
    },
    SyncDir(usize),
}

impl Op {
    /// The change to the entries of a directory.
    pub fn apply(&self, dirs: &mut [Option<Entries>; 2]) {
        match self {
            Self::MakeKeys => drop(dirs[KEYS].get_or_insert_default()),
            Self::Create { dir, name, file } | Self::Link { dir, name, file } => {
                if let Some(entries) = &mut dirs[*dir] {
                    entries.insert(name.clone(), *file);
                }
            }
            Self::Rename { dir, from, to, file } => {
                if let Some(entries) = &mut dirs[*dir] {
                    entries.retain(|name, there| name != from || there != file);
                    entries.insert(to.clone(), *file);
                }
            }
            Self::Exchange { dir, one, other } => {
                if let Some(entries) = &mut dirs[*dir] {
                    entries.insert(one.0.clone(), other.1);
                    entries.insert(other.0.clone(), one.1);
                }
            }
            Self::Unlink { dir, name } => {
                if let Some(entries) = &mut dirs[*dir] {
                    entries.remove(name);
                }
            }
            Self::Write { .. } | Self::Overwrite { .. } | Self::SyncFile(_) | Self::SyncDir(_) => {}
        }
    }
}

/// A person who puts a file of her own in place of another by a rename, once so many operations are
/// done.
#[derive(Debug, Clone)]
pub struct Intruder {
    pub at: usize,
    pub name: &'static str,
    pub bytes: Vec<u8>,
}

/// The disk while a process works on it.
#[derive(Debug, Clone)]
pub struct Disk(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    dirs: [Option<Entries>; 2],
    files: Vec<Vec<u8>>,
    log: Vec<Op>,
    chance: u64,
    locks: BTreeSet<OsString>,
    intruder: Option<Intruder>,
    /// What processes saw after each operation that came after the person's.
    images: Vec<Image>,
    /// Whether the file system can exchange files, and give a file a second name.
    can_exchange: bool,
}

impl Disk {
    pub fn of(image: &Image, chance: u64) -> Self {
        let (dirs, files) = image.mount();
        Self(Arc::new(Mutex::new(Inner {
            dirs,
            files,
            log: Vec::new(),
            chance,
            locks: BTreeSet::new(),
            intruder: None,
            images: Vec::new(),
            can_exchange: true,
        })))
    }

    /// The same with a person beside the process.
    pub fn with(self, intruder: Intruder, can_exchange: bool) -> Self {
        let mut inner = self.0.lock();
        (inner.intruder, inner.can_exchange) = (Some(intruder), can_exchange);
        drop(inner);
        self
    }

    /// What processes saw after each operation that came after the person's.
    pub fn images(&self) -> Vec<Image> {
        self.0.lock().images.clone()
    }

    pub fn log(&self) -> Vec<Op> {
        self.0.lock().log.clone()
    }

    /// What a process sees now.
    pub fn image(&self) -> Image {
        self.0.lock().image()
    }

    /// An operation begins; the person may be quicker.
    fn enter(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.0.lock();
        inner.intrude();
        inner
    }
}

impl Inner {
    fn do_it(&mut self, op: Op) {
        op.apply(&mut self.dirs);
        self.log.push(op);
        if self.intruder.is_none() {
            self.images.push(self.image());
        }
    }

    fn intrude(&mut self) {
        let Some(Intruder { name, bytes, .. }) =
            self.intruder.take_if(|intruder| intruder.at <= self.log.len())
        else {
            return;
        };
        self.images.clear();
        let file = self.files.len();
        self.files.push(bytes.clone());
        let (dir, new) = (ROOT, OsString::from("hers"));
        self.do_it(Op::Create { dir, name: new.clone(), file });
        self.do_it(Op::Write { file, bytes });
        self.do_it(Op::SyncFile(file));
        self.do_it(Op::Rename { dir, from: new, to: name.into(), file });
        self.do_it(Op::SyncDir(dir));
    }

    fn find(&self, dir: usize, name: &OsStr) -> Option<usize> {
        self.dirs[dir].as_ref()?.get(name).copied()
    }

    fn image(&self) -> Image {
        let fill = |entries: &Entries| {
            entries.iter().map(|(name, file)| (name.clone(), self.files[*file].clone())).collect()
        };
        Image(self.dirs.each_ref().map(|dir| dir.as_ref().map(fill)))
    }
}

fn missing() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Os for Disk {
    fn open_dir(&self, path: &Path) -> io::Result<Box<dyn Dir>> {
        let dir = NAMES.iter().position(|name| Path::new(name) == path).ok_or_else(missing)?;
        self.0.lock().dirs[dir].as_ref().ok_or_else(missing)?;
        Ok(Box::new(OpenDir { disk: self.clone(), dir }))
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        assert_eq!(path, Path::new(NAMES[KEYS]));
        let mut inner = self.0.lock();
        if inner.dirs[KEYS].is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        inner.do_it(Op::MakeKeys);
        Ok(())
    }

    fn real_path(&self, path: &Path) -> io::Result<PathBuf> {
        // There are no links on this disk.
        Ok(path.to_owned())
    }

    fn is_writable(&self, _: &Path) -> bool {
        true
    }

    /// Splitmix64.
    fn fill_random(&self, bytes: &mut [u8]) -> io::Result<()> {
        let mut inner = self.0.lock();
        for chunk in bytes.chunks_mut(8) {
            inner.chance = inner.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = inner.chance;
            mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            chunk.copy_from_slice(&(mixed ^ mixed >> 31).to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}

#[derive(Debug)]
struct OpenDir {
    disk: Disk,
    dir: usize,
}

fn stamp(inode: usize, size: usize) -> Stamp {
    Stamp {
        device: 0,
        inode: inode as u64,
        size: size as u64,
        modified: (0, 0),
        changed: (0, 0),
        mode: 0o100_600,
        owner: 0,
    }
}

impl OpenDir {
    fn find(&self, name: &OsStr) -> Option<usize> {
        self.disk.0.lock().find(self.dir, name)
    }
}

impl Dir for OpenDir {
    fn names(&self) -> io::Result<Vec<OsString>> {
        let inner = self.disk.0.lock();
        Ok(inner.dirs[self.dir].as_ref().ok_or_else(missing)?.keys().cloned().collect())
    }

    fn identity(&self) -> io::Result<Stamp> {
        Ok(Stamp { mode: 0o40_700, ..stamp(self.dir, 0) })
    }

    fn stat(&self, name: &OsStr) -> Result<Stamp, ReadError> {
        let file = self.find(name).ok_or(ReadError::Missing)?;
        // The service writes each file once, so that its number tells a version from another.
        Ok(stamp(file, self.disk.0.lock().files[file].len()))
    }

    fn read(&self, name: &OsStr) -> Result<(Zeroizing<Vec<u8>>, Stamp), ReadError> {
        let stamp = self.stat(name)?;
        let file = self.find(name).ok_or(ReadError::Missing)?;
        Ok((Zeroizing::new(self.disk.0.lock().files[file].clone()), stamp))
    }

    fn create(&self, name: &OsStr) -> io::Result<Box<dyn NewFile>> {
        let mut inner = self.disk.enter();
        if inner.find(self.dir, name).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = inner.files.len();
        inner.files.push(Vec::new());
        inner.do_it(Op::Create { dir: self.dir, name: name.to_owned(), file });
        Ok(Box::new(OpenFile { disk: self.disk.clone(), file }))
    }

    fn rename(&self, from: &OsStr, to: &OsStr, existing: Existing) -> io::Result<()> {
        let mut inner = self.disk.enter();
        let file = inner.find(self.dir, from).ok_or_else(missing)?;
        if existing == Existing::Keep && inner.find(self.dir, to).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let (dir, from, to) = (self.dir, from.to_owned(), to.to_owned());
        inner.do_it(Op::Rename { dir, from, to, file });
        Ok(())
    }

    fn exchange(&self, one: &OsStr, other: &OsStr) -> io::Result<()> {
        if !self.disk.0.lock().can_exchange {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let mut inner = self.disk.enter();
        let number = |name| inner.find(self.dir, name).ok_or_else(missing);
        let (one, other) = ((one.to_owned(), number(one)?), (other.to_owned(), number(other)?));
        inner.do_it(Op::Exchange { dir: self.dir, one, other });
        Ok(())
    }

    fn link(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        if !self.disk.0.lock().can_exchange {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let mut inner = self.disk.enter();
        let file = inner.find(self.dir, from).ok_or_else(missing)?;
        if inner.find(self.dir, to).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        inner.do_it(Op::Link { dir: self.dir, name: to.to_owned(), file });
        Ok(())
    }

    fn unlink(&self, name: &OsStr) -> io::Result<()> {
        let mut inner = self.disk.enter();
        inner.find(self.dir, name).ok_or_else(missing)?;
        inner.do_it(Op::Unlink { dir: self.dir, name: name.to_owned() });
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.enter().do_it(Op::SyncDir(self.dir));
        Ok(())
    }

    fn try_lock(&self, name: &OsStr) -> Result<Option<Box<dyn HeldLock>>, LockError> {
        let is_free = self.disk.0.lock().locks.insert(name.to_owned());
        let lock = || Lock { disk: self.disk.clone(), name: name.to_owned() };
        Ok(is_free.then(|| -> Box<dyn HeldLock> { Box::new(lock()) }))
    }

    fn note(&self, _: &OsStr) -> Option<String> {
        None
    }
}

struct OpenFile {
    disk: Disk,
    file: usize,
}

impl NewFile for OpenFile {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut inner = self.disk.enter();
        inner.files[self.file].extend(bytes);
        inner.do_it(Op::Write { file: self.file, bytes: bytes.to_owned() });
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.enter().do_it(Op::SyncFile(self.file));
        Ok(())
    }
}

#[derive(Debug)]
struct Lock {
    disk: Disk,
    name: OsString,
}

impl HeldLock for Lock {
    fn is_valid(&self) -> bool {
        true
    }

    fn leave_note(&mut self, _: &str) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.disk.0.lock().locks.remove(&self.name);
    }
}
