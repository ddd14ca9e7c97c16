//! Invariants 3 to 7, on what a power cut left behind.

use std::collections::BTreeSet;

use chrono::TimeDelta;

use crate::cases::{After, Case, kid_in, record_of};
use crate::disk::{Disk, Image, KEYS, Op};

/// Judges the disk after a power cut and after a restart; returns what the restart did to it.
///
/// `succeeded` says whether the command reported success before the power failed.
pub fn judge(case: &Case, image: &Image, succeeded: bool) -> Result<Vec<Op>, String> {
    let now = After(0);
    before_restart(case, image, succeeded, &now)?;
    let disk = Disk::of(image, 2);
    let (manager, snapshot, health) = case.start(&disk, &now)?;
    let log = disk.log();
    let after = disk.image();
    let degraded = &health.load().degraded;
    check(degraded.is_empty(), || format!("degraded: {degraded:?}"))?;
    let set: serde_json::Value = serde_json::from_slice(&snapshot.load().body).unwrap();
    let kids: Vec<_> =
        set["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap()).collect();
    after_restart(case, image, &after, &kids)?;

    // The next try, a while later.
    drop(manager);
    let disk = Disk::of(&after, 3);
    case.run(&disk, &After(5))?;
    let last = disk.image();
    check(case.is_done(&last), || "the next try did not do it".into())?;
    let (_, snapshot, _) = case.start(&disk, &After(6))?;
    if let Some(revoked) = case.revoked() {
        let body = snapshot.load().body.clone();
        let body = std::str::from_utf8(&body).unwrap();
        check(!body.contains(revoked), || format!("{revoked} is served although revoked"))?;
    }
    Ok(log)
}

fn before_restart(case: &Case, image: &Image, succeeded: bool, now: &After) -> Result<(), String> {
    check(!succeeded || case.is_done(image), || "success was reported, and is lost".into())?;
    let held = kid_in(image, "private_key.pem");
    for name in ["private_key.pem", "next_key.pem"] {
        let is_torn = image.file(0, name).is_some() && kid_in(image, name).is_none();
        check(!is_torn, || format!("{name} is torn"))?;
    }
    let Some(held) = held else {
        // The first key may be lost before anything says that it signs.
        let has_signed = image.0[KEYS].iter().flatten().any(|(name, bytes)| {
            let is_activated = || bytes.windows(14).any(|line| line == b"\nActivated-At:");
            !name.as_encoded_bytes().starts_with(b".") && is_activated()
        });
        return check(case.is_first && !has_signed, || "there is no private_key.pem".into());
    };
    if case.dropped.as_ref().is_some_and(|dropped| dropped.kid == held) {
        return Ok(());
    }
    let record = record_of(image, &held).ok_or_else(|| format!("{held} signs without a record"))?;
    let published_at = record.lines().find_map(|line| line.strip_prefix("Published-At: "));
    let is_ready = published_at.is_some_and(|at| {
        let at = chrono::DateTime::parse_from_rfc3339(at).unwrap();
        // A server that starts goes on for a second.
        let now = now.wall() + TimeDelta::seconds(1);
        at + TimeDelta::from_std(case.policy().publish_lead()).unwrap() <= now
    });
    check(case.may_sign_unannounced() || is_ready, || format!("{held} signs unannounced"))
}

fn after_restart(case: &Case, before: &Image, after: &Image, kids: &[&str]) -> Result<(), String> {
    let held = kid_in(after, "private_key.pem").ok_or("the restart left no private_key.pem")?;
    check(kids.first() == Some(&held.as_str()), || format!("{held} is not first: {kids:?}"))?;
    let distinct: BTreeSet<_> = kids.iter().collect();
    check(distinct.len() == kids.len(), || format!("a key is there twice: {kids:?}"))?;
    let left = after.names().find(|name| {
        [".tmp", ".aside", ".kept"]
            .iter()
            .any(|end| name.as_encoded_bytes().ends_with(end.as_bytes()))
    });
    check(left.is_none(), || format!("left behind: {left:?}"))?;

    let is_revoked =
        |kid: &str| record_of(before, kid).is_some_and(|text| text.contains("\nRevoked-At: "));
    let mut promised = BTreeSet::new();
    if !case.is_first {
        let known = [Some(&case.current), case.next.as_ref(), case.promised.as_ref()];
        promised.extend(known.into_iter().flatten().map(|key| key.kid.clone()));
    }
    promised.extend(case.dropped.as_ref().map(|key| key.kid.clone()));
    // What has a record may have been published, and is promised then.
    let names = before.0[KEYS].iter().flat_map(|keys| keys.keys());
    promised.extend(names.filter_map(|name| {
        let (_, kid) = name.to_str()?.strip_suffix(".pem")?.split_once('-')?;
        Some(kid.to_owned())
    }));
    for kid in promised {
        if is_revoked(&kid) {
            check(!kids.contains(&kid.as_str()), || format!("{kid} came back: {kids:?}"))?;
        } else if case.expired.as_ref().is_none_or(|expired| expired.kid != kid) {
            check(kids.contains(&kid.as_str()), || format!("{kid} is missing: {kids:?}"))?;
        }
    }
    if let Some(expired) = &case.expired {
        let was_removed = record_of(before, &expired.kid).is_none();
        let is_back = was_removed && kids.contains(&expired.kid.as_str());
        check(!is_back, || "a removed key came back".into())?;
    }
    Ok(())
}

fn check(holds: bool, broken: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(broken()) }
}
