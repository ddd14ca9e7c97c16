//! The served document: a [`Snapshot`], rendered once per change, and the one-way channel by which
//! the manager hands it to the HTTP side.
//!
//! [`channel`] returns a [`Publisher`], which alone can publish, and a cheap cloneable [`Reader`].
//! A reader's only cost is the clone of a reference under a lock that is held for nothing else, so
//! serving never waits on a disk, a clock or the manager.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue,
    X_CONTENT_TYPE_OPTIONS,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::RwLock;
use sha2::{Digest, Sha256};

use crate::jwk::JwkSet;

/// A JWK Set as it goes over the wire: body, entity tag and headers, all of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The JSON document.
    pub body: Bytes,
    /// A strong entity tag (RFC 9110 section 8.8.3): a hash of `body`, so equal sets have equal
    /// tags across restarts and replicas.
    pub etag: HeaderValue,
    /// The headers of a 200, among them the time for which a cache may hold the set.
    pub headers: HeaderMap,
    /// Those of a 304: the same without `Content-Type` (RFC 9110 section 15.4.5).
    pub not_modified_headers: HeaderMap,
}

impl Snapshot {
    /// Renders `set`; caches may hold it for `cache_max_age`, in whole seconds.
    ///
    /// # Errors
    ///
    /// If the set cannot be serialised; nothing is published then.
    pub fn render(set: &JwkSet, cache_max_age: Duration) -> Result<Self, RenderError> {
        let body = serde_json::to_vec(set).map_err(RenderError::Serialise)?;
        let hash = Sha256::digest(&body);
        let etag = format!("\"{}\"", URL_SAFE_NO_PAD.encode(&hash[..16]));
        let etag = HeaderValue::try_from(etag).map_err(RenderError::Header)?;
        let cache_control = format!("public, max-age={}", cache_max_age.as_secs());
        let cache_control = HeaderValue::try_from(cache_control).map_err(RenderError::Header)?;

        let mut headers = HeaderMap::new();
        headers.insert(CACHE_CONTROL, cache_control);
        headers.insert(ETAG, etag.clone());
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        let not_modified_headers = headers.clone();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(Self { body: Bytes::from(body), etag, headers, not_modified_headers })
    }
}

/// Why a set could not be rendered.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// The JSON encoder failed.
    #[error("serialise the key set")]
    Serialise(#[source] serde_json::Error),
    /// A header value came out malformed.
    #[error("render a header of the key set")]
    Header(#[source] axum::http::header::InvalidHeaderValue),
}

/// A publisher and a reader of one value, which is `initial` until something else is published.
pub fn channel<T>(initial: T) -> (Publisher<T>, Reader<T>) {
    let slot = Arc::new(RwLock::new(Arc::new(initial)));
    (Publisher { slot: Arc::clone(&slot) }, Reader { slot })
}

/// The only end of a [`channel`] that can change the value.
#[derive(Debug)]
pub struct Publisher<T> {
    slot: Arc<RwLock<Arc<T>>>,
}

impl<T: PartialEq> Publisher<T> {
    /// The value that readers see.
    pub fn value(&self) -> Arc<T> {
        Arc::clone(&self.slot.read())
    }

    /// Replaces the value for every reader at once; an equal value is no change.
    ///
    /// Returns whether there was a change.
    pub fn publish(&mut self, value: T) -> bool {
        if **self.slot.read() == value {
            return false;
        }
        *self.slot.write() = Arc::new(value);
        true
    }
}

/// The end of a [`channel`] that sees the newest value.
#[derive(Debug)]
pub struct Reader<T> {
    slot: Arc<RwLock<Arc<T>>>,
}

impl<T> Reader<T> {
    /// The newest value.
    pub fn load(&self) -> Arc<T> {
        Arc::clone(&self.slot.read())
    }
}

/// Whether both see the same value for good.
impl<T> PartialEq for Reader<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.slot, &other.slot)
    }
}

impl<T> Clone for Reader<T> {
    fn clone(&self) -> Self {
        Self { slot: Arc::clone(&self.slot) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jwk::Jwk;

    fn snapshot(byte: u8, cache_max_age: u64) -> Snapshot {
        let set = JwkSet::new(vec![Jwk::from_coordinates([byte; 32], [byte; 32])]).unwrap();
        Snapshot::render(&set, Duration::from_secs(cache_max_age)).unwrap()
    }

    #[test]
    fn the_tag_follows_the_bytes() {
        assert_eq!(snapshot(1, 60), snapshot(1, 60));
        assert_eq!(snapshot(1, 60).etag, snapshot(1, 61).etag);
        assert_ne!(snapshot(1, 60).etag, snapshot(2, 60).etag);
        assert_eq!(snapshot(1, 61).headers[CACHE_CONTROL], "public, max-age=61");
        assert!(snapshot(1, 60).body.starts_with(br#"{"keys":[{"kty":"EC","#));
    }

    #[test]
    fn equal_bytes_are_no_change() {
        let (mut publisher, reader) = channel(snapshot(1, 60));
        let before = reader.load();
        assert!(!publisher.publish(snapshot(1, 60)));
        assert!(Arc::ptr_eq(&before, &reader.load()));
        assert!(publisher.publish(snapshot(2, 60)));
        assert_eq!(*reader.load(), snapshot(2, 60));
        assert_eq!(*before, snapshot(1, 60), "a reader keeps the version it has");
    }
}
