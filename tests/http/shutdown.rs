//! The end of the server: invariant 12, as far as HTTP is concerned.

use std::io::Write as _;

use jwks_server::http::Limits;
use tokio::net::TcpStream;

use crate::server::{Client, GET, LONG, SHORT, answer, answers, snapshot, start, wide, within};

#[tokio::test]
async fn idle_connections_end_at_once_and_no_more_are_accepted() {
    let server = start(wide()).await;
    let mut silent = server.connect().await;
    let mut idle = server.connect().await;
    idle.get().await;
    server.stop.send(()).unwrap();
    // The bound on the drain is an hour, and neither client closes its side.
    within(server.served).await.unwrap();
    silent.closed().await;
    idle.closed().await;
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn an_answer_under_way_is_finished() {
    let mut server = start(wide()).await;
    let large = snapshot(1, 2000);
    server.snapshot.publish(large.clone());
    let mut idle = server.connect().await;
    idle.get().await;
    let mut slow = server.connect_narrow().await;
    slow.send(GET).await;
    within(slow.0.readable()).await.unwrap();
    server.stop.send(()).unwrap();
    idle.closed().await;
    assert!(!server.served.is_finished());
    assert_eq!(slow.next_answer().await.body.0, large.body);
    slow.closed().await;
    drop(slow);
    within(server.served).await.unwrap();
}

#[tokio::test]
async fn stalled_clients_are_dropped_at_the_deadline() {
    for (drain_timeout, ends) in [(SHORT, true), (LONG, false)] {
        let mut server = start(Limits { drain_timeout, ..wide() }).await;
        server.snapshot.publish(snapshot(1, 2000));
        let mut clients = Vec::new();
        for beginning in ["GET / HTTP/1.1\r\n", "GET", GET].repeat(20) {
            let mut client = server.connect_narrow().await;
            client.send(beginning).await;
            if beginning == GET {
                within(client.0.readable()).await.unwrap();
            }
            clients.push(client);
        }
        let mut idle = server.connect().await;
        idle.get().await;
        server.stop.send(()).unwrap();
        idle.closed().await;
        if ends {
            within(server.served).await.unwrap();
        } else {
            assert!(tokio::time::timeout(SHORT * 3, server.served).await.is_err());
        }
    }
}

#[tokio::test]
async fn a_head_that_has_begun_has_its_time_and_nothing_else_is_waited_for() {
    for (stop_timeout, is_waited_for) in [(SHORT, false), (LONG, true)] {
        let server = start(Limits { stop_timeout, ..wide() }).await;
        let (begin, end) = GET.split_at(20);
        // The first head of a connection, and a later one.
        let (mut first, mut later) = (server.connect().await, server.connect().await);
        let mut silent = server.connect().await;
        first.send(begin).await;
        later.get().await;
        later.send(begin).await;
        silent.get().await;
        server.stop.send(()).unwrap();
        silent.closed().await;
        if is_waited_for {
            for client in [&mut first, &mut later] {
                client.send(end).await;
                let answer = client.next_answer().await;
                assert_eq!(answer.header("connection"), Some("close"));
                assert_eq!(answer.body.0, snapshot(1, 1).body);
                client.half_close().await;
                client.closed().await;
            }
        } else {
            first.closed().await;
            later.closed().await;
        }
        within(server.served).await.unwrap();
    }
}

#[tokio::test]
async fn who_may_still_be_sending_is_not_waited_for_long() {
    let server = start(Limits { stop_timeout: SHORT, ..wide() }).await;
    let mut client = server.connect().await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n").await;
    client.next_answer().await;
    server.stop.send(()).unwrap();
    // It never closes its side, and may take an hour otherwise.
    within(server.served).await.unwrap();
}

#[tokio::test]
async fn what_came_before_the_signal_is_answered() {
    let server = start(wide()).await;
    // The server runs in this thread, so it has neither of them when the signal comes.
    let waiting = std::net::TcpStream::connect(server.address).unwrap();
    (&waiting).write_all(GET.as_bytes()).unwrap();
    server.stop.send(()).unwrap();
    waiting.set_nonblocking(true).unwrap();
    let mut waiting = Client(TcpStream::from_std(waiting).unwrap());
    assert_eq!(waiting.next_answer().await.body.0, snapshot(1, 1).body);
    waiting.half_close().await;
    within(server.served).await.unwrap();
}

#[tokio::test]
async fn the_delay_before_the_stop_is_one_of_last_answers() {
    let server = start(Limits { shutdown_delay: LONG, ..wide() }).await;
    let mut kept = server.connect().await;
    assert_eq!(kept.get().await.header("connection"), None);
    let address = server.address;
    let connect = async || Client(TcpStream::connect(address).await.unwrap());
    server.stop.send(()).unwrap();
    let not_ready = answer(
        "HTTP/1.1 503 Service Unavailable",
        &[
            ("cache-control", "no-store"),
            ("connection", "close"),
            ("content-length", "21"),
            ("content-type", "application/json"),
            ("x-content-type-options", "nosniff"),
        ],
        br#"{"status":"stopping"}"#,
    );
    let asking = async {
        loop {
            let mut client = connect().await;
            client.send("GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n").await;
            let answer = client.next_answer().await;
            if answer.header("connection").is_some() {
                break answer;
            }
        }
    };
    assert_eq!(within(asking).await, not_ready);
    // Both the connection that was there and a new one get one more answer.
    let mut new = connect().await;
    for client in [&mut kept, &mut new] {
        let answer = client.get().await;
        assert_eq!(answer.header("connection"), Some("close"));
        assert_eq!(answer.body.0, snapshot(1, 1).body);
        client.half_close().await;
        assert_eq!(answers(&client.rest().await.unwrap(), |_| false), []);
    }
    assert!(!server.served.is_finished());

    let server = start(Limits { shutdown_delay: SHORT, ..wide() }).await;
    server.stop.send(()).unwrap();
    within(server.served).await.unwrap();
}
