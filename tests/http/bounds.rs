//! Invariant 11: every connection is bounded. Each bound has its control: with an hour instead, the
//! same client is still served when the bounded one is not.

use std::time::Duration;

use jwks_server::http::Limits;
use tokio::time::{sleep, timeout};

use crate::server::{Client, GET, LAST_GET, LONG, PATIENCE, SHORT, snapshot, start, wide, within};

/// Long after a `SHORT` bound is exceeded. Only controls wait for it, and nothing fails when a
/// machine is slow.
const LATER: Duration = SHORT.saturating_mul(3);

fn short_headers() -> Limits {
    Limits { header_timeout: SHORT, ..wide() }
}

#[tokio::test]
async fn headers_complete_within_their_bound() {
    let (bounded, control) = (start(short_headers()).await, start(wide()).await);
    for beginning in [
        "",
        "G",
        "\r\n",
        "PRI * HTTP",
        "GET /.well-known/jwks.json HTTP/1.1\r\n",
        "GET /.well-known/jwks.json HTTP/1.1\r\nHost: a\r\nConnection: close\r\n",
    ] {
        let mut controlled = control.connect().await;
        controlled.send(beginning).await;
        let mut stalled = bounded.connect().await;
        stalled.send(beginning).await;
        stalled.closed().await;
        if let Some(end) = LAST_GET.strip_prefix(beginning.trim_start()) {
            controlled.send(end).await;
            controlled.next_answer().await;
        }
    }
}

#[tokio::test]
async fn bytes_do_not_extend_the_bound_on_headers() {
    let (bounded, control) = (start(short_headers()).await, start(wide()).await);
    let (mut trickling, mut controlled) = (bounded.connect().await, control.connect().await);
    let head = "GET /.well-known/jwks.json HTTP/1.1\r\nHost: a\r\nX: ";
    trickling.send(head).await;
    controlled.send(head).await;
    let closed = async {
        loop {
            let mut byte = [0];
            match trickling.0.try_read(&mut byte) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                end => break end.unwrap_or_default(),
            }
            trickling.send("a").await;
            controlled.send("a").await;
            sleep(SHORT / 10).await;
        }
    };
    assert_eq!(within(closed).await, 0);
    controlled.send("\r\n\r\n").await;
    assert_eq!(controlled.next_answer().await.body.0, snapshot(1, 1).body);
}

#[tokio::test]
async fn headers_of_a_later_request_complete_within_their_bound() {
    let server = start(short_headers()).await;
    // Behind an answer that was waited for, and in one piece with the request before.
    let mut waiting = server.connect().await;
    waiting.get().await;
    waiting.send("GET / HTTP/1.1\r\n").await;
    let mut pipelining = server.connect().await;
    pipelining.send([GET, "GET / HTTP/1.1\r\n"].concat()).await;
    pipelining.next_answer().await;
    waiting.closed().await;
    pipelining.closed().await;
}

#[tokio::test]
async fn an_idle_connection_has_its_own_bound() {
    let patient = start(short_headers()).await;
    let mut idle = patient.connect().await;
    idle.get().await;
    let mut silent = patient.connect().await;
    silent.closed().await;
    // The bound on headers is exceeded, counted from the first request.
    idle.get().await;

    let impatient = start(Limits { idle_timeout: SHORT, ..wide() }).await;
    let mut idle = impatient.connect().await;
    idle.get().await;
    idle.closed().await;
}

#[tokio::test]
async fn an_idle_connection_makes_room_when_slots_are_few() {
    for (max_connections, makes_room) in [(1, true), (2, false)] {
        let server = start(Limits { max_connections, crowded_timeout: SHORT, ..wide() }).await;
        let mut idle = server.connect().await;
        idle.get().await;
        if makes_room {
            idle.closed().await;
        } else {
            sleep(LATER).await;
            idle.get().await;
        }
    }
}

