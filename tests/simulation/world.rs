//! One issuer in virtual time: its disk, its server, the commands and the people beside it, and the
//! clients that sign.
//!
//! The server, the commands and everything below them are the real ones; only the operating system
//! is simulated. Time jumps from one event to the next, and passes a little with each operation, so
//! that others get their turn in the middle of a change.

mod process;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::DateTime;
use jwks_server::clock::{Clock, Moment};
use jwks_server::jwk::KeyId;
use jwks_server::key::KeyFormat;
use jwks_server::lifecycle::Time;
use jwks_server::manager::{Manager, StartError, Unread};
use jwks_server::snapshot::{Reader, Snapshot};
use jwks_server::store::Store;
use parking_lot::Mutex;

pub use process::Process;

use crate::chance::Chance;
use crate::disk::{Disk, paths};
use crate::judge::{Judge, Set, Who};
use crate::people::{Deed, People};
use crate::scenario::{Breakage, Scenario};
use crate::verifiers::{DAY, HOUR, MINUTE, SECOND, YEAR};

/// How many keys there are for most issuers; a power of two, so that an odd step meets each.
const POOL: u64 = 1 << 11;

/// The beginning, in seconds.
const BEGINNING: i64 = 1_795_000_000;

pub struct World {
    pub state: Mutex<State>,
    server: Mutex<Option<Manager>>,
    /// Whether others have their turn in the middle of an operation.
    is_nested: AtomicBool,
}

pub struct State {
    pub scenario: Scenario,
    /// True time since the beginning, in milliseconds.
    pub now: i64,
    /// By how much the wall clock is wrong.
    wrong_by: i64,
    /// Until when the server is stopped.
    frozen_until: Option<i64>,
    pub chance: Chance,
    pub disk: Disk,
    pub judge: Judge,
    pub people: People,
    queue: BTreeMap<(i64, u64), Event>,
    sequence: u64,
    /// The processes that live.
    alive: BTreeMap<u64, Alive>,
    processes: u64,
    /// How many keys were made, and where in the pool they come from.
    keys_made: u64,
    keys_from: (u64, u64),
    server: Option<Serving>,
    /// The wake-up that counts.
    wake_up: u64,
    looks_at: Option<i64>,
    locks: BTreeMap<PathBuf, (u64, u64)>,
    note: String,
    /// The most that was ever counted for a key, for one that is broken on purpose.
    counted: BTreeMap<String, u64>,
    faults: Option<Faults>,
    pub tally: Tally,
    trace: Option<Vec<String>>,
}

struct Serving {
    process: u64,
    reader: Option<Reader<Snapshot>>,
    last: Option<Arc<Snapshot>>,
}

#[derive(Debug, Clone, Copy)]
struct Alive {
    who: Who,
    since: i64,
    /// For how long its host has slept meanwhile.
    slept: i64,
}

#[derive(Debug, Clone, Copy)]
struct Faults {
    once_in: u64,
    error: i32,
}

#[derive(Debug)]
pub enum Event {
    /// The server finds that something has happened, or sweeps.
    Look,
    /// The server wakes by itself.
    Wake(u64),
    Start,
    Stop(u64),
    /// It is stopped, and goes on.
    Freeze,
    Thaw(u64),
    Sign,
    Verify(KeyId),
    Idle,
    People(Deed),
    SetClock,
    ResetClock(i64),
    Recover,
}

/// What has happened in a run.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    pub time: i64,
    pub starts: u64,
    pub kills: u64,
    pub power_cuts: u64,
    pub errors: u64,
    pub deeds: u64,
    pub clock_steps: u64,
    pub freezes: u64,
    pub looks: u64,
    pub promotions: u64,
    pub removals: u64,
    pub tokens: u64,
    pub verifications: u64,
}

impl std::ops::AddAssign<&Self> for Tally {
    fn add_assign(&mut self, other: &Self) {
        self.time += other.time;
        self.starts += other.starts;
        self.kills += other.kills;
        self.power_cuts += other.power_cuts;
        self.errors += other.errors;
        self.deeds += other.deeds;
        self.clock_steps += other.clock_steps;
        self.freezes += other.freezes;
        self.looks += other.looks;
        self.promotions += other.promotions;
        self.removals += other.removals;
        self.tokens += other.tokens;
        self.verifications += other.verifications;
    }
}

