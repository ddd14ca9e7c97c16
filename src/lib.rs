//! Publishes an OAuth client's public keys as a JSON Web Key Set, and rotates them.

pub mod health;
pub mod jwk;
pub mod snapshot;
