//! What is done while something fails, and who takes part.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::support::{Connection, Key, Server, eventually, kid_in, kids_of, record_of};

pub(crate) const RULES: [&str; 6] =
    ["--publish-lead", "1s", "--retain-for", "1h", "--cache-max-age", "0s"];

/// Who takes part in a case.
pub(crate) struct Cast {
    pub(crate) current: Key,
    /// Published long ago, and ready.
    pub(crate) next: Option<Key>,
    /// Retired, and promised for decades.
    pub(crate) promised: Key,
    /// Retired, and to be removed.
    pub(crate) expired: Option<Key>,
    /// What the command revokes.
    pub(crate) revoked: Option<String>,
}

/// What is done while something fails.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// The command; none for the server's own rotation.
    pub(crate) command: Option<fn(&Cast) -> Vec<String>>,
    pub(crate) with_next: bool,
    /// Whether a key may sign that was published to nobody.
    pub(crate) in_haste: bool,
}

pub(crate) const CASES: [Case; 7] = [
    Case {
        name: "rotate, which stages a key",
        command: Some(|_| vec!["rotate".into()]),
        with_next: false,
        in_haste: false,
    },
    Case {
        name: "rotate, which promotes a key",
        command: Some(|_| vec!["rotate".into()]),
        with_next: true,
        in_haste: false,
    },
    Case {
        name: "rotate --now",
        command: Some(|_| vec!["rotate".into(), "--now".into()]),
        with_next: false,
        in_haste: true,
    },
    Case {
        name: "revoke of the current key",
        command: Some(|cast| revoke(&cast.current)),
        with_next: true,
        in_haste: true,
    },
    Case {
        name: "revoke of the next key",
        command: Some(|cast| revoke(cast.next.as_ref().unwrap())),
        with_next: true,
        in_haste: false,
    },
    Case {
        name: "revoke of a retired key",
        command: Some(|cast| revoke(&cast.promised)),
        with_next: true,
        in_haste: false,
    },
    Case { name: "the server's own rotation", command: None, with_next: true, in_haste: false },
];

/// The cases, or those whose name has in it what `FAULTS_CASE` says.
pub(crate) fn chosen_cases() -> impl Iterator<Item = &'static Case> {
    let chosen = std::env::var("FAULTS_CASE").unwrap_or_default();
    CASES.iter().filter(move |case| case.name.contains(&chosen))
}

pub(crate) fn revoke(key: &Key) -> Vec<String> {
    ["revoke", &key.kid(), "--reason", "test"].map(str::to_owned).into()
}

impl Case {
    /// Puts everybody in place.
    pub(crate) fn prepare(&self, dir: &Path) -> Cast {
        fs::create_dir(dir.join("keys")).unwrap();
        let cast = Cast {
            current: Key::new(),
            next: self.with_next.then(Key::new),
            promised: Key::new(),
            expired: self.command.is_none().then(Key::new),
            revoked: None,
        };
        let retired = "Activated-At: 2020-01-01T00:00:00Z\nRetired-At: 2020-01-02T00:00:00Z\n";
        record(dir, &cast.current, "Activated-At: 2020-01-02T00:00:00Z\n");
        record(dir, &cast.promised, &format!("{retired}Remove-At: 2099-01-01T00:00:00Z\n"));
        private(&dir.join("private_key.pem"), &cast.current);
        if let Some(next) = &cast.next {
            record(dir, next, "");
            private(&dir.join("next_key.pem"), next);
        }
        if let Some(expired) = &cast.expired {
            record(dir, expired, &format!("{retired}Remove-At: 2020-01-03T00:00:00Z\n"));
        }
        // All has been served for 100 days, but for the retired key that is kept.
        let (early, late, days) = ("2020-01-01T00:00:00Z", "2020-01-02T00:00:00Z", 8_640_000);
        let counts = [
            (Some(&cast.current), "current", late, days, 0),
            (cast.next.as_ref(), "next", early, days, 0),
            (Some(&cast.promised), "retired", late, 0, days),
            (cast.expired.as_ref(), "retired", late, days, 0),
        ];
        let mut text = "jwks-server time served, version 1\n".to_owned();
        for (key, state, since, served, promised) in counts {
            let Some(key) = key else { continue };
            text += &format!("{} {state} {since} {served} {promised}\n", key.kid());
        }
        fs::write(dir.join("keys/.served"), text).unwrap();
        let args = self.command.map(|command| command(&cast)).unwrap_or_default();
        let revoked = (args.first().map(String::as_str) == Some("revoke")).then(|| args[1].clone());
        Cast { revoked, ..cast }
    }