#[tokio::test]
async fn a_silent_connection_makes_room_when_slots_are_few() {
    let server = start(Limits { max_connections: 1, crowded_timeout: SHORT, ..wide() }).await;
    let mut silent = server.connect().await;
    let mut waiting = server.connect().await;
    waiting.send(GET).await;
    silent.closed().await;
    assert_eq!(waiting.next_answer().await.body.0, snapshot(1, 1).body);

    // The control: with another slot nobody has to make room.
    let server = start(Limits { max_connections: 2, crowded_timeout: SHORT, ..wide() }).await;
    let mut silent = server.connect().await;
    sleep(LATER).await;
    silent.get().await;
}

/// Long after the time for which a connection keeps what it needs for a request. That is no bound, and
/// nothing can be seen of it from outside.
const PARKED: Duration = Duration::from_millis(1_500);

#[tokio::test]
async fn a_connection_that_has_been_idle_goes_on_where_it_was() {
    // Beyond the ready connections, the moment is none.
    for (ready_connections, idle_for) in [(100, PARKED), (0, Duration::ZERO)] {
        let mut server = start(Limits { ready_connections, ..wide() }).await;
        let mut idle = server.connect().await;
        for byte in 2..4 {
            sleep(idle_for).await;
            server.snapshot.publish(snapshot(byte, 1));
            // Two requests at once, and the head of a third in two pieces.
            let (begin, end) = GET.split_at(20);
            idle.send([GET, GET, begin].concat()).await;
            for _ in 0..2 {
                assert_eq!(idle.next_answer().await.body.0, snapshot(byte, 1).body);
            }
            idle.send(end).await;
            assert_eq!(idle.next_answer().await.body.0, snapshot(byte, 1).body);
        }
        // A head of more than one read, and an empty line behind a request.
        let header = format!("X: {}\r\n\r\n", "a".repeat(4000));
        idle.send([GET.strip_suffix("\r\n").unwrap(), &header].concat()).await;
        idle.next_answer().await;
        idle.send([GET, "\r\n"].concat()).await;
        idle.next_answer().await;
        sleep(idle_for).await;
        idle.get().await;
        sleep(idle_for).await;
        let _ = server.stop.send(());
        idle.closed().await;
    }
}

#[tokio::test]
async fn a_connection_that_has_been_idle_is_bounded_as_before() {
    let limits = Limits { header_timeout: SHORT, idle_timeout: 2 * PARKED, ..wide() };
    let server = start(limits).await;
    let (mut idle, mut stalled) = (server.connect().await, server.connect().await);
    idle.get().await;
    stalled.get().await;
    sleep(PARKED).await;
    stalled.send("GET / HTTP/1.1\r\n").await;
    stalled.closed().await;
    idle.closed().await;
}

/// A client that asks for more than the kernel holds for it, and reads none of it.
async fn stalled(server: &crate::server::Server) -> Client {
    let mut client = server.connect_narrow().await;
    client.send(GET).await;
    // Its answer has begun when the slot is surely taken.
    within(client.0.readable()).await.unwrap();
    client
}

