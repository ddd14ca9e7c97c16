//! The file `keys/.served`: for how long each key was served, as text, one line a key.
//!
//! Not in the records: earlier versions refuse a record with a line that they do not know, and a
//! record that cannot be written would hold up what is counted. What is missing here, cut short or of
//! another state counts as nothing, which delays a step and breaks no promise.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use super::{Existing, Locked, ReadError, Store, WriteError};
use crate::jwk::KeyId;
use crate::lifecycle::{Count, Counts, Entered, Live, MAX_DURATION, Time, rfc3339};

/// The name of the file.
pub(super) const SERVED: &str = ".served";

const MAGIC: &str = "jwks-server time served, version 1";
/// What fits into a file that is read back. More keys than this are in no set that a verifier takes.
const MAX_LINES: usize = 150;

impl Store {
    /// The file of the counts.
    pub fn counts_file(&self) -> PathBuf {
        self.paths.keys_dir.join(SERVED)
    }

    /// The counts that were kept; none if there is no such file.
    ///
    /// # Errors
    ///
    /// If there is one and it cannot be read, which may pass.
    pub fn read_counts(&self) -> Result<Counts, ReadError> {
        let dir = match self.os.open_dir(&self.paths.keys_dir) {
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                return Ok(Counts::new());
            }
            opened => opened.map_err(ReadError::Io)?,
        };
        match dir.read(OsStr::new(SERVED)) {
            Ok((bytes, _)) => Ok(parse(&bytes)),
            Err(ReadError::Io(error)) => Err(ReadError::Io(error)),
            // It is no file of this program's, and nothing is kept.
            Err(_) => Ok(Counts::new()),
        }
    }

    /// Keeps `counts` in place of what was kept before.
    ///
    /// # Errors
    ///
    /// If the file could not be replaced, or is not known to be durable.
    pub fn write_counts(&self, counts: &Counts, locked: &Locked) -> Result<(), WriteError> {
        locked.keys.put(OsStr::new(SERVED), render(counts).as_bytes(), Existing::Replace)
    }
}

/// Seconds are rounded down, promises up.
fn render(counts: &Counts) -> String {
    let mut lines: Vec<_> = counts.iter().collect();
    // Of too many, those that are next to leave are kept.
    lines.sort_by_key(|(kid, count)| (count.entered.state, std::cmp::Reverse(count.served), **kid));
    let mut text = format!("{MAGIC}\n");
    for (kid, count) in lines.into_iter().take(MAX_LINES) {
        let Count { entered, served, promised } = count;
        let promised = promised.as_secs() + u64::from(promised.subsec_nanos() > 0);
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{kid} {} {} {} {promised}",
            entered.state.name(),
            rfc3339(entered.at),
            served.as_secs()
        );
    }
    text
}

/// The counts in `bytes`. A line that cannot be understood, or has no end, counts as nothing.
fn parse(bytes: &[u8]) -> Counts {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
    if lines.next() != Some(MAGIC) {
        return Counts::new();
    }
    lines.filter_map(line).collect()
}

fn line(line: &str) -> Option<(KeyId, Count)> {
    let mut words = line.split(' ');
    let mut word = || words.next();
    let kid = word()?.parse().ok()?;
    let state = word()?;
    let state =
        [Live::Next, Live::Current, Live::Retired].into_iter().find(|live| live.name() == state)?;
    let at = chrono::DateTime::parse_from_rfc3339(word()?).ok()?.with_timezone(&chrono::Utc);
    let mut seconds = || Some(Duration::from_secs(word()?.parse().ok()?).min(MAX_DURATION));
    let (served, promised) = (seconds()?, seconds()?);
    let entered = Entered { state, at: Time::from(at) };
    words.next().is_none().then_some((kid, Count { entered, served, promised }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jwk::Jwk;

    fn count(state: Live, at: i64, served: Duration, promised: u64) -> Count {
        let at = chrono::DateTime::from_timestamp(1_795_000_000 + at, 0).unwrap();
        Count { entered: Entered { state, at }, served, promised: Duration::from_secs(promised) }
    }

    fn kid(byte: u8) -> KeyId {
        Jwk::from_coordinates([byte; 32], [byte; 32]).kid()
    }

    fn counts() -> Counts {
        let seconds = Duration::from_secs;
        Counts::from([
            (kid(1), count(Live::Current, 7, seconds(0), 0)),
            (kid(2), count(Live::Next, -5, seconds(90_000), 0)),
            (kid(3), count(Live::Retired, 0, seconds(12), 90_000)),
        ])
    }

    #[test]
    fn what_is_kept_reads_back_and_tells_its_story() {
        assert_eq!(parse(render(&counts()).as_bytes()), counts());
        let (one, two, three) = (kid(1), kid(2), kid(3));
        assert_eq!(
            render(&counts()),
            format!(
                "jwks-server time served, version 1\n\
                 {two} next 2026-11-18T11:06:35Z 90000 0\n\
                 {one} current 2026-11-18T11:06:47Z 0 0\n\
                 {three} retired 2026-11-18T11:06:40Z 12 90000\n"
            )
        );
    }

    #[test]
    fn a_part_of_a_second_is_never_too_much() {
        let short = count(Live::Retired, 0, Duration::from_millis(1_999), 1);
        let mut kept = Counts::from([(kid(1), short)]);
        kept.get_mut(&kid(1)).unwrap().promised = Duration::from_millis(1_001);
        let read = parse(render(&kept).as_bytes())[&kid(1)];
        assert_eq!(read, count(Live::Retired, 0, Duration::from_secs(1), 2));
    }

    /// Whatever is cut off or changed, no count becomes larger.
    #[test]
    fn what_is_torn_counts_as_nothing() {
        let text = render(&counts());
        for at in 0..text.len() {
            for torn in [&text.as_bytes()[..at], &[&text.as_bytes()[..at], b"\0\0\0"].concat()] {
                for (kid, count) in parse(torn) {
                    assert_eq!(counts()[&kid], count, "cut at {at}");
                }
            }
        }
        for foreign in ["", "\n", "jwks-server time served, version 2\n", "\u{ff}"] {
            let text = foreign.to_owned() + text.split_once('\n').unwrap().1;
            assert_eq!(parse(text.as_bytes()), Counts::new(), "{foreign:?}");
        }
        for (from, to) in
            [("retired", "Retired"), (" 12 ", " -12 "), (" 12 ", " 12 1 "), ("Z 12", "Z  12")]
        {
            assert_eq!(parse(text.replace(from, to).as_bytes()).len(), 2, "{from} {to}");
        }
    }

    #[test]
    fn what_is_kept_is_never_too_large_to_be_read() {
        let longest = count(Live::Retired, 0, MAX_DURATION, MAX_DURATION.as_secs());
        let many: Counts = (0..=255).map(|byte| (kid(byte), longest)).collect();
        let text = render(&many);
        assert!(text.len() <= crate::key::MAX_PEM_LEN, "{}", text.len());
        assert_eq!(parse(text.as_bytes()).len(), MAX_LINES);
    }
}
