//! What is wrong while the service goes on serving: the content of `/readyz`.

use std::collections::BTreeSet;

use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};

/// What is degraded while a valid set is served. There is always one: nothing listens before the
/// first set is there, and none is ever taken away.
///
/// Serialises to `{"status":"ready"|"degraded","degraded":[…]}`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Health {
    /// What does not work as it should although the set is served. Empty when all is well.
    pub degraded: BTreeSet<Degradation>,
}

impl Serialize for Health {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let status = if self.degraded.is_empty() { "ready" } else { "degraded" };
        let mut health = serializer.serialize_struct("Health", 2)?;
        health.serialize_field("status", status)?;
        health.serialize_field("degraded", &self.degraded)?;
        health.end()
    }
}

/// One thing that is degraded: a stable code for alerts, and the file it is about if there is one.
///
/// File names only, no paths and no reasons: the answer is public. The log and
/// `jwks-server status` have the rest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Degradation {
    /// A stable word for the kind, such as `refused_file` or `read_only`.
    pub code: &'static str,
    /// The name of the file, where the trouble is with one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
}
