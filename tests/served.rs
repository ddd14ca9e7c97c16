//! The one sentence on which leads and retentions stand: what is counted for a key never exceeds the real
//! time for which it has been in the answered set. Two servers on one directory, commands with clocks of
//! their own, restarts, stopped processes and sleeping hosts, by chance, in virtual time.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jwks_server::command::rotate;
use jwks_server::lifecycle::{Policy, PolicySettings, Time};
use support::{Process, Standing, beginning, config, new_key, records, write_key};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

/// How the service is broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Breakage {
    None,
    /// What was counted for a key before it retired counts for its retention.
    CountsOn,
    /// A process counts the time for which it was stopped.
    CountsStops,
    /// One that has followed adds its own time to that of the other when it takes over.
    AddsOwn,
    /// A process counts from before it answers.
    CountsDowntime,
}

struct Server {
    process: Process,
    began: Duration,
    /// For how long it has been stopped, if it is.
    stopped: Option<Duration>,
}

/// One directory, who works on it, and what really happens.
struct Issuer {
    dir: tempfile::TempDir,
    policy: Policy,
    servers: [Option<Server>; 2],
    dice: u64,
    now: Duration,
    /// By how much the wall clock is wrong.
    wrong_by: i64,
    /// For how long each key was really in an answered set since it entered its state.
    really: BTreeMap<String, (String, Duration)>,
    /// The most that was counted for each key.
    most: BTreeMap<String, u64>,
    breakage: Breakage,
    promotions: BTreeSet<String>,
}

/// In memory where there is such a place: what is durable is not the question here.
fn quick_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

impl Issuer {
    fn new(seed: u64, breakage: Breakage) -> Self {
        let policy = Policy::new(PolicySettings {
            rotate_every: Some(3 * HOUR),
            publish_lead: HOUR,
            retain_for: HOUR,
            cache_max_age: MINUTE,
        });
        Self {
            dir: quick_dir(),
            policy: policy.unwrap(),
            servers: [None, None],
            dice: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
            now: Duration::ZERO,
            wrong_by: 0,
            really: BTreeMap::new(),
            most: BTreeMap::new(),
            breakage,
            promotions: BTreeSet::new(),
        }
    }

