use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use getrandom::SysRng;
use zeroize::Zeroizing;

use super::*;

/// What happens just before an operation on this path: it may fail, and something else may be done.
type Hook = dyn Fn(&str, &Path) -> io::Result<()> + Send + Sync;

/// The real operating system, disturbed.
struct Disturbed(Arc<Hook>);

impl std::fmt::Debug for Disturbed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Disturbed")
    }
}

impl Os for Disturbed {
    fn open_dir(&self, path: &Path) -> io::Result<Box<dyn Dir>> {
        let dir = Native.open_dir(path)?;
        Ok(Box::new(DisturbedDir { dir, path: path.to_owned(), hook: Arc::clone(&self.0) }))
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        Native.make_dir(path)
    }

    fn real_path(&self, path: &Path) -> io::Result<PathBuf> {
        Native.real_path(path)
    }

    fn is_writable(&self, dir: &Path) -> bool {
        Native.is_writable(dir)
    }

    fn fill_random(&self, bytes: &mut [u8]) -> io::Result<()> {
        Native.fill_random(bytes)
    }
}

struct DisturbedDir {
    dir: Box<dyn Dir>,
    path: PathBuf,
    hook: Arc<Hook>,
}

impl std::fmt::Debug for DisturbedDir {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.dir.fmt(f)
    }
}

impl DisturbedDir {
    fn meet(&self, operation: &str, name: &OsStr) -> io::Result<()> {
        (self.hook)(operation, &self.path.join(name))
    }
}

impl Dir for DisturbedDir {
    fn names(&self) -> io::Result<Vec<OsString>> {
        self.dir.names()
    }

    fn identity(&self) -> io::Result<Stamp> {
        self.dir.identity()
    }

    fn stat(&self, name: &OsStr) -> Result<Stamp, ReadError> {
        self.dir.stat(name)
    }

    fn read(&self, name: &OsStr) -> Result<(Zeroizing<Vec<u8>>, Stamp), ReadError> {
        self.dir.read(name)
    }

    fn create(&self, name: &OsStr) -> io::Result<Box<dyn NewFile>> {
        self.meet("create", name)?;
        self.dir.create(name)
    }

    fn rename(&self, from: &OsStr, to: &OsStr, existing: Existing) -> io::Result<()> {
        self.meet("rename", from)?;
        self.dir.rename(from, to, existing)
    }

    fn exchange(&self, one: &OsStr, other: &OsStr) -> io::Result<()> {
        self.meet("exchange", other)?;
        self.dir.exchange(one, other)
    }

    fn link(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        self.meet("link", from)?;
        self.dir.link(from, to)
    }

    fn unlink(&self, name: &OsStr) -> io::Result<()> {
        self.meet("unlink", name)?;
        self.dir.unlink(name)
    }

    fn sync(&self) -> io::Result<()> {
        self.meet("sync", OsStr::new(""))?;
        self.dir.sync()
    }

    fn try_lock(&self, name: &OsStr) -> Result<Option<Box<dyn HeldLock>>, LockError> {
        match self.meet("lock", name) {
            Ok(()) => self.dir.try_lock(name),
            Err(_) => Ok(None),
        }
    }

    fn note(&self, name: &OsStr) -> Option<String> {
        self.dir.note(name)
    }
}

/// A directory with a current key and a next one.
struct Home {
    dir: tempfile::TempDir,
    current: SigningKey,
    next: SigningKey,
}

fn key() -> SigningKey {
    SigningKey::generate(&mut SysRng).unwrap()
}

fn pem(key: &SigningKey) -> Vec<u8> {
    key.to_pem(KeyFormat::Sec1).as_bytes().to_vec()
}

fn now() -> Time {
    chrono::DateTime::from_timestamp(1_795_000_000, 0).unwrap()
}

impl Home {
    fn new() -> Self {
        let home = Self { dir: tempfile::tempdir().unwrap(), current: key(), next: key() };
        std::fs::write(home.path(PRIVATE_KEY), pem(&home.current)).unwrap();
        std::fs::write(home.path(NEXT_KEY), pem(&home.next)).unwrap();
        std::fs::create_dir(home.path("keys")).unwrap();
        home
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn paths(&self) -> Paths {
        Paths { private_key: self.path(PRIVATE_KEY), keys_dir: self.path("keys") }
    }

    /// A store that has looked, on a disturbed system.
    fn store(&self, hook: impl Fn(&str, &Path) -> io::Result<()> + Send + Sync + 'static) -> Store {
        let os = Arc::new(Disturbed(Arc::new(hook)));
        let mut store = Store::on(os, self.paths(), KeyFormat::Sec1);
        store.look(now());
        store
    }

    /// The names and contents of all files beside `keys/`.
    fn files(&self) -> Vec<(String, Vec<u8>)> {
        let entries = std::fs::read_dir(self.dir.path()).unwrap().map(Result::unwrap);
        let files = entries.filter(|entry| entry.file_type().unwrap().is_file()).map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, std::fs::read(entry.path()).unwrap())
        });
        let mut files: Vec<_> = files.collect();
        files.sort();
        files
    }
}

