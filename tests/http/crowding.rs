//! Invariant 16: one address, or many, with valid requests cannot keep others out. Each rule has its
//! control, in which the same client waits.

use std::time::Duration;

use jwks_server::http::Limits;
use tokio::time::timeout;

use crate::server::{Client, GET, LONG, SHORT, Server, start, wide};

/// Room for four, in which connections give way at once.
fn narrow() -> Limits {
    Limits { max_connections: 4, tenure: Duration::ZERO, ..wide() }
}

/// A connection that has begun a request, and holds its slot.
async fn holding(server: &Server, host: u8) -> Client {
    let mut client = server.connect_from(host).await;
    client.send("GET /").await;
    client
}

/// Whether a connection from `host` is answered. It is there still.
async fn answered(server: &Server, host: u8) -> Option<Client> {
    let mut client = server.connect_from(host).await;
    client.send(GET).await;
    timeout(SHORT * 3, client.0.readable()).await.ok()?.ok()?;
    client.next_answer().await;
    Some(client)
}

/// Whether the server has not closed the connection.
fn is_open(client: &Client) -> bool {
    let read = client.0.try_read(&mut [0]);
    read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

#[tokio::test]
async fn the_source_that_holds_most_gives_way_to_a_new_client() {
    for (tenure, gives_way) in [(Duration::ZERO, true), (LONG, false)] {
        let server = start(Limits { tenure, ..narrow() }).await;
        let few = [holding(&server, 2).await, holding(&server, 3).await];
        let mut many = [holding(&server, 4).await, holding(&server, 4).await];
        let newcomer = answered(&server, 5).await;
        assert_eq!(newcomer.is_some(), gives_way);
        if gives_way {
            // Of its connections it is the older one.
            many[0].closed().await;
        }
        assert!(is_open(&many[1]) && few.iter().all(is_open));
    }
}

#[tokio::test]
async fn where_all_hold_as_much_the_oldest_gives_way() {
    let server = start(narrow()).await;
    let mut clients = Vec::new();
    for host in 2..6 {
        clients.push(holding(&server, host).await);
    }
    for oldest in 0..3 {
        let newcomer = answered(&server, 6 + oldest).await;
        clients.push(newcomer.unwrap());
        clients[usize::from(oldest)].closed().await;
        assert!(clients[usize::from(oldest) + 1..4].iter().all(is_open));
    }
}

#[tokio::test]
async fn a_source_that_comes_again_and_again_takes_the_slots_of_no_other() {
    let server = start(narrow()).await;
    let few = [holding(&server, 2).await, holding(&server, 3).await];
    for _ in 0..50 {
        // It is closed by the next one.
        holding(&server, 4).await.send(GET).await;
        let mut pushing = holding(&server, 4).await;
        pushing.send(GET).await;
        answered(&server, 4).await.unwrap();
        assert!(few.iter().all(is_open));
    }
}

#[tokio::test]
async fn trusted_proxies_do_not_give_way() {
    for (trusted, waits) in [("127.0.0.4/31", true), ("127.0.0.8/31", false)] {
        let trusted_proxies = vec![trusted.parse().unwrap()];
        let server = start(Limits { trusted_proxies, ..narrow() }).await;
        let mut pool = Vec::new();
        for _ in 0..4 {
            pool.push(holding(&server, 4).await);
        }
        assert_eq!(answered(&server, 2).await.is_none(), waits);
        let open = pool.iter().filter(|client| is_open(client)).count();
        assert_eq!(open, if waits { 4 } else { 3 });
    }
}

#[tokio::test]
async fn an_answer_closes_its_connection_while_slots_are_few() {
    let trusted_proxies = vec!["127.0.0.9".parse().unwrap()];
    let server = start(Limits { trusted_proxies, tenure: LONG, ..narrow() }).await;
    let mut proxy = server.connect_from(9).await;
    let mut client = server.connect_from(2).await;
    assert_eq!(proxy.get().await.header("connection"), None);
    assert_eq!(client.get().await.header("connection"), None);
    let third = holding(&server, 3).await;
    let mut fourth = server.connect_from(4).await;
    assert_eq!(fourth.get().await.header("connection"), Some("close"));
    fourth.closed().await;
    assert_eq!(client.get().await.header("connection"), Some("close"));
    client.closed().await;
    assert_eq!(proxy.get().await.header("connection"), None, "a trusted proxy keeps its pool");
    drop((client, third, fourth));
    // The control: where there is room again, it is kept again.
    let mut again = server.connect_from(2).await;
    while again.get().await.header("connection").is_some() {
        again = server.connect_from(2).await;
    }
    again.get().await;
}
