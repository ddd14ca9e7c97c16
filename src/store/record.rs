//! A record as a file: explanatory text, then the public key in PEM.
//!
//! RFC 7468 section 2 lets a reader of PEM ignore text before the first boundary, and OpenSSL does,
//! so that `cat` tells the key's story and `openssl pkey -pubin -in` reads the key.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;

use chrono::{DateTime, Datelike as _, NaiveDateTime, Utc};

use crate::jwk::KeyId;
use crate::key::{KeyError, parse_public_pem, public_pem};
use crate::lifecycle::{Record, State, Time, rfc3339, whole_second};

/// The first line of every record of this version.
const MAGIC: &str = "jwks-server key record, version 1";
/// What the first line of a record of any version begins with.
const ANY_MAGIC: &str = "jwks-server key record";
const BOUNDARY: &str = "\n-----BEGIN PUBLIC KEY-----";
const STAMP: &str = "%Y%m%dT%H%M%SZ";

const KID: &str = "Kid";
const CREATED_AT: &str = "Created-At";
const PUBLISHED_AT: &str = "Published-At";
const PROMOTION_REQUESTED_AT: &str = "Promotion-Requested-At";
const ACTIVATED_AT: &str = "Activated-At";
const RETIRED_AT: &str = "Retired-At";
const REMOVE_AT: &str = "Remove-At";
const REVOKED_AT: &str = "Revoked-At";
const REVOKED_REASON: &str = "Revoked-Reason";

/// The longest reason for a revocation that is kept, in bytes.
const MAX_REASON_LEN: usize = 512;

/// Why a file is no record.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum RecordError {
    /// The text is not UTF-8.
    #[error("a key record that is not UTF-8 text")]
    NotText,
    /// The name is a record's, the content is not.
    #[error("no key record, although the file has the name of one")]
    NotARecord,
    /// The record is from another version of the program.
    #[error("a key record of a version that this program does not know")]
    Version,
    /// There is no public key in it.
    #[error("a key record without a public key")]
    NoKey,
    /// The public key cannot be read.
    #[error("a key record whose key is {0}")]
    Key(#[source] KeyError),
    /// A line is not `Name: value`, or has a name that was there before.
    #[error("a key record whose line {0} cannot be understood")]
    Line(usize),
    /// A line that must be there is not.
    #[error("a key record without {0}")]
    Missing(&'static str),
    /// A time is not in RFC 3339, or out of range.
    #[error("a key record whose {0} is no RFC 3339 time")]
    Time(&'static str),
    /// The kid is not that of the key.
    #[error("a key record whose Kid is not the thumbprint of its key")]
    Kid,
    /// The times contradict each other.
    #[error("a key record whose times fit no state of a key")]
    State,
}

/// The name of the file of `record`: when it was made, and the kid.
pub(super) fn file_name(record: &Record) -> String {
    format!("{}-{}.pem", record.created_at.format(STAMP), record.kid())
}

/// The kid in a name that [`file_name`] made.
pub(super) fn kid_of_name(name: &OsStr) -> Option<KeyId> {
    let (stamp, kid) = name.to_str()?.strip_suffix(".pem")?.split_once('-')?;
    NaiveDateTime::parse_from_str(stamp, STAMP).ok()?;
    kid.parse().ok()
}

/// Whether a file's content is meant to be a record.
pub(super) fn is_record(bytes: &[u8]) -> bool {
    bytes.starts_with(ANY_MAGIC.as_bytes())
}

/// The content of the file of `record`.
///
/// [`parse_record`] reads it back as it was, but for what no record that was read can hold: control
/// characters in a reason are blanks, and a reason of more than 512 bytes is cut.
pub fn render_record(record: &Record) -> String {
    let mut lines = vec![(KID, record.kid().to_string()), (CREATED_AT, rfc3339(record.created_at))];
    let mut time = |name, at: Option<Time>| lines.extend(at.map(|at| (name, rfc3339(at))));
    time(PUBLISHED_AT, record.published_at);
    match &record.state {
        State::Next { promotion_requested_at } => {
            time(PROMOTION_REQUESTED_AT, *promotion_requested_at);
        }
        State::Current { activated_at } => time(ACTIVATED_AT, Some(*activated_at)),
        State::Retired { activated_at, retired_at, remove_at } => {
            time(ACTIVATED_AT, *activated_at);
            time(RETIRED_AT, Some(*retired_at));
            time(REMOVE_AT, Some(*remove_at));
        }
        State::Revoked { revoked_at, reason } => {
            time(REVOKED_AT, Some(*revoked_at));
            lines.push((REVOKED_REASON, one_line(reason)));
        }
    }
    let others = record.others.iter().map(|(name, value)| (name.as_str(), value.clone()));
    let mut text = format!("{MAGIC}\n");
    for (name, value) in lines.into_iter().chain(others) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name}: {value}");
    }
    text + &public_pem(&record.key)
}

