//! The end of the server: invariant 12, as far as HTTP is concerned.

use jwks_server::http::Limits;
use tokio::net::TcpStream;

use crate::server::{GET, LONG, SHORT, snapshot, start, wide, within};

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
