//! The file systems on which others make changes that this kernel hears nothing of.

use std::path::Path;

/// What the file system of `dir` is called if its changes may make no events: another machine, or a
/// process below the kernel, makes them. `None` also if it cannot be told.
#[cfg(target_os = "linux")]
pub(super) fn name_of(dir: &Path) -> Option<&'static str> {
    let kind = rustix::fs::statfs(dir).ok()?.f_type;
    // The width of the field differs between machines; the magic numbers are 32 bits wide.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "32 bits count")]
    name(kind as u32)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn name_of(_: &Path) -> Option<&'static str> {
    None
}

/// By the magic number that `statfs(2)` gives.
#[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "the numbers are Linux's"))]
fn name(magic: u32) -> Option<&'static str> {
    Some(match magic {
        0x0000_6969 => "NFS",
        0x6573_5546 => "FUSE",
        0x0102_1997 => "9p",
        0x0000_517b | 0xff53_4d42 | 0xfe53_4d42 => "SMB",
        0x00c3_6400 => "Ceph",
        0x5346_414f | 0x6b41_4653 => "AFS",
        0x786f_4256 => "VirtualBox's",
        _ => return None,
    })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_local_file_system_tells_of_its_changes() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(name_of(dir.path()), None);
        assert_eq!(name_of(&dir.path().join("none")), None);
        assert_eq!(name(0xef53), None, "ext4");
        assert_eq!(name(0x6573_5546), Some("FUSE"));
        assert_eq!(name(0xff53_4d42), Some("SMB"));
    }
}
