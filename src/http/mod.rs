//! The HTTP side: [`listen`] opens the port, [`serve`] accepts connections within [`Limits`], and
//! [`Answers`] answers.
//!
//! HTTP/1.1 and 1.0 in the clear, as an authorization server or the reverse proxy before it speaks.
//! It knows no manager, store or key: what it serves comes through [`Reader`]s.

mod answers;
mod bounds;
mod connection;
mod crowd;
mod exchange;
mod if_none_match;
mod limits;
mod listener;
mod source;
mod stream;

use std::future::pending;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet, yield_now};
use tokio::time::{Instant, sleep, sleep_until, timeout};

pub use self::answers::{KEY_SET_PATH, KeySets};
use self::bounds::Bounds;
use self::connection::Server;
use self::crowd::{Age, Crowd};
pub use self::exchange::{Answers, Exchange};
pub use self::limits::Limits;
use self::listener::Acceptor;
pub use self::listener::listen;
use self::source::Source;
pub use self::source::{Cidr, CidrError};
use crate::health::Health;
use crate::snapshot::Reader;

/// Serves the newest of `sets` and `health` to the clients of `listener`, which is one of [`listen`],
/// until `shutdown`.
///
/// For [`Limits::shutdown_delay`] connections are still accepted then, each answer closes its
/// connection, and `/readyz` is 503. After it no connection is accepted any more, those from which no
/// request has begun to come are closed at once, a request that has begun has
/// [`Limits::stop_timeout`] to be whole, answers that are under way are finished, and what is left after
/// [`Limits::drain_timeout`] is dropped. Dropping the future drops every connection.
pub async fn serve(
    listener: TcpListener,
    sets: Reader<KeySets>,
    health: Reader<Health>,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) {
    let max_connections = limits.max_connections;
    let limits = limits.fit_descriptors();
    if limits.max_connections < max_connections {
        tracing::warn!(
            max_connections = limits.max_connections,
            "the descriptor limit allows fewer connections"
        );
    }
    let mut connections =
        Connections::new(Server::new(Answers::new(sets, health), Bounds::new(limits)));
    let mut acceptor = Acceptor::new(listener);
    connections.take(&mut acceptor, shutdown).await;

    let server = Arc::clone(&connections.server);
    let limits = &server.bounds.limits;
    server.answers.leave();
    if !limits.shutdown_delay.is_zero() {
        connections.take(&mut acceptor, sleep(limits.shutdown_delay)).await;
    }
    // The runtime looks at the sockets first.
    yield_now().await;
    connections.take_waiting(&acceptor);
    drop(acceptor);
    connections.stop();
    if timeout(limits.drain_timeout, connections.drained()).await.is_err() {
        let connections = &mut connections.tasks;
        tracing::warn!(connections = connections.len(), "dropping connections that do not end");
        connections.shutdown().await;
    }
}

/// All connections there are.
#[derive(Debug)]
struct Connections {
    server: Arc<Server>,
    tasks: JoinSet<Age>,
    /// Those that give way to others, and from when on.
    crowd: Crowd<(Instant, AbortHandle)>,
    next_age: Age,
    stop: watch::Sender<bool>,
}

/// Whether there is a slot for one more connection.
enum Slot {
    Free,
    /// From then on an old connection gives way.
    From(Instant),
    None,
}

impl Connections {
    fn new(server: Server) -> Self {
        let (stop, _) = watch::channel(false);
        let (tasks, crowd) = (JoinSet::new(), Crowd::new());
        Self { server: Arc::new(server), tasks, crowd, next_age: 0, stop }
    }

    /// Takes connections until `end`.
    async fn take(&mut self, acceptor: &mut Acceptor, end: impl Future<Output = ()>) {
        let mut end = pin!(end);
        loop {
            let (is_free, from) = match self.slot() {
                Slot::Free => (true, None),
                Slot::From(at) if at <= Instant::now() => (true, None),
                Slot::From(at) => (false, Some(at)),
                Slot::None => (false, None),
            };
            tokio::select! {
                biased;
                () = &mut end => return,
                Some(ended) = self.tasks.join_next() => {
                    // One that was ended from here is out already.
                    if let Ok(age) = ended {
                        self.crowd.remove(age);
                    }
                }
                (stream, address) = acceptor.accept(), if is_free => self.add(stream, address),
                () = async { match from {
                    Some(at) => sleep_until(at).await,
                    None => pending().await,
                } } => {}
            }
            self.server.bounds.connections.store(self.tasks.len(), Ordering::Relaxed);
        }
    }

    fn slot(&self) -> Slot {
        let limits = &self.server.bounds.limits;
        // One that has been told to give way has its slot until it is gone.
        match self.tasks.len().cmp(&limits.max_connections) {
            std::cmp::Ordering::Less => Slot::Free,
            std::cmp::Ordering::Greater => Slot::None,
            std::cmp::Ordering::Equal => match self.crowd.next() {
                Some((_, (since, _))) => Slot::From(*since + limits.tenure),
                None => Slot::None,
            },
        }
    }

    /// Takes a connection, for which another one gives way if all slots are taken.
    fn add(&mut self, stream: TcpStream, address: IpAddr) {
        if self.tasks.len() >= self.server.bounds.limits.max_connections
            && let Some((age, _)) = self.crowd.next()
            && let Some((_, task)) = self.crowd.remove(age)
        {
            task.abort();
        }
        let age = self.next_age;
        self.next_age += 1;
        let peer = self.server.peer(address, age);
        let server = Arc::clone(&self.server);
        let task = self.tasks.spawn(server.converse(stream, peer, self.stop.subscribe()));
        if peer.yields {
            self.crowd.add(age, Source::from(address), (Instant::now(), task));
        }
    }

    /// Takes the connections that the kernel has taken already, as far as there are slots: what they
    /// have sent would be lost.
    fn take_waiting(&mut self, acceptor: &Acceptor) {
        while let Slot::Free = self.slot()
            && let Some((stream, address)) = acceptor.waiting()
        {
            self.add(stream, address);
        }
    }

    fn stop(&self) {
        self.server.bounds.stop();
        self.stop.send_replace(true);
    }

    async fn drained(&mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}
