//! The table: what may lie in the directory, how it is made, and what must come of it.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use crate::home::write;

/// One thing that may lie there.
pub(crate) struct Case {
    pub(crate) what: String,
    /// Makes it under a name that is free.
    pub(crate) make: Box<dyn Fn(&Path)>,
    pub(crate) verdict: Verdict,
}

/// What must come of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// A private key with this kid.
    Private(String),
    /// A public key with this kid, which is refused where a private one belongs.
    Public(String),
    /// Refused for this reason.
    Refused(String),
}

/// The kid of most of the fixtures.
pub(crate) const KID: &str = "oKIywvGUpTVTyxMQ3bwIIeQUudfr_CkLMjCE19ECD-U";
/// Why a public key is refused where a private one belongs.
pub(crate) const PUBLIC_ONLY: &str = "holds a public key, and a private key is needed here";

const NO_PEM: &str = "no PEM block in it";
const TOO_LARGE: &str = "larger than 16 KiB";
const ESCAPES: &str = "a symbolic link that leads out of its directory";
const ABSOLUTE: &str = "an absolute symbolic link; make it relative to its directory";
const LIMIT: usize = 16 * 1024;

/// The whole table.
pub(crate) fn cases() -> Vec<Case> {
    [kinds(), sizes(), framings(), fixtures()].into_iter().flatten().collect()
}

pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/keys").join(name)
}

fn text(name: &str) -> String {
    fs::read_to_string(fixture(name)).unwrap()
}

fn case(what: &str, verdict: Verdict, make: impl Fn(&Path) + 'static) -> Case {
    Case { what: what.to_owned(), make: Box::new(make), verdict }
}

fn refused(what: &str, reason: &str, make: impl Fn(&Path) + 'static) -> Case {
    case(what, Verdict::Refused(reason.to_owned()), make)
}

/// A file with this text, which holds the private key of the fixtures.
fn accepted(what: &str, text: impl Into<Vec<u8>>) -> Case {
    let text = text.into();
    case(what, Verdict::Private(KID.to_owned()), move |file| write(file, &text))
}

