//! A person puts a new private key in the place of another between any two operations, and the process
//! goes on, or is killed at any operation after that: her key is there at the end in any case.

use std::collections::HashSet;

use jwks_server::key::{KeyFormat, SigningKey};
use jwks_server::store::Store;

use crate::cases::{self, After, Case, Deed, kid_in, record_of};
use crate::disk::{Disk, Image, Intruder, ROOT, paths};

/// What was tried, and where her key was lost.
#[derive(Debug, Default)]
struct Tally {
    kills: usize,
    lost: Vec<String>,
}

fn her_key() -> (String, Vec<u8>) {
    let disk = Disk::of(&Image::default(), 77);
    let store = Store::on(std::sync::Arc::new(disk), paths(), KeyFormat::Sec1);
    let key = SigningKey::generate(&mut store.rng()).unwrap();
    (key.jwk().kid().to_string(), key.to_pem(KeyFormat::Sec1).as_bytes().to_vec())
}

/// Lets a person act at each operation of the case.
fn intrude(case: &Case, name: &'static str, can_exchange: bool) -> Tally {
    let mut tally = Tally::default();
    let mut judged = HashSet::new();
    let undisturbed = Disk::of(&case.before, 1);
    case.run(&undisturbed, &After(0)).unwrap();
    let (kid, bytes) = her_key();
    for at in 0..undisturbed.log().len() {
        let intruder = Intruder { at, name, bytes: bytes.clone() };
        let disk = Disk::of(&case.before, 1).with(intruder, can_exchange);
        let done = case.run(&disk, &After(0));
        // A revocation goes on with what is there now.
        if let (Deed::Revoke(_), Err(error)) = (case.deed, done) {
            tally.lost.push(format!("{}, {name} at {at}: {error}", case.name));
        }
        let images = disk.images();
        // The first few are her own operations.
        for (killed_at, image) in images.into_iter().enumerate().skip(4) {
            if !judged.insert(image.clone()) {
                continue;
            }
            tally.kills += 1;
            let what = || format!("{}, {name} at {at}, killed {killed_at} later", case.name);
            let disk = Disk::of(&image, 2);
            if let Err(error) = case.start(&disk, &After(100)) {
                tally.lost.push(format!("{}: {error}", what()));
                continue;
            }
            let after = disk.image();
            let files = after.0[ROOT].as_ref().unwrap();
            // A key that was found and recorded may be replaced, as any current one.
            let was_looked_at = record_of(&image, &kid).is_some();
            if !was_looked_at && !files.values().any(|file| *file == bytes) {
                tally.lost.push(format!("{}: her key is nowhere: {:?}", what(), files.keys()));
            }
            if kid_in(&after, "private_key.pem").is_none() {
                tally.lost.push(format!("{}: there is no private_key.pem", what()));
            }
            if let Some(hidden) = files.keys().find(|name| name.as_encoded_bytes()[0] == b'.') {
                tally.lost.push(format!("{}: left behind: {}", what(), hidden.display()));
            }
        }
    }
    tally
}

fn disturbed() -> impl Iterator<Item = Case> {
    cases::all().into_iter().filter(|case| {
        let replaces = matches!(case.deed, Deed::Revoke(_) | Deed::Rotate { .. })
            || case.name == "the server's rotation";
        replaces && case.next.is_some()
    })
}

#[test]
fn a_private_key_that_was_not_looked_at_is_never_destroyed() {
    let mut kills = 0;
    for case in disturbed() {
        for name in ["private_key.pem", "next_key.pem"] {
            let tally = intrude(&case, name, true);
            assert_eq!(tally.lost, Vec::<String>::new(), "{}", case.name);
            kills += tally.kills;
        }
    }
    println!("kills: {kills}");
    assert!(kills > 300, "{kills}");
}

/// The control: where files cannot be exchanged, there is a moment between the look and the rename.
#[test]
fn a_key_that_is_renamed_over_is_told() {
    let lost = disturbed().map(|case| intrude(&case, "private_key.pem", false).lost);
    let lost: Vec<_> = lost.flatten().collect();
    assert!(lost.iter().any(|lost| lost.contains("her key is nowhere")), "{lost:?}");
}
