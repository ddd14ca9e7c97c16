//! Without an option the program does what the server that it replaces did: load or make a key,
//! serve it, say where.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod support;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rustix::io::Errno;
use rustix::process::Signal;
use support::{
    Finished, Key, Server, Set, Start, dir, jwks, jwks_with, kid_in, names, read_current, records,
};

const KEY_SET: &str = "/.well-known/jwks.json";

fn mode(file: &Path) -> u32 {
    std::fs::metadata(file).unwrap().permissions().mode() & 0o7777
}

fn start_fails(dir: &Path, args: &[&str]) -> Finished {
    match Server::try_start(dir, args, &[]) {
        Start::Serves(_) => panic!("the server started"),
        Start::Ended(finished) => finished,
    }
}

/// The one line with which the program refuses.
fn refusal(reason: &str) -> String {
    format!("jwks-server: failed to {reason}\n")
}

#[test]
fn an_empty_directory_gets_a_key_and_serves_it() {
    let dir = dir();
    let server = Server::start(dir.path(), &[]);
    let pem = dir.path().join("private_key.pem");
    assert_eq!(mode(&pem), 0o600);
    assert_eq!(mode(&dir.path().join("keys")), 0o700);
    let text = std::fs::read_to_string(&pem).unwrap();
    assert_eq!(text.lines().next(), Some("-----BEGIN EC PRIVATE KEY-----"));
    assert_eq!(text.lines().last(), Some("-----END EC PRIVATE KEY-----"));
    let key = read_current(dir.path());
    assert_eq!(text, key.sec1());

    let answer = server.key_set();
    assert_eq!(answer.body, Set::of([&key]));
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.header("cache-control"), "public, max-age=60");
    assert_eq!(server.readiness(), r#"{"status":"ready","degraded":[]}"#);
    assert_eq!(server.get("/healthz").body, r#"{"status":"ok"}"#);

    let files = records(dir.path());
    assert_eq!(files.len(), 1, "{files:?}");
    assert_eq!(mode(&files[0].0), 0o600);
    assert_eq!(names(dir.path()), ["keys", "private_key.pem"]);
    let record = files[0].0.file_name().unwrap();
    assert_eq!(
        names(dir.path().join("keys")),
        [".directory", ".lock", ".server", record.to_str().unwrap()],
        "nothing is left beside the record"
    );

    let port = server.port;
    let finished = server.stop(Signal::TERM);
    assert_eq!(
        finished.stdout,
        format!(
            "JWKS:                          http://localhost:{port}/.well-known/jwks.json\n\
             JWKS for Keycloak in Docker:   http://host.docker.internal:{port}/.well-known/jwks.json\n"
        )
    );
}

#[test]
fn the_next_start_serves_the_same_bytes() {
    let dir = dir();
    let server = Server::start(dir.path(), &[]);
    let first = server.key_set();
    assert_eq!(server.stop(Signal::TERM).code, Some(0));
    let files = || {
        let pem = std::fs::read(dir.path().join("private_key.pem")).unwrap();
        (pem, records(dir.path()))
    };
    let before = files();
    let server = Server::start(dir.path(), &["serve"]);
    let second = server.key_set();
    assert_eq!(second.body, first.body);
    assert_eq!(second.header("etag"), first.header("etag"));
    drop(server);
    assert_eq!(files(), before);
}

#[test]
fn a_key_is_made_in_the_format_that_is_asked_for() {
    for (args, env) in [
        (&["--port", "0", "--key-format", "pkcs8"][..], &[][..]),
        (&["--port", "0"], &[("JWKS_SERVER_KEY_FORMAT", "pkcs8")]),
    ] {
        let dir = dir();
        let Start::Serves(server) = Server::try_start(dir.path(), args, env) else {
            panic!("the server did not start");
        };
        let key = read_current(dir.path());
        let text = std::fs::read_to_string(dir.path().join("private_key.pem")).unwrap();
        assert_eq!(text, key.pkcs8());
        assert_eq!(server.key_set().body, Set::of([&key]));
    }
}

#[test]
fn a_key_that_is_there_is_served_and_left_as_it_is() {
    let key = Key::new();
    let crlf = key.sec1().replace('\n', "\r\n");
    let forms = [
        key.sec1(),
        key.pkcs8(),
        format!("\u{feff}made by hand\n\n{crlf}\r\n\r\n"),
        key.pkcs8().trim_end().to_owned(),
    ];
    for pem in forms {
        let dir = dir();
        let file = dir.path().join("private_key.pem");
        std::fs::write(&file, &pem).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let server = Server::start(dir.path(), &[]);
        assert_eq!(server.key_set().body, Set::of([&key]));
        assert_eq!(server.readiness(), r#"{"status":"ready","degraded":[]}"#);
        drop(server);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), pem);
    }
}

