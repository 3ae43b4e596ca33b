//! SFTP with a real sshd.

use std::time::{Duration, Instant};

use stapes_store::ErrorKind;
use stapes_store::storage::{Location, Retrying, SftpLocation, SftpStorage, Storage};
use stapes_testing::storage_servers::SshServer;
use stapes_testing::{Direction, TcpProxy};

use crate::contract;
use crate::disk::{self, Disk};

fn location(text: &str) -> SftpLocation {
    match text.parse() {
        Ok(Location::Sftp(location)) => location,
        other => panic!("{text} is {other:?}"),
    }
}

fn repository(server: &SshServer) -> SftpLocation {
    location(&format!("sftp:lab:{}/a/r", server.folder().display()))
}

#[test]
fn sftp_keeps_the_contract() {
    let server = SshServer::start().unwrap();
    let to = repository(&server);
    let missing = SftpStorage::open(&to, &server.ssh_command()).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NoRepository, "{missing:?}");
    std::fs::create_dir(server.folder()).unwrap();
    contract::keep(&SftpStorage::create(&to, &server.ssh_command()).unwrap());
    let again = SftpStorage::open(&to, &server.ssh_command()).unwrap();
    assert_eq!(again.get("config").unwrap(), b"config");
    assert_eq!(again.label(), format!("sftp:lab:{}/a/r", server.folder().display()));
}

#[test]
fn a_path_without_a_slash_is_below_home_and_urls_with_ports_are_understood() {
    let server = SshServer::start().unwrap();
    let port = server.address().port();
    let home = std::path::PathBuf::from(std::env::var_os("HOME").unwrap());
    let name = format!("stapes-test-{}-{port}", std::process::id());
    let storage = SftpStorage::create(
        &location(&format!("sftp://root@127.0.0.1:{port}/{name}")),
        &server.ssh_command(),
    )
    .unwrap();
    storage.put("keys/aa", &[b"x"]).unwrap();
    assert!(home.join(&name).join("keys/aa").exists());
    std::fs::remove_dir_all(home.join(name)).unwrap();
}

#[test]
fn an_upload_that_is_cut_is_whole_after_a_repetition_and_leaves_nothing_that_counts() {
    let server = SshServer::start().unwrap();
    std::fs::create_dir_all(server.folder().join("r/keys")).unwrap();
    let proxy = TcpProxy::start(server.address()).unwrap();
    let port = proxy.address().port();
    server.trust(port).unwrap();
    let to = location(&format!("sftp://root@127.0.0.1:{port}/{}/r", server.folder().display()));
    let storage = SftpStorage::open(&to, &server.ssh_command()).unwrap();
    let storage = Retrying::new(storage, contract::retries(5));
    let content = contract::content(8_000_000);
    proxy.cut_after(Direction::Up, 3_000_000);
    storage.put("data/5c/5c65", &[&content]).unwrap();
    assert!(storage.get("data/5c/5c65").unwrap() == content);
    assert_eq!(storage.list("data").unwrap().len(), 1);
    let left = || std::fs::read_dir(server.folder().join("r/data/5c")).unwrap().count() - 1;
    assert_eq!(left(), 1, "the cut upload left no temporary file: it was not cut");
    let pack = server.folder().join("r/data/5c/5c65");
    let later = pack.metadata().unwrap().modified().unwrap() + Duration::from_secs(3600);
    assert_eq!(storage.sweep(later).unwrap(), 1);
    assert_eq!(left(), 0);
    proxy.cut_after(Direction::Down, 1_000_000);
    assert!(storage.get("data/5c/5c65").unwrap() == content);
}

#[test]
fn a_server_that_is_started_again_is_found_again() {
    let mut server = SshServer::start().unwrap();
    std::fs::create_dir(server.folder()).unwrap();
    let storage = SftpStorage::create(&repository(&server), &server.ssh_command()).unwrap();
    storage.put("keys/aa", &[b"x"]).unwrap();
    server.restart().unwrap();
    let storage = Retrying::new(storage, contract::retries(5));
    assert_eq!(storage.get("keys/aa").unwrap(), b"x");
}

#[test]
fn a_host_with_another_key_is_not_trusted_and_not_asked_again() {
    let server = SshServer::start().unwrap();
    server.distrust().unwrap();
    let error = SftpStorage::open(&repository(&server), &server.ssh_command()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
    assert!(format!("{error:?}").contains("Host key verification failed"), "{error:?}");
}

#[test]
fn a_user_that_may_not_log_in_is_told_and_nobody_is_asked_for_a_password() {
    let server = SshServer::start().unwrap();
    let text = format!("sftp:stranger@lab:{}", server.folder().display());
    let error = SftpStorage::open(&location(&text), &server.ssh_command()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
}

#[test]
fn a_host_that_does_not_answer_is_unreachable() {
    let server = SshServer::start().unwrap();
    let command = server.ssh_command();
    let started = Instant::now();
    let error = SftpStorage::open(&location("sftp://127.0.0.1:1//r"), &command).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error:?}");
    assert!(format!("{error:?}").contains("Connection refused"), "{error:?}");
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_program_that_is_not_there_or_speaks_no_sftp_is_an_error() {
    let to = location("sftp:host:/r");
    for program in ["/nonexistent/ssh", "/bin/cat", "/bin/true", "/bin/yes"] {
        SftpStorage::open(&to, &[program.to_owned()]).unwrap_err();
    }
}

#[test]
fn a_full_disk_and_a_read_only_one_behind_sftp_are_told_as_such() {
    let server = SshServer::start().unwrap();
    let disk = Disk::new();
    let to = location(&format!("sftp:lab:{}/r", disk.path().display()));
    let storage = SftpStorage::create(&to, &server.ssh_command()).unwrap();
    disk::full_and_read_only(&disk, &storage);
}
