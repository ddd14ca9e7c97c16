//! More files than anybody can want.

use std::fs::{self, File};

use crate::support::{Key, Observer, Server, dir, eventually, now, problems, short_or_long};

/// The most memory that the process has had, in KiB.
#[cfg(target_os = "linux")]
fn peak_memory(server: &Server) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn thousands_of_files_are_served_and_reported_in_bounded_memory() {
    let dir = dir();
    let keys = dir.path().join("keys");
    let mut server = Server::start(dir.path(), &[]);
    let current = server.kids().remove(0);
    let key = Key::new();
    let observer = Observer::of(&server);
    observer.allow(&key.kid());
    #[cfg(target_os = "linux")]
    let before = peak_memory(&server);
    let half = short_or_long(1_000, 5_000);
    for n in 0..half {
        // As long as is read; together in the long form they would take 80 MB if they were kept.
        File::create(keys.join(format!("bad-{n:04}.pem"))).unwrap().set_len(16 * 1024).unwrap();
        fs::write(keys.join(format!("good-{n:04}.pem")), key.spki()).unwrap();
    }
    let began = now();
    eventually("all are reported", || (server.logged("no PEM block in it") >= half).then_some(()));
    server.has_looked_while(&observer);
    println!("reported and looked again within {:?}", began.elapsed());
    server.has_logged("no PEM block in it", half);
    assert_eq!(problems(dir.path()).len(), half);
    assert_eq!(server.kids(), [current.clone(), key.kid()]);
    assert!(server.runs());
    observer.finish();

    // A new key is served all the same.
    let new = Key::new();
    fs::write(dir.path().join("private_key.pem"), new.sec1()).unwrap();
    server.serves(&[&new.kid(), &current, &key.kid()]);
    #[cfg(target_os = "linux")]
    {
        let after = peak_memory(&server);
        println!("peak memory: {before} KiB before, {after} KiB after");
        assert!(after < 64 * 1024, "{before} KiB before, {after} KiB after");
    }
}
