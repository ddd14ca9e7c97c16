//! What the README says of the command line is what the program says.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::process::Command;

const README: &str = include_str!("../README.md");

fn help(args: &[&str]) -> String {
    let program = env!("CARGO_BIN_EXE_jwks-server");
    let output = Command::new(program).args(args).arg("--help").output().unwrap();
    assert!(output.status.success(), "{args:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The section of the README under this heading.
fn section(heading: &str) -> &'static str {
    let (_, rest) = README.split_once(&format!("\n## {heading}\n")).unwrap();
    rest.split("\n## ").next().unwrap()
}

/// The words of `text` that begin with `prefix`, without what is around them.
fn words<'a>(text: &'a str, prefix: &str) -> BTreeSet<&'a str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let is_word = |word: &&str| word.starts_with(prefix) && word.chars().any(char::is_alphanumeric);
    text.split(|c| !is_part(c)).filter(is_word).collect()
}

#[test]
fn the_table_of_options_names_each_option_and_variable() {
    let (help, table) = (help(&[]), section("Options"));
    let mut options = words(&help, "--");
    options.retain(|option| !["--help", "--version"].contains(option));
    assert!(options.len() > 5);
    assert_eq!(words(table, "--"), options);
    assert_eq!(words(table, "JWKS_SERVER_"), words(&help, "JWKS_SERVER_"));
}

#[test]
fn the_table_of_commands_names_each_command_and_its_options() {
    let (help_text, table) = (help(&[]), section("Commands"));
    let (_, commands) = help_text.split_once("Commands:\n").unwrap();
    let listed = commands.split("\n\n").next().unwrap().lines();
    let commands: Vec<_> = listed.filter_map(|line| line.split_whitespace().next()).collect();
    assert!(commands.contains(&"rotate"), "{commands:?}");
    for command in commands {
        assert!(help(&[command]).contains("Usage:"));
        let row = table.lines().find(|line| line.contains(command));
        let row = row.unwrap_or_else(|| panic!("`{command}` is not in the README"));
        for option in words(row, "--") {
            let known = help(&[command]);
            assert!(words(&known, "--").contains(option), "{command} {option}");
        }
    }
}

/// Each line of a shell example that runs the program is one that the program understands.
#[test]
fn the_examples_are_understood() {
    let mut tried = 0;
    let blocks = README.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    for line in blocks.flat_map(str::lines) {
        let Some(args) = line.trim().strip_prefix("jwks-server") else { continue };
        let args = args.split('#').next().unwrap();
        let args: Vec<_> =
            args.split_whitespace().take_while(|arg| !arg.starts_with('"')).collect();
        let args: Vec<_> = args.iter().map(|arg| if *arg == "KID" { KID } else { arg }).collect();
        let args =
            if args.last() == Some(&"--reason") { [&args[..], &["x"]].concat() } else { args };
        help(&args);
        tried += 1;
    }
    assert!(tried >= 4, "{tried} examples");
}

const KID: &str = "NzbLwXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs";
