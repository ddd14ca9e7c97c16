//! An error and its causes as one line.

use std::error::Error;

/// The error and its causes, outermost first, joined by ": ".
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line += ": ";
        line += &error.to_string();
        cause = error.source();
    }
    line
}
