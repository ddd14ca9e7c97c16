//! The HTTP side: [`listen`] opens the port, [`serve`] accepts connections within [`Limits`], and
//! [`Answers`] answers.
//!
//! HTTP/1.1 and 1.0 in the clear, as an authorization server or the reverse proxy before it speaks.
//! It knows no manager, store or key: what it serves comes through two [`Reader`]s.

mod answers;
mod exchange;
mod if_none_match;
mod limits;
mod listener;
mod stream;

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWrite as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

pub use self::answers::{KEY_SET_PATH, KeySets};
pub use self::exchange::{Answers, Exchange};
pub use self::limits::Limits;
use self::limits::MAX_HEAD_BYTES;
use self::listener::Acceptor;
pub use self::listener::listen;
use self::stream::{BoundedStream, Bounds};
use crate::health::Health;
use crate::snapshot::Reader;

/// Serves the newest of `sets` and `health` to the clients of `listener`, which is one of [`listen`],
/// until `shutdown`.
///
/// Then no connection is accepted any more, idle ones are closed at once, answers that are under way
/// are finished, and what is left after [`Limits::drain_timeout`] is dropped. Dropping the future
/// drops every connection.
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
    let server = Arc::new(Server {
        http: protocol(),
        answers: Answers::new(sets, health),
        bounds: Arc::new(Bounds { limits, connections: AtomicUsize::new(0) }),
    });
    let (stop, stopped) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut acceptor = Acceptor::new(listener);
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            stream = acceptor.accept(), if connections.len() < limits.max_connections => {
                connections.spawn(Arc::clone(&server).converse(stream, stopped.clone()));
            }
        }
        server.bounds.connections.store(connections.len(), Ordering::Relaxed);
    }
    drop(acceptor);
    stop.send_replace(());
    let drained = async { while connections.join_next().await.is_some() {} };
    if timeout(limits.drain_timeout, drained).await.is_err() {
        tracing::warn!(connections = connections.len(), "dropping connections that do not end");
        connections.shutdown().await;
    }
}

/// How hyper is to speak. What concerns time is [`BoundedStream`]'s.
fn protocol() -> http1::Builder {
    let mut http = http1::Builder::new();
    http.max_buf_size(MAX_HEAD_BYTES)
        .header_read_timeout(None)
        // A client that closes its side after the request is owed the answer all the same.
        .half_close(true);
    http
}

/// What a connection needs.
#[derive(Debug)]
struct Server {
    http: http1::Builder,
    answers: Answers,
    bounds: Arc<Bounds>,
}

impl Server {
    /// Answers the requests of one client until either side has enough, or `stopped` changes.
    ///
    /// A connection from which nothing has come yet, or for a while, is a socket and a timer: what
    /// hyper needs for a request is made when there is one.
    async fn converse(self: Arc<Self>, stream: TcpStream, mut stopped: watch::Receiver<()>) {
        let mut stream = BoundedStream::new(stream, Arc::clone(&self.bounds));
        // Whether the client is done if the connection ends after the answer under way: its request
        // had no content, and it is not we who want the end.
        let is_last = AtomicBool::new(false);
        let service = service_fn(|request: Request<Incoming>| {
            let exchange = self.answers.answer(request);
            is_last.store(!exchange.ends(), Ordering::Relaxed);
            exchange
        });
        loop {
            let begun = tokio::select! {
                // A request that has arrived is answered, even if the signal came first.
                biased;
                begun = stream.begin() => begun,
                _ = stopped.changed() => return,
            };
            if !begun.unwrap_or(false) {
                return;
            }
            let connection = self.http.serve_connection(TokioIo::new(stream), service);
            let mut connection = Box::new(connection);
            let (ended, stopping) = tokio::select! {
                biased;
                ended = poll_fn(|cx| connection.poll_without_shutdown(cx)) => (ended, false),
                _ = stopped.changed() => {
                    Pin::new(&mut *connection).graceful_shutdown();
                    (poll_fn(|cx| connection.poll_without_shutdown(cx)).await, true)
                }
            };
            let parts = connection.into_parts();
            stream = parts.io.into_inner();
            // An empty line before a request means nothing (RFC 9112 section 2.2).
            let between = parts.read_buf.iter().all(|byte| b"\r\n".contains(byte));
            if stream.is_parked() && between && !stopping {
                continue;
            }
            let is_done = ended.is_ok()
                && !stopping
                && is_last.load(Ordering::Relaxed)
                && parts.read_buf.is_empty()
                && !stream.has_more();
            if let Err(error) = ended {
                tracing::trace!(%error, "connection ended early");
            }
            if !is_done && !stream.is_exceeded() {
                // The peer may be gone, which is an end as well.
                let _ = poll_fn(|cx| Pin::new(&mut stream).poll_shutdown(cx)).await;
            }
            return;
        }
    }
}
