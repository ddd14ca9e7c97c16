//! What people do beside the server: they drop, overwrite and delete files, and run commands.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::sync::Arc;

use jwks_server::command::{revoke_on, rotate_on};
use jwks_server::config::Config;
use jwks_server::jwk::KeyId;
use jwks_server::key::{KeyFormat, SigningKey, public_pem};
use jwks_server::store::Store;

use crate::disk::{CURRENT, Disk, Held, KEYS, NEXT, ROOT, paths};
use crate::judge::Who;
use crate::verifiers::{HOUR, MINUTE, SECOND};
use crate::world::{Event, Process, State, World};

/// Where people are with what they do.
#[derive(Debug, Default)]
pub struct People {
    /// The keys that they have put into `keys/`, by file name.
    pub dropped: BTreeMap<String, KeyId>,
    /// Copies of what `private_key.pem` held.
    backups: Vec<(KeyId, Vec<u8>)>,
    /// They have made `private_key.pem` unusable.
    pub broke_it: bool,
    /// They have made `next_key.pem` unusable.
    broke_next: bool,
    files: u64,
}

#[derive(Debug, Clone)]
pub enum Deed {
    Rotate,
    RotateNow,
    Revoke,
    /// A key is put into `keys/`, and taken away again.
    Drop,
    Undrop(String),
    /// A rotation by hand: into `keys/`, and once it is known to all onto `private_key.pem`.
    Announce,
    Activate(KeyId, Vec<u8>),
    /// A new key is renamed onto `private_key.pem`.
    Overwrite,
    /// It is copied there, so that a part of it is seen first.
    Copy,
    Finish(Vec<u8>),
    DeleteCurrent,
    /// An old key is put into `private_key.pem` again.
    PutBack,
    Repair,
    DeleteNext,
    BreakNext,
    ClearNext,
    DeleteRecord,
    DeleteKeys,
    Litter,
    CleanUp(String),
}

const DEEDS: [Deed; 20] = [
    Deed::Rotate,
    Deed::Rotate,
    Deed::Rotate,
    Deed::Rotate,
    Deed::RotateNow,
    Deed::RotateNow,
    Deed::Revoke,
    Deed::Revoke,
    Deed::Drop,
    Deed::Announce,
    Deed::Announce,
    Deed::Overwrite,
    Deed::Copy,
    Deed::DeleteCurrent,
    Deed::PutBack,
    Deed::DeleteNext,
    Deed::BreakNext,
    Deed::DeleteRecord,
    Deed::DeleteKeys,
    Deed::Litter,
];

impl People {
    pub fn back_up(&mut self, kid: KeyId, disk: &Disk) {
        if let Some(file) = disk.find(ROOT, OsStr::new(CURRENT)) {
            self.backups.push((kid, disk.content(file).to_vec()));
            let spare = self.backups.len().saturating_sub(6);
            self.backups.drain(..spare);
        }
    }
}

impl State {
    pub fn any_deed(&mut self) -> Deed {
        self.chance.pick(&DEEDS).unwrap().clone()
    }

    fn write(&mut self, dir: usize, name: &str, bytes: &[u8]) {
        let wall = self.wall_millis();
        self.disk.write(dir, name, bytes, wall);
        self.files_changed(Who::People);
    }

    fn delete(&mut self, dir: usize, name: &str) {
        self.disk.delete(dir, OsStr::new(name));
        self.files_changed(Who::People);
    }

    fn later(&mut self, least: i64, most: i64, deed: Deed) {
        let delay = self.chance.between(least, most);
        self.after(delay, Event::People(deed));
    }

    fn file_name(&mut self, kind: &str) -> String {
        self.people.files += 1;
        format!("{kind}-{}.pem", self.people.files)
    }

    /// A person puts `pem` into `private_key.pem`.
    fn put_current(&mut self, kid: KeyId, pem: &[u8]) {
        self.leave_current();
        self.judge.put_by_people(kid);
        self.write(ROOT, CURRENT, pem);
        self.people.broke_it = self.judge.is_doomed(kid);
        if self.people.broke_it {
            self.later(MINUTE, 2 * HOUR, Deed::Repair);
        }
    }

    fn leave_current(&mut self) {
        if let Held::Key(kid) = self.disk.held(CURRENT) {
            self.judge.taken_by_people(kid);
        }
    }

