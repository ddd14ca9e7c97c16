#![cfg(target_os = "linux")]

use std::fs;
use std::os::unix::fs::symlink;
use std::pin::pin;
use std::task::{Context, Waker};

use super::*;

/// A watched directory, beside others.
struct Scene {
    _dir: tempfile::TempDir,
    marks: tempfile::TempDir,
    root: PathBuf,
    watcher: Watcher,
    pulse: Pulse,
}

impl Scene {
    /// Watches `name` in a directory in which `prepare` makes what is there from the beginning.
    fn new(name: &str, prepare: impl FnOnce(&Path)) -> Self {
        let (dir, marks) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let base = dir.path().canonicalize().unwrap();
        prepare(&base);
        let root = base.join(name);
        let files = Files::EndingIn(".pem");
        let (mut watcher, pulse) = watch([Place { dir: root.clone(), files }]);
        watcher.rearm();
        Self { _dir: dir, marks, root, watcher, pulse }
    }

    /// Whether something has changed since the last call.
    fn heard(&mut self) -> bool {
        self.watcher.rearm();
        self.settle();
        // What notify has dropped for the events of a directory that was there before is watched again.
        self.watcher.rearm();
        let mut context = Context::from_waker(Waker::noop());
        pin!(self.pulse.next()).poll(&mut context).is_ready()
    }

    /// Returns once all that happened before has been heard.
    ///
    /// Events come in order, and notify forgets a directory when it hears of its end: once it does not
    /// know one any more that was there a moment ago, it has heard of all before.
    fn settle(&mut self) {
        let marks = self.marks.path().to_owned();
        // These themselves are no news.
        self.watcher.counts.lock().insert(marks.clone(), Some(BTreeSet::new()));
        let events = self.watcher.events.as_mut().unwrap().watcher.as_mut().unwrap();
        let mark = marks.join("mark");
        for _ in 0..100_000 {
            fs::create_dir(&mark).unwrap();
            events.watch(&mark, RecursiveMode::NonRecursive).unwrap();
            fs::remove_dir(&mark).unwrap();
            std::thread::yield_now();
            if events.unwatch(&mark).is_err() {
                return;
            }
        }
        panic!("nothing is heard");
    }
}

#[test]
fn changes_pulse_once_and_mere_reading_does_not() {
    let mut scene = Scene::new("", |_| {});
    let file = scene.root.join("a.pem");
    let other = scene.root.join("b");
    let changes: [(&str, &dyn Fn()); 6] = [
        ("made", &|| fs::write(&file, "one").unwrap()),
        ("written", &|| fs::write(&file, "two").unwrap()),
        ("given a mode", &|| {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            fs::set_permissions(&file, mode).unwrap();
        }),
        ("renamed", &|| fs::rename(&file, &other).unwrap()),
        ("linked", &|| fs::hard_link(&other, &file).unwrap()),
        ("deleted", &|| fs::remove_file(&file).unwrap()),
    ];
    assert!(!scene.heard());
    for (what, change) in changes {
        change();
        assert!(scene.heard(), "{what}");
        assert!(!scene.heard(), "any number of changes are one pulse");
    }
    fs::read(&other).unwrap();
    drop(fs::OpenOptions::new().write(true).open(&other).unwrap());
    assert_eq!(fs::read_dir(&scene.root).unwrap().count(), 1);
    assert!(!scene.heard());
}

#[test]
fn a_directory_that_is_made_again_is_watched_again() {
    let mut scene = Scene::new("keys", |_| {});
    assert_eq!(scene.watcher.silence(), None, "a directory that does not exist is no trouble");
    for moved in ["first", "second"] {
        fs::create_dir(&scene.root).unwrap();
        assert!(scene.heard(), "its name is");
        fs::write(scene.root.join("a.pem"), "").unwrap();
        assert!(scene.heard());

        let moved = scene.root.with_file_name(moved);
        fs::rename(&scene.root, &moved).unwrap();
        assert!(scene.heard());
        fs::write(moved.join("b.pem"), "").unwrap();
        assert!(!scene.heard(), "what has another name is not watched");
    }
}

