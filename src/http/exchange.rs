//! One request of a connection and its answer, with what concerns the connection: what the handlers
//! do not know.

use std::convert::Infallible;
use std::future::Ready;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::handler::Handler as _;
use axum::http::header::{CONNECTION, HOST, HeaderValue};
use axum::http::{Request, StatusCode, Version};
use axum::response::Response;
use axum::routing::future::RouteFuture;
use tower_service::Service as _;

use super::answers::{KeySet, KeySets, Readiness, refusal, router};
use crate::health::Health;
use crate::snapshot::{Reader, Snapshot};

/// The service without its connections: it answers with the newest snapshots and health.
///
/// A request costs two loads from a [`Reader`] and no other lock, no clock and no disk.
#[derive(Debug, Clone)]
pub struct Answers {
    sets: Reader<KeySets>,
    router: Router,
    is_leaving: Arc<AtomicBool>,
}

impl Answers {
    /// Answers at the paths of `sets` with these, at `/healthz` and `/readyz` with `health`, and
    /// at any other path with 404.
    pub fn new(sets: Reader<KeySets>, health: Reader<Health>) -> Self {
        let is_leaving = Arc::new(AtomicBool::new(false));
        let router = router(Readiness { health, is_leaving: Arc::clone(&is_leaving) });
        Self { sets, router, is_leaving }
    }

    /// From now on `/readyz` is 503, and each answer should close its connection.
    pub(super) fn leave(&self) {
        self.is_leaving.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.is_leaving.load(Ordering::Relaxed)
    }

    /// The answer to one request of a connection.
    ///
    /// A request of HTTP/1.1 without exactly one `Host` is refused (RFC 9112 section 3.2). No body is
    /// read: after a request with one, the connection is closed, so that no body is ever mistaken for
    /// a request. For HEAD, hyper takes the body away and leaves its length.
    pub fn answer<B: HttpBody>(&self, request: Request<B>) -> Exchange {
        let hosts = || request.headers().iter().filter(|(name, _)| *name == HOST).count();
        let is_refused = request.version() == Version::HTTP_11 && hosts() != 1;
        let ends = is_refused || !request.body().is_end_stream();
        // Nobody reads it, and an empty one takes no memory.
        let request = request.map(|_| Body::empty());
        let answer = if is_refused {
            Answer::Now(std::future::ready(refusal(StatusCode::BAD_REQUEST)))
        } else if let Some(snapshot) = self.snapshot(request.uri().path()) {
            Answer::Now(KeySet.call(request, snapshot))
        } else {
            // A copy of a router is a reference.
            Answer::Routed(Box::new(self.router.clone().call(request)))
        };
        Exchange { answer, ends, client: None }
    }

    fn snapshot(&self, path: &str) -> Option<Arc<Snapshot>> {
        self.sets.load().get(path).map(Reader::load)
    }
}

/// The answer to one request, whatever gives it.
pub struct Exchange {
    answer: Answer,
    ends: bool,
    /// Who asked, where it is logged.
    client: Option<IpAddr>,
}

enum Answer {
    Now(Ready<Response>),
    /// It is large, and on the way to a key set nobody needs it.
    Routed(Box<RouteFuture<Infallible>>),
}

impl Exchange {
    /// The same, and the connection ends with it if `ends`.
    pub(super) fn ending(self, ends: bool) -> Self {
        Self { ends: self.ends || ends, ..self }
    }

    /// The same, and `client` is logged with it if it is given.
    pub(super) fn told_of(self, client: Option<IpAddr>) -> Self {
        Self { client, ..self }
    }

    /// Whether the connection ends with it, whatever the client wants.
    pub(super) fn ends(&self) -> bool {
        self.ends
    }
}

impl Future for Exchange {
    type Output = Result<Response, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut answer = match &mut self.answer {
            Answer::Now(answer) => ready!(Pin::new(answer).poll(cx)),
            Answer::Routed(answer) => {
                let Ok(answer) = ready!(Pin::new(answer).poll(cx));
                answer
            }
        };
        if self.ends {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(client) = self.client {
            tracing::debug!(%client, status = answer.status().as_u16(), "answered");
        }
        Poll::Ready(Ok(answer))
    }
}
