//! What is wrong while the service goes on serving: the content of `/readyz`.

use std::collections::BTreeSet;

use serde::Serialize;

/// Whether a valid set is served, and what is degraded meanwhile.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Health {
    /// Whether there is a set to serve.
    pub ready: bool,
    /// What does not work as it should although the set is served. Empty when all is well.
    pub degraded: BTreeSet<Degradation>,
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
