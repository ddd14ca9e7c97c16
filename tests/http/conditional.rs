//! Conditional requests (RFC 9110 section 13) over the wire. The grammar has its own unit tests.

use crate::server::{Answer, answer, snapshot, start, wide};

fn not_modified() -> Answer {
    answer(
        "HTTP/1.1 304 Not Modified",
        &[
            ("access-control-allow-origin", "*"),
            ("cache-control", "public, max-age=60"),
            ("etag", snapshot(1, 1).etag.to_str().unwrap()),
            ("x-content-type-options", "nosniff"),
        ],
        b"",
    )
}

/// A request for the key set with these further header lines.
fn request(method: &str, lines: &[&str]) -> String {
    let lines = [&["Host: a"], lines, &["\r\n"]].concat().join("\r\n");
    format!("{method} /.well-known/jwks.json HTTP/1.1\r\n{lines}")
}

#[tokio::test]
async fn a_matching_if_none_match_is_304() {
    let server = start(wide()).await;
    let etag = snapshot(1, 1).etag;
    let etag = etag.to_str().unwrap();
    for lines in [
        &[&format!("If-None-Match: {etag}") as &str][..],
        &[&format!("If-None-Match: W/{etag}")],
        &[&format!("if-none-match: \"x\" , {etag},W/\"y\"")],
        &["If-None-Match: \"x\"", &format!("If-None-Match: {etag}")],
        &["If-None-Match: *"],
        &["If-None-Match: *", "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT"],
    ] {
        for method in ["GET", "HEAD"] {
            let answer = server.only_answer(request(method, lines)).await;
            assert_eq!(answer, not_modified(), "{method} {lines:?}");
        }
    }
}

#[tokio::test]
async fn any_other_if_none_match_gets_the_key_set() {
    let server = start(wide()).await;
    let etag = snapshot(1, 1).etag;
    let unquoted = etag.to_str().unwrap().trim_matches('"');
    let whole = server.only_answer(request("GET", &[])).await;
    for line in [
        "If-None-Match: \"x\"",
        "If-None-Match:",
        "If-None-Match: \u{e4}\u{f6}",
        "If-None-Match: \"",
        &format!("If-None-Match: {unquoted}"),
        &format!("If-None-Match: {}", "\"x\", ".repeat(1000)),
        &format!("If-None-Match: {}", "W/".repeat(3000)),
        &format!("If-Match: \"{unquoted}\""),
    ] {
        let answer = server.only_answer(request("GET", &[line])).await;
        assert_eq!(answer, whole, "{line}");
    }
}

#[tokio::test]
async fn other_methods_are_not_conditional() {
    let server = start(wide()).await;
    for (method, status_line) in
        [("OPTIONS", "HTTP/1.1 204 No Content"), ("POST", "HTTP/1.1 405 Method Not Allowed")]
    {
        let answer = server.only_answer(request(method, &["If-None-Match: *"])).await;
        assert_eq!(answer.status_line, status_line);
    }
}

#[tokio::test]
async fn a_connection_goes_on_after_304() {
    let server = start(wide()).await;
    let requests = request("GET", &["If-None-Match: *"])
        + &request("GET", &["If-None-Match: *", "Connection: close"]);
    let answers = server.exchange(requests).await;
    assert_eq!(answers.len(), 2);
    assert_eq!(answers[0], not_modified());
    assert_eq!(answers[1].status_line, "HTTP/1.1 304 Not Modified");
}
