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

/// Notices that the wall clock was set while the process ran, and says what time it is meanwhile.
///
/// Until the clocks have agreed for ten minutes, the time is what it was before and what has elapsed
/// since. So a wrong clock that is put right soon is never believed; one that stays is, and then
/// says by how much what was written down before is off.
#[derive(Debug, Default)]
pub struct ClockWatch {
    last: Option<Moment>,
    disturbance: Option<Disturbance>,
}

#[derive(Debug)]
struct Disturbance {
    /// The last reading that was believed.
    believed: Moment,
    /// When the clocks disagreed last.
    at: Duration,
}

/// What a [`ClockWatch`] makes of a reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// The time to believe.
    pub moment: Moment,
    /// For how long the wall clock will not be believed yet.
    pub paused_for: Option<Duration>,
    /// From now on the wall clock is believed again, which is ahead by so much of what was believed;
    /// by nothing if it was put right.
    pub shifted_by: Option<TimeDelta>,
}

/// Between two readings the clocks may disagree by this much.
const TOLERANCE: TimeDelta = TimeDelta::minutes(1);
/// After a disagreement the clocks must agree for this long before they are trusted again.
const QUARANTINE: Duration = Duration::from_secs(600);

impl ClockWatch {
    /// Takes a reading.
    pub fn observe(&mut self, moment: Moment) -> Reading {
        let last = self.last.replace(moment).unwrap_or(moment);
        if (moment.wall - last.extrapolated(moment.elapsed)).abs() > TOLERANCE {
            let believed = self.disturbance.take().map_or(last, |earlier| earlier.believed);
            self.disturbance = Some(Disturbance { believed, at: moment.elapsed });
        }
        let Some(Disturbance { believed, at }) = self.disturbance else {
            return Reading { moment, paused_for: None, shifted_by: None };
        };
        let wall = believed.extrapolated(moment.elapsed);
        let paused_for = (at + QUARANTINE).saturating_sub(moment.elapsed);
        if paused_for.is_zero() {
            self.disturbance = None;
            let by = moment.wall - wall;
            let by = if by.abs() > TOLERANCE { by } else { TimeDelta::zero() };
            return Reading { moment, paused_for: None, shifted_by: Some(by) };
        }
        let moment = Moment { wall, ..moment };
        Reading { moment, paused_for: Some(paused_for), shifted_by: None }
    }
}

impl Moment {
    /// What the wall clock should say at `elapsed`.
    fn extrapolated(self, elapsed: Duration) -> Time {
        let since = TimeDelta::from_std(elapsed.saturating_sub(self.elapsed));
        self.wall.checked_add_signed(since.unwrap_or(TimeDelta::MAX)).unwrap_or(Time::MAX_UTC)
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

    fn believed(moment: Moment) -> Reading {
        Reading { moment, paused_for: None, shifted_by: None }
    }

    #[test]
    fn clocks_that_agree_are_believed() {
        let mut watch = ClockWatch::default();
        for reading in [moment(0, 0), moment(10, 10), moment(80, 20), moment(100_000, 99_940)] {
            assert_eq!(watch.observe(reading), believed(reading), "a minute is tolerated");
        }
    }

    #[test]
    fn a_clock_that_was_set_is_not_believed_for_ten_minutes() {
        for step in [400 * 86_400, -2 * 86_400, 61, -61] {
            let mut watch = ClockWatch::default();
            watch.observe(moment(0, 0));
            for elapsed in [10, 20, 609] {
                let reading =
                    watch.observe(moment(step + i64::try_from(elapsed).unwrap(), elapsed));
                assert_eq!(reading.moment, moment(i64::try_from(elapsed).unwrap(), elapsed));
                assert_eq!(reading.paused_for, Some(Duration::from_secs(610 - elapsed)));
                assert_eq!(reading.shifted_by, None);
            }
            let reading = watch.observe(moment(step + 610, 610));
            let shifted_by = Some(TimeDelta::seconds(step));
            assert_eq!(reading, Reading { shifted_by, ..believed(moment(step + 610, 610)) });
            let reading = moment(step + 620, 620);
            assert_eq!(watch.observe(reading), believed(reading));
        }
    }

    #[test]
    fn a_clock_that_is_put_right_was_never_believed() {
        let mut watch = ClockWatch::default();
        watch.observe(moment(0, 0));
        assert_eq!(watch.observe(moment(1_000, 10)).moment, moment(10, 10));
        let reading = watch.observe(moment(300, 300));
        assert_eq!(reading.moment, moment(300, 300));
        assert_eq!(reading.paused_for, Some(QUARANTINE), "the ten minutes begin again");
        let shifted_by = Some(TimeDelta::zero());
        let reading = moment(900, 900);
        assert_eq!(watch.observe(reading), Reading { shifted_by, ..believed(reading) });
    }
}