impl State {
    fn new(scenario: Scenario, is_told: bool) -> Self {
        let mut judge = Judge::new(scenario.promises);
        judge.only = scenario.only;
        let mut disk = Disk::new();
        disk.forgets_file_syncs = scenario.breakage == Breakage::NoFileSync;
        disk.forgets_keys_syncs = scenario.breakage == Breakage::NoKeysSync;
        Self {
            now: 0,
            wrong_by: 0,
            frozen_until: None,
            chance: Chance::of(scenario.seed),
            disk,
            judge,
            people: People::default(),
            queue: BTreeMap::new(),
            sequence: 0,
            alive: BTreeMap::new(),
            processes: 0,
            keys_made: 0,
            keys_from: (Chance::of(scenario.seed).next(), 2 * scenario.seed + 1),
            server: None,
            wake_up: 0,
            looks_at: None,
            locks: BTreeMap::new(),
            note: String::new(),
            counted: BTreeMap::new(),
            faults: None,
            tally: Tally::default(),
            trace: is_told.then(Vec::new),
            scenario,
        }
    }

    pub fn tell(&mut self, what: impl fmt::Display) {
        let (days, wall) = (self.now / DAY, self.wall());
        if let Some(trace) = &mut self.trace {
            trace.push(format!("day {days}, {wall:?}: {what}"));
        }
    }

    pub fn after(&mut self, delay: i64, event: Event) {
        self.sequence += 1;
        self.queue.insert((self.now + delay.max(0), self.sequence), event);
    }

    /// The time by the wall clock, in milliseconds.
    pub fn wall_millis(&self) -> i64 {
        BEGINNING * 1_000 + self.now + self.wrong_by
    }

    fn wall(&self) -> Time {
        DateTime::from_timestamp_millis(self.wall_millis()).unwrap()
    }

    pub fn process(&mut self, who: Who) -> u64 {
        self.processes += 1;
        self.alive.insert(self.processes, Alive { who, since: self.now, slept: 0 });
        self.processes
    }

    /// Fills `bytes` with what a key is made of. No issuer meets one key twice, but another one does:
    /// they come from one pool, in an order of its own for each, so that their arithmetic can be
    /// remembered.
    fn fill_key(&mut self, bytes: &mut [u8]) {
        let (first, step) = self.keys_from;
        let number = first.wrapping_add(self.keys_made.wrapping_mul(step)) % POOL;
        self.keys_made += 1;
        if self.keys_made <= POOL {
            Chance::of(number ^ 0x6b65_7973).fill(bytes);
        } else {
            self.chance.fill(bytes);
        }
    }

    pub fn lives(&self, process: u64) -> bool {
        self.alive.contains_key(&process)
    }

    pub fn ends(&mut self, process: u64) {
        self.alive.remove(&process);
        self.locks.retain(|_, (holder, _)| *holder != process);
        let is_server = self.server.as_ref().is_some_and(|server| server.process == process);
        if is_server {
            self.server = None;
            self.frozen_until = None;
            self.wake_up += 1;
            let Self { now, judge, disk, .. } = self;
            judge.stops(*now, disk);
            judge.disturbed_at = *now;
            let downtime = self.downtime();
            self.tell(format_args!("the server is down for {downtime} ms"));
            self.after(downtime, Event::Start);
        }
    }

    fn downtime(&mut self) -> i64 {
        let longest = *self.chance.pick(&[MINUTE, MINUTE, MINUTE, HOUR, DAY, 60 * DAY]).unwrap();
        self.chance.between(SECOND, longest)
    }

    fn power_fails(&mut self) {
        self.tally.power_cuts += 1;
        self.tell("the power fails");
        let Self { now, judge, disk, chance, .. } = self;
        judge.stops(*now, disk);
        disk.power_cut(chance);
        for process in self.alive.keys().copied().collect::<Vec<_>>() {
            self.ends(process);
        }
        self.files_changed(Who::Power);
    }

    /// Lets the judge see the files, and has the server and the clients follow.
    pub fn files_changed(&mut self, who: Who) {
        let Self { now, judge, disk, .. } = self;
        if let Some(kid) = judge.files_changed(*now, who, disk) {
            self.tell(format_args!("{who:?}: clients sign with {kid}"));
            let retain = self.scenario.promises.retain;
            for delay in [0, 500, 12 * SECOND, 61 * SECOND, HOUR, retain / 2, retain - 1] {
                self.after(delay, Event::Sign);
            }
            self.people.back_up(kid, &self.disk);
        }
        if who != Who::Server {
            self.look_soon();
        }
    }

