//! PEM framing: a text is split into blocks, and a block's base64 decoded.
//!
//! It is tolerant where OpenSSL and Go are (RFC 7468 section 2 asks for that), since people and
//! their editors write these files, and strict about the framing itself: a block that is cut short
//! is an error of its own, because that is what a half-written file looks like. What the bytes mean
//! is not known here.

use base64ct::{Base64, Encoding as _};
use zeroize::Zeroizing;

use super::{AlgorithmName, KeyError};

/// One block: what is between a `BEGIN` line and its `END` line.
pub(super) struct Block<'a> {
    label: &'a [u8],
    body: &'a [u8],
}

/// What a block's label announces.
#[derive(Clone, Copy)]
pub(super) enum Content {
    Sec1,
    Pkcs8,
    Spki,
    Parameters,
    /// OpenSSL names this one curve in the label.
    Sm2,
    Certificate,
    Encrypted,
    OpenSsh,
    Algorithm(AlgorithmName),
    Other,
}

/// The blocks in `text`, in order; there may be none.
pub(super) fn blocks(text: &[u8]) -> Result<Vec<Block<'_>>, KeyError> {
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    let mut blocks = Vec::new();
    let mut open = None;
    let mut line_end = 0;
    for line in text.split_inclusive(|byte| matches!(byte, b'\n' | b'\r')) {
        let line_start = line_end;
        line_end += line.len();
        let line = line.trim_ascii_end();
        match open {
            None if line.starts_with(BEGIN) => {
                open = Some((boundary(line, BEGIN).ok_or(KeyError::BeginLine)?, line_end));
            }
            // The hyphen is not in base64's alphabet, so a line of this kind is a boundary, and if
            // it is not the right one, the right one is missing.
            Some((label, body_start)) if line.starts_with(b"-") => {
                let end = boundary(line, END).ok_or(KeyError::NoEnd)?;
                if end != label {
                    return Err(KeyError::LabelMismatch { begin: shown(label), end: shown(end) });
                }
                let body = &text[body_start..line_start];
                blocks.push(Block { label, body });
                open = None;
            }
            _ => {}
        }
    }
    match open {
        None => Ok(blocks),
        Some(_) => Err(KeyError::NoEnd),
    }
}

impl Block<'_> {
    /// What the label announces.
    pub(super) fn content(&self) -> Content {
        match self.label {
            b"EC PRIVATE KEY" => Content::Sec1,
            b"PRIVATE KEY" => Content::Pkcs8,
            b"PUBLIC KEY" => Content::Spki,
            b"EC PARAMETERS" => Content::Parameters,
            b"SM2 PARAMETERS" | b"SM2 PRIVATE KEY" => Content::Sm2,
            b"CERTIFICATE" | b"X509 CERTIFICATE" | b"TRUSTED CERTIFICATE" => Content::Certificate,
            b"ENCRYPTED PRIVATE KEY" => Content::Encrypted,
            b"OPENSSH PRIVATE KEY" => Content::OpenSsh,
            b"RSA PRIVATE KEY" | b"RSA PUBLIC KEY" => Content::Algorithm(AlgorithmName::RSA),
            b"DSA PRIVATE KEY" => Content::Algorithm(AlgorithmName::DSA),
            _ => Content::Other,
        }
    }

    /// The label, fit to be shown.
    pub(super) fn label(&self) -> String {
        shown(self.label)
    }

    /// Whether the block's headers say that it is encrypted (RFC 1421 section 4.6.1.1).
    pub(super) fn is_encrypted(&self) -> bool {
        let mut lines = self.body.split(|byte| matches!(byte, b'\n' | b'\r'));
        lines.any(|line| {
            line.starts_with(b"Proc-Type:") && line.trim_ascii_end().ends_with(b"ENCRYPTED")
        })
    }

    /// The decoded bytes, in a buffer that is zeroized and never moved.
    pub(super) fn decode(&self) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        // The colon is not in base64's alphabet, so whatever has one is a header.
        if self.body.contains(&b':') {
            let encrypted = self.is_encrypted();
            return Err(if encrypted { KeyError::Encrypted } else { KeyError::Headers });
        }
        // Its capacity is that of the text, so it never grows and leaves no copy behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(self.body.len()));
        bytes.extend(self.body.iter().filter(|byte| !byte.is_ascii_whitespace()));
        let decoded = Base64::decode_in_place(&mut bytes).map_err(|_| KeyError::NotBase64)?;
        let len = decoded.len();
        bytes.truncate(len);
        Ok(bytes)
    }
}

/// The label in a line that is `prefix`, a label and five hyphens, and nothing else.
///
/// A label holds no two hyphens in a row (RFC 7468 section 3). Without that rule, a file whose line
/// breaks were lost would be one long label, and the reason for its refusal would quote the key.
fn boundary<'a>(line: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    let label = line.strip_prefix(prefix)?.strip_suffix(HYPHENS)?;
    (!label.windows(2).any(|pair| pair == b"--")).then_some(label)
}

/// A label fit for a terminal: labels are capitals, digits and blanks. Anything else may be a line of
/// the key that got into the place of the label, of which no part is told.
fn shown(label: &[u8]) -> String {
    let is_word = |byte: &u8| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b' ');
    if label.len() <= SHOWN_LABEL_LEN && label.iter().all(is_word) {
        String::from_utf8_lossy(label).into_owned()
    } else {
        "...".into()
    }
}

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
const BEGIN: &[u8] = b"-----BEGIN ";
const END: &[u8] = b"-----END ";
const HYPHENS: &[u8] = b"-----";
const SHOWN_LABEL_LEN: usize = 28;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_shown_if_it_is_no_longer_than_any_real_one() {
        let longest = "NETSCAPE CERTIFICATE REQUEST";
        assert_eq!(longest.len(), SHOWN_LABEL_LEN);
        assert_eq!(shown(longest.as_bytes()), longest);
        assert_eq!(shown(format!("{longest}S").as_bytes()), "...");
        // 64 capitals: a line of base64.
        assert_eq!(shown(&[b'A'; 64]), "...");
        for other in ["EC PRIVATE kEY", "EC/PRIVATE KEY", "EC+KEY"] {
            assert_eq!(shown(other.as_bytes()), "...", "{other}");
        }
    }
}
