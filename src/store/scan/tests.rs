use super::*;
use crate::store::Native;

#[test]
fn only_what_changed_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let paths =
        Paths { private_key: dir.path().join("private_key.pem"), keys_dir: dir.path().into() };
    let pem = include_bytes!("../../../tests/fixtures/keys/accepted/spki.pem");
    let write = |names: &[&str]| {
        for name in names {
            std::fs::write(dir.path().join(name), pem).unwrap();
        }
    };
    write(&["b.pem", "c.pem", "d.pem", "e.pem"]);
    let mut scan = Scan::default();
    let mut read_at_look = |at: Time| {
        let (seen, problems) = scan.look(&Native, &paths, at);
        assert_eq!((seen.dropped.len(), problems), (scan.keys.len(), vec![]));
        let read = |(name, known): &(OsString, Remembered)| {
            (known.read_at == at.timestamp()).then(|| name.to_str().unwrap().to_owned())
        };
        scan.keys.iter().filter_map(read).collect::<Vec<_>>()
    };
    assert_eq!(read_at_look(at(0)), ["b.pem", "c.pem", "d.pem", "e.pem"]);

    // One before the others, one between them, one gone, one replaced.
    write(&["a.pem", "bb.pem", "new"]);
    std::fs::remove_file(dir.path().join("c.pem")).unwrap();
    std::fs::rename(dir.path().join("new"), dir.path().join("d.pem")).unwrap();
    assert_eq!(read_at_look(at(1)), ["a.pem", "bb.pem", "d.pem"]);
    assert_eq!(read_at_look(at(2)), [""; 0]);
}

/// A directory of each kind of file, in both places.
fn all_kinds() -> (tempfile::TempDir, Paths) {
    let dir = tempfile::tempdir().unwrap();
    let keys_dir = dir.path().join("keys");
    let paths = Paths { private_key: dir.path().join("private_key.pem"), keys_dir };
    std::fs::create_dir(&paths.keys_dir).unwrap();
    let public = include_bytes!("../../../tests/fixtures/keys/accepted/spki.pem");
    let private = include_bytes!("../../../tests/fixtures/keys/accepted/sec1.pem");
    std::fs::write(&paths.private_key, private).unwrap();
    std::fs::write(paths.keys_dir.join("b.pem"), public).unwrap();
    std::fs::write(paths.keys_dir.join("a.pem"), "no key").unwrap();
    std::fs::write(paths.keys_dir.join("c.pem"), private).unwrap();
    (dir, paths)
}

fn at(secs: i64) -> Time {
    // Far enough in the future that every file has been left alone for a while.
    chrono::DateTime::from_timestamp(10_000_000_000 + secs, 0).unwrap()
}

/// Something done to the directory.
type Change = fn(&Paths);

#[test]
fn a_look_is_the_same_as_a_first_one_and_as_the_last_only_if_nothing_changed() {
    let changes: &[(&str, Change)] = &[
        ("a file replaced", |paths| {
            std::fs::write(paths.keys_dir.join("new"), "no key either").unwrap();
            std::fs::rename(paths.keys_dir.join("new"), paths.keys_dir.join("b.pem")).unwrap();
        }),
        ("a file written in place", |paths| {
            std::fs::write(paths.keys_dir.join("b.pem"), "no key either").unwrap();
        }),
        ("a file put in", |paths| {
            std::fs::copy(paths.keys_dir.join("b.pem"), paths.keys_dir.join("d.pem")).unwrap();
        }),
        ("a directory put in", |paths| {
            std::fs::create_dir(paths.keys_dir.join("e.pem")).unwrap();
        }),
        ("a file renamed", |paths| {
            let dir = &paths.keys_dir;
            std::fs::rename(dir.join("b.pem"), dir.join("z.pem")).unwrap();
        }),
        ("a file deleted", |paths| std::fs::remove_file(paths.keys_dir.join("b.pem")).unwrap()),
        ("a link that leads nowhere", |paths| {
            std::fs::remove_file(paths.keys_dir.join("b.pem")).unwrap();
            std::os::unix::fs::symlink("gone", paths.keys_dir.join("b.pem")).unwrap();
        }),
        ("the private key gone", |paths| std::fs::remove_file(&paths.private_key).unwrap()),
        ("a next key", |paths| {
            std::fs::copy(&paths.private_key, paths.next_key()).unwrap();
        }),
    ];
    for (what, change) in changes {
        let (_dir, paths) = all_kinds();
        let mut scan = Scan::default();
        let before = scan.look(&Native, &paths, at(0));
        let again = scan.look(&Native, &paths, at(1));
        assert_eq!(before, again, "{what}");
        assert!(Arc::ptr_eq(&before.0, &again.0), "{what}");

        change(&paths);
        for secs in [2, 3] {
            let after = scan.look(&Native, &paths, at(secs));
            assert_eq!(after, Scan::default().look(&Native, &paths, at(secs)), "{what}");
            assert!(!Arc::ptr_eq(&before.0, &after.0), "{what}");
        }
    }
}

