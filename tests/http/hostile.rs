//! Requests that are malformed, too large, ambiguous or too many: one answer for each request, or
//! an error and the end of the connection.

use crate::server::{Answer, GET, LAST_GET, SHORT, answer, answers, snapshot, start, wide, within};

/// What hyper answers by itself.
fn closing(status: &str) -> Answer {
    let headers = [("connection", "close"), ("content-length", "0")];
    answer(&format!("HTTP/1.1 {status}"), &headers, b"")
}

/// The status lines of the answers, which end with the connection.
async fn status_lines(request: impl AsRef<[u8]>) -> Vec<String> {
    let server = start(wide()).await;
    let answers = server.exchange(request).await;
    let last = answers.last().unwrap();
    assert_eq!(last.header("connection"), Some("close"), "{answers:?}");
    let lines = answers.into_iter().map(|answer| answer.status_line);
    lines.collect()
}

/// A request with these lines, and a complete GET behind it.
fn with_get_behind(lines: &str) -> String {
    lines.replace('\n', "\r\n") + GET
}

const OK: &str = "HTTP/1.1 200 OK";
const BAD_REQUEST: &str = "HTTP/1.1 400 Bad Request";
const METHOD_NOT_ALLOWED: &str = "HTTP/1.1 405 Method Not Allowed";

#[tokio::test]
async fn a_malformed_request_is_400_and_the_end() {
    let server = start(wide()).await;
    for lines in [
        "GET /\0 HTTP/1.1\nHost: a\n\n",
        "GET / HTTP/1.1\nHost: a\nX: \0\n\n",
        "GET / HTTP/1.1\nHost: a\nX\0: a\n\n",
        "GET / HTTP/1.1\nHost: a\nTransfer-Encoding : chunked\n\n",
        "GET / HTTP/1.1\nHost: a\n Transfer-Encoding: chunked\n\n",
        "GET / HTTP/1.1\nHost: a\nX: a\n b\n\n",
        "GET / HTTP/1.1\n Host: a\n\n",
        "GET / HTTP/1.1\nHost a\n\n",
        "GET / HTTP/1.1\nHost: a\nContent-Length: 1\nContent-Length: 2\n\n",
        "GET / HTTP/1.1\nHost: a\nContent-Length: 1, 2\n\n",
        "GET / HTTP/1.1\nHost: a\nContent-Length: +1\n\n",
        "GET / HTTP/1.1\nHost: a\nContent-Length: -1\n\n",
        "GET / HTTP/1.1\nHost: a\nContent-Length: 0x1\n\n",
        "GET / HTTP/1.1\nHost: a\nContent-Length: 99999999999999999999\n\n",
        "GET / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked, identity\n\n",
        "GET / HTTP/1.1\nHost: a\nTransfer-Encoding: xchunked\n\n",
        "GET / HTTP/1.0\nTransfer-Encoding: chunked\n\n",
        "GET  / HTTP/1.1\nHost: a\n\n",
        "GET / HTTP/2.0\nHost: a\n\n",
        "GET / HTTP/1.2\nHost: a\n\n",
        "GET / http/1.1\nHost: a\n\n",
        "GET /\u{7f} HTTP/1.1\nHost: a\n\n",
        "GET\n\n",
        "(GET) / HTTP/1.1\nHost: a\n\n",
        "PRI * HTTP/2.0\n\nS",
        "\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}\u{0}\u{1}\u{fc}\u{3}\u{3}",
    ] {
        let answers = server.exchange(with_get_behind(lines)).await;
        assert_eq!(answers, [closing("400 Bad Request")], "{lines:?}");
    }
}

#[tokio::test]
async fn a_request_without_exactly_one_host_is_400_and_the_end() {
    let server = start(wide()).await;
    let headers = [
        ("cache-control", "no-store"),
        ("connection", "close"),
        ("content-length", "11"),
        ("content-type", "text/plain; charset=utf-8"),
        ("x-content-type-options", "nosniff"),
    ];
    let refusal = answer(BAD_REQUEST, &headers, b"Bad Request");
    for hosts in ["", "Host: a\nHost: a\n", "Host: a\nX: b\nHOST: b\n"] {
        let lines = format!("GET /.well-known/jwks.json HTTP/1.1\n{hosts}\n");
        let answers = server.exchange(with_get_behind(&lines)).await;
        assert_eq!(answers, std::slice::from_ref(&refusal), "{hosts:?}");
    }
}