    /// The server is told at once, as a rule; else it sweeps every 10 s.
    fn look_soon(&mut self) {
        if self.looks_at.is_none() {
            let latest = if self.chance.once_in(4) { 10 * SECOND } else { SECOND };
            let delay = self.chance.between(10, latest);
            self.looks_at = Some(self.now + delay);
            self.after(delay, Event::Look);
        }
    }

    /// What verifiers get from now on.
    pub fn note_served(&mut self) {
        if self.frozen_until.is_some() {
            return;
        }
        let Some(Serving { reader: Some(reader), last, .. }) = &mut self.server else { return };
        let snapshot = reader.load();
        if last.as_ref().is_some_and(|last| Arc::ptr_eq(last, &snapshot)) {
            return;
        }
        let set = kids_in(&snapshot);
        *last = Some(snapshot);
        let Self { now, judge, disk, .. } = self;
        if judge.serves(*now, Some(Arc::clone(&set)), disk) {
            self.tell(format_args!("served: {set:?}"));
            for delay in [0, 12 * SECOND] {
                self.after(delay, Event::Sign);
            }
        }
    }

    pub fn is_up(&self) -> bool {
        self.server.as_ref().is_some_and(|server| server.reader.is_some())
    }

    /// Whether this operation is the last of its process, or of all of them.
    fn dies(&mut self, process: u64) -> bool {
        if self.chance.once_in(self.scenario.power_cut_once_in) {
            self.power_fails();
            return true;
        }
        if self.chance.once_in(self.scenario.kill_once_in) {
            self.tally.kills += 1;
            let who = self.alive[&process].who;
            self.tell(format_args!("{who:?} is killed"));
            self.ends(process);
            return true;
        }
        false
    }

    fn fails(&mut self) -> io::Result<()> {
        match self.faults {
            Some(Faults { once_in, error }) if self.chance.once_in(once_in) => {
                self.tally.errors += 1;
                Err(io::Error::from_raw_os_error(error))
            }
            _ => Ok(()),
        }
    }
}

fn kids_in(snapshot: &Snapshot) -> Set {
    let set: serde_json::Value = serde_json::from_slice(&snapshot.body).unwrap();
    let keys = set["keys"].as_array().unwrap();
    Arc::new(keys.iter().map(|key| key["kid"].as_str().unwrap().parse().unwrap()).collect())
}

impl World {
    /// Runs it to its end; the error says what was violated, with what led there if `is_told`.
    pub fn run(scenario: &Scenario, is_told: bool) -> Result<Tally, String> {
        let state = Mutex::new(State::new(scenario.clone(), is_told));
        let server = Mutex::new(None);
        let world = Arc::new(Self { state, server, is_nested: AtomicBool::new(false) });
        world.begin();
        let end = scenario.length;
        loop {
            let mut state = world.state.lock();
            if let Some(violation) = state.judge.violation.take() {
                let told = state.trace.take().unwrap_or_default();
                let now = state.wall();
                drop(state);
                drop(world.server.lock().take());
                let told = told[told.len().saturating_sub(100)..].join("\n  ");
                return Err(format!("seed {}, {now}: {violation}\n  {told}", scenario.seed));
            }
            let Some(((at, _), event)) = state.queue.pop_first() else { break };
            if at >= end {
                break;
            }
            state.now = state.now.max(at);
            drop(state);
            world.happens(event);
        }
        // The manager holds the world.
        drop(world.server.lock().take());
        let state = world.state.lock();
        let mut tally = state.tally.clone();
        tally.time = state.now;
        tally.promotions = state.judge.promotions;
        tally.removals = state.judge.removals;
        tally.tokens = state.judge.tokens;
        tally.verifications = state.judge.verifications;
        Ok(tally)
    }

    fn begin(&self) {
        let mut state = self.state.lock();
        state.after(0, Event::Start);
        state.after(MINUTE, Event::Sign);
        for (mean, event) in [
            (state.scenario.people_every, Event::Idle),
            (state.scenario.clock_every, Event::SetClock),
            (state.scenario.freeze_every, Event::Freeze),
        ] {
            if mean > 0 {
                let delay = state.chance.between(0, 2 * mean);
                state.after(delay, event);
            }
        }
    }