    /// Whether people stand in the way of a rotation.
    pub fn is_in_the_way(&self) -> bool {
        self.people.broke_it || self.people.broke_next
    }
}

impl World {
    /// A key that the service has not made: its kid, its private half and its public one.
    fn foreign_key(self: &Arc<Self>) -> (KeyId, Vec<u8>, Vec<u8>) {
        let person = self.state.lock().process(Who::People);
        let process = Process::of(self, person);
        let store = Store::on(Arc::new(process), paths(), KeyFormat::Sec1);
        let key = SigningKey::generate(&mut store.rng()).unwrap();
        self.state.lock().ends(person);
        let public = public_pem(key.jwk()).into_bytes();
        (key.jwk().kid(), key.to_pem(KeyFormat::Sec1).as_bytes().to_vec(), public)
    }

    pub fn do_it(self: &Arc<Self>, deed: Deed) {
        {
            let mut state = self.state.lock();
            state.tally.deeds += 1;
            let now = state.now;
            state.judge.disturbed_at = now;
            match &deed {
                Deed::Activate(kid, _) => state.tell(format_args!("people activate {kid}")),
                Deed::Finish(_) => state.tell("people finish the copy"),
                deed => state.tell(format_args!("people: {deed:?}")),
            }
        }
        match deed {
            Deed::Rotate => self.rotate(false),
            Deed::RotateNow => self.rotate(true),
            Deed::Revoke => self.revoke(),
            Deed::Drop | Deed::Announce => self.drop_key(matches!(deed, Deed::Announce)),
            Deed::Overwrite | Deed::Copy => {
                let (kid, private, _) = self.foreign_key();
                let mut state = self.state.lock();
                if matches!(deed, Deed::Overwrite) {
                    state.put_current(kid, &private);
                } else {
                    state.leave_current();
                    state.people.broke_it = true;
                    let part = private.len() / 2;
                    state.write(ROOT, CURRENT, &private[..part]);
                    state.judge.put_by_people(kid);
                    state.later(1, 5 * SECOND, Deed::Finish(private));
                }
            }
            Deed::Repair => {
                let (kid, private, _) = self.foreign_key();
                let mut state = self.state.lock();
                let held = state.disk.held(CURRENT);
                if matches!(held, Held::Key(held) if !state.judge.is_doomed(held)) {
                    state.people.broke_it = false;
                    return;
                }
                let State { people, judge, .. } = &mut *state;
                let usable = people.backups.iter().rev().find(|(kid, _)| !judge.is_doomed(*kid));
                let (kid, private) = usable.cloned().unwrap_or((kid, private));
                state.put_current(kid, &private);
            }
            deed => self.state.lock().simple(deed),
        }
    }

    fn drop_key(self: &Arc<Self>, is_announcement: bool) {
        let (kid, private, public) = self.foreign_key();
        let mut state = self.state.lock();
        if !state.disk.is_there(KEYS) {
            return;
        }
        let name = state.file_name("dropped");
        let pem = if state.chance.once_in(2) { &private } else { &public };
        state.people.dropped.insert(name.clone(), kid);
        state.write(KEYS, &name, pem);
        let lead = state.scenario.promises.lead;
        if is_announcement {
            state.later(lead + SECOND, lead + HOUR, Deed::Activate(kid, private));
            state.later(lead + 2 * HOUR, 2 * lead + 3 * HOUR, Deed::Undrop(name));
        } else {
            state.later(SECOND, 2 * lead, Deed::Undrop(name));
        }
    }

    fn config(&self) -> Config {
        Config {
            trusted_proxies: Vec::new(),
            shutdown_delay: std::time::Duration::ZERO,
            port: 0,
            bind: None,
            max_connections: 1,
            paths: paths(),
            key_format: KeyFormat::Sec1,
            policy: self.state.lock().scenario.policy(),
        }
    }

    fn rotate(self: &Arc<Self>, in_haste: bool) {
        let config = self.config();
        let who = if in_haste { Who::RotateNow } else { Who::Rotate };
        let (process, asked_before) = {
            let mut state = self.state.lock();
            let asked_before = std::mem::replace(&mut state.judge.rotation_is_asked_for, true);
            (state.process(who), asked_before)
        };
        let mut process = Process::of(self, process);
        process.wrong_by = self.clock_of_a_command();
        let done = rotate_on(Arc::new(process.clone()), &config, &process, in_haste);
        let mut state = self.state.lock();
        state.tell(format_args!("rotate: {done:?}"));
        if done.is_ok_and(|told| told.starts_with("nothing done")) || in_haste {
            state.judge.rotation_is_asked_for = asked_before;
        }
        state.ends(process.id);
    }

