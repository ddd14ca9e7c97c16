//! Text of others' on its way to a person: file names, reasons, causes.
//!
//! A name may hold line breaks, which forge lines of a log; escape codes, which move a terminal's
//! cursor; and characters that turn the reading direction round or are not seen at all. Each of them
//! is shown as an escape, in prose by [`plain`], in JSON by [`json`], where the value stays the same.

use std::borrow::Cow;
use std::fmt::{self, Display, Write as _};
use std::path::Path;

/// Shows `text` with no hidden character in it, as one line: `\n`, `\u{202e}`.
pub fn plain(text: &str) -> impl Display + '_ {
    Plain(text)
}

/// Shows a path in the same way; what is not UTF-8 in it has replacement characters.
pub fn plain_path(path: &Path) -> String {
    plain(&path.to_string_lossy()).to_string()
}

/// `json`, a JSON text, with `\u202e` in place of each hidden character; the line breaks between its
/// values stay. It has the same values.
pub fn json(json: &str) -> Cow<'_, str> {
    // JSON itself escapes line breaks in strings: what is left of them is between values.
    let is_hidden = |c: char| c != '\n' && is_hidden(c);
    if !json.contains(is_hidden) {
        return json.into();
    }
    let mut shown = String::with_capacity(json.len() + 32);
    for c in json.chars() {
        if is_hidden(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a string does not fail.
                let _ = write!(shown, "\\u{unit:04x}");
            }
        } else {
            shown.push(c);
        }
    }
    shown.into()
}

struct Plain<'a>(&'a str);

impl Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in self.0.split_inclusive(is_hidden) {
            let mut chars = part.chars();
            match chars.next_back().filter(|last| is_hidden(*last)) {
                Some(hidden) => write!(f, "{}{}", chars.as_str(), hidden.escape_debug())?,
                None => f.write_str(part)?,
            }
        }
        Ok(())
    }
}

/// Whether a character is none that is seen: a control, one that changes the direction of what
/// follows, a line separator, or one without a width.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str =
        "a\nb\u{1b}[2J\u{7f}\u{9b}\u{202e}txt\u{200d}\u{2028}\u{e0041}é \"it's\" \\";

    #[test]
    fn what_is_hidden_is_shown_and_the_rest_is_as_it_was() {
        let shown = plain(HOSTILE).to_string();
        assert_eq!(
            shown,
            "a\\nb\\u{1b}[2J\\u{7f}\\u{9b}\\u{202e}txt\\u{200d}\\u{2028}\\u{e0041}é \"it's\" \\"
        );
        assert!(!shown.contains(is_hidden));
        assert_eq!(plain("keys/a b.pem").to_string(), "keys/a b.pem");
    }

    #[test]
    fn json_keeps_its_values_and_hides_nothing() {
        let text = serde_json::to_string_pretty(&[HOSTILE, "plain"]).unwrap();
        let shown = json(&text);
        assert!(!shown.contains(|c| c != '\n' && is_hidden(c)), "{shown:?}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&shown).unwrap(), [HOSTILE, "plain"]);
        assert!(matches!(json("[\n1\n]"), Cow::Borrowed(_)));
    }
}
