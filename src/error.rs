//! An error and its causes as one line.

use std::error::Error;
use std::io::{self, ErrorKind};

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

/// Whether the cause lies with the operating system and may pass by itself: a want of descriptors or
/// memory, a sick disk; not what a person has to mend.
pub(crate) fn may_pass(error: &(dyn Error + 'static)) -> bool {
    let is_such = |error: &(dyn Error + 'static)| {
        error.downcast_ref::<io::Error>().is_some_and(system_may_give)
    };
    is_such(error) || error.source().is_some_and(may_pass)
}

fn system_may_give(error: &io::Error) -> bool {
    let lasts = matches!(
        error.kind(),
        ErrorKind::AlreadyExists
            | ErrorKind::InvalidFilename
            | ErrorKind::InvalidInput
            | ErrorKind::IsADirectory
            | ErrorKind::NotADirectory
            | ErrorKind::NotFound
            | ErrorKind::PermissionDenied
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::Unsupported
    );
    // What is not the system's has no number.
    error.raw_os_error().is_some_and(|number| number != rustix::io::Errno::LOOP.raw_os_error())
        && !lasts
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn what_the_system_lacks_may_pass_and_what_a_person_must_mend_does_not() {
        let outcome = |errno: Errno| may_pass(&io::Error::from(errno));
        for errno in
            [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::IO, Errno::STALE, Errno::AGAIN]
        {
            assert!(outcome(errno), "{errno:?}");
        }
        for errno in
            [Errno::NOENT, Errno::ACCESS, Errno::PERM, Errno::NOTDIR, Errno::LOOP, Errno::ROFS]
        {
            assert!(!outcome(errno), "{errno:?}");
        }
        assert!(!may_pass(&io::Error::other("ours")));
    }
}
