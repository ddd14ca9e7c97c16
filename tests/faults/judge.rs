//! Invariants 3 to 7, on what a fault left behind.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rustix::process::Signal;

use crate::cases::{Case, Cast};
use crate::support::{Key, Server, eventually, jwks, kid_in, names, read_current, record_of};

/// Invariants 3 to 7 on what a fault left behind.
pub(crate) fn judge(
    case: &Case,
    dir: &Path,
    cast: &Cast,
    succeeded: bool,
    served: &BTreeSet<String>,
) {
    let file = dir.join("private_key.pem");
    let tombstone =
        |kid: &String| record_of(dir, kid).is_some_and(|(_, text)| text.contains("Revoked-At"));

    // Never without a whole private_key.pem, nor with one that nobody was told of.
    let held = kid_in(&file).expect("private_key.pem holds a key");
    let mut may_sign = vec![cast.current.kid()];
    may_sign.extend(cast.next.as_ref().map(Key::kid));
    assert!(case.in_haste || may_sign.contains(&held), "{held} signs unannounced");
    assert!(record_of(dir, &held).is_some(), "{held} signs without a record");
    for name in ["private_key.pem", "next_key.pem"] {
        if let Ok(metadata) = fs::metadata(dir.join(name)) {
            assert_eq!(metadata.permissions().mode() & 0o777, 0o600, "{name}");
        }
    }
    let revoked = cast.revoked.clone().filter(tombstone);
    assert!(!succeeded || cast.revoked == revoked, "a revocation that succeeded left no tombstone");
    let was_removed = cast.expired.as_ref().is_some_and(|key| record_of(dir, &key.kid()).is_none());

    // The restart.
    let server = Server::start(dir, &case.serve_args()[2..]);
    let kids = server.kids();
    // A rotation that is due may come in between.
    eventually("the current key is first", || {
        (server.kids().first() == kid_in(&file).as_ref()).then_some(())
    });
    let distinct: BTreeSet<_> = kids.iter().collect();
    assert_eq!(distinct.len(), kids.len());
    let promised = [Some(&cast.current), Some(&cast.promised), cast.next.as_ref()];
    for kid in promised.into_iter().flatten().map(Key::kid) {
        if Some(&kid) == revoked.as_ref() {
            assert!(!kids.contains(&kid), "{kid} came back: {kids:?}");
        } else {
            assert!(kids.contains(&kid), "{kid} is missing: {kids:?}");
        }
    }
    // What was published once is promised.
    let expired = cast.expired.as_ref().map(Key::kid);
    for kid in served.iter().filter(|kid| Some(*kid) != expired.as_ref()) {
        assert!(kids.contains(kid) || Some(kid) == revoked.as_ref(), "{kid} was served: {kids:?}");
    }
    if let Some(expired) = &cast.expired {
        assert!(!was_removed || !kids.contains(&expired.kid()), "a removed key came back");
    }
    // The server itself may be writing; what was there before it goes for good.
    for dir in [dir, &dir.join("keys")] {
        let is_left = |name: &OsString| name.to_string_lossy().ends_with(".tmp");
        eventually("nothing is left behind", || (!names(dir).iter().any(is_left)).then_some(()));
    }
    server.is_degraded_by("[]");

    // The next try.
    match case.command {
        None => Case::settles(&server, dir, cast),
        Some(_) => {
            let args = case.args(cast);
            let args: Vec<_> = args.iter().map(String::as_str).collect();
            let finished = jwks(dir, &args);
            assert_eq!(finished.code, Some(0), "the next try: {finished:?}");
        }
    }
    if let Some(revoked) = &cast.revoked {
        eventually("the revoked key is gone", || (!server.kids().contains(revoked)).then_some(()));
        let held = read_current(dir).kid();
        eventually("the current key is first", || (server.kids()[0] == held).then_some(()));
        if *revoked == cast.current.kid() {
            let known = [Some(&cast.promised), cast.next.as_ref()];
            assert!(
                known.into_iter().flatten().all(|key| key.kid() != held),
                "a standby took over"
            );
        }
    }
    server.is_degraded_by("[]");
    assert_eq!(server.stop(Signal::TERM).code, Some(0));
}
