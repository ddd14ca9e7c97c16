//! Whom the modes of files and directories let in who should not be.

use std::path::Path;

use super::{Dir, Problem, Stamp};

/// A private key is for its owner alone.
pub(super) fn report_exposure(path: &Path, stamp: &Stamp, problems: &mut Vec<Problem>) {
    let mode = stamp.mode & 0o777;
    if is_exposed(mode, stamp.owner, rustix::process::geteuid().as_raw()) {
        let reason =
            format!("holds a private key that others may read (mode {mode:04o}, not 0600)");
        problems.push(Problem::of("exposed_private_key", path, reason));
    }
}

/// Whether others than `user`, who reads it, may read a file of this mode and owner.
///
/// Who is neither its owner nor root reads it as one of its group: so Kubernetes mounts Secrets for a
/// pod with an `fsGroup`.
fn is_exposed(mode: u32, owner: u32, user: u32) -> bool {
    let needed = if user == owner || user == 0 { 0o700 } else { 0o740 };
    mode & !needed != 0
}

/// Whoever may write to the directory can put another key in place of the current one.
pub(super) fn report_writable_by_others(dir: &dyn Dir, path: &Path, problems: &mut Vec<Problem>) {
    const STICKY: u32 = 0o1000;
    if let Ok(mode) = dir.identity().map(|stamp| stamp.mode)
        && mode & 0o002 != 0
        && mode & STICKY == 0
    {
        let mode = mode & 0o7777;
        let reason = format!("a directory that anybody may write to (mode {mode:04o})");
        problems.push(Problem::of("exposed_directory", path, reason));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_may_read_the_key_of_another_user_and_nobody_else_may() {
        for (mode, owner, user, exposed) in [
            (0o600, 1, 1, false),
            (0o400, 0, 0, false),
            (0o640, 1, 1, true),
            (0o640, 1, 0, true),
            (0o440, 0, 1, false),
            (0o460, 0, 1, true),
            (0o444, 0, 1, true),
        ] {
            assert_eq!(is_exposed(mode, owner, user), exposed, "{mode:o} {owner} {user}");
        }
    }
}
