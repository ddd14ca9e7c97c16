//! The load: non-blocking connections in one epoll loop, each with one request under way.
//!
//! Without a rate the loop is closed: an answer lets the next request go. With one it is open:
//! request *i* is due at *i* / rate, and its latency counts from then, also when no connection was
//! free to send it. So a server that stalls is charged for all that had to wait.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::str::FromStr;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

use crate::{PATIENCE, answer, ask};

/// What is asked, and how often.
pub struct Plan {
    pub server: SocketAddr,
    /// Length of the document, which every 200 must tell.
    pub length: usize,
    pub mode: Mode,
    pub requests: usize,
    pub connections: usize,
    /// Requests a second; as fast as they are answered without it.
    pub rate: Option<f64>,
}

/// How it is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    KeepAlive,
    /// A connection for each request, which the server closes.
    Close,
    /// With the `ETag` of the document, so that the answer is 304.
    IfNoneMatch,
    Head,
}

impl FromStr for Mode {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        match name {
            "keep-alive" => Ok(Self::KeepAlive),
            "close" => Ok(Self::Close),
            "if-none-match" => Ok(Self::IfNoneMatch),
            "head" => Ok(Self::Head),
            _ => Err(()),
        }
    }
}

impl Mode {
    pub fn status(self) -> u16 {
        if self == Self::IfNoneMatch { 304 } else { 200 }
    }

    pub fn has_body(self) -> bool {
        self != Self::Head
    }
}

/// What was seen, for requests that were all answered as they must be.
pub struct Seen {
    pub took: Duration,
    pub latencies: Vec<Duration>,
}

pub fn request(mode: Mode, etag: &str) -> Vec<u8> {
    let method = if mode == Mode::Head { "HEAD" } else { "GET" };
    let header = match mode {
        Mode::Close => "Connection: close\r\n".to_owned(),
        Mode::IfNoneMatch => format!("If-None-Match: {etag}\r\n"),
        Mode::KeepAlive | Mode::Head => String::new(),
    };
    format!("{method} /.well-known/jwks.json HTTP/1.1\r\nHost: localhost\r\n{header}\r\n").into()
}

pub fn run(plan: &Plan) -> Result<Seen, String> {
    if plan.requests == 0 || plan.connections == 0 || plan.rate.is_some_and(|rate| rate <= 0.0) {
        return Err("requests, connections and rate must be above zero".to_owned());
    }
    let etag = match plan.mode {
        Mode::IfNoneMatch => ask(&mut connect(plan)?, Mode::KeepAlive, plan.length)?,
        _ => String::new(),
    };
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|error| error.to_string())?;
    let connections = (0..plan.connections)
        .map(|index| Connection::open(plan, &epoll, index))
        .collect::<Result<_, _>>()?;
    Load {
        plan,
        request: request(plan.mode, &etag),
        epoll,
        connections,
        free: (0..plan.connections).collect(),
        started_at: Instant::now(),
        sent: 0,
        latencies: Vec::with_capacity(plan.requests),
    }
    .run()
}

struct Connection {
    stream: TcpStream,
    /// When the request that is under way was due.
    due_at: Instant,
    data: Vec<u8>,
}

impl Connection {
    fn open(plan: &Plan, epoll: &OwnedFd, index: usize) -> Result<Self, String> {
        let stream = connect(plan)?;
        stream.set_nonblocking(true).map_err(|error| error.to_string())?;
        let data = epoll::EventData::new_u64(index as u64);
        epoll::add(epoll, &stream, data, epoll::EventFlags::IN)
            .map_err(|error| error.to_string())?;
        Ok(Self { stream, due_at: Instant::now(), data: Vec::with_capacity(64 * 1024) })
    }
}

fn connect(plan: &Plan) -> Result<TcpStream, String> {
    // Blocks no longer than the handshake, which the kernel does alone on the loopback interface.
    let stream = TcpStream::connect(plan.server).map_err(|error| format!("connect: {error}"))?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    Ok(stream)
}

struct Load<'a> {
    plan: &'a Plan,
    request: Vec<u8>,
    epoll: OwnedFd,
    connections: Vec<Connection>,
    /// Those without a request under way; the one that has rested longest is first.
    free: VecDeque<usize>,
    started_at: Instant,
    sent: usize,
    latencies: Vec<Duration>,
}

impl Load<'_> {
    fn run(mut self) -> Result<Seen, String> {
        let mut part = vec![0; 64 * 1024];
        let mut events = Vec::with_capacity(self.plan.connections);
        let mut heard_at = Instant::now();
        while self.latencies.len() < self.plan.requests {
            let more_is_due_later = self.send_what_is_due()?;
            // Between two due times it spins: a timer would be late by more than an answer takes.
            let timeout = if more_is_due_later { Duration::ZERO } else { PATIENCE };
            let timeout = Timespec::try_from(timeout).map_err(|error| error.to_string())?;
            epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&timeout))
                .map_err(|error| error.to_string())?;
            if !events.is_empty() {
                heard_at = Instant::now();
            } else if heard_at.elapsed() > PATIENCE {
                return Err(format!("no answer for {PATIENCE:?}"));
            }
            for event in events.drain(..) {
                let index = usize::try_from(event.data.u64()).map_err(|error| error.to_string())?;
                self.read(index, &mut part)?;
            }
        }
        Ok(Seen { took: self.started_at.elapsed(), latencies: self.latencies })
    }

    /// Whether there is a request that a free connection waits to send.
    fn send_what_is_due(&mut self) -> Result<bool, String> {
        while self.sent < self.plan.requests
            && let Some(&index) = self.free.front()
        {
            let now = Instant::now();
            let due_at = match self.plan.rate {
                None => now,
                #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 requests")]
                Some(rate) => self.started_at + Duration::from_secs_f64(self.sent as f64 / rate),
            };
            if due_at > now {
                return Ok(true);
            }
            self.free.pop_front();
            self.sent += 1;
            let connection = &mut self.connections[index];
            connection.due_at = due_at;
            // So small that it always fits: the answer to the one before has been read.
            match connection.stream.write(&self.request) {
                Ok(written) if written == self.request.len() => {}
                Ok(written) => return Err(format!("only {written} bytes could be sent")),
                Err(error) => return Err(format!("send: {error}")),
            }
        }
        Ok(false)
    }

    fn read(&mut self, index: usize, part: &mut [u8]) -> Result<(), String> {
        let connection = &mut self.connections[index];
        let read = match connection.stream.read(part) {
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(format!("receive: {error}")),
        };
        connection.data.extend_from_slice(&part[..read]);
        let Some(answer) = answer::parse(&connection.data, self.plan.mode.has_body())? else {
            return if read == 0 { Err("closed within an answer".to_owned()) } else { Ok(()) };
        };
        answer.expect(self.plan.mode.status(), self.plan.length)?;
        if self.plan.mode == Mode::Close {
            // Over only when the server has closed, as it was asked to.
            if read > 0 {
                return Ok(());
            }
        } else if read == 0 {
            return Err("closed a connection that was to be kept".to_owned());
        }
        self.latencies.push(connection.due_at.elapsed());
        connection.data.clear();
        self.free.push_back(index);
        if self.plan.mode == Mode::Close && self.sent < self.plan.requests {
            *connection = Connection::open(self.plan, &self.epoll, index)?;
        } else if self.plan.mode == Mode::Close {
            // A closed one would stay readable, and be read again.
            epoll::delete(&self.epoll, &connection.stream).map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}
