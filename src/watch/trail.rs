//! Which directories decide what a path leads to: [`follow`] walks it as the kernel does, and notes
//! each directory in which a name could be made to lead elsewhere.

use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};
use std::{env, fs, io};

/// As many links as the kernel follows in one path.
const MAX_LINKS: usize = 40;

/// A name that leads on, and the directory that it is in, whose own path has no link in it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) dir: PathBuf,
    pub(super) name: OsString,
    /// Whether a link led here, or the name is one.
    pub(super) is_led: bool,
}

/// Follows `path` to its end, and returns that, without a link in it, and what led there: the last
/// name, each link, and every name behind a link.
///
/// What comes after a missing name is not looked for; its directory is where it will appear.
///
/// # Errors
///
/// If links lead in a circle, or the working directory is gone.
pub(super) fn follow(path: &Path) -> io::Result<(PathBuf, Vec<Step>)> {
    let mut at = if path.is_absolute() { PathBuf::from("/") } else { env::current_dir()? };
    let mut ahead = Vec::new();
    push(path, &mut ahead);
    let (mut steps, mut links) = (Vec::new(), 0);
    while let Some(name) = ahead.pop() {
        if name == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&name);
        let target = fs::read_link(&next);
        let is_led = links > 0 || target.is_ok();
        let is_missing =
            target.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        if is_led || is_missing || ahead.is_empty() {
            steps.push(Step { dir: at.clone(), name, is_led });
        }
        match target {
            Ok(_) if links == MAX_LINKS => return Err(rustix::io::Errno::LOOP.into()),
            Ok(target) => {
                links += 1;
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                push(&target, &mut ahead);
            }
            Err(_) => at = next,
        }
        if is_missing {
            at.extend(ahead.into_iter().rev());
            break;
        }
    }
    Ok((at, steps))
}

/// Puts the names of `path` before those that are `ahead`, whose last is the next.
fn push(path: &Path, ahead: &mut Vec<OsString>) {
    let names = path.components().rev().filter_map(|part| match part {
        Component::Normal(name) => Some(name),
        Component::ParentDir => Some(OsStr::new("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    ahead.extend(names.map(OsStr::to_owned));
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn each_link_and_what_lies_behind_it_is_a_step() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let at = |path: &str| root.join(path);
        fs::create_dir_all(at("a/b/c")).unwrap();
        fs::create_dir(at("other")).unwrap();
        symlink("a/b", at("near")).unwrap();
        symlink(at("near/c"), at("other/far")).unwrap();
        symlink("../near/c", at("other/up")).unwrap();
        symlink("nowhere", at("other/dangling")).unwrap();
        let found = |path: &str| {
            let (end, steps) = follow(&at(path)).unwrap();
            let end = end.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
            let below = |step: &Step| {
                let dir = step.dir.strip_prefix(&root).ok()?;
                Some(dir.join(&step.name).to_str().unwrap().to_owned())
            };
            (end, steps.iter().filter_map(below).collect::<Vec<_>>())
        };
        let expect = |end: &str, steps: &[&str]| {
            (end.to_owned(), steps.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(found("a/b/c"), expect("a/b/c", &["a/b/c"]), "no link: the last name");
        assert_eq!(found("near/c"), expect("a/b/c", &["near", "a", "a/b", "a/b/c"]));
        let far = ["other/far", "near", "a", "a/b", "a/b/c"];
        assert_eq!(found("other/far"), expect("a/b/c", &far));
        let up = ["other/up", "near", "a", "a/b", "a/b/c"];
        assert_eq!(found("other/up"), expect("a/b/c", &up));
        let dangling = ["other/dangling", "other/nowhere"];
        assert_eq!(found("other/dangling/x"), expect("other/nowhere/x", &dangling));
        assert_eq!(found("none/x/y"), expect("none/x/y", &["none"]));
    }

    #[test]
    fn a_circle_of_links_ends() {
        let dir = tempfile::tempdir().unwrap();
        symlink("b", dir.path().join("a")).unwrap();
        symlink("a", dir.path().join("b")).unwrap();
        let error = follow(&dir.path().join("a")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::LOOP.raw_os_error()));
    }

    #[test]
    fn a_relative_path_begins_in_the_working_directory() {
        let here = env::current_dir().unwrap();
        assert_eq!(follow(Path::new(".")).unwrap(), (here.clone(), vec![]));
        let (end, steps) = follow(Path::new("./src/lib.rs")).unwrap();
        assert_eq!(end, here.join("src/lib.rs"));
        let step = Step { dir: here.join("src"), name: "lib.rs".into(), is_led: false };
        assert_eq!(steps, [step]);
    }
}
