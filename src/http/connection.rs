//! One connection, from its first moment to its last: [`Server::converse`].

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::http::header::CONNECTION;
use axum::http::{Request, Version};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWrite as _;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::yield_now;

use super::bounds::Bounds;
use super::crowd::Age;
use super::exchange::Answers;
use super::limits::MAX_HEAD_BYTES;
use super::source;
use super::stream::BoundedStream;

/// What a connection needs.
#[derive(Debug)]
pub(super) struct Server {
    http: http1::Builder,
    pub(super) answers: Answers,
    pub(super) bounds: Arc<Bounds>,
}

/// The other end of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer {
    pub(super) address: IpAddr,
    /// Whether it makes room for others while slots are few: all do but trusted proxies.
    pub(super) yields: bool,
    /// The number of the connection.
    pub(super) age: Age,
}

impl Server {
    pub(super) fn new(answers: Answers, bounds: Bounds) -> Self {
        // What concerns time is `BoundedStream`'s.
        let mut http = http1::Builder::new();
        http.max_buf_size(MAX_HEAD_BYTES)
            .header_read_timeout(None)
            // A client that closes its side after the request is owed the answer all the same.
            .half_close(true);
        Self { http, answers, bounds: Arc::new(bounds) }
    }

    /// Who connects from `address`.
    pub(super) fn peer(&self, address: IpAddr, age: Age) -> Peer {
        let trusted = &self.bounds.limits.trusted_proxies;
        Peer { address, yields: !trusted.iter().any(|network| network.contains(address)), age }
    }

    /// Answers the requests of one client until either side has enough.
    ///
    /// A connection from which nothing has come yet, or for a while, is a socket and a timer: what
    /// hyper needs for a request is made when there is one. At the stop it is looked at once more,
    /// since other bounds hold then. Returns the number of the connection,
    /// since a future around this one would hold it twice: half as much memory again for each that is idle.
    pub(super) async fn converse(
        self: Arc<Self>,
        stream: TcpStream,
        peer: Peer,
        mut stopped: watch::Receiver<bool>,
    ) -> Age {
        let mut stream = BoundedStream::new(stream, Arc::clone(&self.bounds), peer.yields);
        // Whether the client is done if the connection ends after the answer under way: its request
        // had no content, and it is not we who want the end.
        let is_last = AtomicBool::new(false);
        let service = service_fn(|request: Request<Incoming>| {
            let client =
                tracing::enabled!(tracing::Level::DEBUG).then(|| self.client(peer, &request));
            let enough = (peer.yields && self.bounds.is_crowded()) || self.answers.is_leaving();
            let ends = enough && !asks_for_end(&request);
            let exchange = self.answers.answer(request).ending(ends).told_of(client);
            is_last.store(!exchange.ends(), Ordering::Relaxed);
            exchange
        });
        loop {
            if !heeding(&mut stopped, stream.begin()).await.unwrap_or(false) {
                return peer.age;
            }
            let connection = self.http.serve_connection(TokioIo::new(stream), service);
            let mut connection = Box::new(connection);
            let ended = poll_fn(|cx| connection.poll_without_shutdown(cx));
            let ended = heeding(&mut stopped, ended).await;
            let parts = connection.into_parts();
            stream = parts.io.into_inner();
            // An empty line before a request means nothing (RFC 9112 section 2.2).
            let between = parts.read_buf.iter().all(|byte| b"\r\n".contains(byte));
            if stream.is_parked() && between {
                continue;
            }
            let is_done = ended.is_ok()
                && is_last.load(Ordering::Relaxed)
                && parts.read_buf.is_empty()
                && !stream.has_more();
            if let Err(error) = ended {
                tracing::trace!(%error, "connection ended early");
            }
            if !is_done && !stream.is_exceeded() {
                // The peer may be gone, which is an end as well.
                let closed = poll_fn(|cx| Pin::new(&mut stream).poll_shutdown(cx));
                let _ = heeding(&mut stopped, closed).await;
            }
            return peer.age;
        }
    }

    /// Whose request it is, which a trusted proxy alone may tell.
    fn client(&self, peer: Peer, request: &Request<Incoming>) -> IpAddr {
        if peer.yields {
            return peer.address;
        }
        source::client(peer.address, request.headers(), &self.bounds.limits.trusted_proxies)
    }
}

/// Whether it is the client that wants the end of the connection.
fn asks_for_end(request: &Request<Incoming>) -> bool {
    let options = request.headers().get_all(CONNECTION).iter();
    let mut options = options.flat_map(|line| line.as_bytes().split(|&byte| byte == b','));
    request.version() < Version::HTTP_11
        || options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"))
}

/// What `future` comes to, which is polled once more at the stop.
///
/// Not before the runtime has looked at the sockets: a request that has arrived is answered, even if the
/// signal came first.
async fn heeding<T>(stopped: &mut watch::Receiver<bool>, future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let stop = async {
        // The sender is dropped with the server, which is a stop as well.
        let _ = stopped.wait_for(|stopped| *stopped).await.map(drop);
        yield_now().await;
    };
    tokio::select! {
        biased;
        done = &mut future => return done,
        () = stop => {}
    }
    future.await
}