    /// Marsaglia, "Xorshift RNGs", 2003.
    fn roll(&mut self, sides: u64) -> u64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        self.dice % sides
    }

    fn wall(&self) -> Time {
        beginning() + self.now + chrono::TimeDelta::seconds(self.wrong_by)
    }

    /// The state of each key and since when, as its record has it.
    fn entered(&self) -> BTreeMap<String, String> {
        let entered = |text: &str| {
            let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
            let (state, at) = None
                .or_else(|| Some(("retired", field("Retired-At: ")?)))
                .or_else(|| Some(("current", field("Activated-At: ")?)))
                .or_else(|| Some(("next", field("Created-At: ")?)))?;
            Some((field("Kid: ")?.to_owned(), format!("{state} {at}")))
        };
        records(self.dir.path()).iter().filter_map(|(_, text)| entered(text)).collect()
    }

    /// Whoever is there answers for so long, and looks.
    fn pass(&mut self, time: Duration) {
        let entered = self.entered();
        let awake = self.servers.iter().flatten().filter(|server| server.stopped.is_none());
        let answered: BTreeSet<_> = awake.flat_map(|server| server.process.kids()).collect();
        for kid in &answered {
            let state = entered.get(kid).cloned().unwrap_or_default();
            let really = self.really.entry(kid.clone()).or_default();
            if really.0 != state {
                *really = (state, Duration::ZERO);
            }
            really.1 += time;
        }
        self.now += time;
        let wall = self.wall();
        for server in self.servers.iter_mut().flatten() {
            match &mut server.stopped {
                Some(stopped) => *stopped += time,
                None => server.process.pass(time),
            }
            server.process.wall = wall;
        }
    }

    fn step(&mut self) {
        let (number, dice) = (usize::try_from(self.roll(2)).unwrap(), self.roll(12));
        match dice {
            0 => self.servers[number] = None,
            1 if self.servers[number].is_none() => {
                let wall = self.wall();
                let process = Process::start(self.dir.path(), self.policy, wall);
                let began = self.now;
                self.servers[number] = Some(Server { process, began, stopped: None });
            }
            2 => self.wrong_by = i64::try_from(self.roll(2_000_000)).unwrap() - 1_000_000,
            3 => {
                let off = i64::try_from(self.roll(400_000)).unwrap() - 200_000;
                let wall = self.wall() + chrono::TimeDelta::seconds(off);
                if self.dir.path().join("keys").exists() {
                    let config = config(self.dir.path(), self.policy);
                    let _ = rotate(&config, &Standing::at(wall), false);
                }
            }
            4 if self.roll(4) == 0 => {
                write_key(&self.dir.path().join("private_key.pem"), &new_key());
            }
            5 => {
                if let Some(server) = &mut self.servers[number] {
                    server.stopped.get_or_insert_default();
                }
            }
            6 => self.go_on(number),
            _ => {}
        }
        self.break_it(number);
        let time = match self.roll(4) {
            0 => SECOND,
            1 => 15 * SECOND,
            2 => 7 * MINUTE,
            _ => 40 * MINUTE,
        };
        self.pass(time);
        let current = support::kid_in(self.dir.path().join("private_key.pem"));
        self.promotions.extend(current);
    }

    /// A process that was stopped goes on.
    fn go_on(&mut self, number: usize) {
        let counts = self.breakage == Breakage::CountsStops;
        let wall = self.wall();
        let Some(server) = &mut self.servers[number] else { return };
        let Some(stopped) = server.stopped.take() else { return };
        if counts {
            server.process.pass(stopped);
        } else {
            server.process.freeze(stopped);
        }
        server.process.wall = wall;
    }

    /// Changes what is kept as a broken service would have.
    fn break_it(&mut self, number: usize) {
        let file = self.dir.path().join("keys/.served");
        let Ok(text) = std::fs::read_to_string(&file) else { return };
        let follows =
            self.servers[1 - number].as_ref().map(|server| self.now.saturating_sub(server.began));
        let own = follows.filter(|_| self.breakage == Breakage::AddsOwn && self.roll(8) == 0);
        let mut lines: Vec<Vec<_>> =
            text.lines().map(|line| line.split(' ').map(str::to_owned).collect()).collect();
        for words in &mut lines[1..] {
            let served: u64 = words[3].parse().unwrap();
            let most = self.most.entry(words[0].clone()).or_default();
            *most = served.max(*most);
            words[3] = match (self.breakage, own) {
                (Breakage::CountsOn, _) if words[1] == "retired" => most.to_string(),
                (Breakage::AddsOwn, Some(own)) => (served + own.as_secs()).to_string(),
                (Breakage::CountsDowntime, _) if self.servers.iter().all(Option::is_none) => {
                    (served + 60).to_string()
                }
                _ => continue,
            };
        }
        let text: String = lines.iter().map(|words| words.join(" ") + "\n").collect();
        std::fs::write(&file, text).unwrap();
    }

    /// What is counted, and exceeds what really was.
    fn excess(&self) -> Option<String> {
        let text = std::fs::read_to_string(self.dir.path().join("keys/.served")).ok()?;
        let entered = self.entered();
        text.lines().skip(1).find_map(|line| {
            let words: Vec<_> = line.split(' ').collect();
            let state = format!("{} {}", words[1], words[2]);
            let really = self.really.get(words[0]).filter(|really| really.0 == state);
            let really = really.map_or(Duration::ZERO, |really| really.1);
            let counted = Duration::from_secs(words[3].parse().unwrap());
            // What is of another state counts as nothing.
            let counts = entered.get(words[0]) == Some(&state);
            (counts && counted > really).then(|| format!("{line}: really {really:?}"))
        })
    }
}

/// Runs it; returns what is wrong, and how many keys have signed.
fn run(seed: u64, breakage: Breakage) -> (Option<String>, usize) {
    let mut issuer = Issuer::new(seed, breakage);
    for _ in 0..150 {
        issuer.step();
        if let Some(excess) = issuer.excess() {
            return (Some(excess), issuer.promotions.len());
        }
    }
    (None, issuer.promotions.len())
}

#[test]
fn a_count_never_exceeds_the_time_for_which_a_key_was_really_answered() {
    let mut promotions = 0;
    for seed in 1..=4 {
        let (excess, promoted) = run(seed, Breakage::None);
        assert_eq!(excess, None, "seed {seed}");
        promotions += promoted;
    }
    assert!(promotions > 20, "something has happened: {promotions}");
}

#[test]
fn each_breakage_is_found() {
    for breakage in
        [Breakage::CountsOn, Breakage::CountsStops, Breakage::AddsOwn, Breakage::CountsDowntime]
    {
        let found = (1..=30).find_map(|seed| run(seed, breakage).0);
        assert!(found.is_some(), "{breakage:?}");
    }
}
