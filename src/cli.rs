//! The command line: what is asked for, in which words the answer is given, and the exit code.

mod serve;

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use clap::error::ErrorKind;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use tracing::warn;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::assertion::{ClientAssertion, DpopProof};
use crate::clock::SystemClock;
use crate::command::{self, KeyRow, Status};
use crate::config::{Config, LogFormat, Options, Typed};
use crate::identity::{self, Identity};
use crate::jwk::KeyId;
use crate::text;

/// Publishes an OAuth client's public keys as a JSON Web Key Set, and rotates them without a gap.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the key set and rotate the keys; what happens without a command
    Serve,
    /// Replace the current key, once every verifier can know the next one
    Rotate {
        /// Do not wait: verifiers that hold an older set reject the new key until they fetch again
        #[arg(long)]
        now: bool,
    },
    /// Take a key out of the set for good; a current key is replaced by a new one
    Revoke {
        /// The kid of the key, as `status` shows it
        // One kid in 64 begins with a hyphen.
        #[arg(value_name = "KID", allow_hyphen_values = true)]
        kid: KeyId,
        /// Why, for those who read the tombstone later
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// Show the keys, what happens next, and what is wrong
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show what is wrong, and exit with 1 if anything is; for use before a deployment
    Check,
    /// Bind the directory of keys to this key file, after one of them was renamed or moved
    Adopt,
    /// Print a client assertion (RFC 7523) signed with the current key, to try a set-up with
    Assertion {
        /// The client's id at the authorization server
        #[arg(long, value_name = "ID")]
        client_id: String,
        /// Whom the assertion is for: the authorization server's issuer identifier
        #[arg(long, value_name = "URL")]
        audience: String,
        /// For how long it is valid
        #[arg(long, value_name = "DURATION", default_value = "60s")]
        lifetime: Typed,
        /// Leave the kid out, as some clients do
        #[arg(long)]
        no_kid: bool,
    },
    /// Print a DPoP proof (RFC 9449) signed with the current key, to try a set-up with
    Dpop {
        /// The method of the request, such as POST
        #[arg(long, value_name = "M")]
        method: String,
        /// The URL of the request
        #[arg(long, value_name = "U")]
        url: String,
        /// The nonce that the server gave out
        #[arg(long, value_name = "N")]
        nonce: Option<String>,
        /// The access token that the request carries
        #[arg(long, value_name = "T")]
        access_token: Option<String>,
    },
}

impl Cli {
    /// The arguments of this process. A variable that is empty counts as one that is not set, as
    /// tools that fill in templates expect.
    fn from_environment() -> Self {
        let is_empty =
            |name: &std::ffi::OsStr| std::env::var_os(name).is_some_and(|v| v.is_empty());
        let command = Self::command().mut_args(|arg| match arg.get_env() {
            Some(name) if is_empty(name) => arg.env(None::<&str>),
            _ => arg,
        });
        Self::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit())
    }
}

/// Does what the arguments of this process ask for.
pub fn main() -> ExitCode {
    let cli = Cli::from_environment();
    let config = match Config::new(&cli.options) {
        Ok(config) => config,
        Err(error) => Cli::command().error(ErrorKind::ValueValidation, error).exit(),
    };
    let clock = SystemClock::start();
    let format = cli.options.log_format;
    // A server has its sockets to bind first.
    if !matches!(cli.command, None | Some(Command::Serve)) {
        // A command says what it did on standard output.
        log_to(std::io::stderr, LevelFilter::OFF, format);
        if let Err(failure) = become_owner(&config) {
            return failure.tell();
        }
    }
    let done = match cli.command {
        None | Some(Command::Serve) => return serve::serve(&config, clock, format),
        Some(Command::Rotate { now }) => {
            command::rotate(&config, &clock, now).map_err(Into::into).and_then(|told| print(&told))
        }
        Some(Command::Revoke { kid, reason }) => command::revoke(&config, &clock, kid, &reason)
            .map_err(Into::into)
            .and_then(|told| print(&told)),
        Some(Command::Adopt) => {
            command::adopt(&config).map_err(Into::into).and_then(|told| print(&told))
        }
        Some(Command::Status { json }) => status(&config, &clock, json),
        Some(Command::Check) => check(&config, &clock),
        Some(Command::Assertion { client_id, audience, lifetime, no_kid }) => {
            let assertion = ClientAssertion {
                client_id: &client_id,
                audience: &audience,
                lifetime: lifetime.0,
                kid: !no_kid,
            };
            command::sign(&config, &clock, |key, now, jti| assertion.sign(key, now, jti))
                .map_err(Into::into)
                .and_then(|token| print(&token))
        }
        Some(Command::Dpop { method, url, nonce, access_token }) => {
            let proof = DpopProof {
                method: &method,
                url: &url,
                nonce: nonce.as_deref(),
                access_token: access_token.as_deref(),
            };
            command::sign(&config, &clock, |key, now, jti| proof.sign(key, now, jti))
                .map_err(Into::into)
                .and_then(|token| print(&token))
        }
    };
    done.unwrap_or_else(|failure| failure.tell())
}

/// An error with its causes, as one line.
struct Failure(String);