/// Reads the content of a record's file.
///
/// Whatever is read can be written again: it renders to a text that reads back as the same record.
///
/// # Errors
///
/// If the text is no record. No reason tells a part of the text.
pub fn parse_record(bytes: &[u8]) -> Result<Record, RecordError> {
    let text = std::str::from_utf8(bytes).map_err(|_| RecordError::NotText)?;
    if !is_record(bytes) {
        return Err(RecordError::NotARecord);
    }
    // At the beginning of a line: a person's reason may have the words in it.
    let at = text.find(BOUNDARY).ok_or(RecordError::NoKey)?;
    let (head, key) = text.split_at(at + 1);
    let mut lines = head.lines();
    if lines.next() != Some(MAGIC) {
        return Err(RecordError::Version);
    }
    let key = parse_public_pem(key).map_err(RecordError::Key)?;

    let mut fields = Fields::read(lines)?;
    let kid = fields.0.remove(KID).ok_or(RecordError::Missing(KID))?;
    if kid != key.kid().to_string() {
        return Err(RecordError::Kid);
    }
    let created_at = fields.time(CREATED_AT)?.ok_or(RecordError::Missing(CREATED_AT))?;
    let published_at = fields.time(PUBLISHED_AT)?;
    let state = fields.state()?;
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    let others = fields.0.into_iter().map(owned).collect();
    Ok(Record { key, created_at, published_at, state, others })
}

/// The `Name: value` lines of a record that have not been made use of yet.
struct Fields<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Fields<'a> {
    fn read(lines: impl Iterator<Item = &'a str>) -> Result<Self, RecordError> {
        let mut fields = BTreeMap::new();
        for (index, line) in lines.enumerate() {
            let bad = RecordError::Line(index + 2);
            let Some((name, value)) = line.split_once(": ") else {
                return Err(bad);
            };
            if fields.insert(name, value.trim_end()).is_some() {
                return Err(bad);
            }
        }
        Ok(Self(fields))
    }

    fn time(&mut self, name: &'static str) -> Result<Option<Time>, RecordError> {
        let Some(text) = self.0.remove(name) else {
            return Ok(None);
        };
        let time = DateTime::parse_from_rfc3339(text).map_err(|_| RecordError::Time(name))?;
        let time = whole_second(time.with_timezone(&Utc));
        // An offset can lead out of the four digits that RFC 3339 has for a year.
        if (0..=9999).contains(&time.year()) {
            Ok(Some(time))
        } else {
            Err(RecordError::Time(name))
        }
    }

    /// The state that the lines tell, of which no state may know but a part.
    fn state(&mut self) -> Result<State, RecordError> {
        let promotion_requested_at = self.time(PROMOTION_REQUESTED_AT)?;
        let activated_at = self.time(ACTIVATED_AT)?;
        let retired_at = self.time(RETIRED_AT)?;
        let remove_at = self.time(REMOVE_AT)?;
        let revoked_at = self.time(REVOKED_AT)?;
        let reason = self.0.remove(REVOKED_REASON);
        match (promotion_requested_at, activated_at, retired_at, remove_at, revoked_at, reason) {
            (promotion_requested_at, None, None, None, None, None) => {
                Ok(State::Next { promotion_requested_at })
            }
            (None, Some(activated_at), None, None, None, None) => {
                Ok(State::Current { activated_at })
            }
            (None, activated_at, Some(retired_at), Some(remove_at), None, None) => {
                Ok(State::Retired { activated_at, retired_at, remove_at })
            }
            (None, None, None, None, Some(revoked_at), Some(reason)) => {
                // A person may have written it; and it must read back as it will be written.
                Ok(State::Revoked { revoked_at, reason: one_line(reason) })
            }
            _ => Err(RecordError::State),
        }
    }
}

