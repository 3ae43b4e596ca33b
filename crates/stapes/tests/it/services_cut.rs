//! Backups of directories over servers, and what is left when they are killed or interrupted in the
//! middle: held there, not raced.

use std::fs;

use rustix::process::Signal;
use stapes_testing::storage_servers::{RestServer, S3Server, SshServer};
use stapes_testing::{Direction, TcpProxy, tree};

use crate::rig::{Background, MIB, noise};
use crate::services_lab::Place;

/// A repository on a REST server that takes 24 MiB and then nothing more, and a run that has
/// come so far.
fn held(server: &RestServer, proxy: &TcpProxy) -> (Place, Background) {
    let place = Place::at(location(proxy.address()), rest_variables());
    fs::create_dir(place.path("src")).unwrap();
    for number in 0..8_u8 {
        let content = noise(u64::from(number), 8 * MIB);
        fs::write(place.path("src").join(number.to_string()), content).unwrap();
    }
    proxy.stall_after(Direction::Up, 24 * MIB as u64);
    let arguments = ["backup", "path", "src", "--name", "s", "--output", "json"];
    let run = Background::start(&mut place.command(&arguments));
    crate::rig::wait_until("packs are there", || {
        proxy.passed_bytes(Direction::Up) >= 24 * MIB as u64
            && Place::pack_bytes(&server.folder().join("r")) > 0
    });
    (place, run)
}

fn location(address: std::net::SocketAddr) -> String {
    format!("rest:http://{address}/r/")
}

fn rest_variables() -> Vec<(&'static str, String)> {
    vec![
        ("RESTIC_REST_USERNAME", RestServer::USER.to_owned()),
        ("RESTIC_REST_PASSWORD", RestServer::PASSWORD.to_owned()),
    ]
}

/// The next run, straight to the server: it ends well, and everything is there.
fn goes_on(mut place: Place, server: &RestServer) {
    place.by(location(server.address()));
    let list = place.stapes(&["list", "services", "--output", "json"]).complete().json();
    assert_eq!(list["backups"].as_array().unwrap().len(), 0, "{list:#}");
    place.backup("src", "s", &[]).complete();
    place.stapes(&["restore", "service", "s", "--to", "out"]).complete();
    let trees = ["src", "out"].map(|name| tree::snapshot(place.path(name)).unwrap());
    tree::assert_same(&trees[0], &trees[1]);
}

#[test]
fn a_killed_backup_leaves_a_valid_repository_and_the_next_one_ends_well() {
    let server = RestServer::start().unwrap();
    let proxy = TcpProxy::start(server.address()).unwrap();
    let (place, run) = held(&server, &proxy);
    run.kill();
    goes_on(place, &server);
}

#[test]
fn an_interrupted_backup_ends_soon_and_its_packs_are_used_again() {
    let server = RestServer::start().unwrap();
    let proxy = TcpProxy::start(server.address()).unwrap();
    let (place, run) = held(&server, &proxy);
    run.signal(Signal::INT);
    proxy.pass();
    let ran = run.end().expect_code(130);
    assert!(ran.report()["interrupted"].as_bool().unwrap(), "{ran:?}");
    let stored = Place::pack_bytes(&server.folder().join("r"));
    assert!(stored > 8 * MIB as u64, "{stored}");
    goes_on(place, &server);
    let all = Place::pack_bytes(&server.folder().join("r"));
    // All files together have 64 MiB that do not compress; what is stored twice comes on top.
    assert!(all < 65 * MIB as u64, "{all} bytes, of which {stored} were there before");
}

#[test]
fn directories_are_backed_up_over_sftp() {
    let server = SshServer::start().unwrap();
    fs::create_dir(server.folder()).unwrap();
    // The program `ssh` of the search path is ours, with the server's configuration.
    let location = format!("sftp:lab:{}/r", server.folder().display());
    let home = tempfile::tempdir().unwrap();
    let ssh = home.path().join("ssh");
    let command = server.ssh_command().join(" ").replacen("ssh", "/usr/bin/ssh", 1);
    fs::write(&ssh, format!("#!/bin/sh\nexec {command} \"$@\"\n")).unwrap();
    fs::set_permissions(&ssh, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", home.path().display());
    round(&Place::at(location, vec![("PATH", path)]));
}

#[test]
fn directories_are_backed_up_to_s3() {
    let server = S3Server::start().unwrap();
    let variables = vec![
        ("AWS_ACCESS_KEY_ID", S3Server::KEY_ID.to_owned()),
        ("AWS_SECRET_ACCESS_KEY", S3Server::SECRET.to_owned()),
    ];
    round(&Place::at(format!("s3:{}/bucket/r", server.url()), variables));
}

/// Backup, backup of a change, restore.
fn round(place: &Place) {
    let source = place.path("src");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("large"), noise(1, 3 * MIB)).unwrap();
    place.backup("src", "s", &[]).complete();
    fs::write(source.join("small"), "x").unwrap();
    place.backup("src", "s", &[]).complete();
    place.stapes(&["restore", "service", "s", "--to", "out"]).complete();
    let trees = [source, place.path("out")].map(|path| tree::snapshot(path).unwrap());
    tree::assert_same(&trees[0], &trees[1]);
}
