//! The REST protocol with a real server, and with a script where a real one cannot be made to fail.

use stapes_store::ErrorKind;
use stapes_store::storage::{Access, Location, RestLocation, RestStorage, Retrying, Storage};
use stapes_testing::sinks::{HttpSink, Reply};
use stapes_testing::storage_servers::RestServer;
use stapes_testing::{Direction, TcpProxy};

use crate::contract;

fn location(text: &str) -> RestLocation {
    match format!("rest:{text}").parse() {
        Ok(Location::Rest(location)) => location,
        other => panic!("{text} is {other:?}"),
    }
}

fn access() -> Access {
    Access {
        rest_username: Some(RestServer::USER.to_owned()),
        rest_password: Some(RestServer::PASSWORD.into()),
        ..Access::default()
    }
}

#[test]
fn a_rest_server_keeps_the_contract() {
    let server = RestServer::start().unwrap();
    let to = location(&format!("http://{}/a/r", server.address()));
    contract::keep(&RestStorage::create(&to, &access()).unwrap());
}

#[test]
fn user_and_password_may_be_in_the_location_and_wrong_ones_are_denied() {
    let server = RestServer::start().unwrap();
    let at = server.address();
    let to = location(&format!("http://tester:p%40ss%20word@{at}/"));
    RestStorage::create(&to, &Access::default()).unwrap();
    let to = location(&format!("http://tester:hunter2@{at}/"));
    let error = RestStorage::open(&to, &Access::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
    assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
}

#[test]
fn transfers_that_are_cut_are_whole_after_a_repetition() {
    let server = RestServer::start().unwrap();
    let proxy = TcpProxy::start(server.address()).unwrap();
    let to = location(&format!("http://{}/", proxy.address()));
    let storage = Retrying::new(RestStorage::create(&to, &access()).unwrap(), contract::retries(3));
    let content = contract::content(4_000_000);
    proxy.cut_after(Direction::Up, 1_000_000);
    storage.put("data/5c/5c65", &[&content]).unwrap();
    proxy.cut_after(Direction::Down, 1_000_000);
    assert!(storage.get("data/5c/5c65").unwrap() == content);
    assert_eq!(storage.list("data").unwrap().len(), 1);
}

#[test]
fn a_server_that_is_not_there_is_unreachable() {
    let error = RestStorage::open(&location("http://127.0.0.1:1/"), &access()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error:?}");
}

#[test]
fn answers_that_make_no_sense_are_errors() {
    let server = HttpSink::start().unwrap();
    let to = location(&format!("{}/", server.url()));
    server.reply(Reply::status(404, ""));
    let storage = RestStorage::open(&to, &Access::default()).unwrap();
    // Not version 2.
    server.reply(Reply::status(200, "[\"aa\"]"));
    storage.list("keys").unwrap_err();
    let version_2 = |text: &str| {
        Reply::status(200, text).header("content-type", "application/vnd.x.restic.rest.v2")
    };
    server.reply(version_2("[{\"name\":\"aa\"}]"));
    storage.list("keys").unwrap_err();
    server.reply(version_2("null"));
    assert_eq!(storage.list("keys").unwrap(), []);
    // A part is asked for, and the whole is sent.
    server.reply(Reply::status(200, "hello"));
    storage.get_range("data/5c/5c65", 1..3).unwrap_err();
    // Shorter than asked for.
    server.reply(Reply::status(206, "h"));
    let error = storage.get_range("data/5c/5c65", 1..3).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    // To another place, with the password.
    server.reply(Reply::status(302, "").header("location", "http://127.0.0.1:1/"));
    storage.get("keys/aa").unwrap_err();
    server.reply(Reply::status(507, "quota"));
    assert_eq!(storage.get("keys/aa").unwrap_err().kind(), ErrorKind::Full);
}
