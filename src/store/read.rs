//! Reading a file that anybody may have put there.
//!
//! The file is looked at before it is opened, opened without blocking and without leaving the
//! directory, looked at again through the descriptor, and read up to a bound.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, OFlags, Stat};
use rustix::io::Errno;
use zeroize::Zeroizing;

use super::walk::{self, Follow};
use super::{ReadError, Stamp};
use crate::key::MAX_PEM_LEN;

/// What `stat` says.
#[expect(
    clippy::unnecessary_cast,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "the widths of these fields differ between platforms; a size is never negative"
)]
pub(super) fn stamp(stat: &Stat) -> Stamp {
    Stamp {
        device: stat.st_dev as u64,
        inode: stat.st_ino as u64,
        size: stat.st_size as u64,
        modified: (stat.st_mtime as i64, stat.st_mtime_nsec as i64),
        changed: (stat.st_ctime as i64, stat.st_ctime_nsec as i64),
        mode: stat.st_mode as u32,
        owner: stat.st_uid,
    }
}

impl From<Errno> for ReadError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::NOENT => Self::Missing,
            Errno::LOOP => Self::Loop,
            _ => Self::Io(errno.into()),
        }
    }
}

/// The stamp of the regular file that `name` leads to.
pub(super) fn stat(dir: BorrowedFd<'_>, name: &OsStr) -> Result<Stamp, ReadError> {
    let stat = match rustix::fs::statat(dir, name, AtFlags::empty()) {
        Err(Errno::NOENT) => {
            rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
            return Err(ReadError::Dangling);
        }
        found => found?,
    };
    regular(&stat)
}

/// The content of the regular file that `name` leads to, and its stamp.
pub(super) fn read(
    dir: BorrowedFd<'_>,
    name: &OsStr,
) -> Result<(Zeroizing<Vec<u8>>, Stamp), ReadError> {
    // A device may act on being opened.
    stat(dir, name)?;
    let mut file = File::from(walk::open(dir, Path::new(name), OPEN, Follow::Beneath)?);
    let before = regular(&rustix::fs::fstat(&file)?)?;
    if before.size > MAX_PEM_LEN as u64 {
        return Err(ReadError::TooLarge);
    }
    // The whole capacity at once: a vector that grows leaves copies of its content behind. What a
    // file gains meanwhile is not read: its stamp changes, so the next look finds it. Some file
    // systems do not know a size, and say 0.
    let limit = if before.size == 0 { MAX_PEM_LEN as u64 + 1 } else { before.size };
    #[expect(clippy::cast_possible_truncation, reason = "the size was compared with the bound")]
    let mut bytes = Zeroizing::new(Vec::with_capacity(limit as usize));
    file.by_ref().take(limit).read_to_end(&mut bytes).map_err(ReadError::Io)?;
    if bytes.len() > MAX_PEM_LEN {
        return Err(ReadError::TooLarge);
    }
    Ok((bytes, before))
}

fn regular(stat: &Stat) -> Result<Stamp, ReadError> {
    let stamp = stamp(stat);
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(stamp),
        FileType::Directory => Err(ReadError::NotRegular("a directory")),
        FileType::Fifo => Err(ReadError::NotRegular("a FIFO")),
        FileType::Socket => Err(ReadError::NotRegular("a socket")),
        FileType::CharacterDevice | FileType::BlockDevice => Err(ReadError::NotRegular("a device")),
        _ => Err(ReadError::NotRegular("something else")),
    }
}

const OPEN: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::symlink;

    use rustix::fs::Mode;

    use super::*;
    use crate::store::native::open_dir;

    fn outcome(dir: &Path, name: &str) -> Result<Vec<u8>, String> {
        let handle = open_dir(dir).unwrap();
        read(handle.as_fd(), OsStr::new(name))
            .map(|(bytes, _)| bytes.to_vec())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn only_regular_files_below_the_directory_are_read() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "s").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("..1")).unwrap();
        std::fs::write(at("..1/key"), "k").unwrap();
        symlink("..1", at("..data")).unwrap();
        symlink("..data/key", at("inside")).unwrap();
        symlink(outside.path().join("secret"), at("absolute")).unwrap();
        symlink(at("..1/key"), at("absolute_inside")).unwrap();
        let beside = outside.path().file_name().unwrap().to_str().unwrap();
        symlink(format!("../../{beside}/secret"), at("..1/up")).unwrap();
        symlink("..data/up", at("outside")).unwrap();
        symlink("..1/../..1/./key", at("up_and_down")).unwrap();
        symlink("..1/key/key", at("through_a_file")).unwrap();
        symlink("nowhere", at("dangling")).unwrap();
        symlink("loop", at("loop")).unwrap();
        symlink("/proc/self/mem", at("memory")).unwrap();
        symlink("/dev/zero", at("zero")).unwrap();
        std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            at("fifo"),
            FileType::Fifo,
            Mode::RUSR | Mode::WUSR,
            0,
        )
        .unwrap();
        std::fs::write(at("empty"), "").unwrap();
        std::fs::write(at("full"), vec![b'x'; MAX_PEM_LEN]).unwrap();
        std::fs::write(at("large"), vec![b'x'; MAX_PEM_LEN + 1]).unwrap();
        File::create(at("sparse")).unwrap().set_len(1 << 30).unwrap();

        let refused = |name: &str| outcome(dir.path(), name).unwrap_err();
        assert_eq!(outcome(dir.path(), "inside"), Ok(b"k".to_vec()));
        assert_eq!(outcome(dir.path(), "up_and_down"), Ok(b"k".to_vec()));
        assert_eq!(outcome(dir.path(), "empty"), Ok(vec![]));
        assert_eq!(outcome(dir.path(), "full").unwrap().len(), MAX_PEM_LEN);
        let absolute = "an absolute symbolic link; make it relative to its directory";
        assert_eq!(refused("absolute"), absolute);
        assert_eq!(refused("absolute_inside"), absolute);
        assert_eq!(refused("memory"), absolute);
        assert_eq!(refused("outside"), "a symbolic link that leads out of its directory");
        assert_eq!(refused("through_a_file"), "cannot be read: Not a directory (os error 20)");
        assert_eq!(refused("zero"), "a device, not a regular file");
        assert_eq!(refused("dangling"), "a symbolic link that leads nowhere");
        assert_eq!(
            refused("loop"),
            "a symbolic link that leads in a circle or to no ordinary file"
        );
        assert_eq!(refused("socket"), "a socket, not a regular file");
        assert_eq!(refused("fifo"), "a FIFO, not a regular file");
        assert_eq!(refused("..1"), "a directory, not a regular file");
        assert_eq!(refused("large"), "larger than 16 KiB");
        assert_eq!(refused("sparse"), "larger than 16 KiB");
        assert_eq!(refused("none"), "there is no such file");
    }
}
