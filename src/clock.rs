//! Time: the one place that reads a clock, and the watch over two clocks that should agree.

use std::time::Duration;

use chrono::TimeDelta;

use crate::lifecycle::Time;

/// One reading of both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The wall clock: for what is written down. It can be set, forwards and backwards.
    pub wall: Time,
    /// The monotonic clock, since the process began: for what has elapsed.
    pub elapsed: Duration,
}

/// Where the time comes from.
pub trait Clock: Send + Sync + 'static {
    /// The time now.
    fn now(&self) -> Moment;
}

/// The clocks of the operating system.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    began: std::time::Instant,
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
impl SystemClock {
    /// Elapsed time counts from here.
    pub fn start() -> Self {
        Self { began: std::time::Instant::now() }
    }

    /// The wall clock alone, for a command that ends at once.
    pub fn wall() -> Time {
        chrono::Utc::now()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Moment {
        Moment { wall: Self::wall(), elapsed: self.began.elapsed() }
    }
}

/// Notices that the wall clock was set while the process ran.
#[derive(Debug, Default)]
pub struct ClockWatch {
    last: Option<Moment>,
    disturbed_at: Option<Duration>,
}

/// Between two readings the clocks may disagree by this much.
const TOLERANCE: TimeDelta = TimeDelta::minutes(1);
/// After a disagreement the clocks must agree for this long before they are trusted again.
const QUARANTINE: Duration = Duration::from_secs(600);

impl ClockWatch {
    /// Takes a reading; returns for how long the wall clock must not be trusted yet.
    pub fn observe(&mut self, moment: Moment) -> Option<Duration> {
        if let Some(last) = self.last.replace(moment) {
            let wall = moment.wall - last.wall;
            let elapsed = moment.elapsed.saturating_sub(last.elapsed);
            let elapsed = TimeDelta::from_std(elapsed).unwrap_or(TimeDelta::MAX);
            if (wall - elapsed).abs() > TOLERANCE {
                self.disturbed_at = Some(moment.elapsed);
            }
        }
        let trusted_at = self.disturbed_at? + QUARANTINE;
        let remaining = trusted_at.checked_sub(moment.elapsed).filter(|left| !left.is_zero());
        if remaining.is_none() {
            self.disturbed_at = None;
        }
        remaining
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(wall: i64, elapsed: u64) -> Moment {
        Moment {
            wall: chrono::DateTime::from_timestamp(1_795_000_000 + wall, 0).unwrap(),
            elapsed: Duration::from_secs(elapsed),
        }
    }

    #[test]
    fn clocks_that_agree_are_trusted() {
        let mut watch = ClockWatch::default();
        assert_eq!(watch.observe(moment(0, 0)), None);
        assert_eq!(watch.observe(moment(10, 10)), None);
        assert_eq!(watch.observe(moment(80, 20)), None, "a minute is tolerated");
        assert_eq!(watch.observe(moment(100_000, 99_940)), None);
    }

    #[test]
    fn a_clock_that_was_set_is_not_trusted_for_ten_minutes() {
        for step in [400 * 86_400, -2 * 86_400, 61, -61] {
            let mut watch = ClockWatch::default();
            watch.observe(moment(0, 0));
            assert_eq!(watch.observe(moment(step + 10, 10)), Some(QUARANTINE), "{step}");
            assert_eq!(watch.observe(moment(step + 609, 609)), Some(Duration::from_secs(1)));
            assert_eq!(watch.observe(moment(step + 610, 610)), None);
            assert_eq!(watch.observe(moment(step + 620, 620)), None);
        }
    }

    #[test]
    fn a_second_jump_begins_the_ten_minutes_again() {
        let mut watch = ClockWatch::default();
        watch.observe(moment(0, 0));
        watch.observe(moment(1_000, 10));
        assert_eq!(watch.observe(moment(0, 300)), Some(QUARANTINE));
    }
}