impl Failure {
    /// What a person is told.
    fn line(&self) -> String {
        format!("jwks-server: failed to {}\n", self.0)
    }

    /// Tells it, and how that counts for whoever does not listen.
    fn tell(&self) -> ExitCode {
        let _ = std::io::stderr().write_all(self.line().as_bytes());
        ExitCode::FAILURE
    }
}

impl<E: std::error::Error + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(crate::error::chain(&error))
    }
}

/// Root does not act in another user's directory.
fn become_owner(config: &Config) -> Result<(), Failure> {
    let paths = &config.paths;
    let private = [&*paths.private_key, &paths.next_key()];
    let identity = identity::become_owner(&private, &paths.keys_dir)?;
    if let Identity::StillRoot(owner) = identity {
        warn!(
            code = "still_root",
            "root works in a directory of {owner}, which cannot be taken on here: links in it are not \
             followed"
        );
    }
    Ok(())
}

fn print(told: &str) -> Result<ExitCode, Failure> {
    match anstream::stdout().write_all(told.as_bytes()) {
        // The reader has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        Err(error) => Err(Failure(format!("write to standard output: {error}"))),
        Ok(()) => Ok(ExitCode::SUCCESS),
    }
}

fn status(config: &Config, clock: &SystemClock, json: bool) -> Result<ExitCode, Failure> {
    let status = command::status(config, clock);
    if json {
        let text = serde_json::to_string(&status)?;
        return print(&(text::json(&text).into_owned() + "\n"));
    }
    let mut told = table(&status.keys, std::io::stdout().is_terminal());
    told += &match (&status.next_action, &status.server) {
        (Some(next), _) => {
            // Some actions are about no key that exists.
            let kid = next.kid.map(|kid| format!(" {kid}")).unwrap_or_default();
            format!("next: {}{kid} at {}\n", next.action, next.at)
        }
        (None, Some(_)) => "next: nothing is planned\n".into(),
        (None, None) if !status.is_writable => {
            "next: nothing, since nothing can be changed\n".into()
        }
        (None, None) => "next: nothing, since no server runs on this directory\n".into(),
    };
    told += &problems(&status);
    print(&told)
}

fn check(config: &Config, clock: &SystemClock) -> Result<ExitCode, Failure> {
    let status = command::status(config, clock);
    let mut told = String::new();
    for warning in config.policy.warnings() {
        let _ = writeln!(told, "warning: {warning}");
    }
    told += &problems(&status);
    if status.problems.is_empty() {
        told += "no problems\n";
    }
    print(&told)?;
    Ok(if status.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn problems(status: &Status) -> String {
    let yellow = AnsiColor::Yellow.on_default();
    let mut told = String::new();
    for problem in &status.problems {
        let _ = writeln!(told, "{yellow}problem:{yellow:#} {problem}");
    }
    told
}

/// One row for each key: aligned and coloured on a terminal, otherwise separated by tabs.
fn table(keys: &[KeyRow], on_terminal: bool) -> String {
    const HEAD: [&str; 8] =
        ["KID", "STATE", "PUBLISHED", "ACTIVATED", "READY AT", "RETIRED", "REMOVE AT", "FILE"];
    let cells = keys.iter().map(|row| {
        let time = |at: Option<command::Seconds>| at.map_or("-".into(), |at| at.to_string());
        [
            row.kid.to_string(),
            row.state.to_owned(),
            time(row.published_at),
            time(row.activated_at),
            time(row.ready_at),
            time(row.retired_at),
            time(row.remove_at),
            text::plain_path(&row.file),
        ]
    });
    let rows: Vec<_> = std::iter::once(HEAD.map(str::to_owned)).chain(cells).collect();
    let widths: [usize; 8] =
        std::array::from_fn(|i| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0));
    let mut told = String::new();
    for (n, row) in rows.iter().enumerate() {
        if on_terminal {
            let style = if n == 0 { Style::new().bold() } else { style_of(&row[1]) };
            let line: Vec<_> =
                row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            let _ = writeln!(told, "{style}{}{style:#}", line.join("  ").trim_end());
        } else {
            told += &row.join("\t");
            told += "\n";
        }
    }
    told
}

fn style_of(state: &str) -> Style {
    match state {
        "current" => AnsiColor::Green.on_default(),
        "next" => AnsiColor::Cyan.on_default(),
        "revoked" => AnsiColor::Red.on_default(),
        "retired" => Style::new().dimmed(),
        _ => Style::new(),
    }
}

/// Logs from `default` on by way of `writer`, unless `RUST_LOG` says otherwise.
fn log_to<W: std::io::Write + 'static>(
    writer: impl Fn() -> W + Send + Sync + 'static,
    default: LevelFilter,
    format: LogFormat,
) {
    let filter = std::env::var("RUST_LOG").ok().and_then(|text| text.parse::<Targets>().ok());
    let filter = filter.unwrap_or_else(|| Targets::new().with_default(default));
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).with_target(false);
    match format {
        LogFormat::Text => {
            registry.with(layer.with_ansi(std::io::stderr().is_terminal())).init();
        }
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).init(),
    }
}
