//! The contract: which request gets which answer. It knows no sockets and no keys.

use std::future::ready;

use ::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_MAX_AGE, ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, ETAG,
    HOST, HeaderMap, HeaderValue, X_CONTENT_TYPE_OPTIONS,
};
use ::http::{Method, StatusCode, Version};
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use axum::routing::any;
use http_body::Body as _;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;

use super::if_none_match;
use crate::health::Health;
use crate::snapshot::{Reader, Snapshot};

/// Where the key set is served.
pub const KEY_SET_PATH: &str = "/.well-known/jwks.json";

/// The service without its connections: a router that serves the newest `snapshot` and `health`.
///
/// A request costs a load from a [`Reader`] and no other lock, no clock and no disk.
pub fn router(snapshot: Reader<Snapshot>, health: Reader<Health>) -> Router {
    Router::new()
        .route(
            KEY_SET_PATH,
            any(move |request: Request| ready(key_set(&request, &snapshot.load()))),
        )
        .route("/healthz", any(|request: Request| ready(alive(&request))))
        .route("/readyz", any(move |request: Request| ready(readiness(&request, &health.load()))))
        .fallback(|| ready(refusal(StatusCode::NOT_FOUND)))
}

/// The answer to one request of a connection, with what concerns the connection.
///
/// A request of HTTP/1.1 without exactly one `Host` is refused (RFC 9112 section 3.2). No body is
/// read: after a request with one, the connection is closed, so that no body is ever mistaken for a
/// request.
pub(super) async fn answer(
    router: TowerToHyperService<Router>,
    request: Request<hyper::body::Incoming>,
) -> Result<Response, std::convert::Infallible> {
    let bad_host = request.version() == Version::HTTP_11
        && request.headers().get_all(HOST).iter().count() != 1;
    let closes = bad_host || !request.body().is_end_stream();
    let mut response =
        if bad_host { refusal(StatusCode::BAD_REQUEST) } else { router.call(request).await? };
    if response.status() == StatusCode::NOT_MODIFIED {
        // axum says the length of the empty body, where RFC 9110 section 8.6 wants that of the 200.
        response.headers_mut().remove(CONTENT_LENGTH);
    }
    if closes {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

fn key_set(request: &Request, snapshot: &Snapshot) -> Response {
    match *request.method() {
        Method::GET | Method::HEAD => {
            if if_none_match::names(request.headers(), &snapshot.etag) {
                let mut response = response(StatusCode::NOT_MODIFIED, Body::empty());
                describe(response.headers_mut(), snapshot);
                return response;
            }
            // For HEAD, axum takes the length of the body and then the body away.
            let mut response = response(StatusCode::OK, Body::from(snapshot.body.clone()));
            response.headers_mut().insert(CONTENT_TYPE, JSON);
            describe(response.headers_mut(), snapshot);
            response
        }
        Method::OPTIONS => preflight(),
        _ => method_not_allowed("GET, HEAD, OPTIONS"),
    }
}

/// The headers that a 200 and its 304 share (RFC 9110 section 15.4.5).
fn describe(headers: &mut HeaderMap, snapshot: &Snapshot) {
    headers.insert(CACHE_CONTROL, snapshot.cache_control.clone());
    headers.insert(ETAG, snapshot.etag.clone());
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, ANY);
    headers.insert(X_CONTENT_TYPE_OPTIONS, NOSNIFF);
}

/// What a browser asks before a request that is more than a plain GET (Fetch, "CORS-preflight
/// fetch"). Any header is allowed, none has an effect; it may remember that for a day.
fn preflight() -> Response {
    let mut response = response(StatusCode::NO_CONTENT, Body::empty());
    let headers = response.headers_mut();
    let methods = HeaderValue::from_static("GET, HEAD, OPTIONS");
    headers.insert(ALLOW, methods.clone());
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, ANY);
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, ANY);
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    response
}

fn alive(request: &Request) -> Response {
    match *request.method() {
        Method::GET | Method::HEAD => {
            uncached(StatusCode::OK, JSON, Body::from(r#"{"status":"ok"}"#))
        }
        _ => method_not_allowed("GET, HEAD"),
    }
}

fn readiness(request: &Request, health: &Health) -> Response {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return method_not_allowed("GET, HEAD");
    }
    match serde_json::to_vec(health) {
        Ok(body) => uncached(StatusCode::OK, JSON, Body::from(body)),
        Err(_) => refusal(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

fn method_not_allowed(allow: &'static str) -> Response {
    let mut response = refusal(StatusCode::METHOD_NOT_ALLOWED);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    response
}

/// An error answer, its body the status in words.
fn refusal(status: StatusCode) -> Response {
    let reason = status.canonical_reason().unwrap_or_default();
    uncached(status, TEXT, Body::from(reason))
}

/// An answer that no cache keeps.
fn uncached(status: StatusCode, content_type: HeaderValue, body: Body) -> Response {
    let mut response = response(status, body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, NOSNIFF);
    response
}

/// A bare answer, with room for all headers that one may get.
fn response(status: StatusCode, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = HeaderMap::with_capacity(8);
    response
}

const ANY: HeaderValue = HeaderValue::from_static("*");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
