//! The `jwks-server` program.

fn main() {}