#[tokio::test]
async fn a_body_is_not_read_and_never_taken_for_a_request() {
    let path = "/.well-known/jwks.json HTTP/1.1\nHost: a\n";
    let smuggled = "GET /smuggled HTTP/1.1\nHost: a\n\n";
    let length = smuggled.len() + smuggled.lines().count();
    for (method, status_line) in [("GET", OK), ("POST", METHOD_NOT_ALLOWED)] {
        for framing in [
            &format!("Content-Length: {length}\n\n{smuggled}") as &str,
            &format!("Content-Length: {length}\nContent-Length: {length}\n\n{smuggled}"),
            "Content-Length: 1000000000\n\n",
            "Content-Length: 5\nExpect: 100-continue\n\n",
            &format!("Transfer-Encoding: chunked\n\n0\n\n{smuggled}"),
            &format!("Transfer-Encoding: chunked\n\nnonsense\n\n{smuggled}"),
            &format!("Transfer-Encoding: chunked\nContent-Length: 5\n\n0\n\n{smuggled}"),
            &format!("Content-Length: 5\nTransfer-Encoding: chunked\n\n0\n\n{smuggled}"),
            &format!("Transfer-Encoding: gzip, chunked\n\n{smuggled}"),
        ] {
            let lines = format!("{method} {path}{framing}");
            let answered = status_lines(with_get_behind(&lines)).await;
            assert_eq!(answered, [status_line], "{lines:?}");
        }
    }
    // A body of no bytes is none.
    let lines = format!("GET {path}Content-Length: 0\n\n");
    let answered = status_lines(lines.replace('\n', "\r\n") + LAST_GET).await;
    assert_eq!(answered, [OK, OK]);
}

#[tokio::test]
async fn a_bare_line_feed_ends_a_line() {
    // RFC 9112 section 2.2 allows it; what matters is that there is one answer for each request.
    let get = "GET /.well-known/jwks.json HTTP/1.1\nHost: a\n\n";
    assert_eq!(status_lines(get.to_owned() + LAST_GET).await, [OK, OK]);
    assert_eq!(status_lines("\r\n".to_owned() + LAST_GET).await, [OK]);
}

#[tokio::test]
async fn a_head_beyond_the_bound_is_431_and_the_end() {
    let server = start(wide()).await;
    let too_large = [closing("431 Request Header Fields Too Large")];
    let get = "GET /.well-known/jwks.json HTTP/1.1\r\nHost: a\r\n";
    for head in [
        &format!("{get}X: {}\r\n\r\n", "a".repeat(8 * 1024)) as &str,
        &format!("{get}X: {}", "a".repeat(200 * 1024)),
        &format!("{get}{}\r\n", "X: a\r\n".repeat(100)),
        &format!("{get}If-None-Match: {}\r\n\r\n", "\"a\",".repeat(16 * 1024)),
        &format!("GET /?{} HTTP/1.1\r\n", "a".repeat(65 * 1024)),
        &"a".repeat(65 * 1024),
        &"\r\n".repeat(8 * 1024),
    ] {
        let answers = server.exchange(head).await;
        assert_eq!(answers, too_large, "{} bytes", head.len());
    }
    // What is just within the bounds is served.
    let room = 8 * 1024 - LAST_GET.len() - "X: \r\n".len();
    for headers in ["X: a\r\n".repeat(98), format!("X: {}\r\n", "a".repeat(room))] {
        let head = LAST_GET.replace("Connection", &(headers + "Connection"));
        assert!(head.len() <= 8 * 1024);
        assert_eq!(status_lines(head).await, [OK]);
    }
}

#[tokio::test]
async fn the_error_arrives_although_the_client_has_not_sent_all() {
    let server = start(wide()).await;
    let mut client = server.connect().await;
    client.send("nonsense\r\n\r\n").await;
    let refused = client.next_answer().await;
    assert_eq!(refused, closing("400 Bad Request"));
    // Closing at once would have reset the connection by now, and this would fail.
    for _ in 0..10 {
        within(client.0.writable()).await.unwrap();
        assert_eq!(client.0.try_write(b"more").unwrap(), 4);
        assert_eq!(server.exchange(LAST_GET).await.len(), 1);
    }
    client.half_close().await;
    client.closed().await;
}

#[tokio::test]
async fn the_error_is_not_waited_upon_for_ever() {
    let server =
        start(jwks_server::http::Limits { max_connections: 1, linger_timeout: SHORT, ..wide() })
            .await;
    let mut client = server.connect().await;
    client.send("nonsense\r\n\r\n").await;
    // This one gets the only slot although the first client never closes its side.
    assert_eq!(server.exchange(LAST_GET).await.len(), 1);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let server = start(wide()).await;
    let requests = [GET, "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"].concat().repeat(500) + LAST_GET;
    let mut client = server.connect().await;
    let (mut read, mut write) = client.0.split();
    let mut bytes = Vec::new();
    let (sent, received) = tokio::join!(
        within(tokio::io::AsyncWriteExt::write_all(&mut write, requests.as_bytes())),
        within(tokio::io::AsyncReadExt::read_to_end(&mut read, &mut bytes)),
    );
    sent.unwrap();
    received.unwrap();
    let answers = answers(&bytes, |n| n % 2 == 1);
    assert_eq!(answers.len(), 1001);
    for (n, answer) in answers.iter().enumerate() {
        if n % 2 == 0 {
            assert_eq!(answer.body.0, snapshot(1, 1).body);
        } else {
            assert_eq!(answer.status_line, "HTTP/1.1 404 Not Found");
        }
    }
}
