//! How much is tried: `cargo test` is for whoever waits for it, and `JWKS_SERVER_TESTS=long cargo
//! test` tries more of the same.

/// `short`, or `long` where the environment asks for the long form.
pub(crate) fn short_or_long<T>(short: T, long: T) -> T {
    match std::env::var("JWKS_SERVER_TESTS").as_deref() {
        Err(_) | Ok("" | "short") => short,
        Ok("long") => long,
        Ok(other) => panic!("JWKS_SERVER_TESTS={other}: it is short or long"),
    }
}
