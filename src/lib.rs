//! Publishes an OAuth client's public keys as a JSON Web Key Set (RFC 7517), and rotates them so
//! that no verifier ever rejects a valid signature.
//!
//! ```text
//!   private_key.pem ─┐                                               ┌─▶ GET /.well-known/jwks.json
//!   next_key.pem ────┼─ store ─▶ KeyRing ─▶ JwkSet ─▶ Arc<Snapshot> ─┤
//!   keys/*.pem ──────┘   ▲          │                                └─▶ HEAD, 304, OPTIONS
//!                        │          ▼
//!                        └─ lifecycle::step(ring, policy, now, served) ──▶ one Action, or "wake me at t"
//! ```
//!
//! [`manager::Manager::reconcile`] is the heart: look at the directory, publish what it holds, ask
//! [`lifecycle::step()`] what is due, do that one durable action, and repeat; else say when to wake
//! it. It runs at start, on a timer and on every file event, and recovery after a crash is nothing
//! else. An event says "look", never "what".
//!
//! # Words
//!
//! - **current**: the key that clients sign with now; its private half is `private_key.pem`.
//! - **next**: published, never signed with yet; its private half is `next_key.pem`. It is *ready*
//!   once it was served for `publish_lead`.
//! - **retired**: signed once, verifies still, published until it was served for as long as was promised.
//! - **served**: in the set that is answered. How long is counted by the monotonic clock of the process
//!   that answers, and kept in `keys/.served`; a new state begins at 0.
//! - **revoked**: must not verify, never published again; a tombstone remembers it.
//! - **record**: the file in `keys/` by which the server remembers one published key.
//! - **dropped key**: any other PEM file in `keys/`, put there by a person; published while it is
//!   there.
//! - **kid**: the RFC 7638 SHA-256 thumbprint of the key.
//! - **snapshot**: the served document, rendered once.
//!
//! # Modules
//!
//! From the bottom up; `tests/architecture.rs` holds every arrow.
//!
//! | Module | What it is | What it deliberately does not know |
//! |---|---|---|
//! | [`jwk`] | the public document | private keys |
//! | [`text`] | text of others', shown so that it does no harm | |
//! | [`health`] | what is wrong while the service goes on | |
//! | [`snapshot`] | the rendered set, its publisher and readers | where keys come from |
//! | [`key`] | PEM text to key, key to PEM, generate, sign | files |
//! | [`assertion`] | client assertions and DPoP proofs | files, clocks, random numbers |
//! | [`lifecycle`] | what is known, how long it lasts, what is due | clocks, files, locks, tokio |
//! | [`clock`] | the one place that reads a clock | |
//! | [`watch`] | file events as pulses, also of where links lead | what changed |
//! | [`output`] | what the server says, without waiting for who reads it | what it means |
//! | [`http`] | the accept loop, its limits, the answers by axum | the manager, the store, keys |
//! | [`store`] | directory ⇄ ring; durable operations; locks | what should be done |
//! | [`config`] | options, as typed and as checked | |
//! | [`keeper`] | one action carried out, under the lock | when |
//! | [`manager`] | `reconcile`: look, publish, act | tokio |
//! | [`command`] | what a person does beside the server | terminals |
//! | [`server`] | the serving process: its threads, the manager's task beside HTTP | the command line |
//! | [`identity`] | root becomes the owner of the directory | what the directory is for |
//! | [`cli`] | arguments, words, exit codes | |
//!
//! # Invariants
//!
//! Each has tests; [`manager`], [`lifecycle`] and [`http`] keep them.
//!
//! 1. Every 200 body is one whole snapshot: at least one key, the current key in it, distinct kids,
//!    the `ETag` of those bytes. Never `{"keys":[]}`.
//! 2. No private scalar in any form in any response, log, error or `Debug`. The type of a public key
//!    cannot hold one.
//! 3. Publish before sign: a key that the server promotes has been served for at least
//!    `publish_lead`, by no clock that can be set (the first key, `rotate --now` and a revocation excepted, and reported).
//! 4. Retain after sign: a key that was current is served for `retain_for` after, or for what was promised
//!    when it retired if that is longer; the time for which nobody answers does not count.
//! 5. A removed or revoked key never comes back by itself.
//! 6. Last good wins: no bad, partial, vanished or hostile file takes a key out of the served set.
//! 7. Never without `private_key.pem`, and never a torn one, at any crash point.
//! 8. One writer at a time: each change is made under the lock, on what was read under it. A second
//!    server on the same directory only publishes, and takes over when the first ends.
//! 9. A change on disk is served within 1 s with file events, within 2 s on a file system that is known
//!    to tell nothing of changes, and within 11 s where the system refuses events.
//! 10. Serving never waits on a disk, a clock, a lock, the manager or whoever reads the log. If the
//!     manager dies, so does the process: by SIGABRT in a release build, otherwise with an error.
//! 11. Every connection is bounded: headers within 5 s, an answer taken within 10 s, also from the
//!     kernel; memory, and the number of connections.
//! 12. SIGTERM ends the process within 5 s, and the delay that was asked for; SIGKILL or a power cut is
//!     safe at any instant.
//! 13. No private key that the server has not looked at is ever destroyed.
//! 14. Root's process acts in another user's directory with that user's power alone.
//! 15. What the system refuses after the start (a thread, a descriptor), or a disk that does not answer,
//!     ends and stalls nothing that is served: it is reported and tried again. All threads are made at
//!     the start, but for notify's where that was refused.
//! 16. One address, or many, with valid requests cannot keep others out.
//!
//! # Absent on purpose
//!
//! - **Private keys in memory.** A private key is read to learn its public half, and dropped.
//! - **An index file.** Each record describes itself, so nothing can disagree with it.
//! - **Algorithms beside ES256.** One key of an unknown kind can make a verifier refuse the whole
//!   set.
//! - **TLS.** Put a reverse proxy in front where a client profile demands `https`.
//! - **HTTP/2, `Last-Modified`, redirects, content negotiation.** No verifier needs them, and some
//!   are known to stumble over them.

pub mod assertion;
pub mod cli;
pub mod clock;
pub mod command;
pub mod config;
mod error;
pub mod health;
pub mod http;
pub mod identity;
pub mod jwk;
pub mod keeper;
pub mod key;
pub mod lifecycle;
pub mod manager;
pub mod output;
pub mod server;
pub mod snapshot;
pub mod store;
pub mod text;
pub mod watch;
