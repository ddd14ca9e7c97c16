//! Publishes an OAuth client's public keys as a JSON Web Key Set, and rotates them.

pub mod assertion;
pub mod clock;
pub mod health;
pub mod http;
pub mod jwk;
pub mod key;
pub mod lifecycle;
pub mod snapshot;
pub mod store;