    pub fn happens(self: &Arc<Self>, event: Event) {
        match event {
            Event::Look => {
                self.state.lock().looks_at = None;
                self.reconcile();
            }
            Event::Wake(number) => {
                if self.state.lock().wake_up == number {
                    self.reconcile();
                }
            }
            Event::Start => self.start(),
            Event::Stop(process) => {
                let mut state = self.state.lock();
                if state.lives(process) {
                    if state.chance.once_in(3) && state.scenario.power_cut_once_in > 0 {
                        state.power_fails();
                    } else {
                        state.tell("the server is stopped");
                        state.ends(process);
                    }
                    drop(state);
                    drop(self.server.lock().take());
                }
            }
            Event::Freeze => self.freeze(),
            Event::Thaw(process) => self.thaw(process),
            Event::Sign => self.state.lock().sign(),
            Event::Verify(kid) => {
                let mut state = self.state.lock();
                state.note_served();
                let State { now, judge, chance, .. } = &mut *state;
                judge.verify(kid, *now, chance);
            }
            Event::Idle => {
                let mut state = self.state.lock();
                let mean = state.scenario.people_every;
                let delay = state.chance.between(0, 2 * mean);
                state.after(delay, Event::Idle);
                let deed = state.any_deed();
                drop(state);
                self.do_it(deed);
            }
            Event::People(deed) => self.do_it(deed),
            Event::SetClock => {
                let mut state = self.state.lock();
                let mean = state.scenario.clock_every;
                let delay = state.chance.between(0, 2 * mean);
                state.after(delay, Event::SetClock);
                state.set_clock();
            }
            Event::ResetClock(by) => {
                self.state.lock().step_clock(by);
            }
            Event::Recover => {
                let mut state = self.state.lock();
                state.faults = None;
                let now = state.now;
                (state.judge.faulty_until, state.judge.disturbed_at) = (now, now);
                state.tell("the disk works again");
                state.look_soon();
            }
        }
    }

    fn start(self: &Arc<Self>) {
        let process = {
            let mut state = self.state.lock();
            if state.server.is_some() {
                return;
            }
            if state.scenario.clock_every > 0 && state.chance.once_in(4) {
                // The clock of a machine that was switched off.
                state.set_clock();
            }
            state.tally.starts += 1;
            let process = state.process(Who::Server);
            state.server = Some(Serving { process, reader: None, last: None });
            let now = state.now;
            state.judge.disturbed_at = now;
            process
        };
        let process = Process::of(self, process);
        let policy = self.state.lock().scenario.policy();
        let mut tries = 0;
        let started = loop {
            let store = Store::on(Arc::new(process.clone()), paths(), KeyFormat::Sec1);
            let unread = if tries < 50 { Unread::Refuse } else { Unread::Ignore };
            match Manager::start(store, policy, &process, unread) {
                Err(StartError::Unread(_)) if self.state.lock().lives(process.id) => {
                    tries += 1;
                    self.state.lock().now += 100;
                }
                started => break started,
            }
        };
        if tries == 50 {
            self.state.lock().judge.excuse_all();
        }
        let mut state = self.state.lock();
        if !state.lives(process.id) {
            drop(state);
            return;
        }
        match started {
            Ok((manager, reader, _)) => {
                if let Some(server) = &mut state.server {
                    server.reader = Some(reader);
                }
                state.tell("the server starts");
                state.note_served();
                state.wake_up += 1;
                let wake_up = state.wake_up;
                state.after(0, Event::Wake(wake_up));
                let mean = state.scenario.stop_every;
                if mean > 0 {
                    let delay = state.chance.between(0, 2 * mean);
                    state.after(delay, Event::Stop(process.id));
                }
                drop(state);
                *self.server.lock() = Some(manager);
            }
            Err(error) => {
                state.tell(format_args!("the server does not start: {error}"));
                let is_to_blame = matches!(error, StartError::Refused(_)) && state.people.broke_it;
                if state.faults.is_none() && !is_to_blame {
                    state.judge.violate(format!("the server does not start: {error:?}"));
                }
                state.ends(process.id);
            }
        }
    }

    fn reconcile(self: &Arc<Self>) {
        self.look(true);
    }

