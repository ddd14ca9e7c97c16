//! The limit: what a server on epoll costs that does nothing but answer. It understands no more of
//! a request than the load of this crate sends, and bounds nothing; no server can be as careless.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::retry_on_intr;

const LISTENER: u64 = u64::MAX;

pub fn serve(address: SocketAddr, body: &[u8]) -> std::io::Result<()> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, listener.as_fd(), EventData::new_u64(LISTENER), EventFlags::IN)?;
    let answers = Answers::of(body);
    let mut connections: Vec<Option<TcpStream>> = Vec::new();
    let mut free: Vec<usize> = Vec::new();
    let mut events = Vec::with_capacity(256);
    let mut request = [0; 4096];
    loop {
        // A debugger that lets go interrupts the wait.
        retry_on_intr(|| epoll::wait(&epoll, spare_capacity(&mut events), None))?;
        for event in events.drain(..) {
            if event.data.u64() == LISTENER {
                let (stream, _) = match listener.accept() {
                    Ok(accepted) => accepted,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                    Err(error) => return Err(error),
                };
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                let slot = free.pop().unwrap_or(connections.len());
                epoll::add(&epoll, &stream, EventData::new_u64(slot as u64), EventFlags::IN)?;
                if slot == connections.len() {
                    connections.push(None);
                }
                connections[slot] = Some(stream);
                continue;
            }
            let Ok(slot) = usize::try_from(event.data.u64()) else { continue };
            let Some(stream) = &mut connections[slot] else { continue };
            let keep = match stream.read(&mut request) {
                Ok(0) | Err(_) => false,
                Ok(read) => answers.write(stream, &request[..read]),
            };
            if !keep {
                connections[slot] = None;
                free.push(slot);
            }
        }
    }
}

/// Rendered once.
struct Answers {
    get: Vec<u8>,
    head: Vec<u8>,
    unchanged: Vec<u8>,
}

impl Answers {
    fn of(body: &[u8]) -> Self {
        // The headers that jwks-server sends.
        let rest = "etag: \"Zm9yIHRoZSBsaW1pdCBhbnkgdGFnIHdpbGwgZG8sIDQz\"\r\n\
            cache-control: public, max-age=60\r\naccess-control-allow-origin: *\r\n\
            x-content-type-options: nosniff\r\ndate: Sun, 22 Nov 2026 17:03:00 GMT\r\n\r\n";
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{rest}",
            body.len()
        )
        .into_bytes();
        Self {
            get: [&head, body].concat(),
            head,
            unchanged: format!("HTTP/1.1 304 Not Modified\r\n{rest}").into_bytes(),
        }
    }

    /// Whether the connection is kept.
    fn write(&self, stream: &mut TcpStream, request: &[u8]) -> bool {
        let has = |header: &[u8]| request.windows(header.len()).any(|bytes| bytes == header);
        let answer = match request {
            [b'H', ..] => &self.head,
            _ if has(b"If-None-Match") => &self.unchanged,
            _ => &self.get,
        };
        // The socket's buffer is larger than an answer, so that a short write is an error.
        let whole = stream.write(answer).is_ok_and(|written| written == answer.len());
        whole && !has(b"Connection: close")
    }
}
