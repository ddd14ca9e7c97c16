//! `jwks-server adopt`.

use super::CommandError;
use crate::config::Config;
use crate::store::{Manifest, Store};

/// Binds `keys/` to the key file of `config`, after the one or the other was renamed or moved.
/// Returns what to tell the person.
///
/// # Errors
///
/// If a server keeps the directory, or it is missing, of a later format, or cannot be written.
pub fn adopt(config: &Config) -> Result<String, CommandError> {
    let store = Store::new(config.paths.clone(), config.key_format);
    let before = store.adopt(&config.policy)?;
    let (keys_dir, key_file) =
        (config.paths.keys_dir.display(), config.paths.private_key.display());
    let told = match before.as_ref().map(Manifest::key_file) {
        Some(before) => format!("adopted  {keys_dir}: it belonged to {before}, seen from there\n"),
        None => format!("adopted  {keys_dir}: it belonged to no key file that is known\n"),
    };
    Ok(told
        + &format!(
            "It belongs to {key_file} now: the keys that its records promise to publish are published \
             with that one, see `jwks-server status`.\n"
        ))
}