#[expect(clippy::unnecessary_wraps, reason = "others fail")]
fn undisturbed(_: &str, _: &Path) -> io::Result<()> {
    Ok(())
}

/// As a file system without these calls.
fn old_file_system(operation: &str, _: &Path) -> io::Result<()> {
    match operation {
        "exchange" | "link" => Err(ErrorKind::Unsupported.into()),
        _ => Ok(()),
    }
}

type Change = fn(&Store, &Locked) -> Result<(), WriteError>;

fn replace(store: &Store, locked: &Locked) -> Result<(), WriteError> {
    let key = key();
    let record = Record::staged(*key.jwk(), now(), false);
    store.put_private_key(&key, &record, Existing::Replace, locked)
}

#[test]
fn a_promotion_leaves_the_next_key_in_the_place_of_the_current_one() {
    for hook in [undisturbed, old_file_system] {
        let home = Home::new();
        let store = home.store(hook);
        store.promote(&store.lock().unwrap()).unwrap();
        assert_eq!(home.files(), [(PRIVATE_KEY.to_owned(), pem(&home.next))]);
    }
}

#[test]
fn a_private_key_that_was_not_looked_at_is_never_destroyed() {
    let changes: [(&str, Change); 3] = [
        ("promote", |store, locked| store.promote(locked)),
        ("replace", replace),
        ("discard", |store, locked| store.discard_next(locked)),
    ];
    for (what, change) in changes {
        for name in [PRIVATE_KEY, NEXT_KEY] {
            // Before the first operation in the directory of the private keys, the second, and so on.
            for at in 0..12 {
                let home = Home::new();
                let hers = key();
                let file = home.path(name);
                let (text, root) = (pem(&hers), home.dir.path().to_owned());
                let met = Arc::new(AtomicUsize::new(0));
                let counted = Arc::clone(&met);
                let store = home.store(move |_, path| {
                    if path.parent() == Some(&root) && counted.fetch_add(1, Relaxed) == at {
                        std::fs::write(root.join("hers"), &text)?;
                        std::fs::rename(root.join("hers"), &file)?;
                    }
                    Ok(())
                });
                let done = change(&store, &store.lock().unwrap());
                let files = home.files();
                let is_there = files.iter().any(|(_, text)| *text == pem(&hers));
                let names: Vec<_> = files.iter().map(|(name, _)| &**name).collect();
                let told = format!("{what} {name} {at}: {done:?} {names:?}");
                assert!(is_there || met.load(Relaxed) <= at, "{told}");
                assert!(names.contains(&PRIVATE_KEY), "{told}");
                assert!(names.iter().all(|name| !name.starts_with('.')), "{told}");
                assert!(done.is_ok() || done.is_err_and(|error| error.is_overtaken()), "{told}");
            }
        }
    }
}

#[test]
fn a_key_that_cannot_be_written_leaves_no_record_behind() {
    let dir = tempfile::tempdir().unwrap();
    let paths = Paths {
        private_key: dir.path().join("private_key.pem"),
        keys_dir: dir.path().join("keys"),
    };
    let store = Store::new(paths, KeyFormat::Sec1);
    let locked = store.lock().unwrap();
    let key = SigningKey::generate(&mut SysRng).unwrap();
    let now = chrono::DateTime::from_timestamp(1_795_000_000, 0).unwrap();
    let record = Record::staged(*key.jwk(), now, false);
    let pem_files = || {
        let names = std::fs::read_dir(dir.path().join("keys")).unwrap();
        names.filter(|name| name.as_ref().unwrap().path().extension().is_some()).count()
    };

    std::fs::write(dir.path().join(NEXT_KEY), "a person's").unwrap();
    store.put_next_key(&key, &record, Existing::Keep, &locked).unwrap_err();
    assert_eq!(pem_files(), 0);
    std::fs::remove_file(dir.path().join(NEXT_KEY)).unwrap();
    store.put_next_key(&key, &record, Existing::Keep, &locked).unwrap();
    assert_eq!(pem_files(), 1);
}

/// The names of the records.
fn records(home: &Home) -> usize {
    let names = std::fs::read_dir(home.path("keys")).unwrap();
    names.filter(|name| name.as_ref().unwrap().path().extension().is_some()).count()
}