#[test]
fn what_was_dropped_stays_when_the_directory_goes_and_until_it_is_taken_out_of_its_own() {
    let goes: &[(&str, Change)] = &[
        ("no directory", |_| {}),
        ("a file in its place", |paths| std::fs::write(&paths.keys_dir, "").unwrap()),
        ("a link that leads nowhere", |paths| {
            std::os::unix::fs::symlink("gone", &paths.keys_dir).unwrap();
        }),
        ("another directory", |paths| std::fs::create_dir(&paths.keys_dir).unwrap()),
    ];
    for (what, go) in goes {
        let (_dir, paths) = all_kinds();
        let mut scan = Scan::default();
        let before = scan.look(&Native, &paths, at(0));
        assert_eq!(before.0.dropped.len(), 3);
        let away = paths.keys_dir.with_extension("away");
        std::fs::rename(&paths.keys_dir, &away).unwrap();
        go(&paths);
        for secs in [1, 2] {
            let (seen, problems) = scan.look(&Native, &paths, at(secs));
            assert_eq!(seen.dropped, before.0.dropped, "{what}");
            let told = problems.iter().map(|problem| problem.code);
            let told: Vec<_> = told.filter(|code| code.ends_with("_directory")).collect();
            let file_in_place = *what == "a file in its place";
            let expected = ["unreadable_directory", "replaced_directory"];
            assert_eq!(told, expected[usize::from(!file_in_place)..], "{what}");
        }
        if paths.keys_dir.is_dir() {
            // A name that is there and goes is gone, and only that one.
            let file = paths.keys_dir.join("b.pem");
            std::fs::copy(away.join("c.pem"), &file).unwrap();
            assert_eq!(scan.look(&Native, &paths, at(3)).0.dropped.len(), 3);
            std::fs::remove_file(&file).unwrap();
            let names: Vec<_> =
                scan.look(&Native, &paths, at(4)).0.dropped.keys().cloned().collect();
            assert_eq!(names, ["a.pem", "c.pem"]);
            std::fs::remove_dir(&paths.keys_dir).unwrap();
        } else {
            let _ = std::fs::remove_file(&paths.keys_dir);
        }
        std::fs::remove_file(away.join("c.pem")).unwrap();
        std::fs::rename(&away, &paths.keys_dir).unwrap();
        let back = scan.look(&Native, &paths, at(5));
        assert_eq!(back, Scan::default().look(&Native, &paths, at(5)), "{what}");
        assert_eq!(back.0.dropped.len(), 2, "{what}: gone from its own directory");
    }
}

#[test]
fn what_was_read_by_a_clock_that_went_back_is_read_again() {
    let (_dir, paths) = all_kinds();
    let dir = Native.open_dir(&paths.keys_dir).unwrap();
    let known = file(&*dir, OsStr::new("b.pem"), None, at(10)).unwrap().unwrap();
    assert!(known.is_settled(at(10)));
    assert!(known.is_settled(at(11)));
    assert!(!known.is_settled(at(9)));
}

#[test]
fn what_is_read_again_is_parsed_again_only_if_it_changed() {
    let (_dir, paths) = all_kinds();
    let dir = Native.open_dir(&paths.keys_dir).unwrap();
    let name = OsStr::new("b.pem");
    // By this clock the file was changed in the future: it is always read again.
    let early = chrono::DateTime::from_timestamp(0, 0).unwrap();
    let marked = |known: &mut Remembered| known.content = Content::Refused("marked".into());
    let mut known = file(&*dir, name, None, early).unwrap().unwrap();
    marked(&mut known);
    let known = file(&*dir, name, Some(known), early).unwrap().unwrap();
    assert!(matches!(known.content, Content::Refused(_)), "kept");
    std::fs::copy(paths.keys_dir.join("c.pem"), paths.keys_dir.join(name)).unwrap();
    let known = file(&*dir, name, Some(known), early).unwrap().unwrap();
    assert!(matches!(known.content, Content::Key { private: Some(_), .. }));
}
