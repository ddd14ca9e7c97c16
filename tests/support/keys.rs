//! Keys as a person would make them, and what a verifier makes of a set.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use getrandom::SysRng;
use jwks_server::jwk::Jwk;
use jwks_server::key::{KeyFormat, PemKey, SigningKey, parse_pem, public_pem, verify};

/// A key pair that the test made.
pub(crate) struct Key(pub(crate) SigningKey);

impl Key {
    pub(crate) fn new() -> Self {
        Self(SigningKey::generate(&mut SysRng).unwrap())
    }

    pub(crate) fn kid(&self) -> String {
        self.0.jwk().kid().to_string()
    }

    pub(crate) fn sec1(&self) -> String {
        self.0.to_pem(KeyFormat::Sec1).to_string()
    }

    pub(crate) fn pkcs8(&self) -> String {
        self.0.to_pem(KeyFormat::Pkcs8).to_string()
    }

    pub(crate) fn spki(&self) -> String {
        public_pem(self.0.jwk())
    }

    /// The key as it stands in a set.
    pub(crate) fn jwk(&self) -> String {
        jwk(self.0.jwk())
    }
}

/// The member of a set, exactly as it must be served.
pub(crate) fn jwk(key: &Jwk) -> String {
    format!(
        r#"{{"kty":"EC","crv":"P-256","x":"{}","y":"{}","kid":"{}","alg":"ES256","use":"sig"}}"#,
        URL_SAFE_NO_PAD.encode(key.x()),
        URL_SAFE_NO_PAD.encode(key.y()),
        key.kid()
    )
}

/// The whole document with these members, in this order.
pub(crate) struct Set;

impl Set {
    pub(crate) fn of<'a>(keys: impl IntoIterator<Item = &'a Key>) -> String {
        let keys: Vec<_> = keys.into_iter().map(Key::jwk).collect();
        format!(r#"{{"keys":[{}]}}"#, keys.join(","))
    }
}

/// The kids of a set, in order.
pub(crate) fn kids_of(body: &str) -> Vec<String> {
    let set: serde_json::Value = serde_json::from_str(body).unwrap();
    let keys = set["keys"].as_array().unwrap();
    keys.iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

/// The kid of the key in a PEM file, if there is a good one.
pub(crate) fn kid_in(file: impl AsRef<Path>) -> Option<String> {
    let pem = std::fs::read(file).ok()?;
    Some(parse_pem(&pem).ok()?.jwk().kid().to_string())
}

/// What a client signs with.
pub(crate) fn read_current(dir: &Path) -> Key {
    let pem = std::fs::read(dir.join("private_key.pem")).unwrap();
    match parse_pem(&pem).unwrap() {
        PemKey::Private { key, .. } => Key(key),
        PemKey::Public(_) => panic!("a public key in private_key.pem"),
    }
}

/// The public half of whatever key is in `pem`.
pub(crate) fn public_pem_of(pem: &[u8]) -> String {
    public_pem(parse_pem(pem).unwrap().jwk())
}

/// Whether a verifier that has the set `body` accepts `signature` of `message` by the key `kid`.
pub(crate) fn token_verifies(body: &str, kid: &str, message: &[u8], signature: &[u8]) -> bool {
    let set: serde_json::Value = serde_json::from_str(body).unwrap();
    let keys = set["keys"].as_array().unwrap();
    let Some(key) = keys.iter().find(|key| key["kid"] == kid) else {
        return false;
    };
    let coordinate = |name: &str| {
        let text = key[name].as_str().unwrap();
        URL_SAFE_NO_PAD.decode(text).unwrap().try_into().unwrap()
    };
    let key = Jwk::from_coordinates(coordinate("x"), coordinate("y"));
    verify(&key, message, signature)
}

/// The files of records, with their content.
pub(crate) fn records(dir: &Path) -> Vec<(PathBuf, String)> {
    let Ok(entries) = std::fs::read_dir(dir.join("keys")) else {
        return Vec::new();
    };
    let mut records: Vec<_> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            // A record that is being written has another name.
            path.file_name()?.to_str().filter(|name| !name.starts_with('.'))?;
            let text = std::fs::read_to_string(&path).ok()?;
            text.starts_with("jwks-server key record").then_some((path, text))
        })
        .collect();
    records.sort();
    records
}

/// The record of `kid`.
pub(crate) fn record_of(dir: &Path, kid: &str) -> Option<(PathBuf, String)> {
    let line = format!("Kid: {kid}");
    records(dir).into_iter().find(|(_, text)| text.lines().any(|known| known == line))
}
