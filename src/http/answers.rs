//! The contract: which request gets which answer. It knows no sockets and no keys.

use std::collections::BTreeMap;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::handler::Handler;
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_MAX_AGE, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{Method, StatusCode};
use axum::response::Response;
use axum::routing::get;

use super::if_none_match;
use crate::health::Health;
use crate::snapshot::{Reader, Snapshot};
use crate::text;

/// Where the key set is served.
pub const KEY_SET_PATH: &str = "/.well-known/jwks.json";

/// Each path at which a key set is served, and the newest version of that set.
///
/// It is swapped as a whole, like a snapshot, so that sets come and go while others are served.
pub type KeySets = BTreeMap<String, Reader<Snapshot>>;

/// What answers at the path of a key set: the snapshot is its state.
///
/// It is a handler by hand because its future is a value: a boxed one, as axum makes of a function, and
/// a way through the router cost half as much again as all the rest of a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct KeySet;

impl Handler<(), Arc<Snapshot>> for KeySet {
    type Future = Ready<Response>;

    fn call(self, request: Request, snapshot: Arc<Snapshot>) -> Self::Future {
        ready(match *request.method() {
            Method::GET | Method::HEAD => {
                let known = if_none_match::names(request.headers(), &snapshot.etag);
                let (status, headers, body) = if known {
                    (StatusCode::NOT_MODIFIED, &snapshot.not_modified_headers, Body::empty())
                } else {
                    (StatusCode::OK, &snapshot.headers, Body::from(snapshot.body.clone()))
                };
                let mut response = Response::new(body);
                *response.status_mut() = status;
                // A copy of a map costs less than to insert what is in it.
                *response.headers_mut() = headers.clone();
                response
            }
            Method::OPTIONS => preflight(),
            _ => method_not_allowed("GET, HEAD, OPTIONS"),
        })
    }
}

/// What answers at every other path.
pub(super) fn router(state: Readiness) -> Router {
    let not_allowed = || ready(method_not_allowed("GET, HEAD"));
    Router::new()
        .route("/healthz", get(alive).fallback(not_allowed))
        .route("/readyz", get(readiness).fallback(not_allowed))
        .fallback(|| ready(refusal(StatusCode::NOT_FOUND)))
        .with_state(state)
}

/// What a browser asks before a request that is more than a plain GET (Fetch, "CORS-preflight
/// fetch"). Any header is allowed, none has an effect; it may remember that for a day.
fn preflight() -> Response {
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

async fn alive() -> Response {
    uncached(StatusCode::OK, JSON, r#"{"status":"ok"}"#)
}

/// What decides whether clients should be sent here.
#[derive(Debug, Clone)]
pub(super) struct Readiness {
    pub(super) health: Reader<Health>,
    /// Whether the server is about to stop.
    pub(super) is_leaving: Arc<AtomicBool>,
}

async fn readiness(State(state): State<Readiness>) -> Response {
    if state.is_leaving.load(Ordering::Relaxed) {
        return uncached(StatusCode::SERVICE_UNAVAILABLE, JSON, r#"{"status":"stopping"}"#);
    }
    match serde_json::to_string(&*state.health.load()) {
        // File names may be anybody's.
        Ok(body) => uncached(StatusCode::OK, JSON, text::json(&body).into_owned()),
        Err(_) => refusal(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

fn method_not_allowed(allow: &'static str) -> Response {
    let mut response = refusal(StatusCode::METHOD_NOT_ALLOWED);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    response
}

/// An error answer, its body the status in words.
pub(super) fn refusal(status: StatusCode) -> Response {
    // Each status that is answered here has words; without any the body would be empty.
    let reason = status.canonical_reason().unwrap_or_default();
    uncached(status, TEXT, reason)
}

/// An answer that no cache keeps.
fn uncached(status: StatusCode, content_type: HeaderValue, body: impl Into<Bytes>) -> Response {
    let mut response = response(status, body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, NOSNIFF);
    response
}

/// A bare answer, with room for all headers that one may get.
fn response(status: StatusCode, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Body::from(body.into()));
    *response.status_mut() = status;
    *response.headers_mut() = HeaderMap::with_capacity(8);
    response
}

const ANY: HeaderValue = HeaderValue::from_static("*");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
