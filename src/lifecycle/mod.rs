//! The life of a key: published, then signed with, then retired, then removed.
//!
//! Everything here is pure. A [`KeyRing`] says what is known of the keys, a [`Policy`] how long each
//! state must last, [`Served`] how long it has lasted, and [`step()`] the one thing that is due, or when
//! to look again. No clock, file, lock or runtime is named in this module, so its tests walk years by
//! addition.

mod known;
mod policy;
mod record;
mod ring;
mod served;
mod step;
#[cfg(test)]
mod tests;

pub(crate) use policy::human;
pub use policy::{MAX_DURATION, Policy, PolicyError, PolicySettings, PolicyWarning};
pub use record::{Record, State, whole_second};
pub use ring::{KeyRing, Listing, Seen, Slot};
pub use served::{Count, Counts, Entered, LONGEST_GAP, Live, Served, proven_after};
pub use step::{Action, Agenda, Step, bootstrap, settle, starved_since, step};

/// A point of the wall clock.
pub type Time = chrono::DateTime<chrono::Utc>;

/// `time` as RFC 3339 has it, in whole seconds unless there is a fraction.
pub fn rfc3339(time: Time) -> String {
    time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true)
}