#[test]
fn ipv4_and_ipv6_both_answer() {
    let dir = dir();
    let server = Server::start(dir.path(), &[]);
    let over_v4 = support::get((Ipv4Addr::LOCALHOST, server.port).into(), KEY_SET);
    assert_eq!(over_v4.status, 200);
    if let Err(error) = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) {
        println!("skipped for IPv6, which this machine does not have: {error}");
        return;
    }
    let over_v6 = support::get((Ipv6Addr::LOCALHOST, server.port).into(), KEY_SET);
    assert_eq!(over_v6.body, over_v4.body);
}

#[test]
fn an_address_confines_the_server() {
    let dir = dir();
    let server = Server::start(dir.path(), &["--bind", "127.0.0.1"]);
    assert_eq!(server.key_set().status, 200);
    // All of 127.0.0.0/8 is loopback on Linux; elsewhere this is refused just as well.
    let elsewhere = SocketAddr::from(([127, 0, 0, 2], server.port));
    assert!(TcpStream::connect(elsewhere).is_err());
}

#[test]
fn a_port_in_use_ends_the_start_before_anything_is_made() {
    let dir = dir();
    let holder = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = holder.local_addr().unwrap().port();
    let finished = start_fails(dir.path(), &["--port", &port.to_string()]);
    let in_use = std::io::Error::from(Errno::ADDRINUSE);
    assert_eq!(finished.code, Some(1));
    assert_eq!(finished.stderr, refusal(&format!("listen on port {port}: {in_use}")));
    assert_eq!(finished.stdout, "");
    assert!(names(dir.path()).is_empty(), "{:?}", names(dir.path()));
}

#[test]
fn a_key_that_is_no_good_ends_the_start_and_is_left_as_it_is() {
    let refused = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/keys/refused");
    let mut files: Vec<_> = names(&refused)
        .into_iter()
        .map(|name| std::fs::read(refused.join(name)).unwrap())
        .collect();
    assert!(files.len() > 30);
    files.extend([
        b"".to_vec(),
        b"garbage".to_vec(),
        b"\0\xff\xfe".to_vec(),
        Key::new().spki().into_bytes(),
    ]);
    for pem in files {
        let dir = dir();
        let file = dir.path().join("private_key.pem");
        std::fs::write(&file, &pem).unwrap();
        let finished = start_fails(dir.path(), &["--port", "0"]);
        assert_eq!(finished.code, Some(1), "{finished:?}");
        assert_eq!(finished.stdout, "");
        // Why each is refused is tested where keys are read.
        let reason = finished
            .stderr
            .strip_prefix("jwks-server: failed to start: private_key.pem: ")
            .and_then(|rest| rest.strip_suffix('\n'));
        let reason = reason.unwrap_or_else(|| panic!("{finished:?}"));
        assert!(!reason.is_empty() && !reason.contains('\n'), "{reason:?}");
        assert_eq!(std::fs::read(&file).unwrap(), pem);
        assert_eq!(records(dir.path()), []);
    }
}

#[test]
fn a_refusal_names_the_file_and_the_reason() {
    for (pem, reason) in [
        ("", "no PEM block in it"),
        ("garbage\n", "no PEM block in it"),
        (
            include_str!("fixtures/keys/refused/secp256k1-sec1.pem"),
            "a key on the curve secp256k1, not P-256",
        ),
        (
            include_str!("fixtures/keys/refused/encrypted-pkcs8.pem"),
            "an encrypted private key; it must be stored unencrypted",
        ),
        (
            include_str!("fixtures/keys/accepted/spki.pem"),
            "holds a public key, and a private key is needed here",
        ),
    ] {
        let dir = dir();
        std::fs::write(dir.path().join("private_key.pem"), pem).unwrap();
        let finished = start_fails(dir.path(), &["--port", "0"]);
        assert_eq!(
            (finished.code, finished.stderr),
            (Some(1), refusal(&format!("start: private_key.pem: {reason}")))
        );
        // `check` says the same before a deployment.
        let finished = jwks(dir.path(), &["check"]);
        assert_eq!(finished.code, Some(1));
        assert_eq!(finished.stdout, format!("problem: private_key.pem: {reason}\n"));
    }
}

#[test]
fn a_malformed_option_is_exit_code_2() {
    let kid = Key::new().kid();
    let lines: [&[&str]; 11] = [
        &["--port", "x"],
        &["--port", "65536"],
        &["--port", "-1"],
        &["--bind", "localhost"],
        &["--rotate-every", "soon"],
        &["--publish-lead", "1500ms"],
        &["--key-format", "der"],
        &["--nonsense"],
        &["revoke", "not-a-kid", "--reason", "x"],
        &["revoke", &kid],
        &["rotate", "now"],
    ];
    for args in lines {
        let dir = dir();
        let finished = start_fails(dir.path(), args);
        assert_eq!(finished.code, Some(2), "{args:?}: {finished:?}");
        assert!(finished.stderr.starts_with("error: "), "{finished:?}");
        assert!(names(dir.path()).is_empty());
    }
}

