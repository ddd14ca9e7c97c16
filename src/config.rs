//! What a person may set: [`Options`] as typed, [`Config`] as checked.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum, value_parser};

use crate::http::Cidr;
use crate::key::KeyFormat;
use crate::lifecycle::{Policy, PolicyError, PolicySettings};
use crate::store::{NEXT_KEY, Paths};

/// The port where nothing else is said.
pub const DEFAULT_PORT: u16 = 8082;

/// The options as typed, or as found in the environment.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Options (each also an environment variable)")]
pub struct Options {
    /// TCP port to serve on; 0 takes a free one
    #[arg(long, value_name = "N", env = "JWKS_SERVER_PORT", hide_env_values = true, global = true)]
    #[arg(default_value_t = DEFAULT_PORT)]
    pub port: u16,

    /// Address to serve on [default: all, IPv4 and IPv6]
    #[arg(
        long,
        value_name = "ADDR",
        env = "JWKS_SERVER_BIND",
        hide_env_values = true,
        global = true
    )]
    pub bind: Option<IpAddr>,

    /// File of the current private key; the next one lies beside it
    #[arg(
        long,
        value_name = "PATH",
        env = "JWKS_SERVER_KEY_FILE",
        hide_env_values = true,
        global = true
    )]
    #[arg(default_value = "private_key.pem")]
    pub key_file: PathBuf,

    /// Directory of the other published keys [default: `keys` beside the key file]
    #[arg(
        long,
        value_name = "PATH",
        env = "JWKS_SERVER_KEYS_DIR",
        hide_env_values = true,
        global = true
    )]
    pub keys_dir: Option<PathBuf>,

    /// PEM format of a first generated key; later keys follow the format of the one before
    #[arg(
        long,
        value_name = "FORMAT",
        env = "JWKS_SERVER_KEY_FORMAT",
        hide_env_values = true,
        global = true
    )]
    #[arg(default_value = "sec1", value_parser = key_format())]
    pub key_format: KeyFormat,

    /// Rotate by schedule: time from one activation to the next, such as 90d [default: never]
    #[arg(
        long,
        value_name = "DURATION",
        env = "JWKS_SERVER_ROTATE_EVERY",
        hide_env_values = true,
        global = true
    )]
    pub rotate_every: Option<Typed>,

    /// How long a key is published before it may sign
    #[arg(
        long,
        value_name = "DURATION",
        env = "JWKS_SERVER_PUBLISH_LEAD",
        hide_env_values = true,
        global = true
    )]
    #[arg(default_value = "25h")]
    pub publish_lead: Typed,

    /// How long a key stays published after it signed last
    #[arg(
        long,
        value_name = "DURATION",
        env = "JWKS_SERVER_RETAIN_FOR",
        hide_env_values = true,
        global = true
    )]
    #[arg(default_value = "25h")]
    pub retain_for: Typed,

    /// How long caches may hold the set (Cache-Control: max-age)
    #[arg(
        long,
        value_name = "DURATION",
        env = "JWKS_SERVER_CACHE_MAX_AGE",
        hide_env_values = true,
        global = true
    )]
    #[arg(default_value = "60s")]
    pub cache_max_age: Typed,

    /// Connections at once; further ones wait, and idle or silent ones make room for them
    #[arg(
        long,
        value_name = "N",
        env = "JWKS_SERVER_MAX_CONNECTIONS",
        hide_env_values = true,
        global = true
    )]
    #[arg(default_value = "3072", value_parser = value_parser!(u16).range(1..))]
    pub max_connections: u16,

    /// Networks of the reverse proxies in front, believed in what they tell of clients [default: none]
    #[arg(
        long,
        value_name = "CIDR[,CIDR]",
        value_delimiter = ',',
        env = "JWKS_SERVER_TRUSTED_PROXIES",
        hide_env_values = true,
        global = true
    )]
    pub trusted_proxies: Vec<Cidr>,

    /// Between the signal to end and the end: goes on answering, not ready, each answer the last
    #[arg(
        long,
        value_name = "DURATION",
        env = "JWKS_SERVER_SHUTDOWN_DELAY",
        hide_env_values = true,
        global = true
    )]
    #[arg(default_value = "0s")]
    pub shutdown_delay: Typed,

    /// How log lines look
    #[arg(
        long,
        value_name = "FORMAT",
        env = "JWKS_SERVER_LOG_FORMAT",
        hide_env_values = true,
        global = true
    )]
    #[arg(default_value = "text")]
    pub log_format: LogFormat,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// A duration as a person types it: `25h`, `15m`, `90d`, `1h 30m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Typed(pub Duration);

impl FromStr for Typed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let duration = humantime::parse_duration(text)
            .map_err(|error| format!("{error}; write a duration like 25h, 15m or 90d"))?;
        if duration.subsec_nanos() != 0 {
            return Err("durations are whole seconds".into());
        }
        Ok(Self(duration))
    }
}

fn key_format() -> impl TypedValueParser<Value = KeyFormat> {
    PossibleValuesParser::new(["sec1", "pkcs8"]).try_map(|name| name.parse())
}

/// Why options make no [`Config`].
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// The durations break a promise of the service.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The key file is no file.
    #[error("key-file {} names no file", path.display())]
    NoFileName {
        /// What was given.
        path: PathBuf,
    },
    /// The current and the next key would be one file.
    #[error("key-file {NEXT_KEY} is where the next key lies; the current one needs another name")]
    NextKeyFile,
}

/// Options that passed every check.
#[derive(Debug, Clone)]
pub struct Config {
    /// The port, 0 for a free one.
    pub port: u16,
    /// The address; `None` for all, IPv4 and IPv6.
    pub bind: Option<IpAddr>,
    /// Connections at once, at least 1.
    pub max_connections: u16,
    /// The networks of reverse proxies that are believed.
    pub trusted_proxies: Vec<Cidr>,
    /// From the signal to end to the end of accepting connections.
    pub shutdown_delay: Duration,
    /// Where the keys lie.
    pub paths: Paths,
    /// The format of a first key.
    pub key_format: KeyFormat,
    /// How long each state of a key lasts.
    pub policy: Policy,
}

impl Config {
    /// Checks the options.
    ///
    /// # Errors
    ///
    /// If the durations break a promise of the service, or the key file cannot be one.
    pub fn new(options: &Options) -> Result<Self, ConfigError> {
        let policy = Policy::new(PolicySettings {
            rotate_every: options.rotate_every.map(|Typed(duration)| duration),
            publish_lead: options.publish_lead.0,
            retain_for: options.retain_for.0,
            cache_max_age: options.cache_max_age.0,
        })?;
        let mut paths =
            Paths { private_key: options.key_file.clone(), keys_dir: PathBuf::from("keys") };
        paths.keys_dir = match &options.keys_dir {
            Some(keys_dir) => keys_dir.clone(),
            None => match options.key_file.parent() {
                Some(parent) => parent.join("keys"),
                None => PathBuf::from("keys"),
            },
        };
        match paths.private_key.file_name() {
            None => return Err(ConfigError::NoFileName { path: paths.private_key }),
            Some(name) if name == NEXT_KEY => return Err(ConfigError::NextKeyFile),
            Some(_) => {}
        }
        let Options { port, bind, key_format, max_connections, .. } = *options;
        let trusted_proxies = options.trusted_proxies.clone();
        let shutdown_delay = options.shutdown_delay.0;
        Ok(Self {
            port,
            bind,
            max_connections,
            trusted_proxies,
            shutdown_delay,
            paths,
            key_format,
            policy,
        })
    }
}
