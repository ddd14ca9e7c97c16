//! A TCP stream that bounds its peer in time: [`BoundedStream`].
//!
//! hyper's own header timeout covers idle connections too, with the same figure, and takes a new
//! timer for each request; for writes hyper has none. So this wrapper follows the exchange from the
//! reads and writes that pass through it, and has one timer for all. The timer is only ever moved
//! when it fires or when a bound falls before it: a busy connection does not touch it.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use super::bounds::Bounds;
use super::limits::MAX_LINGER_BYTES;

/// Where the exchange on a stream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Since then, the first moment of the connection, nothing has come.
    Silent { since: Instant },
    /// Since then the end of a head is awaited.
    Head { since: Instant },
    /// The first bytes of a request have come, and no read has waited since.
    Arrived,
    /// An answer is being written, and the peer takes it.
    Answer,
    /// An answer is being written, and the peer has until then to take all of it.
    Blocked { until: Instant },
    /// The kernel has the whole answer; no read has waited since.
    Answered,
    /// Between an answer and the next request; `parked` once that has lasted for [`PARK_AFTER`], or
    /// at once beyond [`Limits::ready_connections`](super::Limits::ready_connections).
    Idle { since: Instant, parked: bool },
    /// The peer has exceeded a bound.
    Exceeded,
    /// Our side is closed since then; of what the peer still sends, so many bytes are discarded.
    Closing { since: Instant, left: usize },
}

/// After this much time without a request a connection keeps no more than its socket.
const PARK_AFTER: Duration = Duration::from_millis(250);

/// A TCP stream that fails with [`io::ErrorKind::TimedOut`] when its peer exceeds a bound.
#[derive(Debug)]
pub(super) struct BoundedStream {
    stream: TcpStream,
    bounds: Arc<Bounds>,
    /// Whether the peer has less time while slots are few.
    yields: bool,
    phase: Phase,
    /// What was read by [`begin`](Self::begin), until the next read takes it.
    begun: Vec<u8>,
    /// The last three bytes that were read: whether they end a head tells an idle peer from one that
    /// has begun another request behind the one that was just answered.
    tail: [u8; 3],
    /// Whether the peer may still be sending what was answered already.
    lingers: bool,
    timer: Pin<Box<Sleep>>,
}

impl BoundedStream {
    /// Bounds `stream`, of which this is the first moment.
    pub(super) fn new(stream: TcpStream, bounds: Arc<Bounds>, yields: bool) -> Self {
        let since = Instant::now();
        let first_look = bounds.limits.header_timeout.min(bounds.limits.crowded_timeout);
        let timer = Box::pin(sleep_until(since + first_look));
        let phase = Phase::Silent { since };
        let (begun, tail) = (Vec::new(), [0; 3]);
        Self { stream, bounds, yields, phase, begun, tail, lingers: false, timer }
    }

    /// Whether the last read failed for no other reason than that the connection is idle: it can be
    /// waited for with [`begin`](Self::begin), and be used as before.
    pub(super) fn is_parked(&self) -> bool {
        matches!(self.phase, Phase::Idle { parked: true, .. })
    }

    /// Whether the peer has exceeded a bound, so that nothing more is owed to it.
    pub(super) fn is_exceeded(&self) -> bool {
        self.phase == Phase::Exceeded
    }

    /// Whether the peer has sent more than was read. To close would reset the connection then.
    pub(super) fn has_more(&self) -> bool {
        !self.begun.is_empty() || self.stream.try_read(&mut [0]).is_ok_and(|read| read > 0)
    }

    /// Waits for the first bytes of a request, and keeps them for the next read; `false` if the peer
    /// sends no more.
    ///
    /// Only the bytes tell that there is something to read: the runtime takes a new socket for readable
    /// until a read has failed.
    pub(super) async fn begin(&mut self) -> io::Result<bool> {
        poll_fn(|cx| {
            let mut scratch = [0; 1024];
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                Poll::Pending => self.poll_exceeded(cx).map(Err),
                Poll::Ready(read) => {
                    self.on_read(buffer.filled());
                    self.begun = buffer.filled().to_vec();
                    Poll::Ready(read.map(|()| !self.begun.is_empty()))
                }
            }
        })
        .await
    }

    /// Enters `phase`, and sees to it that the timer fires no later than its bound.
    fn enter(&mut self, phase: Phase, now: Instant) {
        self.phase = phase;
        if let Some(due) = self.due(now).filter(|&due| due < self.timer.deadline()) {
            self.timer.as_mut().reset(due);
        }
    }

    fn enter_head(&mut self) {
        let since = Instant::now();
        self.enter(Phase::Head { since }, since);
    }

    /// When to look again whether the bound of this phase is exceeded; it is if that is not after
    /// `now`.
    fn due(&self, now: Instant) -> Option<Instant> {
        let limits = &self.bounds.limits;
        let due = match self.phase {
            Phase::Arrived | Phase::Answer | Phase::Answered | Phase::Exceeded => return None,
            Phase::Blocked { until } => return Some(until),
            Phase::Silent { since } | Phase::Head { since } => {
                self.patience(since, limits.header_timeout, now)
            }
            Phase::Idle { since, parked: false } => {
                (since + PARK_AFTER).min(self.patience(since, limits.idle_timeout, now))
            }
            Phase::Idle { since, parked: true } => self.patience(since, limits.idle_timeout, now),
            Phase::Closing { since, .. } => since + limits.linger_timeout,
        };
        let Some(stopped_at) = self.bounds.stopped_at() else {
            return Some(due);
        };
        // An answer under way is the peer's; what it has not begun to send never comes.
        Some(match self.phase {
            Phase::Head { since } | Phase::Closing { since, .. } => {
                due.min(since.max(stopped_at) + limits.stop_timeout)
            }
            _ => due.min(stopped_at),
        })
    }

    /// When to look again whether the peer has had `timeout` since `since`; it is shorter while slots
    /// are few.
    fn patience(&self, since: Instant, timeout: Duration, now: Instant) -> Instant {
        // In short steps, since it may get crowded meanwhile.
        let step = self.bounds.limits.crowded_timeout.max(Duration::from_millis(1));
        let is_crowded = self.yields && self.bounds.is_crowded();
        let end = since + if is_crowded { timeout.min(step) } else { timeout };
        if end > now { end.min(now + step) } else { end }
    }

    /// Ready with an error once the bound of this phase is exceeded.
    fn poll_exceeded(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if self.bounds.stopped_at().is_some() {
            // The timer was set when there was more time.
            self.enter(self.phase, Instant::now());
        }
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let now = Instant::now();
            match self.due(now) {
                None => return Poll::Pending,
                Some(due) if due <= now => break,
                Some(due) => self.timer.as_mut().reset(due),
            }
        }
        if let Phase::Idle { since, parked: false } = self.phase
            && self.bounds.stopped_at().is_none()
        {
            // To be parked is no offence.
            self.phase = Phase::Idle { since, parked: true };
            return Poll::Ready(io::ErrorKind::WouldBlock.into());
        }
        if let Phase::Blocked { .. } = self.phase {
            // The kernel would go on holding the answer for a peer that does not take it.
            let _ = self.stream.set_zero_linger();
        }
        self.phase = Phase::Exceeded;
        Poll::Ready(io::ErrorKind::TimedOut.into())
    }
}

