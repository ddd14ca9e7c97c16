//! Mutations of what a PEM text holds, rather than of the text.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use libfuzzer_sys::fuzzer_mutate;

/// `text` with the DER of its last block changed, if it has a block, and the outcome is not longer
/// than `max_len`.
pub fn mutate(text: &[u8], max_len: usize) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(text).ok()?;
    let (before, block) = text.split_at(text.rfind("-----BEGIN ")?);
    let (begin, rest) = block.split_once('\n')?;
    let (body, end) = rest.split_at(rest.find("-----END ")?);
    let base64: String = body.split_ascii_whitespace().collect();
    let mut der = STANDARD.decode(base64).ok()?;
    let len = der.len();
    der.resize(len + ROOM, 0);
    let len = fuzzer_mutate(&mut der, len, len + ROOM);
    let base64 = STANDARD.encode(&der[..len]);
    let mutated = format!("{before}{begin}\n{base64}\n{end}").into_bytes();
    (mutated.len() <= max_len).then_some(mutated)
}

/// By how much a mutation may lengthen the DER, in bytes.
const ROOM: usize = 32;