/// A person's text as one line of bounded length that cannot look like another line.
fn one_line(text: &str) -> String {
    let mut line = String::new();
    for c in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if line.len() + c.len_utf8() > MAX_REASON_LEN {
            break;
        }
        line.push(c);
    }
    line.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{PemKey, parse_pem};
    use crate::lifecycle::{Policy, PolicySettings};

    const PUBLIC: &str = include_str!("../../tests/fixtures/keys/accepted/spki.pem");

    fn at(secs: i64) -> Time {
        DateTime::from_timestamp(1_795_366_980 + secs, 0).unwrap()
    }

    fn staged() -> Record {
        let Ok(PemKey::Public(key)) = parse_pem(PUBLIC.as_bytes()) else { panic!("a public key") };
        Record::staged(key, at(0), false)
    }

    fn records() -> Vec<Record> {
        let policy = Policy::new(PolicySettings::default()).unwrap();
        let published = staged().published(at(1));
        let current = published.activated(at(2));
        vec![
            staged(),
            Record::staged(staged().key, at(0), true),
            published.clone(),
            current.clone(),
            current.retired(at(3), &policy),
            published.retired(at(3), &policy),
            current.revoked(at(4), "leaked"),
        ]
    }

    #[test]
    fn every_record_reads_back_as_it_was_written() {
        for record in records() {
            assert_eq!(parse_record(render_record(&record).as_bytes()), Ok(record));
        }
    }

    #[test]
    fn a_record_tells_its_story_before_the_key() {
        let policy = Policy::new(PolicySettings::default()).unwrap();
        let record = staged().published(at(1)).activated(at(2)).retired(at(3), &policy);
        let kid = record.kid();
        assert_eq!(
            render_record(&record),
            format!(
                "jwks-server key record, version 1\nKid: {kid}\n\
                 Created-At: 2026-11-22T17:03:00Z\nPublished-At: 2026-11-22T17:03:01Z\n\
                 Activated-At: 2026-11-22T17:03:02Z\nRetired-At: 2026-11-22T17:03:03Z\n\
                 Remove-At: 2026-11-23T18:03:03Z\n{PUBLIC}"
            )
        );
        let name = file_name(&record);
        assert_eq!(name, format!("20261122T170300Z-{kid}.pem"));
        assert_eq!(kid_of_name(OsStr::new(&name)), Some(kid));
        assert_eq!(kid_of_name(OsStr::new("20261122-mine.pem")), None);
    }

    #[test]
    fn a_reason_cannot_forge_a_line() {
        let reason = "a\nActivated-At: x\r\n-----BEGIN PUBLIC KEY-----\u{1b}[2J";
        let tombstone = staged().revoked(at(4), reason);
        let text = render_record(&tombstone);
        assert_eq!(text.matches('\u{1b}').count(), 0);
        assert_eq!(text.lines().filter(|line| line.starts_with("Activated-At")).count(), 0);
        let read = parse_record(text.as_bytes()).unwrap();
        assert!(read.is_revoked());
        let long = staged().revoked(at(4), &"ä".repeat(1_000));
        assert!(render_record(&long).len() < 1_200);
    }

    #[test]
    fn what_is_no_record_is_refused_with_its_reason() {
        let good = render_record(&staged());
        let with =
            |from: &str, to: &str| parse_record(good.replace(from, to).as_bytes()).unwrap_err();
        assert_eq!(with("jwks-server key", "something"), RecordError::NotARecord);
        assert_eq!(with("version 1", "version 2"), RecordError::Version);
        assert_eq!(with("-----BEGIN", "-----START"), RecordError::NoKey);
        assert_eq!(with("Kid: ", "Kid: A"), RecordError::Kid);
        assert_eq!(with("Kid: ", "Key: "), RecordError::Missing(KID));
        assert_eq!(with("2026-11", "2026-13"), RecordError::Time(CREATED_AT));
        assert_eq!(with("Created-At", "Kid"), RecordError::Line(3));
        assert_eq!(with("Created-At: ", "Created-At="), RecordError::Line(3));
        assert_eq!(
            with("\nCreated", "\nRemove-At: 2026-11-22T17:03:00Z\nCreated"),
            RecordError::State
        );
        assert!(matches!(with("-----END", "-----FIN"), RecordError::Key(_)));
        assert_eq!(parse_record(&[0xff]).unwrap_err(), RecordError::NotText);
    }
    #[test]
    fn what_a_person_wrote_reads_back_as_it_is_written_again() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/records/accepted");
        let read =
            |name: &str| parse_record(&std::fs::read(format!("{folder}/{name}.pem")).unwrap());
        for entry in std::fs::read_dir(folder).unwrap() {
            let record = parse_record(&std::fs::read(entry.unwrap().path()).unwrap()).unwrap();
            assert_eq!(parse_record(render_record(&record).as_bytes()), Ok(record));
        }
        let reason = |name| match read(name).unwrap().state {
            State::Revoked { reason, .. } => reason,
            other => panic!("{other:?}"),
        };
        let cleaned = "a [2J -----BEGIN CERTIFICATE-----";
        assert_eq!(reason("reason-with-control-characters"), cleaned);
        assert_eq!(reason("reason-too-long"), "x".repeat(512));
        // 2026-11-22T18:03:00.5+01:00, which must not be earlier than it was.
        assert_eq!(read("other-form-of-time").unwrap().created_at, at(1));
        assert_eq!(read("compressed-point"), Ok(staged()));
        assert_eq!(read("lines-in-another-order"), read("retired"));
        assert_eq!(read("crlf"), read("retired"));
    }

    /// A later version may have something to say that this one does not know.
    #[test]
    fn an_unknown_line_is_kept_and_ignored() {
        let policy = Policy::new(PolicySettings::default()).unwrap();
        let plain = staged().activated(at(1)).retired(at(2), &policy);
        let text =
            render_record(&plain).replace("Retired-At", "Held-By: somebody\nZ:  \nRetired-At");
        let read = parse_record(text.as_bytes()).unwrap();
        assert_eq!(Record { others: BTreeMap::new(), ..read.clone() }, plain);
        let again = render_record(&read.activated(at(3)));
        assert!(
            again.contains("\nHeld-By: somebody\nZ: \n-----BEGIN PUBLIC KEY-----\n"),
            "{again}"
        );
        assert_eq!(parse_record(again.as_bytes()).unwrap().others, read.others);
    }

    /// Written again they would have five digits, and could not be read.
    #[test]
    fn a_year_of_more_than_four_digits_is_refused() {
        let good = render_record(&staged());
        let with = |time| parse_record(good.replace("2026-11-22T17:03:00Z", time).as_bytes());
        assert!(with("9999-12-31T23:59:59Z").is_ok());
        for time in
            ["9999-12-31T23:59:59-00:01", "9999-12-31T23:59:59.1Z", "0000-01-01T00:00:00+00:01"]
        {
            assert_eq!(with(time), Err(RecordError::Time(CREATED_AT)), "{time}");
        }
    }
}
