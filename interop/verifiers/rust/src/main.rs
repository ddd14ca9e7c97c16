//! Answers, one JSON object a line, whether a verifier written in Rust accepts a token.
//!
//! jsonwebtoken fetches and caches nothing. The fetch and the cache here are ours, after what its
//! users write: the set is kept for 5 minutes, and fetched again for an unknown kid, at most once in
//! 30 s. The protocol is told in `../README.md`.

use std::collections::HashMap;
use std::error::Error;
use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;
use serde_json::{Value, json};

const NAME: &str = "jsonwebtoken";
const KEPT_FOR: Duration = Duration::from_secs(300);
const COOLDOWN: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
struct Question {
    id: u64,
    instance: String,
    token: String,
}

struct Verifier {
    jwks_uri: String,
    validation: Validation,
    held: Option<(JwkSet, Instant)>,
}

impl Verifier {
    fn new(jwks_uri: &str, client_id: &str, audience: &str) -> Self {
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_issuer(&[client_id]);
        validation.set_audience(&[audience]);
        Self {
            jwks_uri: jwks_uri.to_owned(),
            validation,
            held: None,
        }
    }

    fn verify(&mut self, token: &str) -> Result<(), Box<dyn Error>> {
        let kid = decode_header(token)?.kid.ok_or("token without a kid")?;
        if self.younger_than(KEPT_FOR).is_none() {
            self.fetch()?;
        }
        if !self.knows(&kid) && self.younger_than(COOLDOWN).is_none() {
            self.fetch()?;
        }
        let set = self.younger_than(KEPT_FOR).ok_or("no set")?;
        let jwk = set.find(&kid).ok_or("unknown kid")?;
        decode::<Value>(token, &DecodingKey::from_jwk(jwk)?, &self.validation)?;
        Ok(())
    }

    fn younger_than(&self, age: Duration) -> Option<&JwkSet> {
        let (set, fetched_at) = self.held.as_ref()?;
        (fetched_at.elapsed() < age).then_some(set)
    }

    fn knows(&self, kid: &str) -> bool {
        self.held.as_ref().is_some_and(|(set, _)| set.find(kid).is_some())
    }

    fn fetch(&mut self) -> Result<(), Box<dyn Error>> {
        let set = ureq::get(&self.jwks_uri).call()?.body_mut().read_json()?;
        self.held = Some((set, Instant::now()));
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [jwks_uri, client_id, audience] = &args[..] else {
        return Err("usage: verifiers JWKS_URI CLIENT_ID AUDIENCE".into());
    };
    say(&json!({"verifiers": [{
        "name": NAME,
        "version": pinned_version(),
        "from": "crates.io",
    }]}))?;
    let mut instances: HashMap<String, Verifier> = HashMap::new();
    for line in std::io::stdin().lock().lines() {
        let question: Question = serde_json::from_str(&line?)?;
        let verifier = instances
            .entry(question.instance)
            .or_insert_with(|| Verifier::new(jwks_uri, client_id, audience));
        say(&match verifier.verify(&question.token) {
            Ok(()) => json!({"id": question.id, "accepted": true}),
            Err(error) => json!({"id": question.id, "accepted": false, "error": error.to_string()}),
        })?;
    }
    Ok(())
}

fn say(line: &Value) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// The version in the lock file, which is what was built.
fn pinned_version() -> &'static str {
    include_str!("../Cargo.lock")
        .split("[[package]]")
        .find(|package| package.contains("\nname = \"jsonwebtoken\"\n"))
        .and_then(|package| package.split("version = \"").nth(1)?.split('"').next())
        .unwrap_or("?")
}
