//! A file's text, read as a key.

#![no_main]

use jwks_server_fuzz::{der, properties};
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};

fuzz_target!(|text: &[u8]| {
    properties::check_key(text);
});

// A changed character of base64 seldom makes another DER of the same structure, so that half of the
// mutations are made to the DER itself.
fuzz_mutator!(|text: &mut [u8], len: usize, max_len: usize, seed: u32| {
    let mutated = if seed % 2 == 0 { der::mutate(&text[..len], max_len) } else { None };
    match mutated {
        Some(mutated) => {
            text[..mutated.len()].copy_from_slice(&mutated);
            mutated.len()
        }
        None => fuzzer_mutate(text, len, max_len),
    }
});
