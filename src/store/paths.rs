//! Where the keys lie: [`Paths`].

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// The name of the file that holds the current private key, unless another is given.
pub const PRIVATE_KEY: &str = "private_key.pem";
/// The name of the file that holds the next private key, beside the current one of that name.
pub const NEXT_KEY: &str = "next_key.pem";

/// Where the keys lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// The current private key, `private_key.pem` by default.
    pub private_key: PathBuf,
    /// The directory of records and dropped keys, `keys` by default.
    pub keys_dir: PathBuf,
}

impl Paths {
    /// The directory that holds the private keys.
    pub fn root(&self) -> &Path {
        parent_of(&self.private_key)
    }

    /// The next private key.
    pub fn next_key(&self) -> PathBuf {
        self.private_key.with_file_name(self.next_key_name())
    }

    /// The name of its file. Beside `a.pem` it is `next_a.pem`: of two clients whose keys lie in one
    /// directory, none takes the other's.
    pub(super) fn next_key_name(&self) -> OsString {
        let current = self.private_key_name();
        if current == PRIVATE_KEY {
            return NEXT_KEY.into();
        }
        let mut name = OsString::from("next_");
        name.push(current);
        name
    }

    pub(super) fn private_key_name(&self) -> &OsStr {
        // A path without a file name is refused where options are checked.
        self.private_key.file_name().unwrap_or_default()
    }
}

pub(super) fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