    /// It looks; until now it has looked every few seconds and found nothing, unless it was stopped.
    fn look(self: &Arc<Self>, was_looking: bool) {
        if self.state.lock().frozen_until.is_some() {
            return;
        }
        let Some(mut manager) = self.server.lock().take() else { return };
        let Some(id) = self.state.lock().server.as_ref().map(|server| server.process) else {
            return;
        };
        let process = Process::of(self, id);
        if was_looking {
            manager.idle(&process);
        }
        let wake_after = manager.reconcile(&process, None);
        let is_nested = self.is_nested.load(Ordering::Relaxed);
        if self.state.lock().lives(id) && !is_nested {
            self.changes_nothing_more(&mut manager, &process);
        }
        let mut state = self.state.lock();
        state.tally.looks += 1;
        if !state.lives(id) {
            drop(state);
            return;
        }
        state.note_served();
        if wake_after.is_zero() {
            state.judge.violate("the server wants to be woken at once, again and again");
        }
        state.wake_up += 1;
        let number = state.wake_up;
        state.tell(format_args!("the server looks, and waits for {wake_after:?}"));
        let delay = i64::try_from(wake_after.as_millis()).unwrap_or(i64::MAX).min(1_000 * YEAR);
        state.after(delay.max(1), Event::Wake(number));
        if !is_nested && state.faults.is_none() {
            if state.is_in_the_way() {
                state.judge.disturbed_at = state.now;
            }
            let dropped: Vec<_> = state.people.dropped.values().copied().collect();
            let State { now, judge, disk, .. } = &mut *state;
            judge.at_rest(*now, &dropped, disk);
        }
        drop(state);
        *self.server.lock() = Some(manager);
    }

    /// The server is stopped for a while, or its host sleeps; often when a key is about to be ready.
    fn freeze(self: &Arc<Self>) {
        let mut state = self.state.lock();
        let mean = state.scenario.freeze_every;
        let delay = state.chance.between(0, 2 * mean);
        state.after(delay, Event::Freeze);
        let Some(id) = state.server.as_ref().map(|server| server.process) else { return };
        if !state.is_up() || state.frozen_until.is_some() {
            return;
        }
        if let Some(left) = state.judge.is_about_to_be_ready(state.now)
            && state.chance.once_in(2)
        {
            let delay = left - state.chance.between(1, 30 * SECOND);
            if delay > SECOND {
                state.after(delay, Event::Freeze);
                return;
            }
        }
        state.note_served();
        state.tally.freezes += 1;
        let longest = *state.chance.pick(&[20 * SECOND, HOUR, 2 * DAY]).unwrap();
        let lasts = state.chance.between(SECOND, longest);
        let until = state.now + lasts;
        let is_sleep = state.chance.once_in(2);
        state.tell(format_args!("the server is stopped for {lasts} ms, asleep: {is_sleep}"));
        // Its last look was some time ago.
        let ago = state.chance.between(0, 10 * SECOND);
        let counts = state.scenario.breakage == Breakage::CountsStops;
        drop(state);
        if let Some(manager) = &mut *self.server.lock() {
            let process = Process::of(self, id);
            manager.idle(&Standing(process.earlier(if counts { 0 } else { ago })));
        }
        let mut state = self.state.lock();
        state.frozen_until = Some(until);
        if is_sleep && let Some(alive) = state.alive.get_mut(&id) {
            alive.slept += lasts;
        }
        // Who asks is answered with this set once it goes on, if that is soon.
        if lasts > 20 * SECOND {
            let State { now, judge, disk, .. } = &mut *state;
            judge.stops(*now, disk);
            if let Some(server) = &mut state.server {
                server.last = None;
            }
        }
        state.after(lasts, Event::Thaw(id));
    }

    fn thaw(self: &Arc<Self>, id: u64) {
        {
            let mut state = self.state.lock();
            if !state.lives(id) || state.frozen_until.take().is_none() {
                return;
            }
            state.tell("the server goes on");
            state.note_served();
            let now = state.now;
            state.judge.disturbed_at = now;
            // A command that knows of no server goes by the counts alone.
            if state.scenario.breakage == Breakage::NoProof {
                for delay in [SECOND, 10 * SECOND, 20 * SECOND, 29 * SECOND] {
                    state.after(delay, Event::People(Deed::Rotate));
                    state.after(delay + 10, Event::Sign);
                }
            }
        }
        let counts_stops = self.state.lock().scenario.breakage == Breakage::CountsStops;
        self.look(counts_stops);
    }

