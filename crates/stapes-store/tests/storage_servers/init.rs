//! Two that make a repository at one place at the same time, on each storage: one has made it.

use std::sync::{Arc, Barrier};
use std::thread;

use stapes_store::restic::repository::Repository;
use stapes_store::storage::{Access, Location, RetryOptions, Storage, create};
use stapes_store::{ErrorKind, Result};
use stapes_testing::storage_servers::{RestServer, S3Server, SshServer};

fn two_make_one(location: &str, access: &Access) {
    let location: Location = location.parse().unwrap();
    let storage =
        || -> Arc<dyn Storage> { create(&location, access, RetryOptions::default()).unwrap() };
    storage();
    let begin = Barrier::new(2);
    let made: Vec<Result<Repository>> = thread::scope(|scope| {
        let make = |password: &'static [u8]| {
            let (storage, begin) = (storage(), &begin);
            scope.spawn(move || {
                begin.wait();
                Repository::init(storage, password)
            })
        };
        let threads = [make(b"one"), make(b"two")];
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let [one, two] = &*made else { panic!() };
    let (winner, loser, refusal) = match (one, two) {
        (Ok(_), Err(refusal)) => (b"one", b"two", refusal),
        (Err(refusal), Ok(_)) => (b"two", b"one", refusal),
        other => panic!("{other:?}"),
    };
    assert_eq!(refusal.kind(), ErrorKind::Refused, "{refusal:?}");
    let opened = Repository::open(storage(), winner).unwrap();
    assert_eq!(opened.keys().unwrap().whole.len(), 1);
    let wrong = Repository::open(storage(), loser).unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::WrongPassword, "{wrong:?}");
}

#[test]
fn of_two_at_a_local_folder_one_makes_the_repository() {
    let folder = tempfile::tempdir().unwrap();
    two_make_one(folder.path().join("r").to_str().unwrap(), &Access::default());
}

#[test]
fn of_two_at_an_s3_server_one_makes_the_repository() {
    let server = S3Server::start().unwrap();
    let access = Access {
        aws_access_key_id: Some(S3Server::KEY_ID.to_owned()),
        aws_secret_access_key: Some(S3Server::SECRET.into()),
        ..Access::default()
    };
    two_make_one(&format!("s3:{}/bucket/r", server.url()), &access);
}

#[test]
fn of_two_at_a_rest_server_one_makes_the_repository() {
    let server = RestServer::start().unwrap();
    let access = Access {
        rest_username: Some(RestServer::USER.to_owned()),
        rest_password: Some(RestServer::PASSWORD.into()),
        ..Access::default()
    };
    two_make_one(&format!("rest:http://{}/r/", server.address()), &access);
}

#[test]
fn of_two_at_an_sftp_server_one_makes_the_repository() {
    let server = SshServer::start().unwrap();
    std::fs::create_dir(server.folder()).unwrap();
    let access = Access { ssh_command: server.ssh_command(), ..Access::default() };
    two_make_one(&format!("sftp:lab:{}/r", server.folder().display()), &access);
}