    /// By how much the clock of a command is wrong, beside that of the server.
    fn clock_of_a_command(&self) -> i64 {
        let mut state = self.state.lock();
        if state.scenario.clock_every == 0 || !state.chance.once_in(3) {
            return 0;
        }
        // What it writes may want a rotation early, or late.
        state.judge.clock_set_at = state.now;
        state.wrong_clock()
    }

    fn revoke(self: &Arc<Self>) {
        let config = self.config();
        let (process, kid) = {
            let mut state = self.state.lock();
            let Some(set) = state.judge.set().cloned() else { return };
            let Some(kid) = state.chance.pick(&set).copied() else { return };
            state.judge.may_be_revoked(kid);
            state.tell(format_args!("people revoke {kid}"));
            (state.process(Who::Revoke), kid)
        };
        let mut process = Process::of(self, process);
        process.wrong_by = self.clock_of_a_command();
        let done = revoke_on(Arc::new(process.clone()), &config, &process, kid, "simulated");
        let mut state = self.state.lock();
        state.tell(format_args!("revoke: {done:?}"));
        if done.is_ok() {
            state.judge.revoked(kid);
        }
        state.ends(process.id);
    }
}

impl State {
    /// The deeds for which no key is made.
    fn simple(&mut self, deed: Deed) {
        match deed {
            Deed::Undrop(name) if self.people.dropped.remove(&name).is_some() => {
                self.delete(KEYS, &name);
            }
            Deed::Activate(kid, pem) => {
                let lead = self.scenario.promises.lead;
                let is_known =
                    self.judge.served_for(kid, self.now).is_some_and(|for_| for_ >= lead);
                if is_known && !self.judge.is_doomed(kid) {
                    self.put_current(kid, &pem);
                }
            }
            Deed::Finish(pem) => {
                self.write(ROOT, CURRENT, &pem);
                self.people.broke_it = false;
            }
            Deed::DeleteCurrent => {
                self.leave_current();
                self.people.broke_it = true;
                self.delete(ROOT, CURRENT);
                self.later(SECOND, 4 * HOUR, Deed::Repair);
            }
            Deed::PutBack => {
                if let Some((kid, pem)) = self.chance.pick(&self.people.backups).cloned() {
                    self.put_current(kid, &pem);
                }
            }
            Deed::DeleteNext => self.delete(ROOT, NEXT),
            Deed::BreakNext => {
                self.people.broke_next = true;
                self.write(ROOT, NEXT, b"-----BEGIN EC PRIVATE KEY-----\nMHcCAQ\n");
                self.later(SECOND, 4 * HOUR, Deed::ClearNext);
            }
            Deed::ClearNext => {
                if self.people.broke_next && self.disk.held(NEXT) == Held::Broken {
                    self.delete(ROOT, NEXT);
                }
                self.people.broke_next = false;
            }
            Deed::DeleteRecord if self.is_up() => {
                let names = self.disk.names(KEYS).unwrap_or_default();
                let is_record = |name: &str| !self.people.dropped.contains_key(name);
                let records: Vec<_> = names
                    .into_iter()
                    .filter_map(|name| name.into_string().ok())
                    .filter(|name| is_record(name))
                    .collect();
                if let Some(name) = self.chance.pick(&records).cloned() {
                    self.judge.deleted_at = self.now;
                    self.delete(KEYS, &name);
                }
            }
            Deed::DeleteKeys if self.is_up() => {
                self.judge.deleted_at = self.now;
                // Nobody has taken them out: they are served as long as the server runs.
                self.judge.carried.extend(std::mem::take(&mut self.people.dropped).into_values());
                self.disk.delete_keys();
                self.files_changed(Who::People);
            }
            Deed::Litter => {
                let name = self.file_name("litter");
                let junk: &[u8] = match self.chance.between(0, 2) {
                    0 => b"",
                    1 => b"jwks-server key record, version 1\nKid: x\n",
                    _ => b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                };
                self.write(KEYS, &name, junk);
                self.later(SECOND, 4 * HOUR, Deed::CleanUp(name));
            }
            Deed::CleanUp(name) => self.delete(KEYS, &name),
            _ => {}
        }
    }
}
