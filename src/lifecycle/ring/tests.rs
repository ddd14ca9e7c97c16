use std::time::Duration;

use super::*;
use crate::lifecycle::{Policy, PolicySettings, Time};

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
fn a_key_that_was_let_go_stays_away_until_its_file_says_something_else() {
    let old = current(1).retired(at(10), &policy());
    let mut ring = KeyRing::default();
    let look = |record: &Record| Seen {
        private_key: Slot::Holds(key(3)),
        ..seen([current(3), record.clone()])
    };
    ring.observe(look(&old));
    ring.remember(old.published(at(11)));
    ring.let_go(key(1).kid());
    ring.observe(look(&old));
    assert_eq!(ring.served(), [key(3)]);
    ring.observe(look(&old.published(at(20))));
    assert_eq!(ring.served(), [key(3), key(1)]);
}

#[test]
fn a_removal_only_ever_moves_later() {
    let mut ring = KeyRing::default();
    let late = current(1).retired(at(10), &policy());
    let early = current(1).retired(at(0), &policy());
    ring.observe(seen([late.clone()]));
    ring.observe(seen([early]));
    assert_eq!(ring.record(key(1).kid()).unwrap().remove_at(), late.remove_at());
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
    assert_eq!(look(Slot::Missing, &mut ring), [key(3)], "somebody deleted it");
}
