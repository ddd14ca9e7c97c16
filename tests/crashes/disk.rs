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
use parking_lot::Mutex;
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

    /// Gives each file a number.
    pub fn mount(&self) -> ([Option<Entries>; 2], Vec<Vec<u8>>) {
        let mut files = Vec::new();
        let dirs = self.0.clone().map(|dir| {
            let number = |(name, bytes)| {
                files.push(bytes);
                (name, files.len() - 1)
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
            Self::Create { dir, name, file } => {
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
            Self::Unlink { dir, name } => {
                if let Some(entries) = &mut dirs[*dir] {
                    entries.remove(name);
                }
            }
            Self::Write { .. } | Self::Overwrite { .. } | Self::SyncFile(_) | Self::SyncDir(_) => {}
        }
    }
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
    locks: BTreeSet<PathBuf>,
}

impl Disk {
    pub fn of(image: &Image, chance: u64) -> Self {
        let (dirs, files) = image.mount();
        let inner = Inner { dirs, files, log: Vec::new(), chance, locks: BTreeSet::new() };
        Self(Arc::new(Mutex::new(inner)))
    }

    pub fn log(&self) -> Vec<Op> {
        self.0.lock().log.clone()
    }

    /// What a process sees now.
    pub fn image(&self) -> Image {
        let inner = self.0.lock();
        let fill = |entries: &Entries| {
            entries.iter().map(|(name, file)| (name.clone(), inner.files[*file].clone())).collect()
        };
        Image(inner.dirs.each_ref().map(|dir| dir.as_ref().map(fill)))
    }
}

impl Inner {
    fn do_it(&mut self, op: Op) {
        op.apply(&mut self.dirs);
        self.log.push(op);
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

    fn try_lock(&self, path: &Path) -> Result<Option<Box<dyn HeldLock>>, LockError> {
        let is_free = self.0.lock().locks.insert(path.to_owned());
        let lock = || Lock { disk: self.clone(), path: path.to_owned() };
        Ok(is_free.then(|| -> Box<dyn HeldLock> { Box::new(lock()) }))
    }

    fn note(&self, _: &Path) -> Option<String> {
        None
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

struct OpenDir {
    disk: Disk,
    dir: usize,
}

impl OpenDir {
    fn find(&self, name: &OsStr) -> Option<usize> {
        self.disk.0.lock().dirs[self.dir].as_ref()?.get(name).copied()
    }
}

impl Dir for OpenDir {
    fn names(&self) -> io::Result<Vec<OsString>> {
        let inner = self.disk.0.lock();
        Ok(inner.dirs[self.dir].as_ref().ok_or_else(missing)?.keys().cloned().collect())
    }

    fn mode(&self) -> io::Result<u32> {
        Ok(0o40_700)
    }

    fn stat(&self, name: &OsStr) -> Result<Stamp, ReadError> {
        let file = self.find(name).ok_or(ReadError::Missing)?;
        // The service writes each file once, so that its number tells a version from another.
        let (inode, size) = (file as u64, self.disk.0.lock().files[file].len() as u64);
        Ok(Stamp {
            device: 0,
            inode,
            size,
            modified: (0, 0),
            changed: (0, 0),
            mode: 0o100_600,
            owner: 0,
        })
    }

    fn read(&self, name: &OsStr) -> Result<(Zeroizing<Vec<u8>>, Stamp), ReadError> {
        let stamp = self.stat(name)?;
        let file = self.find(name).ok_or(ReadError::Missing)?;
        Ok((Zeroizing::new(self.disk.0.lock().files[file].clone()), stamp))
    }

    fn create(&self, name: &OsStr, _: &Path) -> io::Result<Box<dyn NewFile>> {
        if self.find(name).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let mut inner = self.disk.0.lock();
        let file = inner.files.len();
        inner.files.push(Vec::new());
        inner.do_it(Op::Create { dir: self.dir, name: name.to_owned(), file });
        Ok(Box::new(OpenFile { disk: self.disk.clone(), file }))
    }

    fn rename(&self, from: &OsStr, to: &OsStr, existing: Existing) -> io::Result<()> {
        let file = self.find(from).ok_or_else(missing)?;
        if existing == Existing::Keep && self.find(to).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let (dir, from, to) = (self.dir, from.to_owned(), to.to_owned());
        self.disk.0.lock().do_it(Op::Rename { dir, from, to, file });
        Ok(())
    }

    fn unlink(&self, name: &OsStr) -> io::Result<()> {
        self.find(name).ok_or_else(missing)?;
        self.disk.0.lock().do_it(Op::Unlink { dir: self.dir, name: name.to_owned() });
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.0.lock().do_it(Op::SyncDir(self.dir));
        Ok(())
    }
}

struct OpenFile {
    disk: Disk,
    file: usize,
}

impl NewFile for OpenFile {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut inner = self.disk.0.lock();
        inner.files[self.file].extend(bytes);
        inner.do_it(Op::Write { file: self.file, bytes: bytes.to_owned() });
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.0.lock().do_it(Op::SyncFile(self.file));
        Ok(())
    }
}

#[derive(Debug)]
struct Lock {
    disk: Disk,
    path: PathBuf,
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
        self.disk.0.lock().locks.remove(&self.path);
    }
}
