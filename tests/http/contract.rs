//! Each row of the contract: exact status line, exact headers, exact body.

use std::collections::BTreeSet;

use jwks_server::health::{Degradation, Health};
use jwks_server::http::KeySets;
use jwks_server::snapshot::channel;

use crate::server::{Answer, answer, snapshot, start, wide};

/// The answer to a GET of the key set, its body aside for HEAD.
fn key_set(extra: &[(&str, &str)], body: &[u8]) -> Answer {
    let snapshot = snapshot(1, 1);
    let length = snapshot.body.len().to_string();
    let mut headers = vec![
        ("access-control-allow-origin", "*"),
        ("cache-control", "public, max-age=60"),
        ("content-length", &length),
        ("content-type", "application/json"),
        ("etag", snapshot.etag.to_str().unwrap()),
        ("x-content-type-options", "nosniff"),
    ];
    headers.extend(extra);
    answer("HTTP/1.1 200 OK", &headers, body)
}

/// An answer that no cache keeps.
fn uncached(status: &str, content_type: &str, extra: &[(&str, &str)], body: &str) -> Answer {
    let length = body.len().to_string();
    let mut headers = vec![
        ("cache-control", "no-store"),
        ("content-length", &length),
        ("content-type", content_type),
        ("x-content-type-options", "nosniff"),
    ];
    headers.extend(extra);
    answer(&format!("HTTP/1.1 {status}"), &headers, body.as_bytes())
}

fn refusal(status: &str, extra: &[(&str, &str)]) -> Answer {
    let (_, reason) = status.split_once(' ').unwrap();
    uncached(status, "text/plain; charset=utf-8", extra, reason)
}

fn without_body(mut answer: Answer) -> Answer {
    answer.body.0.clear();
    answer
}

/// The request with the one header that it must have.
fn request(line: &str) -> String {
    format!("{line} HTTP/1.1\r\nHost: a\r\n\r\n")
}

#[tokio::test]
async fn the_key_set_is_served_for_get_and_head_whatever_the_query() {
    let server = start(wide()).await;
    let whole = key_set(&[], &snapshot(1, 1).body);
    for target in [
        "/.well-known/jwks.json",
        "/.well-known/jwks.json?",
        "/.well-known/jwks.json?a=b&c=%00&/../",
        "http://example.com/.well-known/jwks.json",
    ] {
        let get = server.only_answer(request(&format!("GET {target}"))).await;
        assert_eq!(get, whole, "{target}");
        let head = server.only_answer(request(&format!("HEAD {target}"))).await;
        assert_eq!(head, without_body(whole.clone()), "{target}");
    }
}

#[tokio::test]
async fn what_a_client_says_it_accepts_changes_nothing() {
    let server = start(wide()).await;
    let whole = key_set(&[], &snapshot(1, 1).body);
    for header in [
        "Accept: text/html",
        "Accept-Encoding: gzip, br",
        "Accept-Encoding: identity;q=0",
        "User-Agent:",
        "Origin: https://example.com",
        "Range: bytes=0-1",
        "If-Modified-Since: Sun, 06 Nov 2044 08:49:37 GMT",
        "Upgrade: h2c",
    ] {
        let request = format!("GET /.well-known/jwks.json HTTP/1.1\r\nHost: a\r\n{header}\r\n\r\n");
        assert_eq!(server.only_answer(request).await, whole, "{header}");
    }
}

#[tokio::test]
async fn options_answers_a_preflight() {
    let server = start(wide()).await;
    let preflight = answer(
        "HTTP/1.1 204 No Content",
        &[
            ("access-control-allow-headers", "*"),
            ("access-control-allow-methods", "GET, HEAD, OPTIONS"),
            ("access-control-allow-origin", "*"),
            ("access-control-max-age", "86400"),
            ("allow", "GET, HEAD, OPTIONS"),
        ],
        b"",
    );
    let options = request("OPTIONS /.well-known/jwks.json");
    assert_eq!(server.only_answer(options).await, preflight);
}

#[tokio::test]
async fn other_methods_are_405() {
    let server = start(wide()).await;
    let allows = [
        ("/.well-known/jwks.json", "GET, HEAD, OPTIONS"),
        ("/healthz", "GET, HEAD"),
        ("/readyz", "GET, HEAD"),
    ];
    for (path, allow) in allows {
        for method in ["POST", "PUT", "DELETE", "PATCH", "TRACE", "get", "BREW"] {
            let refused = server.only_answer(request(&format!("{method} {path}"))).await;
            let expected = refusal("405 Method Not Allowed", &[("allow", allow)]);
            assert_eq!(refused, expected, "{method} {path}");
        }
    }
    let options = server.only_answer(request("OPTIONS /healthz")).await;
    let expected = refusal("405 Method Not Allowed", &[("allow", "GET, HEAD")]);
    assert_eq!(options, expected);
}

