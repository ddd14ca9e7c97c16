//! `If-None-Match` (RFC 9110 section 13.1.2). Pure: it knows no response.

use axum::http::header::{HeaderMap, HeaderValue, IF_NONE_MATCH};

/// Whether the request names `etag`, so that 304 is the answer.
///
/// The comparison is weak (RFC 9110 section 8.8.3.2), as section 13.1.2 wants it. `*` counts only
/// where it is the whole field. From the first malformed member on, a line names nothing: a whole
/// answer is right for any client, a 304 only for one that has the document.
pub(super) fn names(headers: &HeaderMap, etag: &HeaderValue) -> bool {
    let mut lines = headers.get_all(IF_NONE_MATCH).iter();
    let Some(first) = lines.next() else {
        return false;
    };
    let mut lines = lines.peekable();
    if first.as_bytes().trim_ascii() == b"*" {
        return lines.peek().is_none();
    }
    std::iter::once(first)
        .chain(lines)
        .flat_map(|line| EntityTags(line.as_bytes()))
        .any(|tag| tag == opaque(etag.as_bytes()))
}

/// The opaque tags, quotes included and `W/` left off, of one line of a `#entity-tag` list, up to
/// the first malformed member (RFC 9110 sections 5.6.1 and 8.8.3).
struct EntityTags<'a>(&'a [u8]);

impl<'a> Iterator for EntityTags<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        // Empty list members are allowed: RFC 9110 section 5.6.1.2.
        let start = self.0.iter().position(|b| !b", \t".contains(b))?;
        let quoted = opaque(&self.0[start..]);
        // Taken now, so that a malformed member is where the list ends.
        self.0 = &[];
        // A comma is a legal character of a tag, so the closing quote ends it and nothing else.
        let inner = quoted.strip_prefix(b"\"")?;
        let len = inner.iter().position(|&b| b == b'"')?;
        if !inner[..len].iter().all(|&b| is_etagc(b)) {
            return None;
        }
        let (tag, rest) = quoted.split_at(len + 2);
        let rest = rest.trim_ascii_start();
        if !(rest.is_empty() || rest.starts_with(b",")) {
            return None;
        }
        self.0 = rest;
        Some(tag)
    }
}

/// `tag` without the mark of a weak one, which is case-sensitive.
fn opaque(tag: &[u8]) -> &[u8] {
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

/// `etagc` of RFC 9110 section 8.8.3: visible ASCII without the quote, and `obs-text`.
fn is_etagc(byte: u8) -> bool {
    byte != b'"' && (byte.is_ascii_graphic() || byte >= 0x80)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a request with these lines names the strong tag `"abc,d"`.
    fn named(lines: &[&[u8]]) -> bool {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(IF_NONE_MATCH, HeaderValue::from_bytes(line).unwrap());
        }
        names(&headers, &HeaderValue::from_static("\"abc,d\""))
    }

    #[test]
    fn a_tag_is_found_wherever_the_grammar_lets_it_stand() {
        for lines in [
            &[br#""abc,d""# as &[u8]][..],
            &[br#"W/"abc,d""#],
            &[br#"  "abc,d"  "#],
            &[br#""x", "abc,d""#],
            &[br#""abc,d", "x""#],
            &[br#""x","abc,d""#],
            &[br#", ,	"",,"abc,d","#],
            &[br#"W/"x" , W/"abc,d" , "y""#],
            &[b"\"\xff\", \"abc,d\""],
            &[br#""x""#, br#""y", "abc,d""#],
            &[b"", br#""abc,d""#],
            &[b"garbage", br#""abc,d""#],
            &[b"*"],
            &[b" * "],
        ] {
            assert!(named(lines), "{lines:?}");
        }
    }

    #[test]
    fn no_other_text_names_the_tag() {
        for lines in [
            &[][..],
            &[b"" as &[u8]],
            &[b","],
            &[br#""abc""#],
            &[br#""ABC,D""#],
            &[b"abc,d"],
            &[br#"w/"abc,d""#],
            &[br#"W/ "abc,d""#],
            &[br#"W/W/"abc,d""#],
            &[br#""abc,d"#],
            &[br#""abc,d"x"#],
            &[br#""abc,d" "x""#],
            &[br#"x, "abc,d""#],
            &[br#"*, "abc,d""#],
            &[br#""x y", "abc,d""#],
            &[b"\""],
            &[b"W/"],
            &[b"**"],
            &[b"*", b"*"],
            &[b"\"x\"", b"*"],
        ] {
            assert!(!named(lines), "{lines:?}");
        }
    }
}
