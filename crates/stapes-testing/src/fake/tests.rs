//! The fake replies as a real server does, and breaks as it is told.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};

use super::*;
use crate::http;

const PATIENCE: Duration = Duration::from_secs(60);

fn fake(version: Version) -> FakeIncus {
    FakeIncus::start(version, &["direct_backup"]).unwrap()
}

fn call(fake: &FakeIncus, method: &str, path: &str) -> Result<Value> {
    http::call(&fake.socket(), method, path, None, PATIENCE)
}

/// Everything the fake sends to one request over TCP.
fn raw(fake: &FakeIncus, request: &str) -> String {
    let mut stream = TcpStream::connect(fake.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

fn refusal(result: Result<Value>) -> (u64, String) {
    match result {
        Err(Error::Refused { code, message, .. }) => (code, message),
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn it_tells_who_it_is() {
    let fake = fake(Version::Lts7);
    let server = call(&fake, "GET", "/1.0").unwrap();
    assert_eq!(server["auth"], "trusted");
    assert_eq!(server["api_extensions"], json!(["direct_backup"]));
    assert_eq!(server["environment"]["server_version"], "7.0.2");
    assert_eq!(refusal(call(&fake, "GET", "/1.0/instances")), (404, "not found".to_owned()));
}

#[test]
fn replies_come_in_order_and_the_last_one_stays() {
    let fake = fake(Version::Lts6);
    fake.on("GET", "/1.0/instances/*", [Reply::sync(json!("any"))]);
    fake.on("GET", "/1.0/instances/web", [Reply::error(500, "busy"), Reply::sync(json!("web"))]);
    assert_eq!(refusal(call(&fake, "GET", "/1.0/instances/web")), (500, "busy".to_owned()));
    assert_eq!(call(&fake, "GET", "/1.0/instances/web?project=p").unwrap(), "web");
    assert_eq!(call(&fake, "GET", "/1.0/instances/web").unwrap(), "web");
    assert_eq!(call(&fake, "GET", "/1.0/instances/db").unwrap(), "any");
    assert_eq!(fake.requests().len(), 4);
    assert_eq!(fake.changes(), [""; 0]);
}

#[test]
fn a_failed_operation_has_the_shape_of_its_version() {
    for (version, code) in [(Version::Lts6, 500), (Version::Lts7, 400)] {
        let fake = fake(version);
        let failing = Operation::failure("no space").takes(Duration::from_millis(20));
        fake.on("POST", "/1.0/instances", [Reply::operation(failing)]);
        let refused = refusal(call(&fake, "POST", "/1.0/instances"));
        assert_eq!(refused, (code, "no space".to_owned()));
        let operation = call(&fake, "GET", "/1.0/operations/00000000-0000-4000-8000-000000000001");
        assert_eq!(operation.unwrap()["status_code"], 400);
        assert_eq!(fake.changes(), ["POST /1.0/instances"]);
    }
}

#[test]
fn waiting_can_time_out_and_an_operation_can_be_cancelled() {
    let fake = fake(Version::Lts6);
    fake.on("POST", "/x", [Reply::operation(Operation::never_ends())]);
    let started = raw(&fake, "POST /x HTTP/1.1\r\n\r\n");
    assert!(started.starts_with("HTTP/1.1 202 Accepted\r\n"), "{started}");
    let url = "/1.0/operations/00000000-0000-4000-8000-000000000001";
    assert!(started.contains(&format!("Location: {url}\r\n")), "{started}");
    let late = refusal(call(&fake, "GET", &format!("{url}/wait?timeout=0")));
    assert_eq!(late, (500, "context deadline exceeded".to_owned()));
    call(&fake, "DELETE", url).unwrap();
    let cancelled = refusal(call(&fake, "GET", &format!("{url}/wait")));
    assert_eq!(cancelled, (500, "Operation cancelled".to_owned()));
}

#[test]
fn an_operation_can_vanish() {
    let fake = fake(Version::Lts7);
    let vanishing = Operation::vanishes().takes(Duration::from_millis(10));
    fake.on("DELETE", "/x", [Reply::operation(vanishing)]);
    let refused = refusal(call(&fake, "DELETE", "/x"));
    assert_eq!(refused, (404, "Operation not found".to_owned()));
}

#[test]
fn the_end_of_a_change_is_known_even_if_the_operation_is_forgotten_by_then() {
    for (code, err) in [(200, ""), (400, "no space")] {
        let fake = fake(Version::Lts6);
        let operation = |id: &str, code: u64| {
            let operation = json!({ "id": id, "status_code": code, "err": err });
            Frame::Text(json!({ "type": "operation", "metadata": operation }).to_string())
        };
        let id = "00000000-0000-4000-8000-000000000001";
        let frames = vec![operation("other", 401), operation(id, 103), operation(id, code)];
        fake.on("GET", "/1.0/events", [Reply::websocket(frames)]);
        fake.on("POST", "/x", [Reply::operation(Operation::vanishes())]);
        let changed = http::change(&fake.socket(), "POST", "/x?project=p", None, PATIENCE);
        if code == 200 {
            assert_eq!(changed.unwrap()["id"], id);
        } else {
            assert_eq!(refusal(changed), (code, err.to_owned()));
        }
        assert_eq!(fake.requests()[0].query, "type=operation&project=p");
    }
}

#[test]
fn a_change_without_its_event_is_what_the_server_says_it_is() {
    let fake = fake(Version::Lts7);
    fake.on("GET", "/1.0/events", [Reply::error(403, "not authorized")]);
    let replies = [Operation::success(), Operation::vanishes()].map(Reply::operation);
    fake.on("POST", "/x", replies);
    http::change(&fake.socket(), "POST", "/x", None, PATIENCE).unwrap();
    let refused = refusal(http::change(&fake.socket(), "POST", "/x", None, PATIENCE));
    assert_eq!(refused, (404, "Operation not found".to_owned()));
}

#[test]
fn a_body_can_end_before_its_announced_length() {
    let fake = fake(Version::Lts6);
    fake.on("GET", "/export", [Reply::bytes("0123456789").cut_after(4)]);
    let answer = raw(&fake, "GET /export HTTP/1.1\r\n\r\n");
    assert!(answer.contains("Content-Length: 10\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n0123"), "{answer}");
}

#[test]
fn a_chunked_body_can_lack_its_end() {
    let fake = fake(Version::Lts7);
    let pieces = vec![b"abc".to_vec(), b"def".to_vec()];
    let whole = Reply::chunks(pieces, Duration::ZERO);
    fake.on("GET", "/export", [whole.clone(), whole.cut_after(5)]);
    let get = "GET /export HTTP/1.1\r\n\r\n";
    assert!(raw(&fake, get).ends_with("3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n"));
    assert!(raw(&fake, get).ends_with("3\r\nabc\r\n3\r\nde"));
}

#[test]
fn an_upload_can_be_refused_before_it_is_read() {
    let fake = fake(Version::Lts6);
    fake.on("POST", "/1.0/instances", [Reply::error(404, "no project").without_reading()]);
    let answer = raw(&fake, "POST /1.0/instances HTTP/1.1\r\nContent-Length: 9\r\n\r\nnever");
    assert!(answer.starts_with("HTTP/1.1 404 Not Found\r\n"), "{answer}");
    assert_eq!(fake.requests().remove(0).body, b"");
}

#[test]
fn the_event_socket_can_be_refused_or_cut() {
    let fake = fake(Version::Lts6);
    let events = [
        Reply::websocket(vec![Frame::Text("{}".to_owned())]).cut_at_end(),
        Reply::error(403, "not authorized"),
    ];
    fake.on("GET", "/1.0/events", events);
    // Key and its answer are the example of RFC 6455.
    let upgrade = "GET /1.0/events HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let cut = raw(&fake, upgrade);
    assert!(cut.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{cut}");
    assert!(cut.ends_with("{}"), "{cut}");
    assert!(raw(&fake, upgrade).starts_with("HTTP/1.1 403 Forbidden\r\n"));
}

#[test]
fn requests_are_recorded_with_their_bodies() {
    let fake = fake(Version::Lts6);
    fake.on("PUT", "/x", [Reply::sync(json!(null))]);
    let body = json!({ "name": "web" });
    http::call(&fake.socket(), "PUT", "/x?project=p", Some(&body), PATIENCE).unwrap();
    raw(
        &fake,
        "PUT /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n[1,\r\n2\r\n2]\r\n0\r\n\r\n",
    );
    let requests = fake.requests();
    assert_eq!(requests[0].json(), body);
    assert_eq!(requests[0].parameter("project"), Some("p"));
    assert_eq!(requests[1].json(), json!([1, 2]));
}
