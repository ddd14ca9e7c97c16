//! What is done while the power fails, who takes part, and what it promises once it is done.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta};
use jwks_server::clock::{Clock, Moment};
use jwks_server::command::{revoke_on, rotate_on};
use jwks_server::config::Config;
use jwks_server::health::Health;
use jwks_server::key::{KeyFormat, PemKey, SigningKey, parse_pem, public_pem};
use jwks_server::lifecycle::{Policy, PolicySettings, Time};
use jwks_server::manager::{Manager, Unread};
use jwks_server::snapshot::{Reader, Snapshot};
use jwks_server::store::Store;

use crate::disk::{Disk, Image, KEYS, ROOT, paths};

/// A clock that stands still this long after the beginning.
pub struct After(pub i64);

impl After {
    pub fn wall(&self) -> Time {
        DateTime::from_timestamp(1_795_000_000, 0).unwrap() + TimeDelta::seconds(self.0)
    }
}

impl Clock for After {
    fn now(&self) -> Moment {
        Moment { wall: self.wall(), elapsed: Duration::ZERO, with_sleep: Duration::ZERO }
    }
}

/// The same a second later.
struct Later(Moment);

impl Clock for Later {
    fn now(&self) -> Moment {
        let Moment { elapsed, with_sleep, .. } = self.0;
        let second = Duration::from_secs(1);
        Moment { elapsed: elapsed + second, with_sleep: with_sleep + second, ..self.0 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    Rotate { in_haste: bool },
    Revoke(Who),
    Serve { rotates: bool },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    Current,
    Next,
    Promised,
}

/// A key that is there before the power fails.
pub struct Key {
    pub kid: String,
    private: Vec<u8>,
    public: String,
}

pub struct Case {
    pub name: &'static str,
    pub deed: Deed,
    pub before: Image,
    pub current: Key,
    /// Published long ago, and ready.
    pub next: Option<Key>,
    /// Retired, and promised for decades.
    pub promised: Option<Key>,
    /// Retired, and to be removed.
    pub expired: Option<Key>,
    /// Put in place of the current one by a person.
    pub dropped: Option<Key>,
    /// Whether there is nothing yet.
    pub is_first: bool,
}

/// Hardly at all.
const PROMISED: &str = "retired 2020-01-02T00:00:00Z 0";
const RETIRED: &str = "Activated-At: 2020-01-01T00:00:00Z\nRetired-At: 2020-01-02T00:00:00Z\n";

/// Who is there beside the current key and a retired one.
#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is or is not there")]
struct Cast {
    next: bool,
    expired: bool,
    dropped: bool,
    first: bool,
}

pub fn all() -> Vec<Case> {
    let nobody = Cast::default;
    let next = || Cast { next: true, ..nobody() };
    let rotate = |in_haste| Deed::Rotate { in_haste };
    let serve = |rotates| Deed::Serve { rotates };
    vec![
        case("rotate, which stages a key", rotate(false), &nobody()),
        case("rotate, which promotes a key", rotate(false), &next()),
        case("rotate --now", rotate(true), &nobody()),
        case("rotate --now of a standby", rotate(true), &next()),
        case("revoke of the current key", Deed::Revoke(Who::Current), &next()),
        case("revoke of the next key", Deed::Revoke(Who::Next), &next()),
        case("revoke of a retired key", Deed::Revoke(Who::Promised), &next()),
        case("the server's rotation", serve(true), &Cast { expired: true, ..next() }),
        case("the server's removal", serve(false), &Cast { expired: true, ..nobody() }),
        case("the first start", serve(false), &Cast { first: true, ..nobody() }),
        case("the first start with a schedule", serve(true), &Cast { first: true, ..nobody() }),
        case("a key dropped in as current", serve(false), &Cast { dropped: true, ..nobody() }),
    ]
}

fn case(name: &'static str, deed: Deed, cast: &Cast) -> Case {
    let chance = Disk::of(&Image::default(), 1_000);
    let key = || {
        let store = Store::on(Arc::new(chance.clone()), paths(), KeyFormat::Sec1);
        let key = SigningKey::generate(&mut store.rng()).unwrap();
        Key {
            kid: key.jwk().kid().to_string(),
            private: key.to_pem(KeyFormat::Sec1).as_bytes().to_vec(),
            public: public_pem(key.jwk()),
        }
    };
    let current = key();
    let next = cast.next.then(key);
    let promised = (!cast.first).then(key);
    let expired = cast.expired.then(key);
    let dropped = cast.dropped.then(key);
    let mut root = BTreeMap::new();
    let mut keys = BTreeMap::new();
    if !cast.first {
        let held = dropped.as_ref().unwrap_or(&current);
        root.insert("private_key.pem".into(), held.private.clone());
        record(&mut keys, &current, "Activated-At: 2020-01-02T00:00:00Z\n");
    }
    if let Some(next) = &next {
        root.insert("next_key.pem".into(), next.private.clone());
        record(&mut keys, next, "");
    }
    if let Some(promised) = &promised {
        record(&mut keys, promised, &format!("{RETIRED}Remove-At: 2099-01-01T00:00:00Z\n"));
    }
    if let Some(expired) = &expired {
        record(&mut keys, expired, &format!("{RETIRED}Remove-At: 2020-01-03T00:00:00Z\n"));
    }
    // What was published long ago has been served for as long.
    let full =
        [(&next, "next 2020-01-01T00:00:00Z 1"), (&expired, "retired 2020-01-02T00:00:00Z 3600")];
    let full = full.iter().filter_map(|(key, line)| Some((key.as_ref()?, line)));
    let mut served = String::from("jwks-server time served, version 1\n");
    for (key, line) in full.chain(promised.iter().map(|key| (key, &PROMISED))) {
        served += &format!("{} {line} 0\n", key.kid);
    }
    keys.insert(".served".into(), served.into_bytes());
    let before = Image([Some(root), (!cast.first).then_some(keys)]);
    let is_first = cast.first;
    Case { name, deed, before, current, next, promised, expired, dropped, is_first }
}

fn record(keys: &mut BTreeMap<OsString, Vec<u8>>, key: &Key, state: &str) {
    let kid = &key.kid;
    let text = format!(
        "jwks-server key record, version 1\nKid: {kid}\nCreated-At: 2020-01-01T00:00:00Z\n\
         Published-At: 2020-01-01T00:00:00Z\n{state}{}",
        key.public
    );
    keys.insert(format!("20200101T000000Z-{kid}.pem").into(), text.into_bytes());
}

/// What a server that started publishes, and what it finds wrong.
pub type Served = (Manager, Reader<Snapshot>, Reader<Health>);

impl Case {
    pub fn policy(&self) -> Policy {
        let rotates = matches!(self.deed, Deed::Serve { rotates: true });
        Policy::new(PolicySettings {
            rotate_every: rotates.then_some(Duration::from_secs(90 * 24 * 60 * 60)),
            publish_lead: Duration::from_secs(1),
            retain_for: Duration::from_secs(60 * 60),
            cache_max_age: Duration::ZERO,
        })
        .unwrap()
    }

    pub fn start(&self, disk: &Disk, clock: &After) -> Result<Served, String> {
        let store = Store::on(Arc::new(disk.clone()), paths(), KeyFormat::Sec1);
        let (mut manager, snapshot, health) =
            Manager::start(store, self.policy(), clock, Unread::Refuse)
                .map_err(|error| format!("start: {error}"))?;
        manager.reconcile(clock, None);
        // For as long as it has to answer before it promotes a key.
        let later = Later(clock.now());
        manager.idle(&later);
        manager.reconcile(&later, None);
        Ok((manager, snapshot, health))
    }

    /// Does it.
    pub fn run(&self, disk: &Disk, clock: &After) -> Result<(), String> {
        let config = Config {
            trusted_proxies: Vec::new(),
            shutdown_delay: Duration::ZERO,
            port: 0,
            bind: None,
            max_connections: 1,
            paths: paths(),
            key_format: KeyFormat::Sec1,
            policy: self.policy(),
        };
        let os = Arc::new(disk.clone());
        match self.deed {
            Deed::Serve { .. } => return self.start(disk, clock).map(drop),
            Deed::Rotate { in_haste } => rotate_on(os, &config, clock, in_haste),
            Deed::Revoke(_) => {
                let kid = self.revoked().unwrap().parse().unwrap();
                revoke_on(os, &config, clock, kid, "test")
            }
        }
        .map(drop)
        .map_err(|error| format!("{}: {error}", self.name))
    }

    /// Whether a key may sign that was published to nobody: the first, one in haste, and one in place
    /// of a revoked one.
    pub fn may_sign_unannounced(&self) -> bool {
        let in_haste =
            matches!(self.deed, Deed::Rotate { in_haste: true } | Deed::Revoke(Who::Current));
        in_haste || self.is_first
    }

    /// The kid that the command revokes.
    pub fn revoked(&self) -> Option<&str> {
        let key = match self.deed {
            Deed::Revoke(Who::Current) => Some(&self.current),
            Deed::Revoke(Who::Next) => self.next.as_ref(),
            Deed::Revoke(Who::Promised) => self.promised.as_ref(),
            Deed::Rotate { .. } | Deed::Serve { .. } => None,
        };
        key.map(|key| key.kid.as_str())
    }

    /// Whether what was to be done is done, as far as the disk tells.
    pub fn is_done(&self, image: &Image) -> bool {
        let held = kid_in(image, "private_key.pem");
        let next = kid_in(image, "next_key.pem");
        let is_other =
            |kid: &Option<String>| kid.as_ref().is_some_and(|kid| *kid != self.current.kid);
        let says =
            |key: &Key, field| record_of(image, &key.kid).is_some_and(|text| text.contains(field));
        let is_promoted = is_other(&held) && says(&self.current, "\nRemove-At: ");
        let is_removed =
            self.expired.as_ref().is_none_or(|key| record_of(image, &key.kid).is_none());
        match self.deed {
            Deed::Rotate { in_haste: false } if self.next.is_none() => {
                is_other(&held) || is_other(&next)
            }
            Deed::Rotate { .. } => is_promoted,
            Deed::Revoke(_) => {
                let revoked = self.revoked().unwrap();
                record_of(image, revoked).is_some_and(|text| text.contains("\nRevoked-At: "))
                    && held.is_some_and(|held| held != revoked)
                    && next.is_none_or(|next| next != revoked)
            }
            Deed::Serve { rotates } => {
                let is_staged = !rotates || next.is_some_and(|next| held != Some(next));
                let followed = self.dropped.is_none() && self.next.is_none() || is_promoted;
                held.is_some() && is_staged && followed && is_removed
            }
        }
    }
}

/// The kid of the whole private key in this file.
pub fn kid_in(image: &Image, name: &str) -> Option<String> {
    match parse_pem(image.file(ROOT, name)?).ok()? {
        PemKey::Private { key, .. } => Some(key.jwk().kid().to_string()),
        PemKey::Public(_) => None,
    }
}

/// The text of the record of `kid`.
pub fn record_of<'a>(image: &'a Image, kid: &str) -> Option<&'a str> {
    let files = image.0[KEYS].as_ref()?;
    let end = format!("-{kid}.pem");
    let (_, bytes) = files.iter().find(|(name, _)| {
        name.to_str().is_some_and(|name| name.ends_with(&end) && !name.starts_with('.'))
    })?;
    std::str::from_utf8(bytes).ok().filter(|text| text.ends_with("-----END PUBLIC KEY-----\n"))
}
