//! The contract: which request gets which answer. It knows no sockets and no keys.

use ::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_MAX_AGE, ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HOST, HeaderMap,
    HeaderValue, X_CONTENT_TYPE_OPTIONS,
};
use ::http::{Method, Request, Response, StatusCode, Version};
use bytes::Bytes;
use http_body::Body;
use http_body_util::Full;

use super::if_none_match;
use crate::health::Health;
use crate::snapshot::{Reader, Snapshot};

/// Where the key set is served.
pub const KEY_SET_PATH: &str = "/.well-known/jwks.json";

/// An answer: its body is whole from the start.
pub type Answer = Response<Full<Bytes>>;

/// The service without its connections: it answers with the newest snapshot and health.
///
/// A request costs a load from a [`Reader`] and no other lock, no clock and no disk. With three paths
/// there is nothing for a router to do.
#[derive(Debug)]
pub struct Answers {
    /// The key set.
    pub snapshot: Reader<Snapshot>,
    /// What is wrong while it is served.
    pub health: Reader<Health>,
}

impl Answers {
    /// The answer to one request of a connection, with what concerns the connection.
    ///
    /// A request of HTTP/1.1 without exactly one `Host` is refused (RFC 9112 section 3.2). No body is
    /// read: after a request with one, the connection is closed, so that no body is ever mistaken for
    /// a request. For HEAD, hyper takes the body away and leaves its length.
    pub fn answer<B: Body>(&self, request: &Request<B>) -> Answer {
        let hosts = || request.headers().iter().filter(|(name, _)| *name == HOST).count();
        let bad_host = request.version() == Version::HTTP_11 && hosts() != 1;
        let mut answer =
            if bad_host { refusal(StatusCode::BAD_REQUEST) } else { self.route(request) };
        if bad_host || !request.body().is_end_stream() {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }

    fn route<B>(&self, request: &Request<B>) -> Answer {
        match request.uri().path() {
            KEY_SET_PATH => key_set(request, &self.snapshot.load()),
            "/healthz" => alive(request),
            "/readyz" => readiness(request, &self.health.load()),
            _ => refusal(StatusCode::NOT_FOUND),
        }
    }
}

fn key_set<B>(request: &Request<B>, snapshot: &Snapshot) -> Answer {
    match *request.method() {
        Method::GET | Method::HEAD => {
            let known = if_none_match::names(request.headers(), &snapshot.etag);
            let (status, headers, body) = if known {
                (StatusCode::NOT_MODIFIED, &snapshot.not_modified_headers, Bytes::new())
            } else {
                (StatusCode::OK, &snapshot.headers, snapshot.body.clone())
            };
            let mut answer = Response::new(Full::new(body));
            *answer.status_mut() = status;
            // A copy of a map costs less than to insert what is in it.
            *answer.headers_mut() = headers.clone();
            answer
        }
        Method::OPTIONS => preflight(),
        _ => method_not_allowed("GET, HEAD, OPTIONS"),
    }
}

/// What a browser asks before a request that is more than a plain GET (Fetch, "CORS-preflight
/// fetch"). Any header is allowed, none has an effect; it may remember that for a day.
fn preflight() -> Answer {
    let mut response = response(StatusCode::NO_CONTENT, Bytes::new());
    let headers = response.headers_mut();
    let methods = HeaderValue::from_static("GET, HEAD, OPTIONS");
    headers.insert(ALLOW, methods.clone());
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, ANY);
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, ANY);
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    response
}

fn alive<B>(request: &Request<B>) -> Answer {
    match *request.method() {
        Method::GET | Method::HEAD => uncached(StatusCode::OK, JSON, r#"{"status":"ok"}"#),
        _ => method_not_allowed("GET, HEAD"),
    }
}

fn readiness<B>(request: &Request<B>, health: &Health) -> Answer {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return method_not_allowed("GET, HEAD");
    }
    match serde_json::to_vec(health) {
        Ok(body) => uncached(StatusCode::OK, JSON, body),
        Err(_) => refusal(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

fn method_not_allowed(allow: &'static str) -> Answer {
    let mut response = refusal(StatusCode::METHOD_NOT_ALLOWED);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    response
}

/// An error answer, its body the status in words.
fn refusal(status: StatusCode) -> Answer {
    // Each status that is answered here has words; without any the body would be empty.
    let reason = status.canonical_reason().unwrap_or_default();
    uncached(status, TEXT, reason)
}

/// An answer that no cache keeps.
fn uncached(status: StatusCode, content_type: HeaderValue, body: impl Into<Bytes>) -> Answer {
    let mut response = response(status, body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, NOSNIFF);
    response
}

/// A bare answer, with room for all headers that one may get.
fn response(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    *response.headers_mut() = HeaderMap::with_capacity(8);
    response
}

const ANY: HeaderValue = HeaderValue::from_static("*");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
