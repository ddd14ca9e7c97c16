//! Opening what a path leads to, one component at a time, so that no link leads where it must not.
//!
//! Each directory on the way is held open, and `..` goes back to the one that was held: whatever
//! others rename meanwhile, the walk ends below where it began. The kernel has a call that does the
//! same (`openat2`), but old kernels and many sandboxes do not; this is the one way for all of them.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Component, Path};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::ReadError;

/// As many links as Linux follows.
const MAX_LINKS: u32 = 40;

/// Which symbolic links a walk follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Follow {
    /// Those that stay below the directory in which it began: Kubernetes' `..data` links do.
    Beneath,
    /// Those that root made. What another user's link leads root to, he has chosen.
    OfRoot,
}

/// Opens what `path` leads to from `start`, with these flags.
pub(super) fn open(
    start: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    follow: Follow,
) -> Result<OwnedFd, ReadError> {
    let mut walk = Walk { start, held: Vec::new(), left: VecDeque::new(), links: 0, follow };
    walk.go_on_with(path)?;
    loop {
        let Some(name) = walk.left.pop_front() else {
            // The path ended in `..`, `.` or `/`.
            return Ok(rustix::fs::openat(walk.here(), ".", flags, Mode::empty())?);
        };
        if name == ".." {
            walk.go_up()?;
            continue;
        }
        let is_last = walk.left.is_empty();
        let flags = if is_last { flags } else { PASS.union(OFlags::DIRECTORY) };
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(walk.here(), &name, flags, Mode::empty()) {
            Ok(opened) if is_last => return Ok(opened),
            Ok(opened) => walk.held.push(opened),
            // A link says one or the other, by the flags.
            Err(errno @ (Errno::LOOP | Errno::MLINK | Errno::NOTDIR)) => match walk.target(&name) {
                Ok(target) => walk.go_on_with(Path::new(&target))?,
                // It is none. Where it was one, it was replaced meanwhile.
                Err(ReadError::Io(error)) if Errno::from_io_error(&error) == Some(Errno::INVAL) => {
                    if errno == Errno::NOTDIR {
                        return Err(errno.into());
                    }
                    walk.left.push_front(name);
                }
                Err(error) => return Err(error),
            },
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// A directory that is passed need not be readable.
#[cfg(target_os = "linux")]
const PASS: OFlags = OFlags::PATH;
#[cfg(not(target_os = "linux"))]
const PASS: OFlags = OFlags::RDONLY;

struct Walk<'a> {
    start: BorrowedFd<'a>,
    /// The directories below `start` that were passed.
    held: Vec<OwnedFd>,
    /// The names that are still to be followed.
    left: VecDeque<OsString>,
    links: u32,
    follow: Follow,
}

impl Walk<'_> {
    fn here(&self) -> BorrowedFd<'_> {
        self.held.last().map_or(self.start, |held| held.as_fd())
    }

    fn go_up(&mut self) -> Result<(), ReadError> {
        match self.follow {
            Follow::Beneath => self.held.pop().map(drop).ok_or(ReadError::Escapes),
            Follow::OfRoot => {
                let flags = PASS | OFlags::DIRECTORY | OFlags::CLOEXEC;
                self.held.push(rustix::fs::openat(self.here(), "..", flags, Mode::empty())?);
                Ok(())
            }
        }
    }

    /// Puts the components of `path` before what is left.
    fn go_on_with(&mut self, path: &Path) -> Result<(), ReadError> {
        let mut names = Vec::new();
        for component in path.components() {
            match component {
                Component::RootDir if self.follow == Follow::Beneath => {
                    return Err(ReadError::Absolute);
                }
                Component::RootDir => {
                    let flags = PASS | OFlags::DIRECTORY | OFlags::CLOEXEC;
                    self.held.push(rustix::fs::open("/", flags, Mode::empty())?);
                }
                Component::CurDir | Component::Prefix(_) => {}
                Component::ParentDir => names.push(OsString::from("..")),
                Component::Normal(name) => names.push(name.to_owned()),
            }
        }
        for name in names.into_iter().rev() {
            self.left.push_front(name);
        }
        Ok(())
    }

    /// Where the link `name` leads, if it may be followed.
    fn target(&mut self, name: &OsStr) -> Result<OsString, ReadError> {
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(ReadError::Loop);
        }
        let target = rustix::fs::readlinkat(self.here(), name, Vec::new())?;
        if self.follow == Follow::OfRoot {
            // Looked at after it was read: what root owns by then, nobody else has put there.
            let link = rustix::fs::statat(self.here(), name, AtFlags::SYMLINK_NOFOLLOW)?;
            let again = rustix::fs::readlinkat(self.here(), name, Vec::new())?;
            if link.st_uid != 0 || again != target {
                return Err(ReadError::LinkOfAnother);
            }
        }
        Ok(OsString::from_vec(target.into_bytes()))
    }
}
