//! How verifiers hold a key set, and what they do about a kid that is not in it.
//!
//! A verifier has no state here: at each token some verifier of each model holds a set of any age
//! that the model allows, the oldest one among them.

/// In milliseconds, as all times here.
pub const SECOND: i64 = 1_000;
pub const MINUTE: i64 = 60 * SECOND;
pub const HOUR: i64 = 60 * MINUTE;
pub const DAY: i64 = 24 * HOUR;
pub const YEAR: i64 = 365 * DAY + 6 * HOUR;

#[derive(Debug)]
pub struct Model {
    pub name: &'static str,
    /// How old the set may be that is used; as old as can be if `None`.
    pub ttl: Option<i64>,
    pub unknown: Unknown,
}

/// What is done about a kid that is not in the set.
#[derive(Debug)]
pub enum Unknown {
    /// Rejected, until the set is too old.
    Reject,
    /// The set is fetched again if this much has passed since it was; rejected otherwise.
    Fetch { cooldown: i64 },
}

const fn rejects(name: &'static str, ttl: i64) -> Model {
    Model { name, ttl: Some(ttl), unknown: Unknown::Reject }
}

const fn fetches(name: &'static str, ttl: Option<i64>, cooldown: i64) -> Model {
    Model { name, ttl, unknown: Unknown::Fetch { cooldown } }
}

pub const MODELS: [Model; 19] = [
    fetches("Keycloak", None, 11 * SECOND),
    // Its minute is `max-age` where that is longer.
    rejects("node-oidc-provider", MINUTE),
    fetches("Ory Hydra, Authelia", Some(HOUR), 0),
    fetches("Spring Authorization Server", Some(5 * MINUTE), 0),
    fetches("matrix-authentication-service", Some(0), 0),
    fetches("WSO2 Identity Server", Some(15 * MINUTE), 0),
    rejects("GOV.UK One Login", DAY),
    fetches("jose (npm)", Some(10 * MINUTE), 30 * SECOND),
    fetches("Nimbus JOSE", Some(5 * MINUTE), 30 * SECOND),
    fetches("PyJWT", Some(5 * MINUTE), 30 * SECOND),
    fetches("Authlib, go-oidc", None, 0),
    rejects("cryptojwt", 5 * MINUTE),
    fetches("keyfunc", Some(HOUR), 5 * MINUTE),
    rejects("lestrrat jwx", 75 * MINUTE),
    rejects("Envoy", 10 * MINUTE),
    fetches("lua-resty-openidc", Some(DAY), 0),
    rejects("Tyk gateway", 4 * MINUTE),
    fetches("aws-jwt-verify", None, 10 * SECOND),
    // It fetches in the background, and rejects meanwhile.
    rejects("Microsoft.IdentityModel", 12 * HOUR),
];

impl Model {
    /// How old its set may be where clients keep to `max_age`.
    pub fn ttl(&self, max_age: i64) -> Option<i64> {
        match self.name {
            "node-oidc-provider" => Some(max_age.max(MINUTE)),
            "lestrrat jwx" => Some(max_age.max(75 * MINUTE)),
            _ => self.ttl,
        }
    }

    /// How long after it is published a key may be rejected still.
    pub fn horizon(&self, max_age: i64) -> i64 {
        match self.unknown {
            Unknown::Reject => self.ttl(max_age).unwrap_or(i64::MAX),
            Unknown::Fetch { cooldown } => cooldown,
        }
    }
}
