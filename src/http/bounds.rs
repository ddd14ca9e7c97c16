//! What all connections of a server share: [`Bounds`].

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::time::Instant;

use super::limits::Limits;

/// The limits, and what makes them tighter: how many connections there are, and the stop.
#[derive(Debug)]
pub(super) struct Bounds {
    /// The bounds as they are set.
    pub(super) limits: Limits,
    /// How many connections there are.
    pub(super) connections: AtomicUsize,
    stopped_at: OnceLock<Instant>,
}

impl Bounds {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, connections: AtomicUsize::new(0), stopped_at: OnceLock::new() }
    }

    /// Whether slots are so few that a connection should not keep its own for long.
    pub(super) fn is_crowded(&self) -> bool {
        self.connections.load(Ordering::Relaxed) * 4 >= self.limits.max_connections * 3
    }

    /// Whether an idle connection should keep what it needs for a request.
    pub(super) fn is_roomy(&self) -> bool {
        self.connections.load(Ordering::Relaxed) <= self.limits.ready_connections
    }

    /// From now on nothing is waited for that has not begun.
    pub(super) fn stop(&self) {
        self.stopped_at.get_or_init(Instant::now);
    }

    /// When the server stopped, if it did.
    pub(super) fn stopped_at(&self) -> Option<Instant> {
        self.stopped_at.get().copied()
    }
}
