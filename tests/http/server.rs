//! A server to test, and the client's end of a connection to it.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use jwks_server::health::Health;
use jwks_server::http::{KEY_SET_PATH, KeySets, Limits, listen, serve};
use jwks_server::jwk::{Jwk, JwkSet};
use jwks_server::snapshot::{Publisher, Snapshot, channel};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// A bound that a test sees exceeded.
pub(crate) const SHORT: Duration = Duration::from_millis(200);
/// A bound that no test lives to see exceeded.
pub(crate) const LONG: Duration = Duration::from_hours(1);
/// How long a test waits for what must come. It has failed then.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Limits that no test exceeds.
pub(crate) fn wide() -> Limits {
    Limits {
        max_connections: 100,
        ready_connections: 100,
        header_timeout: LONG,
        write_timeout: LONG,
        idle_timeout: LONG,
        crowded_timeout: LONG,
        tenure: LONG,
        trusted_proxies: Vec::new(),
        linger_timeout: LONG,
        shutdown_delay: Duration::ZERO,
        stop_timeout: LONG,
        drain_timeout: LONG,
    }
}

/// A GET of the key set that keeps the connection.
pub(crate) const GET: &str = "GET /.well-known/jwks.json HTTP/1.1\r\nHost: a\r\n\r\n";
/// A GET of the key set that ends the connection.
pub(crate) const LAST_GET: &str =
    "GET /.well-known/jwks.json HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) snapshot: Publisher<Snapshot>,
    pub(crate) sets: Publisher<KeySets>,
    pub(crate) health: Publisher<Health>,
    pub(crate) stop: oneshot::Sender<()>,
    pub(crate) served: JoinHandle<()>,
}

/// Starts a server of `snapshot(1, 1)`.
pub(crate) async fn start(limits: Limits) -> Server {
    let listener = listen((Ipv4Addr::LOCALHOST, 0).into(), &limits).unwrap();
    let address = listener.local_addr().unwrap();
    let (snapshot, snapshot_reader) = channel(snapshot(1, 1));
    let (sets, sets_reader) = channel(KeySets::from([(KEY_SET_PATH.to_owned(), snapshot_reader)]));
    let (health, health_reader) = channel(Health::default());
    let (stop, stopped) = oneshot::channel();
    let shutdown = async move {
        let _ = stopped.await;
    };
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let served = tokio::spawn(serve(listener, sets_reader, health_reader, limits, shutdown));
    Server { address, snapshot, sets, health, stop, served }
}

/// A snapshot of `keys` keys that differs for each `version`.
pub(crate) fn snapshot(version: u32, keys: u16) -> Snapshot {
    let key = |n: u16| {
        let mut x = [7; 32];
        x[..4].copy_from_slice(&version.to_be_bytes());
        x[4..6].copy_from_slice(&n.to_be_bytes());
        Jwk::from_coordinates(x, [9; 32])
    };
    let set = JwkSet::new((0..keys).map(key).collect()).unwrap();
    Snapshot::render(&set, Duration::from_mins(1)).unwrap()
}

impl Server {
    pub(crate) async fn connect(&self) -> Client {
        Client(TcpStream::connect(self.address).await.unwrap())
    }

    /// A client with the address 127.0.0.`host`, which is a source of its own.
    pub(crate) async fn connect_from(&self, host: u8) -> Client {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::new(127, 0, 0, host), 0).into()).unwrap();
        Client(socket.connect(self.address).await.unwrap())
    }

    /// A client whose kernel takes next to nothing that it does not read.
    pub(crate) async fn connect_narrow(&self) -> Client {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(2048).unwrap();
        Client(socket.connect(self.address).await.unwrap())
    }

    /// All answers to `requests` over one connection, which one of them makes the server close.
    pub(crate) async fn exchange(&self, requests: impl AsRef<[u8]>) -> Vec<Answer> {
        let mut client = self.connect().await;
        client.send(requests).await;
        let heads = |_| false;
        answers(&client.rest().await.unwrap(), heads)
    }

    /// The answer to the only request that is sent over a connection.
    pub(crate) async fn only_answer(&self, request: impl AsRef<[u8]>) -> Answer {
        let is_head = request.as_ref().starts_with(b"HEAD");
        let mut client = self.connect().await;
        client.send(request).await;
        client.half_close().await;
        let mut answers = answers(&client.rest().await.unwrap(), |_| is_head);
        assert_eq!(answers.len(), 1, "{answers:?}");
        answers.remove(0)
    }
}

