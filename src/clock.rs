//! Time: the one place that reads a clock.

use std::time::Duration;

use crate::lifecycle::Time;

/// One reading of the clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The wall clock: for what is written down. It can be set, forwards and backwards.
    pub wall: Time,
    /// The monotonic clock, since the process began: for what has elapsed. It stands still while the
    /// host sleeps.
    pub elapsed: Duration,
    /// The same by a clock that goes on while the host sleeps: for whether it did.
    pub with_sleep: Duration,
}

/// Where the time comes from.
pub trait Clock: Send + Sync + 'static {
    /// The time now.
    fn now(&self) -> Moment;

    /// Lets so much time pass: for a command, which has no runtime and nothing else to do.
    fn pause(&self, time: Duration) {
        std::thread::sleep(time);
    }
}

/// The clocks of the operating system.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    began: std::time::Instant,
    began_with_sleep: Duration,
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
impl SystemClock {
    /// Elapsed time counts from here.
    pub fn start() -> Self {
        Self { began: std::time::Instant::now(), began_with_sleep: since_boot() }
    }

    /// The wall clock alone, for a command that ends at once.
    pub fn wall() -> Time {
        chrono::Utc::now()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Moment {
        Moment {
            wall: Self::wall(),
            elapsed: self.began.elapsed(),
            with_sleep: since_boot().saturating_sub(self.began_with_sleep),
        }
    }
}

/// The time since the host was booted, with the time for which it slept where the system can tell.
fn since_boot() -> Duration {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let clock = rustix::time::ClockId::Boottime;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let clock = rustix::time::ClockId::Monotonic;
    rustix::time::clock_gettime(clock).try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_clock_but_the_wall_clock_goes_back() {
        let clock = SystemClock::start();
        let mut last = clock.now();
        for _ in 0..1_000 {
            let now = clock.now();
            assert!(now.elapsed >= last.elapsed && now.with_sleep >= last.with_sleep);
            last = now;
        }
        assert!(last.with_sleep < Duration::from_secs(3_600), "it counts from the beginning");
    }
}