    /// At one moment, the second time changes nothing.
    fn changes_nothing_more(self: &Arc<Self>, manager: &mut Manager, process: &Process) {
        {
            let mut state = self.state.lock();
            if state.faults.is_some() || !state.chance.once_in(8) {
                return;
            }
        }
        let moment = Standing(process.now());
        manager.reconcile(&moment, None);
        let before = self.state.lock().disk.version;
        let wake_after = manager.reconcile(&moment, None);
        let mut state = self.state.lock();
        if state.disk.version != before && state.lives(process.id) {
            state.judge.violate("a second look at the same moment changes something");
        }
        if wake_after.is_zero() {
            state.judge.violate("a second look wants another at once");
        }
    }

    /// Others have their turn while a process waits for an operation.
    fn give_way(self: &Arc<Self>, who: Who) {
        if self.is_nested.swap(true, Ordering::Relaxed) {
            return;
        }
        loop {
            let mut state = self.state.lock();
            let Some(first) = state.queue.first_entry() else { break };
            let is_due = first.key().0 <= state.now;
            let may_happen = match state.queue.first_key_value() {
                Some((_, Event::Sign | Event::Verify(_))) => true,
                Some((_, Event::Look | Event::Wake(_))) => who != Who::Server,
                _ => false,
            };
            if !is_due || !may_happen {
                break;
            }
            let Some((_, event)) = state.queue.pop_first() else { break };
            drop(state);
            self.happens(event);
        }
        self.is_nested.store(false, Ordering::Relaxed);
    }
}

impl World {
    /// Now and then a person runs a command in the middle of what the server does.
    fn interrupt(self: &Arc<Self>) {
        let deed = {
            let mut state = self.state.lock();
            if state.scenario.people_every == 0 || !state.chance.once_in(20) {
                return;
            }
            state.chance.pick(&[Deed::Rotate, Deed::Revoke]).unwrap().clone()
        };
        if !self.is_nested.swap(true, Ordering::Relaxed) {
            self.do_it(deed);
            self.is_nested.store(false, Ordering::Relaxed);
        }
    }
}

impl State {
    /// A client signs: one that read the file some time ago, and whose token lasts a while. The two
    /// take at most as long as keys are retained.
    fn sign(&mut self) {
        self.note_served();
        let retain = self.scenario.promises.retain;
        let both =
            if self.chance.once_in(2) { retain - 1 } else { self.chance.mostly_short(retain) };
        let late_by = self.chance.between(0, both.max(0));
        let lifetime = both - late_by;
        if let Some(kid) = self.judge.signing_key(self.now - late_by)
            && self.judge.is_guaranteed(kid, self.now)
        {
            for delay in [0, self.chance.between(0, lifetime.max(0)), lifetime] {
                self.after(delay, Event::Verify(kid));
            }
        }
        if self.chance.once_in(8) {
            let mean = self.scenario.length / 200;
            let delay = self.chance.between(0, 2 * mean);
            self.after(delay, Event::Sign);
        }
    }

    pub fn set_clock(&mut self) {
        let by = self.wrong_clock();
        if self.chance.once_in(2) {
            let delay = self.chance.between(SECOND, HOUR);
            self.after(delay, Event::ResetClock(-by));
        }
        self.step_clock(by);
    }

    /// By how much a clock may be wrong.
    pub fn wrong_clock(&mut self) -> i64 {
        let most = *self.chance.pick(&[MINUTE, HOUR, 2 * DAY, 400 * DAY]).unwrap();
        self.chance.between(-most, most)
    }

    fn step_clock(&mut self, by: i64) {
        self.tally.clock_steps += 1;
        // No clock of a machine tells a time before there were any.
        self.wrong_by = (self.wrong_by + by).max(-self.now - 10 * YEAR);
        self.judge.clock_set_at = self.now;
        self.tell(format_args!("the clock is set by {by} ms"));
    }

    /// From now on, for a while, operations fail.
    fn sickens(&mut self) {
        if self.faults.is_none() && self.chance.once_in(self.scenario.faults_once_in) {
            let once_in = *self.chance.pick(&[1, 2, 5, 20]).unwrap();
            // EIO, ENOSPC, EMFILE, EACCES, EROFS.
            let error = *self.chance.pick(&[5, 28, 24, 13, 30]).unwrap();
            self.faults = Some(Faults { once_in, error });
            self.judge.faulty_until = i64::MAX / 2;
            self.tell(format_args!("once in {once_in} operations fails with {error}"));
            let delay = self.chance.mostly_short(10 * MINUTE);
            self.after(delay, Event::Recover);
        }
    }
}

/// A clock that stands still.
struct Standing(Moment);

impl Clock for Standing {
    fn now(&self) -> Moment {
        self.0
    }
}