/// What is no file, or none of its own.
pub(crate) fn kinds() -> Vec<Case> {
    let mut cases = vec![
        refused("a FIFO", "a FIFO, not a regular file", |file| {
            mknodat(CWD, file, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        }),
        refused("a socket", "a socket, not a regular file", |file| {
            drop(UnixListener::bind(file).unwrap());
        }),
        refused("a directory", "a directory, not a regular file", |file| {
            fs::create_dir(file).unwrap();
        }),
        refused("a dangling link", "a symbolic link that leads nowhere", |file| {
            symlink("nowhere", file).unwrap();
        }),
        refused(
            "a looping link",
            "a symbolic link that leads in a circle or to no ordinary file",
            |file| symlink(file.file_name().unwrap(), file).unwrap(),
        ),
        refused("a link to memory", ABSOLUTE, |file| symlink("/proc/self/mem", file).unwrap()),
        refused("a link by way of one of the kernel's own", ABSOLUTE, |file| {
            symlink("/proc/self/exe", file).unwrap();
        }),
        refused("a link to a device", "a device, not a regular file", |file| {
            symlink("/dev/zero", file).unwrap();
        }),
        refused("a link to a key elsewhere", ABSOLUTE, |file| {
            symlink(fixture("accepted/sec1.pem"), file).unwrap();
        }),
        refused("a link that leads out and in again", ESCAPES, |file| {
            let dir = file.parent().unwrap();
            write(&dir.join("target"), text("accepted/sec1.pem"));
            let name = dir.file_name().unwrap();
            symlink(Path::new("..").join(name).join("target"), file).unwrap();
        }),
        refused("an absolute link within", ABSOLUTE, |file| {
            let target = file.with_file_name("target");
            write(&target, text("accepted/sec1.pem"));
            symlink(target, file).unwrap();
        }),
        case("a link within", Verdict::Private(KID.to_owned()), |file| {
            write(&file.with_file_name("target"), text("accepted/sec1.pem"));
            symlink("target", file).unwrap();
        }),
        case("a link by way of Kubernetes' ..data", Verdict::Public(KID.to_owned()), |file| {
            let dir = file.with_file_name("..2026_11_22");
            fs::create_dir(&dir).unwrap();
            write(&dir.join("key"), text("accepted/spki.pem"));
            symlink("..2026_11_22", file.with_file_name("..data")).unwrap();
            symlink("..data/key", file).unwrap();
        }),
    ];
    // Only root may make one; the link to a device is another way to the same end.
    if rustix::process::geteuid().is_root() {
        cases.push(refused("a device", "a device, not a regular file", |file| {
            let zero = makedev(1, 5);
            mknodat(CWD, file, FileType::CharacterDevice, Mode::RUSR, zero).unwrap();
        }));
    }
    cases
}

pub(crate) fn sizes() -> Vec<Case> {
    let key = text("accepted/sec1.pem");
    let padded = move |len: usize| format!("{}\n{key}", "x".repeat(len - key.len() - 1));
    vec![
        refused("nothing", NO_PEM, |file| write(file, "")),
        refused("one byte", NO_PEM, |file| write(file, "-")),
        refused("as many zero bytes as are read", NO_PEM, |file| write(file, vec![0; LIMIT])),
        accepted("a key at the end of as many bytes as are read", padded(LIMIT)),
        refused("a byte too many", TOO_LARGE, move |file| write(file, padded(LIMIT + 1))),
        refused("a gibibyte of nothing", TOO_LARGE, |file| {
            write(file, "");
            File::options().write(true).open(file).unwrap().set_len(1 << 30).unwrap();
        }),
    ]
}

/// What people, editors and tools make of a good file.
fn framings() -> Vec<Case> {
    let key = text("accepted/sec1.pem");
    let wrapped = |columns: usize| {
        let lines: Vec<_> = key.lines().collect();
        let base64 = lines[1..lines.len() - 1].concat();
        let body: Vec<_> =
            base64.as_bytes().chunks(columns).map(|line| str::from_utf8(line).unwrap()).collect();
        format!("{}\n{}\n{}\n", lines[0], body.join("\n"), lines[lines.len() - 1])
    };
    let utf16: Vec<u8> = key.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let half = key[..key.len() / 2].to_owned();
    let one_line = key.replace('\n', "");
    vec![
        accepted("CRLF", key.replace('\n', "\r\n")),
        accepted("a byte order mark", format!("\u{feff}{key}")),
        accepted("text before", format!("Bag Attributes\n    friendlyName: key\n{key}")),
        accepted("text that is not UTF-8 before", [b"\xff\xfe\0\n", key.as_bytes()].concat()),
        accepted("no final newline", key.trim_end()),
        accepted("two blank lines", format!("{key}\n\n")),
        accepted("one long line", wrapped(usize::MAX)),
        accepted("76 columns", wrapped(76)),
        refused("garbage", NO_PEM, |file| write(file, b"\0\x1b[31m garbage")),
        refused("UTF-16", NO_PEM, move |file| write(file, &utf16)),
        refused("half a key", "no END line; the file may be written in part", move |file| {
            write(file, &half);
        }),
        refused("lost line ends", "a BEGIN line that is not a line of its own", move |file| {
            write(file, &one_line);
        }),
    ]
}

/// The files that OpenSSL made.
fn fixtures() -> Vec<Case> {
    let listed = |list: &str| {
        let lines = text(list);
        let lines = lines.lines().filter(|line| !line.starts_with('#'));
        let pairs = lines.map(|line| line.split_once(' ').unwrap());
        pairs.map(|(name, word)| (name.to_owned(), word.to_owned())).collect::<Vec<_>>()
    };
    let made = |name: String, folder: &str, verdict: Verdict| {
        let pem = fs::read(fixture(folder).join(&name)).unwrap();
        case(&name, verdict, move |file| write(file, &pem))
    };
    let mut cases = Vec::new();
    for (name, kid) in listed("kids.txt") {
        let is_public = name.starts_with("spki");
        let verdict = if is_public { Verdict::Public(kid) } else { Verdict::Private(kid) };
        cases.push(made(name, "accepted", verdict));
    }
    for (name, reason) in listed("reasons.txt") {
        cases.push(made(name, "refused", Verdict::Refused(reason)));
    }
    cases
}