#[test]
fn a_directory_that_is_made_again_at_once_is_watched_again() {
    let mut scene = Scene::new("keys", |base| fs::create_dir(base.join("keys")).unwrap());
    for _ in 0..20 {
        // Most file systems give it the same inode number, and notify may drop the new watch for the
        // events of the old one.
        fs::remove_dir_all(&scene.root).unwrap();
        fs::create_dir(&scene.root).unwrap();
        assert!(scene.heard());
        fs::write(scene.root.join("a.pem"), "").unwrap();
        assert!(scene.heard());
    }
}

#[test]
fn two_paths_to_one_directory_do_not_end_each_others_watch() {
    let mut scene = Scene::new("link", |base| {
        fs::create_dir(base.join("dir")).unwrap();
        fs::create_dir(base.join("other")).unwrap();
        symlink("dir", base.join("link")).unwrap();
    });
    let (dir, other) = (scene.root.with_file_name("dir"), scene.root.with_file_name("other"));
    let place = |dir: &Path| Place { dir: dir.to_owned(), files: Files::Named(vec![]) };
    scene.watcher.places.push(place(&dir));
    assert!(!scene.heard());
    fs::remove_file(&scene.root).unwrap();
    symlink("other", &scene.root).unwrap();
    assert!(scene.heard());
    for dir in [dir, other] {
        fs::write(dir.join("a.pem"), "").unwrap();
        assert!(scene.heard(), "{}", dir.display());
    }
}

/// What is done to a tree whose links lead through several directories.
type Change = fn(&Path);

#[test]
fn what_happens_along_the_links_is_heard() {
    let changes: [(&str, Change); 7] = [
        ("the link to the directory, swapped", |base| {
            symlink("v2", base.join("new")).unwrap();
            fs::rename(base.join("new"), base.join("live")).unwrap();
        }),
        ("a link behind a link, swapped", |base| {
            symlink("b2", base.join("new")).unwrap();
            fs::rename(base.join("new"), base.join("b")).unwrap();
        }),
        ("a file behind a link, written", |base| {
            fs::write(base.join("b1/real/secret"), "two").unwrap();
        }),
        ("a file behind a link, replaced", |base| {
            fs::write(base.join("b1/real/new"), "two").unwrap();
            fs::rename(base.join("b1/real/new"), base.join("b1/real/secret")).unwrap();
        }),
        ("a directory behind a link, replaced", |base| {
            fs::rename(base.join("b1/real"), base.join("b1/old")).unwrap();
        }),
        ("what a dangling link names, made", |base| {
            fs::write(base.join("late/missing"), "").unwrap();
        }),
        ("the directory behind the link, replaced", |base| {
            fs::rename(base.join("v1"), base.join("v0")).unwrap();
        }),
    ];
    for (what, change) in changes {
        let mut scene = Scene::new("live", |base| {
            for dir in ["v1", "v2", "b1/real", "b2/real", "late"] {
                fs::create_dir_all(base.join(dir)).unwrap();
            }
            fs::write(base.join("b1/real/secret"), "one").unwrap();
            symlink("b1", base.join("b")).unwrap();
            symlink("../b/real/secret", base.join("v1/a.pem")).unwrap();
            symlink("../late/missing", base.join("v1/b.pem")).unwrap();
            symlink("v1", base.join("live")).unwrap();
        });
        let base = scene.root.parent().unwrap().to_owned();
        // The control: what is beside the links concerns others.
        for dir in ["", "b1", "b1/real", "late"] {
            fs::write(base.join(dir).join("unrelated"), "").unwrap();
            assert!(!scene.heard(), "{dir}");
        }
        change(&base);
        assert!(scene.heard(), "{what}");
    }
}

#[test]
fn links_are_followed_up_to_a_bound() {
    let dir = tempfile::tempdir().unwrap();
    for n in 0..=MAX_LED {
        fs::create_dir(dir.path().join(format!("d{n}"))).unwrap();
        symlink(format!("d{n}/secret"), dir.path().join(format!("{n}.pem"))).unwrap();
    }
    let place = Place { dir: dir.path().to_owned(), files: Files::EndingIn(".pem") };
    let (mut watcher, _pulse) = watch([place]);
    watcher.rearm();
    // The parent of the place takes one of them.
    let reason = format!("links lead through more than {MAX_LED} directories");
    assert_eq!(watcher.silence(), Some(Silence { reason, sweep: SWEEP }));
    fs::remove_file(dir.path().join("0.pem")).unwrap();
    fs::remove_file(dir.path().join("1.pem")).unwrap();
    watcher.rearm();
    assert_eq!(watcher.silence(), None);
}