#[tokio::test]
async fn other_paths_are_404() {
    let server = start(wide()).await;
    let not_found = refusal("404 Not Found", &[]);
    for target in [
        "/",
        "//.well-known//jwks.json",
        "//.well-known/jwks.json",
        "/.well-known/jwks.json/",
        "/.well-known/jwks.json;a",
        "/.well-known/jwks.json%00",
        "/.well-known/jwks.json%3F",
        "/.well-known/%6Awks.json",
        "/.well-known/./jwks.json",
        "/.well-known/../.well-known/jwks.json",
        "/.well-known/%2e%2e/.well-known/jwks.json",
        "/.well-known%2Fjwks.json",
        "/.WELL-KNOWN/jwks.json",
        "/.well-known",
        "/jwks.json",
        "/healthz/",
        "/private_key.pem",
        "*",
        "http://example.com",
        "example.com",
    ] {
        for method in ["GET", "POST", "OPTIONS"] {
            let answer = server.only_answer(request(&format!("{method} {target}"))).await;
            assert_eq!(answer, not_found, "{method} {target}");
        }
        let head = server.only_answer(request(&format!("HEAD {target}"))).await;
        assert_eq!(head, without_body(not_found.clone()), "{target}");
    }
    let connect = server.only_answer(request("CONNECT example.com:443")).await;
    assert_eq!(connect, not_found);
}

#[tokio::test]
async fn health_says_what_is_degraded() {
    let mut server = start(wide()).await;
    let ok = |body| uncached("200 OK", "application/json", &[], body);
    let alive = ok(r#"{"status":"ok"}"#);
    assert_eq!(server.only_answer(request("GET /healthz")).await, alive);
    let head = server.only_answer(request("HEAD /healthz?a")).await;
    assert_eq!(head, without_body(alive.clone()));

    let ready = ok(r#"{"status":"ready","degraded":[]}"#);
    assert_eq!(server.only_answer(request("GET /readyz")).await, ready);
    let head = server.only_answer(request("HEAD /readyz")).await;
    assert_eq!(head, without_body(ready));

    let degraded = BTreeSet::from([
        Degradation { code: "refused_file", file: Some("a\"b.pem".to_owned()) },
        Degradation { code: "read_only", file: None },
    ]);
    let list = r#"[{"code":"read_only"},{"code":"refused_file","file":"a\"b.pem"}]"#;
    server.health.publish(Health { degraded });
    let degraded = ok(&format!(r#"{{"status":"degraded","degraded":{list}}}"#));
    assert_eq!(server.only_answer(request("GET /readyz")).await, degraded);
    assert_eq!(server.only_answer(request("GET /healthz")).await, alive);
}

#[tokio::test]
async fn a_published_snapshot_is_served_at_once() {
    let mut server = start(wide()).await;
    let mut client = server.connect().await;
    for version in 1..4 {
        server.snapshot.publish(snapshot(version, 2));
        let answer = client.get().await;
        assert_eq!(answer.body.0, snapshot(version, 2).body);
        assert_eq!(answer.header("etag"), snapshot(version, 2).etag.to_str().ok());
    }
}

#[tokio::test]
async fn sets_come_and_go_while_others_are_served() {
    let mut server = start(wide()).await;
    let mut client = server.connect().await;
    let get = |path: &str| request(&format!("GET {path}"));
    let second = "/second/jwks.json";
    let (_publisher, reader) = channel(snapshot(2, 3));
    let one = server.sets.value();
    let mut two = KeySets::clone(&one);
    two.insert(second.to_owned(), reader);
    for (sets, status_line) in [
        (KeySets::clone(&one), "HTTP/1.1 404 Not Found"),
        (two, "HTTP/1.1 200 OK"),
        (KeySets::clone(&one), "HTTP/1.1 404 Not Found"),
    ] {
        server.sets.publish(sets);
        client.send(get(second)).await;
        let answer = client.next_answer().await;
        assert_eq!(answer.status_line, status_line);
        if answer.status_line.ends_with("OK") {
            assert_eq!(answer.body.0, snapshot(2, 3).body);
        }
        assert_eq!(client.get().await.body.0, snapshot(1, 1).body);
    }
}

#[tokio::test]
async fn a_connection_is_kept_or_closed_as_its_version_and_headers_say() {
    let server = start(wide()).await;
    let body = snapshot(1, 1).body;
    let get = |version: &str, connection: &str| {
        format!("GET /.well-known/jwks.json HTTP/{version}\r\nHost: a\r\n{connection}\r\n")
    };
    let old = |extra: &[(&str, &str)]| {
        let mut answer = key_set(extra, &body);
        answer.status_line = "HTTP/1.0 200 OK".to_owned();
        answer
    };
    // The second request is answered if and only if the first kept the connection.
    let kept = get("1.1", "") + &get("1.1", "Connection: close\r\n");
    let closing = key_set(&[("connection", "close")], &body);
    let expected = [key_set(&[], &body), closing.clone()];
    assert_eq!(server.exchange(kept).await, expected);
    let closed = get("1.1", "Connection: close\r\n") + &get("1.1", "");
    assert_eq!(server.exchange(closed).await, [closing]);
    let closed = get("1.0", "") + &get("1.0", "");
    assert_eq!(server.exchange(closed).await, [old(&[])]);
    let kept = get("1.0", "Connection: keep-alive\r\n") + &get("1.0", "");
    let expected = [old(&[("connection", "keep-alive")]), old(&[])];
    assert_eq!(server.exchange(kept).await, expected);
}
