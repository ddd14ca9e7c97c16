//! Root becomes the owner of the directory, in every thread, and gives nobody its power.
//!
//! Without root there is nothing to try.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod support;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::Path;
use std::process::Command;

use support::{Key, Server, Start, dir, eventually, finish, jwks, names, program};

const USER: u32 = 4242;
const GROUP: u32 = 4343;

/// A directory of the user's; `None` where root is not there to try.
fn home() -> Option<tempfile::TempDir> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not tried: only root can");
        return None;
    }
    let dir = dir();
    chown(dir.path(), Some(USER), Some(GROUP)).unwrap();
    Some(dir)
}

fn owner(path: &Path) -> (u32, u32) {
    let stat = fs::symlink_metadata(path).unwrap();
    (stat.uid(), stat.gid())
}

/// The numbers on the line `field` of each thread of the process.
fn of_each_thread(pid: u32, field: &str) -> Vec<Vec<String>> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let status = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("status")).unwrap());
    status
        .map(|status| {
            let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap().to_owned();
            line.split_whitespace().map(str::to_owned).collect()
        })
        .collect()
}

#[test]
fn every_thread_of_the_server_is_the_owner_and_has_no_power_left() {
    let Some(dir) = home() else { return };
    let server = Server::start(dir.path(), &[]);
    // A look after the start, so that every thread that there is is there.
    let kids = server.kids();
    fs::write(dir.path().join("keys/dropped.pem"), Key::new().spki()).unwrap();
    eventually("a dropped key is served", || (server.kids().len() > kids.len()).then_some(()));
    let nothing = || vec!["0".repeat(16)];
    for (field, expected) in [
        ("Uid:", vec![USER.to_string(); 4]),
        ("Gid:", vec![GROUP.to_string(); 4]),
        ("Groups:", vec![]),
        ("CapInh:", nothing()),
        ("CapPrm:", nothing()),
        ("CapEff:", nothing()),
        ("CapAmb:", nothing()),
    ] {
        let found = of_each_thread(server.pid(), field);
        assert!(!found.is_empty());
        for found in found {
            assert_eq!(found, expected, "{field}");
        }
    }
    for name in ["private_key.pem", "keys", "keys/.lock", "keys/.server"] {
        assert_eq!(owner(&dir.path().join(name)), (USER, GROUP), "{name}");
    }
}

#[test]
fn what_a_command_of_roots_writes_is_the_owners() {
    let Some(dir) = home() else { return };
    drop(Server::start(dir.path(), &[]));
    jwks(dir.path(), &["rotate"]).done();
    jwks(dir.path(), &["rotate", "--now"]).done();
    let kid = support::kid_in(dir.path().join("private_key.pem")).unwrap();
    jwks(dir.path(), &["revoke", &kid, "--reason", "test"]).done();
    for place in [dir.path().to_owned(), dir.path().join("keys")] {
        for name in names(&place) {
            assert_eq!(owner(&place.join(&name)), (USER, GROUP), "{}", name.display());
        }
    }
}

#[test]
fn root_stays_root_in_a_directory_of_its_own() {
    let Some(dir) = home() else { return };
    chown(dir.path(), Some(0), Some(0)).unwrap();
    let server = Server::start(dir.path(), &[]);
    for found in of_each_thread(server.pid(), "Uid:") {
        assert_eq!(found, vec!["0"; 4]);
    }
    assert_eq!(owner(&dir.path().join("keys")), (0, 0));
}

#[test]
fn nobody_is_told_to_give_away_what_the_owner_has_linked() {
    let Some(dir) = home() else { return };
    let elsewhere = support::dir();
    symlink(elsewhere.path(), dir.path().join("keys")).unwrap();
    let told = refused(dir.path(), &[]);
    assert!(told.contains("delete the link keys"), "{told}");
    assert!(!told.contains("chown"), "{told}");
    assert_eq!(names(elsewhere.path()), [""; 0]);
}

/// How a start, and a command, ended that must not go on.
fn refused(dir: &Path, args: &[&str]) -> String {
    let Start::Ended(served) = Server::try_start(dir, &[&["--port", "0"], args].concat(), &[])
    else {
        panic!("the server started");
    };
    let rotated = jwks(dir, &[args, &["rotate"]].concat());
    assert_eq!((served.code, rotated.code), (Some(1), Some(1)), "{served:?} {rotated:?}");
    assert_eq!(served.stderr, rotated.stderr);
    served.stderr
}