    /// What the server is started with.
    pub(crate) fn serve_args(&self) -> Vec<&'static str> {
        let mut args = vec!["--port", "0"];
        args.extend(RULES);
        if self.command.is_none() {
            args.extend(["--rotate-every", "90d"]);
        }
        args
    }

    pub(crate) fn args(&self, cast: &Cast) -> Vec<String> {
        match self.command {
            Some(command) => {
                let mut args = command(cast);
                args.extend(RULES.map(str::to_owned));
                args
            }
            None => self.serve_args().into_iter().map(str::to_owned).collect(),
        }
    }

    /// Waits until the rotation is done, and sees that no set lacks a promised key meanwhile.
    pub(crate) fn settles(server: &Server, dir: &Path, cast: &Cast) {
        let next = cast.next.as_ref().unwrap().kid();
        let (current, promised) = (cast.current.kid(), cast.promised.kid());
        let mut round = 0;
        eventually("the rotation is done", || {
            let kids = server.kids();
            for kid in [&next, &current, &promised] {
                assert!(kids.contains(kid), "{kid} is missing: {kids:?}");
            }
            // An event makes the server look; otherwise its next try is 10 s away.
            round += 1;
            if round % 20 == 0 {
                fs::write(dir.join("poke"), "").unwrap();
                fs::remove_file(dir.join("poke")).unwrap();
            }
            let says = |kid: &str, field: &str| {
                record_of(dir, kid).is_some_and(|(_, text)| text.contains(field))
            };
            let expired = cast.expired.as_ref().is_some_and(|key| kids.contains(&key.kid()));
            let promoted = kids[0] == next && says(&current, "Remove-At") && !expired;
            // A kill may have left the record of a key that nobody has; it stays as a retired one.
            let standby = kid_in(dir.join("next_key.pem"))?;
            let staged = kids.last() == Some(&standby) && says(&standby, "Published-At");
            (promoted && staged).then_some(())
        });
    }

    /// Waits until the server is killed, or has done what there is to do; returns what it served.
    pub(crate) fn watch(server: &mut Server, dir: &Path, cast: &Cast) -> BTreeSet<String> {
        let mut served = BTreeSet::new();
        eventually("the server is killed, or done", || {
            if !server.runs() {
                return Some(());
            }
            let kids = kids_of_live(server)?;
            served.extend(kids.iter().cloned());
            let done = match (&cast.expired, &cast.next) {
                (Some(expired), Some(next)) => {
                    let staged = kids.last() == kid_in(dir.join("next_key.pem")).as_ref();
                    !kids.contains(&expired.kid()) && staged && kids[0] == next.kid()
                }
                _ => true,
            };
            done.then_some(())
        });
        served
    }
}

/// The kids that are served, unless the server is just being killed.
fn kids_of_live(server: &Server) -> Option<Vec<String>> {
    let mut connection = Connection::new(server.address());
    Some(kids_of(&connection.key_set().ok()?.body))
}

pub(crate) fn record(dir: &Path, key: &Key, state: &str) {
    let kid = key.kid();
    let text = format!(
        "jwks-server key record, version 1\nKid: {kid}\nCreated-At: 2020-01-01T00:00:00Z\n\
         Published-At: 2020-01-01T00:00:00Z\n{state}{}",
        key.spki()
    );
    fs::write(dir.join(format!("keys/20200101T000000Z-{kid}.pem")), text).unwrap();
}

pub(crate) fn private(file: &Path, key: &Key) {
    fs::write(file, key.sec1()).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
}
