//! What a person should mend: [`Problem`].

use std::path::PathBuf;

use serde::Serialize;

use crate::text::{plain, plain_path};

/// Something that a person should mend; the service goes on meanwhile.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// A stable word for the kind of problem.
    #[serde(skip)]
    pub code: &'static str,
    /// The file or directory, where it is about one.
    #[serde(serialize_with = "lossy_option")]
    pub file: Option<PathBuf>,
    /// What is wrong, as a sentence fragment.
    pub reason: String,
}

impl Problem {
    /// A problem with `file`.
    pub fn of(code: &'static str, file: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self { code, file: Some(file.into()), reason: reason.into() }
    }
}

/// A path is any bytes; what is not UTF-8 is shown with replacement characters.
#[expect(clippy::ref_option, reason = "serde passes the field by reference")]
fn lossy_option<S: serde::Serializer>(
    path: &Option<PathBuf>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    path.as_deref().map(|path| path.display().to_string()).serialize(serializer)
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.file {
            Some(file) => write!(f, "{}: {}", plain_path(file), plain(&self.reason)),
            None => plain(&self.reason).fmt(f),
        }
    }
}