#[tokio::test]
async fn an_answer_is_taken_within_its_bound() {
    for (write_timeout, ends) in [(SHORT, true), (LONG, false)] {
        let mut server = start(Limits { max_connections: 1, write_timeout, ..wide() }).await;
        server.snapshot.publish(snapshot(1, 2000));
        let mut client = stalled(&server).await;
        let mut next = server.connect().await;
        next.send(LAST_GET).await;
        let answered = timeout(if ends { PATIENCE } else { LATER }, next.0.readable()).await;
        assert_eq!(answered.is_ok(), ends);
        if ends {
            // Of a client that takes nothing, the kernel keeps nothing either.
            let rest = client.rest().await;
            assert_eq!(rest.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        }
    }
}

/// Whether the kernel still has the server's end of the connection from `client`.
#[cfg(target_os = "linux")]
fn is_known_to_kernel(server: std::net::SocketAddr, client: std::net::SocketAddr) -> bool {
    let ends = format!(":{:04X} 0100007F:{:04X} ", server.port(), client.port());
    std::fs::read_to_string("/proc/net/tcp").unwrap().contains(&ends)
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_is_left_of_a_closed_connection_is_bounded() {
    for (write_timeout, ends) in [(SHORT, true), (LONG, false)] {
        let mut server = start(Limits { max_connections: 1, write_timeout, ..wide() }).await;
        // More than the client's kernel takes, and less than the server's.
        server.snapshot.publish(snapshot(1, 100));
        let mut client = server.connect_narrow().await;
        client.send(LAST_GET).await;
        // The only slot is free again: the server has closed the connection.
        assert_eq!(server.exchange(LAST_GET).await.len(), 1);
        let address = client.0.local_addr().unwrap();
        let gone = async {
            while is_known_to_kernel(server.address, address) {
                sleep(SHORT / 10).await;
            }
        };
        assert_eq!(timeout(if ends { PATIENCE } else { LATER }, gone).await.is_ok(), ends);
    }
}

#[tokio::test]
async fn a_client_that_takes_an_answer_drop_by_drop_is_not_waited_for() {
    let mut server = start(Limits { write_timeout: SHORT, ..wide() }).await;
    server.snapshot.publish(snapshot(1, 2000));
    let client = stalled(&server).await;
    let reset = async {
        loop {
            sleep(SHORT / 10).await;
            let mut drop = [0; 64];
            match client.0.try_read(&mut drop) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => break error.kind(),
                Ok(read) => assert_ne!(read, 0),
            }
        }
    };
    assert_eq!(within(reset).await, std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn clients_beyond_the_cap_are_served_when_a_slot_is_free() {
    let server = start(Limits { max_connections: 2, ..wide() }).await;
    let mut first = server.connect().await;
    first.get().await;
    let mut second = server.connect().await;
    second.get().await;
    let mut third = server.connect().await;
    third.send(LAST_GET).await;
    assert!(timeout(LATER, third.0.readable()).await.is_err());
    drop(second);
    third.next_answer().await;
    first.get().await;
}

#[tokio::test]
async fn who_asks_for_the_last_answer_keeps_no_slot_afterwards() {
    let server = start(Limits { max_connections: 1, ..wide() }).await;
    let mut last = server.connect().await;
    last.send(LAST_GET).await;
    let mut next = server.connect().await;
    next.send(LAST_GET).await;
    next.next_answer().await;
    last.next_answer().await;

    // The control: who may still be sending is waited for, since to close would take the answer away.
    for unfinished in [
        "POST /.well-known/jwks.json HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 9\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        // As much as is read at once, and more behind it.
        &(format!(
            "{}X: {}\r\n\r\n",
            &LAST_GET[..LAST_GET.len() - 2],
            "x".repeat(1024 - LAST_GET.len() - 5)
        ) + "more"),
    ] {
        let server = start(Limits { max_connections: 1, ..wide() }).await;
        let mut last = server.connect().await;
        last.send(unfinished).await;
        let mut next = server.connect().await;
        next.send(LAST_GET).await;
        assert!(timeout(LATER, next.0.readable()).await.is_err(), "{unfinished:?}");
        last.next_answer().await;
        drop(last);
        next.next_answer().await;
    }
}

#[tokio::test]
async fn a_flood_of_requests_that_nobody_reads_the_answers_of_is_stopped() {
    let mut server = start(wide()).await;
    server.snapshot.publish(snapshot(1, 100));
    let client = server.connect_narrow().await;
    // The server stops reading once its answers are not taken, so the client cannot send for ever.
    let flood = GET.repeat(1000);
    let mut sent = 0;
    loop {
        match timeout(LATER, client.0.writable()).await {
            Err(_) => break,
            Ok(writable) => writable.unwrap(),
        }
        sent += client.0.try_write(flood.as_bytes()).unwrap_or_default();
        assert!(sent < 64 << 20, "the server takes everything");
    }
    assert_eq!(server.exchange(LAST_GET).await.len(), 1);
}
