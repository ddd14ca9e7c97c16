//! Who the process is: root does not act in the directory of another user, it becomes that user.
//!
//! Whoever owns a directory can put a link in place of a file between any two steps of a process that
//! works there. If that process is root's, the owner thereby has root's power. So a process of root's
//! takes the owner's user id and the directory's group for good, and with them no power that he has
//! not himself. Nothing here knows what the directory is for.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why this process must not go on. Each names what mends it.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The directories belong to different users, and a process is one user.
    #[error(
        "foreign_owner: {} belongs to {} and {} to {}; {remedy}",
        one.path.display(), one.owner, other.path.display(), other.owner
    )]
    ForeignOwner {
        /// One directory.
        one: Box<Place>,
        /// The other.
        other: Box<Place>,
        /// What mends it.
        remedy: String,
    },
    /// What the owner of the directory cannot get at.
    #[error(
        "use {} as its owner, {owner}, whom root's process becomes: {cause}; try: {remedy}",
        path.display()
    )]
    OutOfReach {
        /// The file or directory.
        path: PathBuf,
        /// Who cannot.
        owner: Owner,
        /// A command that mends it.
        remedy: String,
        /// The cause.
        cause: io::Error,
    },
    /// The user id could not be taken, for another reason than that nobody may.
    #[error("become {owner}, who owns {}", path.display())]
    Become {
        /// The directory.
        path: PathBuf,
        /// Who owns it.
        owner: Owner,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Threads have user ids of their own, so it would have to be done in each.
    #[error("become {owner}: this process has {threads} threads; a defect of this program")]
    TooLate {
        /// Who owns the directory.
        owner: Owner,
        /// How many.
        threads: usize,
    },
}

/// A directory and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The directory.
    pub path: PathBuf,
    /// Whose it is.
    pub owner: Owner,
}

/// A user and a group, by their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The user id.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
}

impl Owner {
    fn as_argument(self) -> String {
        format!("{}:{}", self.uid, self.gid)
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.uid {
            0 => f.write_str("root"),
            uid => write!(f, "user {uid}"),
        }
    }
}

/// Who the process is from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// As it was: not root, or root in a directory of its own.
    Unchanged,
    /// The owner of the directory.
    Became(Owner),
    /// Root still, since the owner's user id is not to be had here, as in a user namespace that does
    /// not know it.
    StillRoot(Owner),
}

/// Lets a process of root's become the owner of the directory that holds the `private` keys, and of
/// `keys`, for good: user id, group id, no other groups, no capabilities. Another user's process, and
/// root's in a directory of root's, stay what they are.
///
/// It must be called while the process has one thread, and after what only root may do.
///
/// # Errors
///
/// If the directories belong to different users, or if the owner could not read what is there. Nothing
/// is to be done then but to end.
pub fn become_owner(private: &[&Path], keys: &Path) -> Result<Identity, IdentityError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(Identity::Unchanged);
    }
    let root = private.first().and_then(|file| file.parent()).map_or(Path::new("."), existing);
    let Some(place) = owner_of(root, keys)? else { return Ok(Identity::Unchanged) };
    if place.owner.uid == 0 {
        return Ok(Identity::Unchanged);
    }
    let identity = system::take(&place)?;
    if let Identity::Became(owner) = identity {
        expect_within_reach(root, private, keys, owner)?;
    }
    Ok(identity)
}

/// Whose the directories are in which files are made. One that is not there is made in its parent, and
/// one on a read-only file system is only read.
fn owner_of(root: &Path, keys: &Path) -> Result<Option<Place>, IdentityError> {
    let written = |path: &Path| {
        let path = path.ancestors().find(|path| existing(path).is_dir())?;
        let path = existing(path);
        let stat = rustix::fs::stat(path).ok()?;
        let owner = Owner { uid: stat.st_uid, gid: stat.st_gid };
        (!is_read_only(path)).then(|| Place { path: path.to_owned(), owner })
    };
    match (written(root), written(keys)) {
        (Some(one), Some(other)) if one.owner.uid != other.owner.uid => {
            // It follows the other, unless its owner has put a link to what is somebody else's there.
            let path = other.path.display();
            let remedy = if other.path.is_symlink() {
                format!("delete the link {path}, or let root serve directories of root's alone")
            } else {
                format!("give both to one user: chown -R {} {path}", one.owner.as_argument())
            };
            let (one, other) = (one.into(), other.into());
            Err(IdentityError::ForeignOwner { one, other, remedy })
        }
        (Some(place), _) | (None, Some(place)) => Ok(Some(place)),
        (None, None) => Ok(None),
    }
}

