//! The HTTP side over real sockets: what is answered, and what clients may take.
//!
//! No test depends on how fast anything is. A bound is tested by an order of events: what it bounds
//! ends by itself, while the same thing with a bound of an hour is seen to go on.

#![expect(clippy::unwrap_used, reason = "helpers of tests, which clippy does not take for tests")]

mod bounds;
mod conditional;
mod contract;
mod crowding;
mod hostile;
mod server;
mod shutdown;
mod torn;
