//! The `jwks-server` program. Everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    jwks_server::cli::main()
}
