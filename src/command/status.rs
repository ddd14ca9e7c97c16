//! `jwks-server status` and `jwks-server check`: what there is, what comes next, and what is wrong.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::{RunningServer, open_to_look};
use crate::clock::Clock;
use crate::config::Config;
use crate::jwk::{Jwk, KeyId};
use crate::keeper::Keeper;
use crate::lifecycle::{Action, Agenda, Record, State, Step, Time, rfc3339, step, whole_second};
use crate::store::{Native, Problem};
use crate::watch;

/// The state of a key directory. Serialises to what `status --json` prints.
#[derive(Debug, Serialize)]
pub struct Status {
    /// One row for each key, in the order of the set, revoked ones last.
    pub keys: Vec<KeyRow>,
    /// What the running server will do next; `None` if no server runs, or it has nothing to do.
    pub next_action: Option<NextAction>,
    /// What a person should mend.
    pub problems: Vec<Problem>,
    /// Whether a server keeps this directory now.
    #[serde(skip)]
    pub server: Option<RunningServer>,
    /// Whether a server could keep it.
    #[serde(skip)]
    pub is_writable: bool,
}

/// One key. Times are absent as long as they have not come, or are not planned.
#[derive(Debug, Serialize)]
pub struct KeyRow {
    /// The kid.
    pub kid: KeyId,
    /// `current`, `next`, `retired`, `dropped` or `revoked`.
    pub state: &'static str,
    /// When a server first published it.
    pub published_at: Option<Seconds>,
    /// When it began to sign.
    pub activated_at: Option<Seconds>,
    /// When it may begin to sign, if it is served without a break.
    pub ready_at: Option<Seconds>,
    /// When it ceased to sign.
    pub retired_at: Option<Seconds>,
    /// Until when it stays published, if it is served without a break.
    pub remove_at: Option<Seconds>,
    /// The file that has it.
    #[serde(serialize_with = "lossy")]
    pub file: PathBuf,
}

/// What the running server will do next.
#[derive(Debug, Serialize)]
pub struct NextAction {
    /// `promote`, `remove`, `stage`, `record`, …
    pub action: &'static str,
    /// The key, where the action is about one that exists.
    pub kid: Option<KeyId>,
    /// When it is due.
    pub at: Seconds,
}

/// A time in RFC 3339, in whole seconds, rounded up.
#[derive(Debug, Clone, Copy)]
pub struct Seconds(pub Time);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&rfc3339(whole_second(self.0)))
    }
}

impl Serialize for Seconds {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A path is any bytes; what is not UTF-8 is shown with replacement characters.
fn lossy<S: serde::Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

/// Reads the directory; changes nothing and takes no lock.
pub fn status(config: &Config, clock: &impl Clock) -> Status {
    let (mut keeper, server) = open_to_look(Arc::new(Native), config);
    let now = clock.now().wall;
    let mut problems = keeper.look(clock);
    keeper.served.assume_answering();
    let is_writable = keeper.store.keys_are_writable();
    if !is_writable {
        let reason = "cannot be written: what a server publishes it remembers only while it runs, and \
                      it rotates nothing";
        problems.push(Problem::of("read_only", &config.paths.keys_dir, reason));
    }
    if let Some(silence) = watch::silence([config.paths.root(), &config.paths.keys_dir]) {
        problems.push(Problem { code: "no_file_events", file: None, reason: silence.to_string() });
    }
    Status {
        keys: rows(&keeper, now),
        next_action: server.as_ref().and_then(|_| next_action(&keeper, now)),
        problems,
        server,
        is_writable,
    }
}

fn rows(keeper: &Keeper, now: Time) -> Vec<KeyRow> {
    let served = keeper.ring.served();
    let revoked = keeper.ring.records().filter(|record| record.is_revoked());
    served
        .into_iter()
        .chain(revoked.map(|record| record.key))
        .map(|key| row(keeper, key, now))
        .collect()
}

fn row(keeper: &Keeper, key: Jwk, now: Time) -> KeyRow {
    let kid = key.kid();
    let paths = keeper.store.paths();
    let record = keeper.ring.record(kid);
    let is_current = keeper.ring.current() == Some(key);
    let state = match record.map(|record| &record.state) {
        // The files are ahead of the records until a server has seen them.
        Some(State::Next { .. } | State::Retired { .. }) | None if is_current => "current",
        Some(State::Current { .. }) if !is_current => "retired",
        _ => keeper.state_name(kid),
    };
    let record_file = || keeper.store.record_file(kid).map(|name| paths.keys_dir.join(name));
    let dropped_file = || {
        let (name, _) = keeper.ring.dropped().find(|(_, dropped)| dropped.kid() == kid)?;
        Some(paths.keys_dir.join(name))
    };
    let file = if keeper.ring.private_key().key() == Some(key) {
        Some(paths.private_key.clone())
    } else if keeper.ring.next_key().key() == Some(key) {
        Some(paths.next_key())
    } else {
        record_file().or_else(dropped_file)
    };
    // As far as can be told: if it is served without a break.
    let (mut ready_at, mut remove_at) = (None, None);
    match record.map(|record| &record.state) {
        Some(State::Next { .. }) => {
            ready_at = Some(now + keeper.served.lead_left(kid, &keeper.policy));
        }
        Some(State::Retired { .. }) => {
            remove_at = Some(now + keeper.served.retention_left(kid, &keeper.policy));
        }
        _ => {}
    }
    KeyRow {
        kid,
        state,
        published_at: record.and_then(|record| record.published_at).map(Seconds),
        activated_at: record.and_then(activated_at).map(Seconds),
        ready_at: ready_at.map(Seconds),
        retired_at: record.and_then(Record::retired_at).map(Seconds),
        remove_at: remove_at.map(Seconds),
        file: file.unwrap_or_else(|| paths.keys_dir.clone()),
    }
}

fn activated_at(record: &Record) -> Option<Time> {
    match record.state {
        State::Current { activated_at } => Some(activated_at),
        State::Retired { activated_at, .. } => activated_at,
        State::Next { .. } | State::Revoked { .. } => None,
    }
}

/// What the lifecycle would have the running server do next.
fn next_action(keeper: &Keeper, now: Time) -> Option<NextAction> {
    let may_rotate = keeper.store.root_is_writable();
    let due = match step(&keeper.ring, &keeper.policy, now, &keeper.served, may_rotate) {
        Step::Act(action) => Agenda { at: now, action },
        Step::Wait(due) => due,
        Step::Idle => return None,
    };
    let (action, kid) = match due.action {
        Action::Write(record) => ("record", Some(record.kid())),
        Action::Remove(kid) => ("remove", Some(kid)),
        Action::Promote(kid) => ("promote", Some(kid)),
        Action::Stage => ("stage", None),
        Action::Generate | Action::ReplaceRevoked => ("generate", None),
        Action::DiscardNext => ("discard_next", None),
    };
    Some(NextAction { action, kid, at: Seconds(due.at) })
}