#[test]
fn durations_that_break_a_promise_are_exit_code_2() {
    let lines: [(&[&str], &str); 5] = [
        (
            &["--publish-lead", "59s"],
            "publish-lead 59s is shorter than cache-max-age 1m: a key would sign while caches may \
             still hold a set without it",
        ),
        (
            &["--retain-for", "59s"],
            "retain-for 59s is shorter than cache-max-age 1m: a key would vanish before caches \
             have seen its successor",
        ),
        (
            &["--rotate-every", "25h"],
            "rotate-every 25h is not longer than publish-lead 25h: a rotation would be due before \
             the next key may sign",
        ),
        (
            &["--cache-max-age", "25h"],
            "cache-max-age 25h is longer than 24h: a revoked key would stay in caches for as long",
        ),
        (&["--rotate-every", "4000d"], "rotate-every 4000d is longer than 10 years"),
    ];
    for (args, reason) in lines {
        let dir = dir();
        for command in [&["--port", "0"][..], &["check"]] {
            let finished = start_fails(dir.path(), &[command, args].concat());
            assert_eq!(finished.code, Some(2), "{args:?}: {finished:?}");
            let first = finished.stderr.lines().next().unwrap();
            assert_eq!(first, format!("error: {reason}"));
        }
        assert!(names(dir.path()).is_empty());
    }
}

#[test]
fn the_port_of_the_environment_is_taken() {
    let dir = dir();
    // Somebody may take the port between its release and the start.
    for _ in 0..10 {
        let free = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let env = [("JWKS_SERVER_PORT", port.to_string())];
        let env = env.each_ref().map(|(name, value)| (*name, value.as_str()));
        if let Start::Serves(server) = Server::try_start(dir.path(), &[], &env) {
            assert_eq!(server.port, port);
            assert_eq!(server.key_set().status, 200);
            return;
        }
    }
    panic!("no port was free for long enough");
}

#[test]
fn an_empty_port_in_the_environment_is_the_default_port() {
    // Whoever has the port, this test or another program: the server cannot have it, and says which
    // one it wanted.
    let _holder = TcpListener::bind("0.0.0.0:8082");
    let dir = dir();
    for env in [&[("JWKS_SERVER_PORT", "")][..], &[]] {
        let Start::Ended(finished) = Server::try_start(dir.path(), &[], env) else {
            panic!("the server started on a port in use");
        };
        let in_use = std::io::Error::from(Errno::ADDRINUSE);
        assert_eq!(finished.code, Some(1));
        assert_eq!(finished.stderr, refusal(&format!("listen on port 8082: {in_use}")));
    }
    let finished = jwks_with(dir.path(), &["status"], &[("JWKS_SERVER_PORT", "")]);
    assert_eq!(finished.code, Some(0), "{finished:?}");
}

#[test]
fn sigterm_and_sigint_end_the_process_with_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let dir = dir();
        let server = Server::start(dir.path(), &[]);
        // A connection that says nothing does not hold the process up.
        let _silent = TcpStream::connect(server.address()).unwrap();
        let finished = server.stop(signal);
        assert_eq!(finished.code, Some(0), "{finished:?}");
        assert!(kid_in(dir.path().join("private_key.pem")).is_some());
    }
}

#[test]
fn other_paths_are_taken() {
    let dir = dir();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::create_dir(path("a")).unwrap();
    let (key_file, keys_dir) = (path("a/my.pem"), path("published"));
    let args = ["--key-file", &key_file, "--keys-dir", &keys_dir];
    let server = Server::start(dir.path(), &args);
    let kid = kid_in(&key_file).unwrap();
    assert_eq!(server.kids(), [kid]);
    assert_eq!(names(dir.path()), ["a", "published"]);
    assert_eq!(names(dir.path().join("a")), ["my.pem"]);
}

#[test]
fn of_two_clients_in_one_directory_none_takes_the_key_of_the_other() {
    let dir = dir();
    let start = |name: &str| {
        let file = format!("{name}.pem");
        let args = ["--key-file", &file, "--keys-dir", name, "--rotate-every", "90d"];
        Server::start(dir.path(), &args).kids()
    };
    let (a, b) = (start("a"), start("b"));
    assert_eq!((a.len(), b.len()), (2, 2));
    assert!(a.iter().all(|kid| !b.contains(kid)), "{a:?} {b:?}");
    assert_eq!(names(dir.path()), ["a", "a.pem", "b", "b.pem", "next_a.pem", "next_b.pem"]);
}