#[test]
fn a_key_that_may_sign_keeps_its_record_whatever_fails_after_that() {
    let fails = |operation: &'static str, nth: usize| {
        let home = Home::new();
        let root = home.dir.path().to_owned();
        let met = AtomicUsize::new(0);
        let store = home.store(move |done, path| {
            let dir = if done == "sync" { Some(path) } else { path.parent() };
            let is_it = done == operation && dir == Some(&root);
            let fails = is_it && met.fetch_add(1, Relaxed) == nth;
            if fails { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
        });
        let error = replace(&store, &store.lock().unwrap()).unwrap_err();
        assert_eq!(error.source.raw_os_error(), Some(5), "{operation}");
        let is_replaced = std::fs::read(home.path(PRIVATE_KEY)).unwrap() != pem(&home.current);
        assert_eq!(records(&home), usize::from(is_replaced), "{operation} {nth}");
        is_replaced
    };
    assert!(!fails("create", 0));
    assert!(!fails("exchange", 0));
    assert!(fails("sync", 0));
    assert!(fails("unlink", 0));
}

#[test]
fn a_server_takes_its_lock_although_a_command_has_it_for_an_instant() {
    let home = Home::new();
    let tries = AtomicUsize::new(0);
    let store = home.store(move |operation, path| {
        let is_first =
            operation == "lock" && path.ends_with(".server") && tries.fetch_add(1, Relaxed) == 0;
        if is_first { Err(ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    store.serve_alone().unwrap();
    let home = Home::new();
    let store = home.store(|operation, _| match operation {
        "lock" => Err(ErrorKind::WouldBlock.into()),
        _ => Ok(()),
    });
    assert!(matches!(store.serve_alone(), Err(LockError::Held { .. })));
}

#[test]
fn a_lock_that_was_taken_is_on_the_file_of_that_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    let lock = OsStr::new(".lock");
    let ended = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let over = Arc::clone(&ended);
    // Takes the lock and deletes its file, over and over.
    let other = std::thread::spawn(move || {
        let dir = Native.open_dir(&path).unwrap();
        while !over.load(Relaxed) {
            if let Some(held) = dir.try_lock(lock).unwrap() {
                dir.unlink(lock).unwrap();
                drop(held);
            }
        }
    });
    let dir = Native.open_dir(dir.path()).unwrap();
    let mut taken = 0;
    for _ in 0..200_000 {
        if let Some(held) = dir.try_lock(lock).unwrap() {
            taken += 1;
            assert!(held.is_valid(), "the lock of a deleted file counts, after {taken}");
            if taken > 2_000 {
                break;
            }
        }
    }
    ended.store(true, Relaxed);
    other.join().unwrap();
}

/// Puts something that has to do with the first path in the place of the second.
type Place = fn(&Path, &Path);

#[test]
fn a_lock_file_that_somebody_else_may_need_is_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let precious = dir.path().join("precious");
    let keys = dir.path().join("keys");
    std::fs::create_dir(&keys).unwrap();
    std::fs::write(&precious, "precious").unwrap();
    let lock = keys.join(".server");
    let places: [(Place, &str); 3] = [
        (
            |from, to| std::fs::hard_link(from, to).unwrap(),
            "it has another name elsewhere; delete it",
        ),
        (|from, to| std::os::unix::fs::symlink(from, to).unwrap(), ""),
        (
            |_, to| {
                let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
                let kind = rustix::fs::FileType::Fifo;
                rustix::fs::mknodat(rustix::fs::CWD, to, kind, mode, 0).unwrap();
            },
            "it is no regular file; delete it",
        ),
    ];
    for (place, reason) in places {
        place(&precious, &lock);
        let error = ServerLock::take(&Native, &keys).unwrap_err();
        let LockError::Open { source, .. } = error else { panic!("{error:?}") };
        assert!(reason.is_empty() || source.to_string() == reason, "{source}");
        assert_eq!(std::fs::read(&precious).unwrap(), b"precious");
        std::fs::remove_file(&lock).unwrap();
    }
    drop(ServerLock::take(&Native, &keys).unwrap());
}

#[test]
fn a_note_is_read_up_to_a_bound() {
    let dir = tempfile::tempdir().unwrap();
    let _held = ServerLock::take(&Native, dir.path()).unwrap();
    let file = std::fs::File::options().write(true).open(dir.path().join(".server")).unwrap();
    file.set_len(2 << 30).unwrap();
    let note = ServerLock::note(&Native, dir.path()).unwrap();
    assert!(note.len() <= 64 * 1024, "{}", note.len());
}
