//! The life of a key: published, then signed with, then retired, then removed.
//!
//! Everything here is pure. A [`KeyRing`] says what is known of the keys, a [`Policy`] how long each
//! state must last, and [`step()`] the one thing that is due, or when to look again. No clock, file,
//! lock or runtime is named in this module, so its tests walk years by addition.

mod policy;
mod record;
mod ring;
mod serving;
mod step;
#[cfg(test)]
mod tests;

pub(crate) use policy::human;
pub use policy::{MAX_DURATION, Policy, PolicyError, PolicySettings, PolicyWarning};
pub use record::{Record, State, whole_second};
pub use ring::{KeyRing, Listing, Seen, Slot};
pub use serving::Serving;
pub use step::{Action, Agenda, Step, opening, ready_at, settle, step};

/// A point of the wall clock.
pub type Time = chrono::DateTime<chrono::Utc>;

/// `time` as RFC 3339 has it, in whole seconds unless there is a fraction.
pub fn rfc3339(time: Time) -> String {
    time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true)
}