pub(crate) struct Client(pub(crate) TcpStream);

impl Client {
    /// Sends `bytes`, as far as the server takes them.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = within(self.0.write_all(bytes.as_ref())).await;
    }

    /// Closes this side of the connection.
    pub(crate) async fn half_close(&mut self) {
        let _ = self.0.shutdown().await;
    }

    /// All that the server still sends until it closes its side.
    pub(crate) async fn rest(&mut self) -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        within(self.0.read_to_end(&mut bytes)).await?;
        Ok(bytes)
    }

    /// The answer to a GET, on a connection that stays.
    pub(crate) async fn get(&mut self) -> Answer {
        self.send(GET).await;
        self.next_answer().await
    }

    /// The next answer, on a connection that stays.
    pub(crate) async fn next_answer(&mut self) -> Answer {
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            bytes.push(within(self.0.read_u8()).await.unwrap());
        }
        let mut answer = Answer::read(&mut &bytes[..], true);
        let mut body = vec![0; answer.content_length()];
        within(self.0.read_exact(&mut body)).await.unwrap();
        answer.body = body.into();
        answer
    }

    /// Waits until the server has closed the connection without a further byte.
    pub(crate) async fn closed(&mut self) {
        // A reset is how the kernel closes a connection with bytes that nobody read.
        assert_eq!(self.rest().await.unwrap_or_default(), b"");
    }
}

/// What `future` comes to; a test fails if that takes very long.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("it took too long")
}

/// An answer as it came, except for the date, whose form is checked, and the order of the headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status_line: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Body,
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Body(pub(crate) Vec<u8>);

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

/// An answer with these headers beside `date`, and the length of this body.
pub(crate) fn answer(status_line: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let mut headers: Vec<_> =
        headers.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
    headers.sort();
    Answer { status_line: status_line.to_owned(), headers, body: body.to_vec().into() }
}

/// The answers in `bytes`, all of them whole; `is_head` says which ones have no body.
pub(crate) fn answers(mut bytes: &[u8], is_head: impl Fn(usize) -> bool) -> Vec<Answer> {
    let mut answers = Vec::new();
    while !bytes.is_empty() {
        answers.push(Answer::read(&mut bytes, is_head(answers.len())));
    }
    answers
}

impl Answer {
    /// Takes one answer off the front of `bytes`.
    fn read(bytes: &mut &[u8], is_head: bool) -> Self {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let (head, rest) = bytes.split_at(end.expect("a whole head") + 4);
        let head = str::from_utf8(head).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status_line = lines.next().unwrap().to_owned();
        let (dates, mut headers): (Vec<_>, Vec<_>) = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .partition(|(name, _)| name == "date");
        assert_eq!(dates.len(), 1);
        assert_eq!(dates[0].1.len(), "Sun, 06 Nov 1994 08:49:37 GMT".len());
        headers.sort();
        let mut answer = Self { status_line, headers, body: Vec::new().into() };
        let len = if is_head { 0 } else { answer.content_length() };
        let (body, rest) = rest.split_at(len);
        answer.body = body.to_vec().into();
        *bytes = rest;
        answer
    }

    fn content_length(&self) -> usize {
        self.header("content-length").map_or(0, |length| length.parse().unwrap())
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let header = self.headers.iter().find(|(n, _)| n == name);
        header.map(|(_, value)| value.as_str())
    }
}