#[test]
fn directories_of_two_users_are_refused() {
    let Some(dir) = home() else { return };
    let path = dir.path().display();
    for (root, keys) in [(USER, 0), (USER, GROUP), (0, USER)] {
        let _ = fs::remove_dir_all(dir.path().join("keys"));
        fs::create_dir(dir.path().join("keys")).unwrap();
        chown(dir.path(), Some(root), Some(GROUP)).unwrap();
        chown(dir.path().join("keys"), Some(keys), Some(GROUP)).unwrap();
        let told = refused(dir.path(), &[]);
        assert!(told.starts_with("jwks-server: failed to foreign_owner: "), "{path}: {told}");
        assert!(told.contains("chown -R "), "{told}");
        assert_eq!(names(dir.path().join("keys")), [""; 0]);
        assert_eq!(names(dir.path()), ["keys"]);
    }
}

#[test]
fn what_the_owner_cannot_read_is_found_before_and_its_remedy_works() {
    let Some(outer) = home() else { return };
    chown(outer.path(), Some(0), Some(0)).unwrap();
    fs::set_permissions(outer.path(), Permissions::from_mode(0o700)).unwrap();
    let inner = outer.path().join("inner");
    fs::create_dir(&inner).unwrap();
    chown(&inner, Some(USER), Some(GROUP)).unwrap();
    let file = inner.join("private_key.pem");
    fs::write(&file, Key::new().sec1()).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    let keys = inner.join("keys");
    // What is none of the server's business stays root's.
    let other = inner.join("other.pem");
    fs::write(&other, "secret").unwrap();
    fs::set_permissions(&other, Permissions::from_mode(0o600)).unwrap();
    let args = ["--key-file", file.to_str().unwrap(), "--keys-dir", keys.to_str().unwrap()];
    // The parent lets nobody through but root, and then the file lets nobody read it but root.
    for expected in [
        format!("chmod o+x {}", outer.path().display()),
        format!("chown {USER}:{GROUP} {}", file.display()),
    ] {
        let told = refused(&inner, &args);
        let (_, remedy) = told.trim_end().rsplit_once("; try: ").unwrap();
        assert_eq!(remedy, expected, "{told}");
        assert!(!keys.exists(), "nothing is made before");
        let mut words = remedy.split(' ');
        let mended = Command::new(words.next().unwrap()).args(words).status().unwrap();
        assert!(mended.success());
    }
    drop(Server::start(&inner, &args));
    assert_eq!(owner(&keys), (USER, GROUP));
}

#[test]
fn a_lock_file_that_is_another_name_of_roots_file_is_left_alone() {
    let Some(dir) = home() else { return };
    drop(Server::start(dir.path(), &[]));
    for name in [".lock", ".server"] {
        let precious = dir.path().join("precious");
        fs::write(&precious, "precious").unwrap();
        fs::set_permissions(&precious, Permissions::from_mode(0o666)).unwrap();
        let lock = dir.path().join("keys").join(name);
        fs::remove_file(&lock).unwrap();
        fs::hard_link(&precious, &lock).unwrap();
        let _ = jwks(dir.path(), &["rotate"]);
        drop(Server::try_start(dir.path(), &["--port", "0"], &[]));
        let stat = fs::metadata(&precious).unwrap();
        assert_eq!((stat.uid(), stat.gid(), stat.mode() & 0o777), (0, 0, 0o666));
        assert_eq!(fs::read(&precious).unwrap(), b"precious");
        fs::remove_file(&lock).unwrap();
    }
}

/// In a user namespace that does not know the owner, root cannot become it. It goes on, and follows no
/// link of the owner's.
#[test]
fn root_of_a_user_namespace_serves_a_directory_whose_owner_it_does_not_know() {
    let Some(dir) = home() else { return };
    fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
    let in_namespace = |args: &[&str]| {
        let plain = program(dir.path(), args);
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user"]).arg(plain.get_program()).args(args);
        command.current_dir(dir.path());
        command
    };
    let probe = Command::new("unshare").args(["--user", "--map-root-user", "true"]).output();
    if !probe.is_ok_and(|probe| probe.status.success()) {
        eprintln!("not tried: there are no user namespaces");
        return;
    }
    let elsewhere = support::dir();
    symlink(elsewhere.path(), dir.path().join("keys")).unwrap();
    std::os::unix::fs::lchown(dir.path().join("keys"), Some(USER), Some(GROUP)).unwrap();
    let refused = finish(in_namespace(&["--port", "0"]));
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert_eq!(names(elsewhere.path()), [""; 0], "nothing is made outside");

    fs::remove_file(dir.path().join("keys")).unwrap();
    let Start::Serves(server) = Server::try_spawn(dir.path(), in_namespace(&["--port", "0"]))
    else {
        panic!("the server did not start");
    };
    assert_eq!(server.kids().len(), 1);
    server.has_logged("still_root", 1);
}