/// The parent of a name alone is the working directory.
fn existing(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

fn is_read_only(path: &Path) -> bool {
    rustix::fs::statvfs(path)
        .is_ok_and(|stat| stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
}

/// Tries what the process will do all the time. The kernel decides, so that access lists count too.
fn expect_within_reach(
    root: &Path,
    private: &[&Path],
    keys: &Path,
    owner: Owner,
) -> Result<(), IdentityError> {
    names(root, owner)?;
    let in_keys = names(keys, owner)?.into_iter().map(|name| keys.join(name));
    let in_keys = in_keys.filter(|path| {
        let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes()[0] == b'.');
        is_hidden || path.extension().is_some_and(|extension| extension == "pem")
    });
    for path in private.iter().copied().map(Path::to_path_buf).chain(in_keys) {
        // To open anything else may do something.
        if path.is_file()
            && let Err(cause) = std::fs::File::open(&path)
            && cause.kind() == io::ErrorKind::PermissionDenied
        {
            return Err(out_of_reach(&path, owner, cause));
        }
    }
    Ok(())
}

/// The names in a directory; none, if there is none.
fn names(dir: &Path, owner: Owner) -> Result<Vec<OsString>, IdentityError> {
    match std::fs::read_dir(dir) {
        Ok(entries) => Ok(entries.flatten().map(|entry| entry.file_name()).collect()),
        Err(cause) if cause.kind() == io::ErrorKind::PermissionDenied => {
            Err(out_of_reach(dir, owner, cause))
        }
        Err(_) => Ok(Vec::new()),
    }
}

fn out_of_reach(path: &Path, owner: Owner, cause: io::Error) -> IdentityError {
    let passable = rustix::fs::Access::EXEC_OK;
    let mut parents: Vec<_> = path.ancestors().skip(1).map(existing).collect();
    parents.reverse();
    let closed = parents.into_iter().find(|parent| rustix::fs::access(*parent, passable).is_err());
    let remedy = match closed {
        Some(parent) => format!("chmod o+x {}", parent.display()),
        None => format!("chown {} {}", owner.as_argument(), path.display()),
    };
    IdentityError::OutOfReach { path: path.to_owned(), owner, remedy, cause }
}

#[cfg(target_os = "linux")]
mod system {
    use std::io::Read as _;

    use rustix::io::Errno;
    use rustix::process::{Gid, Uid};
    use rustix::thread::{
        CapabilitySet, CapabilitySets, set_capabilities, set_thread_groups, set_thread_res_gid,
        set_thread_res_uid,
    };

    use super::{Identity, IdentityError, Place};

    /// Becomes the owner, or finds that this cannot be.
    pub(super) fn take(place: &Place) -> Result<Identity, IdentityError> {
        let owner = place.owner;
        let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
        if threads != 1 {
            return Err(IdentityError::TooLate { owner, threads });
        }
        if is_unmapped(owner.uid) || is_unmapped(owner.gid) {
            return Ok(Identity::StillRoot(owner));
        }
        let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
        // With one thread what is true of the thread is true of the process, and of all that it
        // makes. The user id comes last: it takes the right to set the others.
        let done = set_thread_groups(&[])
            .and_then(|()| set_thread_res_gid(gid, gid, gid))
            .and_then(|()| set_thread_res_uid(uid, uid, uid))
            .and_then(|()| set_capabilities(None, NONE));
        match done {
            Ok(()) => Ok(Identity::Became(owner)),
            // Not by this process, or not here.
            Err(Errno::PERM | Errno::INVAL | Errno::NOSYS)
                if rustix::process::geteuid().is_root() =>
            {
                Ok(Identity::StillRoot(owner))
            }
            Err(errno) => {
                Err(IdentityError::Become { path: place.path.clone(), owner, source: errno.into() })
            }
        }
    }

    const NONE: CapabilitySets = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };

    /// Whether an id is the one that stands for all that a user namespace does not know. It may be
    /// somebody else's there.
    fn is_unmapped(id: u32) -> bool {
        const OVERFLOW: u32 = 65_534;
        let read = |path: &str| {
            let mut text = String::new();
            // What cannot be read, or is not as it always was, is no reason to guess.
            let _ = std::fs::File::open(path)
                .and_then(|file| file.take(1_024).read_to_string(&mut text));
            text
        };
        let overflow = read("/proc/sys/kernel/overflowuid").trim().parse().unwrap_or(OVERFLOW);
        let map = read("/proc/self/uid_map");
        id == overflow && map.split_whitespace().ne(["0", "0", "4294967295"])
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use super::{Identity, IdentityError, Place};

    /// No safe call takes another user's id here.
    pub(super) fn take(place: &Place) -> Result<Identity, IdentityError> {
        Err(IdentityError::Become {
            path: place.path.clone(),
            owner: place.owner,
            source: std::io::Error::other("run it as that user"),
        })
    }
}
