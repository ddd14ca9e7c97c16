//! The listening socket, and how connections are taken from it.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use super::Limits;
use super::limits::SEND_BUFFER_BYTES;

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 1024;
/// Long enough not to spin, short enough that no client notices.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Listens at `address`; all of IPv6 is all of IPv4 as well. [`Limits::write_timeout`] is set here
/// already. The socket does not block, and needs no runtime yet.
///
/// # Errors
///
/// If the address cannot be had, for example because the port is in use.
#[cfg_attr(not(target_os = "linux"), expect(unused_variables, reason = "the option is Linux's"))]
pub fn listen(address: SocketAddr, limits: &Limits) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        // Whatever the system's default is, one socket serves both.
        socket.set_only_v6(address.ip() != IpAddr::V6(Ipv6Addr::UNSPECIFIED))?;
    }
    socket.set_reuse_address(true)?;
    // Connections inherit these three, and no client comes before they are set.
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    // An answer is one write: there is nothing for Nagle's algorithm to wait for.
    socket.set_tcp_nodelay(true)?;
    // What the kernel still holds when a connection is closed is nobody's any more but the kernel's.
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(limits.write_timeout))?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A listener whose failures neither end nor occupy the server.
#[derive(Debug)]
pub(super) struct Acceptor {
    listener: TcpListener,
    /// Whether the last try failed, so that one event tells of many failures.
    failing: bool,
}

impl Acceptor {
    pub(super) fn new(listener: TcpListener) -> Self {
        Self { listener, failing: false }
    }

    /// The next connection, and whose it is.
    ///
    /// The kernel hands some failures of the peer or the network through (`accept(2)`): they concern
    /// that one connection, which is gone. Others, as when descriptors have run out, last: then the
    /// next try comes after [`ACCEPT_PAUSE`], or as soon as a connection ends.
    pub(super) async fn accept(&mut self) -> (TcpStream, IpAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => {
                    self.failing = false;
                    return (stream, address.ip());
                }
                Err(error) if concerns_one_connection(&error) => {}
                Err(error) => {
                    if !self.failing {
                        tracing::error!(%error, "failed to accept connections");
                    }
                    self.failing = true;
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// A connection that waits already, and whose it is.
    pub(super) fn waiting(&self) -> Option<(TcpStream, IpAddr)> {
        match self.listener.poll_accept(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok((stream, address))) => Some((stream, address.ip())),
            _ => None,
        }
    }
}

fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
    )
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn a_failure_of_one_connection_is_told_from_one_of_the_listener() {
        let concerns_one = |errno: Errno| {
            concerns_one_connection(&io::Error::from_raw_os_error(errno.raw_os_error()))
        };
        for errno in [
            Errno::CONNABORTED,
            Errno::CONNRESET,
            Errno::NETDOWN,
            Errno::NETUNREACH,
            Errno::HOSTUNREACH,
        ] {
            assert!(concerns_one(errno), "{errno}");
        }
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::PERM] {
            assert!(!concerns_one(errno), "{errno}");
        }
    }
}
