//! Modules depend in one direction only, as the map in `lib.rs` says.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Each module, and the modules of this crate that it may name.
const MAP: &[(&str, &[&str])] = &[
    ("jwk", &[]),
    ("health", &[]),
    ("text", &[]),
    ("error", &["text"]),
    ("identity", &[]),
    ("watch", &[]),
    ("output", &[]),
    ("snapshot", &["jwk"]),
    ("key", &["jwk"]),
    ("assertion", &["jwk", "key"]),
    ("lifecycle", &["jwk"]),
    ("clock", &["lifecycle"]),
    ("http", &["health", "snapshot", "text"]),
    ("store", &["error", "jwk", "key", "lifecycle", "text"]),
    ("config", &["http", "key", "lifecycle", "store"]),
    ("keeper", &["clock", "error", "jwk", "key", "lifecycle", "store", "text"]),
    ("manager", &["clock", "error", "health", "jwk", "keeper", "lifecycle", "snapshot", "store"]),
    (
        "command",
        &[
            "assertion",
            "clock",
            "config",
            "jwk",
            "keeper",
            "key",
            "lifecycle",
            "manager",
            "store",
            "text",
            "watch",
        ],
    ),
    (
        "server",
        &["clock", "config", "error", "health", "http", "manager", "snapshot", "store", "watch"],
    ),
    (
        "cli",
        &[
            "assertion",
            "clock",
            "command",
            "config",
            "error",
            "http",
            "identity",
            "jwk",
            "output",
            "server",
            "text",
        ],
    ),
];

/// Crates that a pure module must not name: it knows no runtime, no files and no sockets.
const PURE: &[&str] = &["text", "jwk", "health", "key", "assertion", "lifecycle"];
const IMPURE: &[&str] =
    &["tokio::", "std::fs", "std::net", "rustix::", "notify::", "hyper::", "axum::"];

fn sources() -> BTreeMap<String, Vec<PathBuf>> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&src, &mut found);
    let mut modules = BTreeMap::<String, Vec<PathBuf>>::new();
    for path in found {
        let first = path.strip_prefix(&src).unwrap().components().next().unwrap();
        let module = first.as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned();
        modules.entry(module).or_default().push(path);
    }
    modules.remove("lib");
    modules.remove("main");
    modules
}

/// The code of a file: no comments, and nothing from `#[cfg(test)]` on, which may use anything.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let is_test = path
        .components()
        .any(|part| matches!(part.as_os_str().to_str(), Some("tests" | "tests.rs")));
    if is_test {
        return String::new();
    }
    let production = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let lines = production.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// The modules of this crate that `code` names.
fn named(code: &str) -> BTreeSet<String> {
    code.split("crate::")
        .skip(1)
        .flat_map(|rest| {
            let group = rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
            let list = group.map_or(rest, |(list, _)| list);
            let names = list.split(',').take(if group.is_some() { usize::MAX } else { 1 });
            names.map(|name| {
                let word: String = name
                    .trim_start()
                    .chars()
                    .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                    .collect();
                word
            })
        })
        .collect()
}

#[test]
fn modules_depend_in_one_direction_only() {
    let modules = sources();
    let known: BTreeSet<_> = MAP.iter().map(|(module, _)| (*module).to_owned()).collect();
    assert_eq!(modules.keys().cloned().collect::<BTreeSet<_>>(), known, "the map is complete");
    for (position, (module, allowed)) in MAP.iter().enumerate() {
        let above: Vec<_> = MAP[..position].iter().map(|(module, _)| *module).collect();
        assert!(allowed.iter().all(|name| above.contains(name)), "{module} points downwards");
        let mut used = BTreeSet::new();
        for path in &modules[*module] {
            used.extend(named(&code(path)));
        }
        used.remove(*module);
        let allowed: BTreeSet<_> = allowed.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(used, allowed, "what `{module}` names, and what the map says");
    }
}

#[test]
fn pure_modules_name_no_runtime_and_no_files() {
    let modules = sources();
    for module in PURE {
        for path in &modules[*module] {
            let code = code(path);
            for name in IMPURE {
                assert!(!code.contains(name), "{} names {name}", path.display());
            }
        }
    }
}

/// The control: the reader of imports finds what is there.
#[test]
fn an_import_is_found_in_every_form() {
    let code = "use crate::jwk::Jwk;\nuse crate::{key, store::Store};\nlet x = crate::http::serve;";
    let expected = ["http", "jwk", "key", "store"];
    assert_eq!(named(code), expected.map(str::to_owned).into());
}
