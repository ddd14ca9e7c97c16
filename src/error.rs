//! An error and its causes as one line.

use std::error::Error;

use crate::text::plain;

/// The error and its causes, outermost first, joined by ": ". The names in it may be anybody's.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line += ": ";
        line += &error.to_string();
        cause = error.source();
    }
    plain(&line).to_string()
}
