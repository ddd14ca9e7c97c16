use std::time::Duration;

use super::*;
use crate::lifecycle::{Action, Policy, PolicySettings, Time, settle};

fn key(byte: u8) -> Jwk {
    Jwk::from_coordinates([byte; 32], [byte; 32])
}

fn at(secs: i64) -> Time {
    chrono::DateTime::from_timestamp(1_795_000_000 + secs, 0).unwrap()
}

fn policy() -> Policy {
    Policy::new(PolicySettings { retain_for: Duration::from_secs(60), ..Default::default() })
        .unwrap()
}

fn seen(records: impl IntoIterator<Item = Record>) -> Seen {
    Seen {
        records: records.into_iter().map(|record| (record.kid(), record)).collect(),
        ..Seen::default()
    }
}

fn current(byte: u8) -> Record {
    Record::staged(key(byte), at(0), false).activated(at(i64::from(byte)))
}

#[test]
fn the_set_is_in_the_order_current_retired_dropped_next() {
    let mut ring = KeyRing::default();
    let old = current(1).retired(at(10), &policy());
    let older = current(2).retired(at(5), &policy());
    ring.observe(Seen {
        private_key: Slot::Holds(key(3)),
        next_key: Slot::Holds(key(4)),
        dropped: BTreeMap::from([("b.pem".into(), Some(key(5)))]),
        ..seen([current(3), older, old, Record::staged(key(4), at(0), false)])
    });
    assert_eq!(ring.served(), [key(3), key(1), key(2), key(5), key(4)]);
}

#[test]
fn a_key_that_stands_in_two_places_is_served_once() {
    let mut ring = KeyRing::default();
    ring.observe(Seen {
        private_key: Slot::Holds(key(3)),
        next_key: Slot::Holds(key(3)),
        dropped: BTreeMap::from([("b.pem".into(), Some(key(3))), ("c.pem".into(), Some(key(3)))]),
        ..seen([current(3)])
    });
    assert_eq!(ring.served(), [key(3)]);
}

#[test]
fn a_record_that_vanishes_goes_on_being_served_and_is_to_be_written_again() {
    let mut ring = KeyRing::default();
    let old = current(1).retired(at(10), &policy());
    ring.observe(Seen { private_key: Slot::Holds(key(3)), ..seen([current(3), old.clone()]) });
    ring.observe(Seen { ..Seen::default() });
    assert_eq!(ring.served(), [key(3), key(1)]);
    assert_eq!(ring.unsaved().count(), 2);
    ring.observe(seen([current(3), old]));
    assert_eq!(ring.unsaved().count(), 0);
}

#[test]
fn a_refused_file_takes_no_key_out_of_the_set() {
    let mut ring = KeyRing::default();
    ring.observe(Seen {
        private_key: Slot::Holds(key(3)),
        dropped: BTreeMap::from([("b.pem".into(), Some(key(5)))]),
        ..seen([current(3)])
    });
    ring.observe(Seen {
        private_key: Slot::Refused,
        refused_records: BTreeSet::from([key(3).kid()]),
        dropped: BTreeMap::from([("b.pem".into(), None)]),
        ..Seen::default()
    });
    assert_eq!(ring.served(), [key(3), key(5)]);
    assert_eq!(ring.unsaved().count(), 0, "a file that cannot be read is not overwritten");
    // The control: a file that is gone takes its dropped key with it.
    ring.observe(Seen { private_key: Slot::Holds(key(3)), ..seen([current(3)]) });
    assert_eq!(ring.served(), [key(3)]);
}

#[test]
fn a_record_that_cannot_be_read_is_not_written_a_second_time() {
    let unread = [
        Seen {
            refused_records: BTreeSet::from([key(3).kid()]),
            unread_records: BTreeSet::from([key(3).kid()]),
            ..Seen::default()
        },
        Seen { listing: Listing::Failed, ..Seen::default() },
    ];
    for unread in unread {
        let mut ring = KeyRing::default();
        ring.observe(Seen { private_key: Slot::Holds(key(3)), ..unread });
        assert_eq!(crate::lifecycle::settle(&ring, &policy(), at(9)), None);
        assert!(!ring.has_unrecorded());
        assert_eq!(ring.served(), [key(3)], "it is served all the same");
        // The control: a key without any record gets one, and so does one whose record is there
        // and says nothing.
        for refused_records in [BTreeSet::new(), BTreeSet::from([key(3).kid()])] {
            let private_key = Slot::Holds(key(3));
            ring.observe(Seen { private_key, refused_records, ..Seen::default() });
            assert!(crate::lifecycle::settle(&ring, &policy(), at(9)).is_some());
            assert!(ring.has_unrecorded());
        }
    }
}