impl BoundedStream {
    fn on_read(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        match self.phase {
            // Most requests come whole, and are answered before anything has to wait.
            Phase::Answered | Phase::Idle { .. } => self.phase = Phase::Arrived,
            Phase::Silent { since } => self.phase = Phase::Head { since },
            _ => {}
        }
        for &byte in bytes.iter().skip(bytes.len().saturating_sub(self.tail.len())) {
            self.tail = [self.tail[1], self.tail[2], byte];
        }
    }

    fn on_read_pending(&mut self) {
        match self.phase {
            Phase::Arrived => return self.enter_head(),
            Phase::Answered => {}
            _ => return,
        }
        if self.tail == *b"\n\r\n" || self.tail.ends_with(b"\n\n") {
            let now = Instant::now();
            self.lingers = false;
            self.enter(Phase::Idle { since: now, parked: !self.bounds.is_roomy() }, now);
        } else {
            self.enter_head();
        }
    }

    fn on_write(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        self.lingers = true;
        let blocked = matches!(self.phase, Phase::Blocked { .. });
        if written.is_ready() {
            if !blocked {
                self.phase = Phase::Answer;
            }
            return written;
        }
        if !blocked {
            let now = Instant::now();
            let until = now + self.bounds.limits.write_timeout;
            self.enter(Phase::Blocked { until }, now);
        }
        self.poll_exceeded(cx).map(Err)
    }

    /// Discards what the peer sends, until it closes its side or a bound is exceeded.
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut scratch = [0; 4096];
        while let Phase::Closing { left, .. } = &mut self.phase {
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                Poll::Pending => return self.poll_exceeded(cx).map(drop),
                Poll::Ready(Err(_)) => break,
                Poll::Ready(Ok(())) => {
                    let read = buffer.filled().len();
                    if read == 0 || read >= *left {
                        break;
                    }
                    *left -= read;
                }
            }
        }
        Poll::Ready(())
    }
}

impl AsyncRead for BoundedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.begun.is_empty() {
            let taken = this.begun.len().min(buffer.remaining());
            buffer.put_slice(&this.begun[..taken]);
            this.begun = this.begun.split_off(taken);
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
        if read.is_ready() {
            this.on_read(&buffer.filled()[before..]);
            return read;
        }
        this.on_read_pending();
        if this.is_parked() {
            return Poll::Ready(Err(io::ErrorKind::WouldBlock.into()));
        }
        this.poll_exceeded(cx).map(Err)
    }
}

impl AsyncWrite for BoundedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.on_write(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.on_write(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper calls this once all that it had to write is written.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        if let Phase::Answer | Phase::Blocked { .. } = self.phase {
            self.phase = Phase::Answered;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !matches!(this.phase, Phase::Closing { .. }) {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
            if !this.lingers {
                return Poll::Ready(Ok(()));
            }
            let now = Instant::now();
            this.enter(Phase::Closing { since: now, left: MAX_LINGER_BYTES }, now);
        }
        this.poll_discard(cx).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;
    use crate::http::Limits;

    /// Polls once, outside of any task.
    fn poll_once<T>(future: Pin<&mut impl Future<Output = T>>) -> Poll<T> {
        future.poll(&mut Context::from_waker(std::task::Waker::noop()))
    }

    #[tokio::test]
    async fn nothing_begins_before_there_are_bytes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let bounds = Bounds::new(Limits::default());
        let mut stream = BoundedStream::new(stream, Arc::new(bounds), true);
        {
            let mut begun = pin!(stream.begin());
            assert!(poll_once(begun.as_mut()).is_pending());
            client.write_all(b"GET").await.unwrap();
            assert!(begun.await.unwrap());
        }
        assert_eq!(stream.begun, b"GET");
        drop(client);
        assert!(!stream.begin().await.unwrap());
    }
}
