//! Loads a JWKS endpoint and tells what it saw as one line of JSON; or is the fastest server there
//! can be, against which others are measured.
//!
//! ```text
//! loadgen --port P --length BYTES [--mode keep-alive|close|if-none-match|head]
//!         [--requests N] [--connections C] [--rate PER_SECOND]
//! loadgen --port P --length BYTES --idle N      one request on each, held until stdin closes
//! loadgen --port P --limit FILE                 answers each request with FILE
//! ```
//!
//! One thread each. It checks status and length of every answer, and fails at the first wrong one.

mod answer;
mod limit;
mod load;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use load::{Mode, Plan};

/// A server that says nothing for this long is stuck.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("loadgen: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let mut options = Options::parse(std::env::args().skip(1))?;
    let server = SocketAddr::from((Ipv4Addr::LOCALHOST, options.need("port")?));
    if let Some(file) = options.take::<String>("limit")? {
        options.end()?;
        let body = std::fs::read(&file).map_err(|error| format!("{file}: {error}"))?;
        return limit::serve(server, &body).map_err(|error| format!("limit: {error}"));
    }
    let length = options.need("length")?;
    if let Some(connections) = options.take("idle")? {
        options.end()?;
        return idle(server, connections, length);
    }
    let plan = Plan {
        server,
        length,
        mode: options.take("mode")?.unwrap_or(Mode::KeepAlive),
        requests: options.take("requests")?.unwrap_or(10_000),
        connections: options.take("connections")?.unwrap_or(64),
        rate: options.take("rate")?,
    };
    options.end()?;
    let mut seen = load::run(&plan)?;
    seen.latencies.sort_unstable();
    let at = |quantile: f64| micros(&seen.latencies, quantile);
    println!(
        r#"{{"requests":{},"seconds":{:.6},"p50_us":{:.1},"p99_us":{:.1},"p99_9_us":{:.1}}}"#,
        seen.latencies.len(),
        seen.took.as_secs_f64(),
        at(0.5),
        at(0.99),
        at(0.999),
    );
    Ok(())
}

/// The smallest latency that at least this share of the requests did not exceed.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "a rank among far fewer than 2^52 requests"
)]
fn micros(sorted: &[Duration], quantile: f64) -> f64 {
    let rank = (sorted.len() as f64 * quantile).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1].as_secs_f64() * 1e6
}

/// Opens the connections, one request on each, and holds them until stdin closes.
fn idle(server: SocketAddr, connections: usize, length: usize) -> Result<(), String> {
    let mut held = Vec::with_capacity(connections);
    for _ in 0..connections {
        let mut stream = TcpStream::connect(server).map_err(|error| format!("connect: {error}"))?;
        ask(&mut stream, Mode::KeepAlive, length)?;
        held.push(stream);
    }
    println!("ready");
    let _ = std::io::stdin().read(&mut [0]);
    Ok(())
}

/// Asks once on a blocking connection; the `ETag` of the answer, empty if there is none.
fn ask(stream: &mut TcpStream, mode: Mode, length: usize) -> Result<String, String> {
    let io = |error: std::io::Error| format!("a single request: {error}");
    stream.set_read_timeout(Some(PATIENCE)).map_err(io)?;
    stream.write_all(&load::request(mode, "")).map_err(io)?;
    let (mut data, mut part) = (Vec::new(), [0; 16 * 1024]);
    loop {
        if let Some(answer) = answer::parse(&data, mode.has_body())? {
            answer.expect(mode.status(), length)?;
            return Ok(answer.header("etag").unwrap_or_default().to_owned());
        }
        match stream.read(&mut part).map_err(io)? {
            0 => return Err("closed within an answer".to_owned()),
            read => data.extend_from_slice(&part[..read]),
        }
    }
}

/// `--name value` pairs, of which each must be asked for.
struct Options(HashMap<String, String>);

impl Options {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut pairs = HashMap::new();
        while let Some(word) = words.next() {
            let name = word.strip_prefix("--").ok_or(format!("not an option: {word}"))?;
            let value = words.next().ok_or(format!("--{name} needs a value"))?;
            pairs.insert(name.to_owned(), value);
        }
        Ok(Self(pairs))
    }

    fn take<T: FromStr>(&mut self, name: &str) -> Result<Option<T>, String> {
        let Some(value) = self.0.remove(name) else { return Ok(None) };
        value.parse().map(Some).map_err(|_| format!("--{name} cannot be {value}"))
    }

    fn need<T: FromStr>(&mut self, name: &str) -> Result<T, String> {
        self.take(name)?.ok_or(format!("--{name} is missing"))
    }

    fn end(self) -> Result<(), String> {
        match self.0.into_keys().next() {
            None => Ok(()),
            Some(name) => Err(format!("--{name} has no place here")),
        }
    }
}