#[test]
fn a_key_whose_record_cannot_be_read_is_served_after_another_took_its_place() {
    let holds = |private_key, next_key| Seen {
        private_key: Slot::Holds(key(private_key)),
        next_key: Slot::Holds(key(next_key)),
        ..seen([])
    };
    let unread = Seen {
        unread_records: [key(1).kid(), key(2).kid()].into(),
        refused_records: [key(1).kid(), key(2).kid()].into(),
        ..holds(3, 4)
    };
    let retired = current(1).retired(at(10), &policy());
    for (found, goes_on) in [
        (unread.clone(), true),
        (Seen { listing: Listing::Failed, ..holds(3, 4) }, true),
        (Seen { records: [(key(1).kid(), retired)].into(), ..unread.clone() }, true),
        (
            Seen {
                records: [
                    (key(1).kid(), current(1).revoked(at(10), "")),
                    (key(2).kid(), current(2).revoked(at(10), "")),
                ]
                .into(),
                ..unread
            },
            false,
        ),
    ] {
        let mut ring = KeyRing::default();
        ring.observe(Seen { listing: Listing::Failed, ..holds(1, 2) });
        assert_eq!(settle(&ring, &policy(), at(20)), None, "what is recorded is not known");
        ring.observe(&found);
        for gone in [key(1), key(2)] {
            assert_eq!(ring.served().contains(&gone), goes_on, "{found:?}");
        }
    }

    // Once it is known that they have no record, they get one.
    let mut ring = KeyRing::default();
    ring.observe(Seen { listing: Listing::Failed, ..holds(1, 2) });
    let recorded = seen([current(3), Record::staged(key(4), at(0), false)]);
    ring.observe(Seen { records: recorded.records, ..holds(3, 4) });
    for _ in 0..2 {
        let Some(Action::Write(record)) = settle(&ring, &policy(), at(20)) else { panic!() };
        assert_eq!(record.remove_at(), Some(at(80)));
        ring.remember(record);
    }
    assert!(ring.record(key(1).kid()).is_some() && ring.record(key(2).kid()).is_some());
    assert_eq!(ring.replaced().next(), None);
}

#[test]
fn an_unreadable_file_leaves_the_key_that_it_held_last_current() {
    // Two keys of one second; the later one has each of the two kids once.
    for (earlier, later) in [(1, 2), (2, 1)] {
        let record = |byte| Record::staged(key(byte), at(0), false).activated(at(9));
        let mut ring = KeyRing::default();
        ring.observe(Seen {
            private_key: Slot::Holds(key(later)),
            ..seen([record(earlier), record(later)])
        });
        for slot in [Slot::Refused, Slot::Missing] {
            ring.observe(Seen { private_key: slot, ..seen([record(earlier), record(later)]) });
            assert_eq!(ring.current(), Some(key(later)));
            assert_eq!(ring.served(), [key(later), key(earlier)]);
        }
    }
}

#[test]
fn a_revoked_key_never_comes_back() {
    let mut ring = KeyRing::default();
    let tombstone = current(1).revoked(at(20), "leaked");
    ring.observe(Seen { private_key: Slot::Holds(key(3)), ..seen([current(3), tombstone]) });
    ring.observe(Seen {
        private_key: Slot::Holds(key(3)),
        next_key: Slot::Holds(key(1)),
        dropped: BTreeMap::from([("b.pem".into(), Some(key(1)))]),
        ..seen([current(3), current(1)])
    });
    assert_eq!(ring.served(), [key(3)]);
    assert!(ring.unsaved().any(Record::is_revoked), "the tombstone is written again");
}

/// What a command writes while the server could not write is newer than what the server
/// remembers, and neither forgets what the other promised.
#[test]
fn a_record_that_was_changed_meanwhile_counts_and_one_that_was_not_does_not() {
    let staged = Record::staged(key(1), at(0), false);
    let mut ring = KeyRing::default();
    ring.observe(seen([staged.clone()]));
    ring.remember(staged.published(at(5)));
    ring.observe(seen([staged.clone()]));
    assert_eq!(ring.record(key(1).kid()), Some(&staged.published(at(5))), "not written yet");
    let requested = staged.with(Record::staged(key(1), at(7), true).state);
    ring.observe(seen([requested.clone()]));
    assert_eq!(ring.record(key(1).kid()), Some(&requested.published(at(5))));
    assert!(ring.is_unsaved(key(1).kid()), "the publication is still to be written");
    ring.observe(seen([requested.published(at(5))]));
    assert!(!ring.is_unsaved(key(1).kid()));
}

