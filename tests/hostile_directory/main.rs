//! Everything that may lie in the directory, in each place where it may lie, with the verdict that it
//! must get: refused for one reason, or accepted as one key. Whatever it is, what was served goes on
//! being served, and what lies there is left as it is.
//!
//! The table and what is tried on it run in virtual time; [`program`] has what only a process can
//! show.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

#[path = "../support/mod.rs"]
mod support;

mod home;
mod many;
mod modes;
mod places;
mod program;
mod races;
mod table;
