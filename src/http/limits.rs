//! What clients may take: time, connections, descriptors, buffers.

use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::source::Cidr;

/// The bytes of a request's head that are read, and no more: hyper answers 431 beyond it.
///
/// It is also the size of a connection's read buffer, and the least that hyper allows.
pub(super) const MAX_HEAD_BYTES: usize = 8 * 1024;

/// `SO_SNDBUF`: how much of an answer the kernel holds for a client that does not read.
///
/// The kernel doubles the figure for its own bookkeeping. Without a bound it grows to 4 MiB for each
/// connection, and a slow reader would never be seen.
pub(super) const SEND_BUFFER_BYTES: usize = 32 * 1024;

/// How much a client may still send, unread by anyone, after the last answer of its connection.
pub(super) const MAX_LINGER_BYTES: usize = 256 * 1024;

/// Descriptors that connections never take, so that keys can be read, written and watched when
/// clients hold every slot: about 10 for the process itself, the rest for files.
const RESERVED_DESCRIPTORS: u64 = 64;

/// What clients may take. Every bound holds for each connection by itself, on the monotonic clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once; for a further one an old one gives way, or else it waits in the listener's
    /// backlog. Lowered to what the
    /// process's descriptor limit allows, less a reserve for files.
    pub max_connections: usize,
    /// While there are no more connections than these, each keeps what it needs for a request, about
    /// 11 KiB, for a moment after an answer: to make it again takes half as long as a request.
    pub ready_connections: usize,
    /// From the first moment of a connection, or the first byte of a later request, to the end of
    /// the request's head. Bytes that arrive meanwhile extend nothing.
    pub header_timeout: Duration,
    /// From the moment at which the client no longer takes an answer to the moment at which the
    /// kernel has all of it. Bytes that are taken meanwhile extend nothing: an answer is small. It is
    /// also how long the kernel goes on, whether or not the connection is closed here, while the client
    /// takes nothing (`TCP_USER_TIMEOUT`, RFC 5482; Linux only).
    pub write_timeout: Duration,
    /// From an answer to the first byte of the next request.
    pub idle_timeout: Duration,
    /// What bounds the two of them as well, while three quarters of the connections are taken: others
    /// wait for a slot.
    pub crowded_timeout: Duration,
    /// While all slots are taken, a connection gives way to a new one: of the source that holds most the
    /// oldest, yet none before this much time since its first moment, so that it can make its request.
    pub tenure: Duration,
    /// Proxies that speak for others: their connections neither give way nor are closed after an answer
    /// while slots are few, and what they tell of their clients is believed.
    pub trusted_proxies: Vec<Cidr>,
    /// How long the client of a connection that is closed after an answer has to take the answer and
    /// close its side, unless it has asked for the close and has sent all: what it does not take then
    /// is the kernel's, for the write timeout. Closing at once would reset the connection if the client
    /// still sends, and the answer would be lost (RFC 9112 section 9.6).
    pub linger_timeout: Duration,
    /// From the shutdown signal to the stop: meanwhile connections are accepted, and closed after one
    /// answer, so that whoever sends clients here has time to hear of it.
    pub shutdown_delay: Duration,
    /// From the stop to the end of a head that has begun, and of a connection that is closed after an
    /// answer. What has not begun to come is not waited for.
    pub stop_timeout: Duration,
    /// From the stop to the end of every connection.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 3072,
            ready_connections: 1024,
            header_timeout: Duration::from_secs(5),
            write_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_mins(1),
            crowded_timeout: Duration::from_secs(2),
            tenure: Duration::from_millis(250),
            trusted_proxies: Vec::new(),
            linger_timeout: Duration::from_secs(1),
            shutdown_delay: Duration::ZERO,
            stop_timeout: Duration::from_millis(250),
            drain_timeout: Duration::from_secs(3),
        }
    }
}

impl Limits {
    /// Raises the process's soft descriptor limit as far as these limits need and the hard limit
    /// allows, and lowers `max_connections` to what is then left beside the reserve.
    pub(super) fn fit_descriptors(self) -> Self {
        let wanted = self.max_connections as u64 + RESERVED_DESCRIPTORS;
        let limit = getrlimit(Resource::Nofile);
        let granted = match limit.current {
            Some(current) if current < wanted => raise_descriptors(limit, wanted),
            _ => wanted,
        };
        Self { max_connections: self.max_connections.min(connections_within(granted)), ..self }
    }
}

/// The soft limit after the try to raise it to `wanted`.
fn raise_descriptors(limit: Rlimit, wanted: u64) -> u64 {
    let raised = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
    let new = Rlimit { current: Some(raised), maximum: limit.maximum };
    match setrlimit(Resource::Nofile, new) {
        Ok(()) => raised,
        Err(_) => limit.current.unwrap_or(wanted),
    }
}

/// The connections that `descriptors` allow: all but the reserve, yet a quarter at the least, since
/// a service that accepts nothing serves nothing.
fn connections_within(descriptors: u64) -> usize {
    let connections = descriptors.saturating_sub(RESERVED_DESCRIPTORS).max(descriptors / 4).max(1);
    usize::try_from(connections).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_files() {
        let cases = [(1, 1), (64, 16), (80, 20), (128, 64), (1024, 960), (4160, 4096)];
        for (descriptors, connections) in cases {
            assert_eq!(connections_within(descriptors), connections, "of {descriptors}");
        }
    }

    #[test]
    fn fitting_never_raises_the_cap() {
        let limits = Limits { max_connections: 3, ..Limits::default() };
        assert_eq!(limits.clone().fit_descriptors(), limits);
    }
}