#[test]
fn a_key_that_was_abandon_stays_away_until_its_file_says_something_else() {
    let old = current(1).retired(at(10), &policy());
    let mut ring = KeyRing::default();
    let look = |record: &Record| Seen {
        private_key: Slot::Holds(key(3)),
        ..seen([current(3), record.clone()])
    };
    ring.observe(look(&old));
    ring.remember(old.published(at(11)));
    ring.abandon(key(1).kid());
    ring.observe(look(&old));
    assert_eq!(ring.served(), [key(3)]);
    ring.observe(look(&old.published(at(20))));
    assert_eq!(ring.served(), [key(3), key(1)]);
}

#[test]
fn a_next_key_that_cannot_be_read_any_more_goes_on_being_served() {
    let mut ring = KeyRing::default();
    let unread = BTreeSet::from([key(4).kid()]);
    let look = |next_key, ring: &mut KeyRing| {
        ring.observe(Seen {
            private_key: Slot::Holds(key(3)),
            next_key,
            refused_records: unread.clone(),
            unread_records: unread.clone(),
            ..seen([current(3)])
        });
        ring.served()
    };
    assert_eq!(look(Slot::Holds(key(4)), &mut ring), [key(3), key(4)]);
    assert_eq!(look(Slot::Refused, &mut ring), [key(3), key(4)]);
    let deleted = look(Slot::Missing, &mut ring);
    assert_eq!(deleted, [key(3), key(4)], "somebody may have taken it to sign with");
}

/// The server takes in what a look found only if it is not the very same as before.
#[test]
fn to_take_in_the_same_again_changes_nothing() {
    // A small generator of numbers, so that a failing seed can be run again.
    let mut state = 0_u64;
    let mut roll = |sides: u8| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u8::try_from((state >> 33) % u64::from(sides)).unwrap()
    };
    let mut control = 0;
    for seed in 0..2_000 {
        let mut ring = KeyRing::default();
        for turn in 0..10 {
            let found = random_seen(&mut roll);
            ring.observe(&found);
            for _ in 0..roll(6) {
                decide(&mut ring, &mut roll);
                let mut again = ring.clone();
                assert_eq!(again.observe(&found), [], "seed {seed}, turn {turn}");
                assert_eq!(again, ring, "seed {seed}, turn {turn}");
            }
            // The control: what counts as written, although the directory does not have it.
            let unsaved = ring.unsaved().next().map(Record::kid);
            if let Some(kid) = unsaved.filter(|_| roll(4) == 0) {
                ring.saved(kid);
                let mut again = ring.clone();
                again.observe(&found);
                control += u32::from(again != ring);
            }
        }
    }
    assert!(control > 0, "the test can fail");
}

fn random_seen(roll: &mut impl FnMut(u8) -> u8) -> Seen {
    let slot = |roll: &mut dyn FnMut(u8) -> u8| match roll(6) {
        0 => Slot::Missing,
        1 => Slot::Refused,
        _ => Slot::Holds(key(roll(4))),
    };
    let mut found = Seen { private_key: slot(roll), next_key: slot(roll), ..Seen::default() };
    if roll(8) == 0 {
        found.listing = Listing::Failed;
        return found;
    }
    for byte in 0..4 {
        match roll(4) {
            0 => {}
            1 => {
                found.refused_records.insert(key(byte).kid());
                if roll(2) == 0 {
                    found.unread_records.insert(key(byte).kid());
                }
            }
            _ => drop(found.records.insert(key(byte).kid(), random_record(byte, roll))),
        }
        if roll(3) == 0 {
            let held = (roll(3) > 0).then(|| key(roll(5)));
            found.dropped.insert(format!("{byte}.pem").into(), held);
        }
    }
    found
}

fn random_record(byte: u8, roll: &mut impl FnMut(u8) -> u8) -> Record {
    let staged = Record::staged(key(byte), at(0), roll(4) == 0);
    let staged = if roll(2) == 0 { staged } else { staged.published(at(1)) };
    match roll(4) {
        0 => staged,
        1 => staged.activated(at(i64::from(roll(3)))),
        2 => staged.retired(at(i64::from(roll(3))), &policy()),
        _ => staged.revoked(at(i64::from(roll(3))), "leaked"),
    }
}

/// Something that the server decides and cannot write.
fn decide(ring: &mut KeyRing, roll: &mut impl FnMut(u8) -> u8) {
    let byte = roll(5);
    let kid = key(byte).kid();
    match roll(4) {
        0 => ring.abandon(kid),
        1 if ring.is_gone(kid) => ring.forget(kid),
        1 => {}
        _ => ring.remember(random_record(byte, roll)),
    }
}
