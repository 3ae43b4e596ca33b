//! S3 with a real server, and with a script where a real one cannot be made to fail.

use stapes_store::ErrorKind;
use stapes_store::storage::{Access, Location, Retrying, S3Location, S3Storage, Storage};
use stapes_testing::sinks::{HttpSink, Reply};
use stapes_testing::storage_servers::S3Server;

use crate::contract;

fn location(url: &str, path: &str) -> S3Location {
    match format!("s3:{url}/{path}").parse() {
        Ok(Location::S3(location)) => location,
        other => panic!("{url}/{path} is {other:?}"),
    }
}

fn access() -> Access {
    Access {
        aws_access_key_id: Some(S3Server::KEY_ID.to_owned()),
        aws_secret_access_key: Some(S3Server::SECRET.into()),
        ..Access::default()
    }
}

#[test]
fn s3_keeps_the_contract_with_and_without_a_prefix() {
    let server = S3Server::start().unwrap();
    for path in ["bucket", "other/a/b c"] {
        let to = location(&server.url(), path);
        let missing = S3Storage::open(&to, &access()).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NoRepository, "{missing:?}");
        contract::keep(&S3Storage::create(&to, &access()).unwrap());
        let again = S3Storage::create(&to, &access()).unwrap();
        assert_eq!(again.get("config").unwrap(), b"config");
    }
}

#[test]
fn a_list_of_more_than_a_page_is_whole() {
    let server = S3Server::start().unwrap();
    let storage = S3Storage::create(&location(&server.url(), "bucket/r"), &access()).unwrap();
    let folder = server.folder().join("bucket/r/data/00");
    std::fs::create_dir_all(&folder).unwrap();
    for number in 0..2345 {
        std::fs::write(folder.join(format!("00{number:04}")), "x").unwrap();
    }
    let mut entries = storage.list("data").unwrap();
    entries.sort();
    entries.dedup();
    assert_eq!(entries.len(), 2345);
}

#[test]
fn a_wrong_secret_is_denied_and_is_in_no_message() {
    let server = S3Server::start().unwrap();
    let mut access = access();
    access.aws_secret_access_key = Some("hunter2".into());
    let error = S3Storage::open(&location(&server.url(), "bucket"), &access).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
    let shown = format!("{error:?}");
    assert!(!shown.contains("hunter2") && !shown.contains("X-Amz-Signature"), "{shown}");
}

/// A storage before a script: the list that opening asks for has been answered.
fn scripted() -> (HttpSink, S3Storage) {
    let server = HttpSink::start().unwrap();
    server.reply(Reply::status(200, "<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><IsTruncated>false</IsTruncated></ListBucketResult>"));
    let storage = S3Storage::open(&location(&server.url(), "bucket"), &access()).unwrap();
    (server, storage)
}

#[test]
fn a_busy_server_is_asked_again() {
    let (server, storage) = scripted();
    let storage = Retrying::new(storage, contract::retries(3));
    server.reply(Reply::status(503, "<Error><Code>SlowDown</Code></Error>"));
    server.reply(Reply::status(500, ""));
    server.reply(Reply::status(200, "whole"));
    assert_eq!(storage.get("keys/aa").unwrap(), b"whole");
    for _ in 0..3 {
        server.reply(Reply::status(503, "<Error><Code>SlowDown</Code></Error>"));
    }
    let error = storage.get("keys/aa").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(format!("{error:?}").contains("SlowDown"), "{error:?}");
}

#[test]
fn a_server_without_conditions_is_asked_without_them() {
    let (server, storage) = scripted();
    server.reply(Reply::status(404, ""));
    server.reply(Reply::status(501, "<Error><Code>NotImplemented</Code></Error>"));
    server.reply(Reply::status(200, ""));
    storage.put("keys/aa", &[b"x"]).unwrap();
    let requests = server.requests();
    let conditions: Vec<Option<&str>> =
        requests[2..].iter().map(|request| request.header("if-none-match")).collect();
    assert_eq!(conditions, [Some("*"), None]);
    // The SHA-256 of "x", which servers compare with what arrived.
    let sum = "LXEWQrcmsEQBYnyp+6wy9chTD7GQPMTbAiWHF5IaSIE=";
    assert_eq!(requests[3].header("x-amz-checksum-sha256"), Some(sum));
}

#[test]
fn a_region_that_the_server_says_is_taken_over() {
    let server = HttpSink::start().unwrap();
    server.reply(
        Reply::status(400, "<Error><Code>AuthorizationHeaderMalformed</Code></Error>")
            .header("x-amz-bucket-region", "eu-north-1"),
    );
    server.reply(Reply::status(
        200,
        "<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"></ListBucketResult>",
    ));
    S3Storage::open(&location(&server.url(), "bucket"), &access()).unwrap();
    let regions: Vec<bool> =
        server.requests().iter().map(|request| request.query.contains("eu-north-1")).collect();
    assert_eq!(regions, [false, true]);
}

#[test]
fn a_list_that_is_damaged_or_never_ends_is_an_error() {
    let (server, storage) = scripted();
    server.reply(Reply::status(200, "<ListBucketResult><Contents>"));
    storage.list("keys").unwrap_err();
    let endless = "<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken></ListBucketResult>";
    server.reply(Reply::status(200, endless));
    server.reply(Reply::status(200, endless));
    storage.list("keys").unwrap_err();
}
