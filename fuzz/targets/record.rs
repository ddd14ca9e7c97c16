//! A file's text, read as a record.

#![no_main]

use jwks_server_fuzz::properties;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    properties::check_record(text);
});
