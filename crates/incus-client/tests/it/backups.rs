//! Backups of instances and custom volumes, there and back, against real servers.

use std::io::{self, Read as _, Write as _};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use incus_client::access::Grant;
use incus_client::backups::{InstanceImport, NewBackup};
use incus_client::snapshots::NewSnapshot;
use incus_client::volumes::{NewVolume, VolumeContent};
use incus_client::{Client, Download, Error, ErrorKind, Expiry, HttpsOptions, Timeouts, Upload};
use stapes_testing::fake::{FakeIncus, Reply, Version};
use stapes_testing::{Direction, IncusServer, Scope, TcpProxy, TestProject, pair, tree};

use crate::support::{
    certificate_of, chain, clients, eventually, fake_client, https, new_identity, patient, through,
    unix,
};
use crate::transfers::noise;

fn plain() -> NewBackup {
    NewBackup { compression: "none".to_owned(), ..NewBackup::default() }
}

fn named(name: &str) -> NewBackup {
    NewBackup { name: Some(name.to_owned()), ..plain() }
}

async fn all_of(mut download: Download) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    while let Some(piece) = download.chunk().await? {
        bytes.extend_from_slice(&piece);
    }
    assert!(download.length().is_none_or(|length| length == bytes.len() as u64));
    assert_eq!(download.received_bytes(), bytes.len() as u64);
    assert!(download.chunk().await?.is_none());
    Ok(bytes)
}

/// Pieces of a body, as they would come from a file.
fn upload(bytes: &[u8]) -> Upload {
    let pieces: Vec<_> = bytes.chunks(100_000).map(|piece| Ok(piece.to_vec().into())).collect();
    Upload::new(stream::iter(pieces))
}

fn import(name: &str) -> InstanceImport {
    InstanceImport { name: name.to_owned(), pool: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_staged_backup_is_listed_fetched_resumed_and_imported_again() {
    let project = TestProject::new(pair()).unwrap();
    let (from, to) = clients(&project);
    project.source().create("web").unwrap();
    project.source().write("local", "web", "noise", &noise(3)).unwrap();
    project.source().snapshot("web", "s1").unwrap();
    let expires_at: jiff::Timestamp = "2100-01-01T00:00:00Z".parse().unwrap();
    let new = NewBackup { expires_at: Expiry::At(expires_at), only: true, ..named("b 1") };
    from.create_instance_backup("web", &new).await.unwrap().wait(&patient()).await.unwrap();
    let listed = from.instance_backups("web").await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].name.as_str(), listed[0].expires_at), ("b 1", Some(expires_at)));
    assert!(listed[0].only && !listed[0].optimized && listed[0].created_at.is_some());

    let whole = from.download_instance_backup("web", "b 1", 0).await.unwrap();
    let total = whole.total().unwrap();
    assert_eq!(whole.length(), Some(total));
    let whole = all_of(whole).await.unwrap();
    assert_eq!(whole.len() as u64, total);
    assert!(total > 3 << 20);
    for start in [1, 1_000_000, whole.len() - 1] {
        let rest = from.download_instance_backup("web", "b 1", start as u64).await.unwrap();
        assert_eq!((rest.length(), rest.total()), (Some(total - start as u64), Some(total)));
        assert!(all_of(rest).await.unwrap() == whole[start..], "{start}");
    }
    let nothing = from.download_instance_backup("web", "b 1", total).await.unwrap();
    assert_eq!((nothing.length(), nothing.total()), (Some(0), Some(total)));
    assert!(all_of(nothing).await.unwrap().is_empty());
    let error = from.download_instance_backup("web", "b 1", total + 1).await.unwrap_err();
    assert!(error.to_string().contains("was asked for"), "{}", chain(&error));

    let body = upload(&whole).with_length(total);
    let mut imported = to.import_instance(&import("again"), body).await.unwrap();
    imported.wait(&patient()).await.unwrap();
    let source = project.source().rootfs("local", "web");
    assert_same_trees(&source, &project.target().rootfs("local", "again"));
    assert!(to.instance("again").await.unwrap().value.snapshots.is_empty());

    let mut deleted = from.delete_instance_backup("web", "b 1").await.unwrap();
    deleted.wait(&patient()).await.unwrap();
    assert!(from.instance_backups("web").await.unwrap().is_empty());
    let error = from.download_instance_backup("web", "b 1", 0).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{}", chain(&error));
}

/// Compares what a tar keeps: everything but the fractions of seconds.
fn assert_same_trees(left: &std::path::Path, right: &std::path::Path) {
    let mut trees = [left, right].map(|root| tree::snapshot(root).unwrap());
    for entry in trees.iter_mut().flat_map(tree::Tree::values_mut) {
        entry.modified = (0, 0);
    }
    let [left, right] = trees;
    assert!(!left.is_empty());
    tree::assert_same(&left, &right);
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_of_files_and_block_devices_go_there_and_back() {
    let project = TestProject::new(pair()).unwrap();
    let (from, to) = clients(&project);
    // The name travels in a path and in a header.
    let name = "müller_söhne";
    let new = NewVolume::empty(name, VolumeContent::Filesystem);
    from.create_volume("local", &new).await.unwrap().wait(&patient()).await.unwrap();
    project.source().write_volume("local", name, "a/file", &noise(1)).unwrap();
    let snapshot = NewSnapshot::lasting("s1");
    let mut taken = from.create_volume_snapshot("local", name, &snapshot).await.unwrap();
    taken.wait(&patient()).await.unwrap();
    project.source().block_volume("local", "disk", 4 << 20).unwrap();
    let image = |scope: Scope<'_>| scope.volume_path("local", "disk").join("root.img");
    let mut content = std::fs::read(image(project.source())).unwrap();
    content[1 << 20..][..8].copy_from_slice(b"in here!");
    std::fs::write(image(project.source()), &content).unwrap();

    for volume in [name, "disk"] {
        let new = named("b");
        let mut made = from.create_volume_backup("local", volume, &new).await.unwrap();
        made.wait(&patient()).await.unwrap();
        let listed = from.volume_backups("local", volume).await.unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!((listed[0].name.as_str(), listed[0].only), ("b", false));
        let whole = from.download_volume_backup("local", volume, "b", 0).await.unwrap();
        let whole = all_of(whole).await.unwrap();
        let rest = from.download_volume_backup("local", volume, "b", 5000).await.unwrap();
        assert!(all_of(rest).await.unwrap() == whole[5000..]);
        let mut imported = to.import_volume("local", volume, upload(&whole)).await.unwrap();
        imported.wait(&patient()).await.unwrap();
        let deleted = from.delete_volume_backup("local", volume, "b").await;
        deleted.unwrap().wait(&patient()).await.unwrap();
        assert!(from.volume_backups("local", volume).await.unwrap().is_empty());
    }
    let source = project.source().volume_path("local", name);
    assert_same_trees(&source.join("a"), &project.target().volume_path("local", name).join("a"));
    let imported = to.volume("local", name).await.unwrap().value;
    assert_eq!(imported.snapshots.iter().map(|s| &s.name).collect::<Vec<_>>(), ["s1"]);
    assert!(std::fs::read(image(project.target())).unwrap() == content);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_iso_image_becomes_a_volume_of_its_size() {
    let project = TestProject::new(pair()).unwrap();
    let (client, _) = clients(&project);
    let body = Upload::from(Bytes::from(noise(1)));
    assert_eq!(body.length(), Some(1 << 20));
    let mut imported = client.import_iso_volume("local", "cd", body).await.unwrap();
    imported.wait(&patient()).await.unwrap();
    let volume = client.volume("local", "cd").await.unwrap().value;
    assert_eq!(volume.content_type, VolumeContent::Iso);
    assert_eq!(volume.config["size"], (1 << 20).to_string());
}

async fn has_direct_backups(client: &Client) -> bool {
    client.server().await.unwrap().has("direct_backup")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_direct_backup_is_streamed_and_an_older_server_is_found_out() {
    let project = TestProject::new(pair()).unwrap();
    let (from, to) = clients(&project);
    project.source().create("web").unwrap();
    project.source().write("local", "web", "noise", &noise(3)).unwrap();
    project.source().volume("local", "data").unwrap();
    project.source().write_volume("local", "data", "a/noise", &noise(3)).unwrap();
    let error = from.stream_instance_backup("web", &named("b")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadRequest, "{}", chain(&error));
    let stream = from.stream_instance_backup("web", &plain()).await;
    if !has_direct_backups(&from).await {
        let error = stream.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol, "{}", chain(&error));
        return;
    }
    let stream = stream.unwrap();
    assert_eq!((stream.length(), stream.total()), (None, None));
    let whole = all_of(stream).await.unwrap();
    assert!(whole.len() > 3 << 20 && whole.ends_with(&[0; 1024]));
    assert!(from.instance_backups("web").await.unwrap().is_empty());
    let mut imported = to.import_instance(&import("web"), upload(&whole)).await.unwrap();
    imported.wait(&patient()).await.unwrap();
    let source = project.source().rootfs("local", "web");
    assert_same_trees(&source, &project.target().rootfs("local", "web"));

    let stream = from.stream_volume_backup("local", "data", &plain()).await.unwrap();
    let whole: Vec<Bytes> = stream.into_stream().try_collect().await.unwrap();
    let body = Upload::from(Bytes::from(whole.concat()));
    to.import_volume("plain", "data", body).await.unwrap().wait(&patient()).await.unwrap();
    let source = project.source().volume_path("local", "data").join("a");
    assert_same_trees(&source, &project.target().volume_path("plain", "data").join("a"));

    let error = from.stream_instance_backup("nothing", &plain()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{}", chain(&error));
    assert_eq!(from.instance_backup_failure("web").await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_is_cut_is_an_error_and_can_be_resumed() {
    let project = TestProject::new(pair()).unwrap();
    let server = project.source().server();
    let proxy = TcpProxy::start(server.https_address()).unwrap();
    let client = through(&proxy, server, project.name()).await;
    project.source().create("web").unwrap();
    project.source().write("local", "web", "noise", &noise(8)).unwrap();
    let mut made = client.create_instance_backup("web", &named("b")).await.unwrap();
    made.wait(&patient()).await.unwrap();
    drop(made);
    let whole = client.download_instance_backup("web", "b", 0).await.unwrap();
    let whole = all_of(whole).await.unwrap();
    let mut cut = client.download_instance_backup("web", "b", 0).await.unwrap();
    proxy.cut_after(Direction::Down, 1 << 20);
    let mut got = Vec::new();
    let error = loop {
        match cut.chunk().await {
            Ok(Some(piece)) => got.extend_from_slice(&piece),
            Ok(None) => panic!("a cut download has ended well"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{}", chain(&error));
    let expected = format!("broke after {} of {} bytes", got.len(), whole.len());
    assert!(error.to_string().contains(&expected), "{}", chain(&error));
    // It never turns into a good end.
    assert!(cut.chunk().await.is_err());
    let mut tries = 0;
    let rest = loop {
        match client.download_instance_backup("web", "b", got.len() as u64).await {
            // The cut took idle connections of the client with it, which it need not know yet.
            Err(error) if error.kind() == ErrorKind::Unreachable && tries < 5 => tries += 1,
            begun => break begun.unwrap(),
        }
    };
    got.extend(all_of(rest).await.unwrap());
    assert!(got == whole);

    if has_direct_backups(&client).await {
        let direct = client.stream_instance_backup("web", &plain()).await.unwrap();
        proxy.cut_after(Direction::Down, 1 << 20);
        let error = all_of(direct).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unreachable, "{}", chain(&error));
        assert!(error.to_string().contains("broke off after"), "{}", chain(&error));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_direct_backup_that_fails_in_the_middle_is_an_error_with_a_reason() {
    let project = TestProject::new(pair()).unwrap();
    let (client, _) = clients(&project);
    if !has_direct_backups(&client).await {
        return;
    }
    let path = project.source().volume_path("plain", "data");
    project.source().volume("plain", "data").unwrap();
    let file = std::fs::File::create(path.join("shrinks")).unwrap();
    file.set_len(1 << 30).unwrap();
    let mut stream = client.stream_volume_backup("plain", "data", &plain()).await.unwrap();
    // The rest waits in the server while nobody reads.
    assert!(stream.chunk().await.unwrap().is_some());
    file.set_len(0).unwrap();
    let error = all_of(stream).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{}", chain(&error));
    let why = client.volume_backup_failure("plain", "data").await.unwrap();
    assert!(why.unwrap().contains("missed writing"));
    assert_eq!(client.volume_backup_failure("plain", "other").await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_direct_backup_ends_on_the_server() {
    let project = TestProject::new(pair()).unwrap();
    let (client, _) = clients(&project);
    if !has_direct_backups(&client).await {
        return;
    }
    project.source().create("web").unwrap();
    let file = project.source().rootfs("local", "web").join("large");
    std::fs::File::create(file).unwrap().set_len(4 << 30).unwrap();
    let mut stream = client.stream_instance_backup("web", &plain()).await.unwrap();
    assert!(stream.chunk().await.unwrap().is_some());
    drop(stream);
    eventually("the backup ends", async || {
        Ok(client.instance_backup_failure("web").await?.is_some())
    })
    .await;
    let why = client.instance_backup_failure("web").await.unwrap().unwrap();
    assert!(why.contains("closed pipe"), "{why}");
}

/// A body without an end.
fn endless() -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    stream::repeat_with(|| Ok(Bytes::from(vec![7; 64 << 10])))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_refusal_of_an_upload_is_the_error_however_large_the_upload() {
    let project = TestProject::new(pair()).unwrap();
    let server = project.source().server();
    let identity = new_identity();
    let admin = unix(server, "default");
    admin.add_certificate("upload", identity.certificate(), &Grant::Unrestricted).await.unwrap();
    let tls = https(server, identity).await;
    for client in [admin, tls] {
        let client = client.with_project("nowhere");
        for round in 0..20 {
            let body = Upload::new(endless());
            let body = if round % 2 == 0 { body } else { body.with_length(1 << 40) };
            let error = client.import_instance(&import("web"), body).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound, "{}", chain(&error));
            assert!(error.message().unwrap().contains("Project not found"), "{}", chain(&error));
            let body = Upload::new(endless());
            let error = client.import_volume("local", "data", body).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound, "{}", chain(&error));
        }
    }
}

/// A megabyte of zeros, and then an error.
fn failing() -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let zeros = stream::repeat_with(|| Ok(Bytes::from(vec![0; 64 << 10]))).take(16);
    zeros.chain(stream::once(async { Err(io::Error::other("the disk is on fire")) }))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_whose_source_fails_imports_nothing_and_says_why() {
    let project = TestProject::new(pair()).unwrap();
    let server = project.source().server();
    let (client, _) = clients(&project);
    let proxy = TcpProxy::start(server.https_address()).unwrap();
    let tls = through(&proxy, server, project.name()).await;
    for client in [&client, &tls] {
        for length in [None, Some(64 << 20)] {
            // As an ISO image anything at all would be imported, were it taken for whole.
            let body = Upload::new(failing());
            let body = match length {
                Some(length) => body.with_length(length),
                None => body,
            };
            let error = client.import_iso_volume("local", "cd", body).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Upload, "{}", chain(&error));
            let text = "import ISO image local/cd: \
                        the data to send could not be read on after 1048576 bytes";
            assert_eq!(error.to_string(), text);
            let source = std::error::Error::source(&error).unwrap();
            let source = source.downcast_ref::<io::Error>().unwrap();
            assert_eq!(source.to_string(), "the disk is on fire");
        }
        for (length, source) in [(1 << 20, "shorter"), (1 << 10, "longer")] {
            let bytes = Bytes::from(vec![0; 64 << 10]);
            let body = Upload::from(bytes).with_length(length);
            let error = client.import_iso_volume("local", "cd", body).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Upload, "{}", chain(&error));
            assert!(chain(&error).contains(source), "{}", chain(&error));
        }
    }
    // The server would have answered by now, had it taken one of them for whole.
    let body = Upload::from(Bytes::from(noise(1)));
    let mut imported = client.import_iso_volume("local", "other", body).await.unwrap();
    imported.wait(&patient()).await.unwrap();
    assert_eq!(project.source().volumes("local").unwrap(), ["other"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_dropped_imports_nothing() {
    let project = TestProject::new(pair()).unwrap();
    let (client, _) = clients(&project);
    let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
    // Held open after the first megabyte; the sender is dropped with the body.
    let ends = stream::once(async move {
        let _sender = sender;
        std::future::pending::<()>().await;
        Ok(Bytes::new())
    });
    let zeros = stream::repeat_with(|| Ok(Bytes::from(vec![0; 64 << 10]))).take(16);
    let import = client.import_iso_volume("local", "cd", Upload::new(zeros.chain(ends)));
    let waited = tokio::time::timeout(Duration::from_millis(300), import).await;
    assert!(waited.is_err());
    assert!(receiver.await.is_err(), "the body is let go");
    let body = Upload::from(Bytes::from(noise(1)));
    let mut imported = client.import_iso_volume("local", "other", body).await.unwrap();
    imported.wait(&patient()).await.unwrap();
    assert_eq!(project.source().volumes("local").unwrap(), ["other"]);
}

/// A client that does not wait for long, with a network in between.
async fn impatient(server: &IncusServer, project: &str) -> (TcpProxy, Client) {
    let proxy = TcpProxy::start(server.https_address()).unwrap();
    let identity = new_identity();
    let admin = unix(server, "default");
    admin.add_certificate("silent", identity.certificate(), &Grant::Unrestricted).await.unwrap();
    let pin = certificate_of(server).await.pin();
    let timeouts = Timeouts { silence: Duration::from_millis(1500), ..Timeouts::default() };
    let options = HttpsOptions::new(proxy.https_url(), pin).identity(identity).timeouts(timeouts);
    (proxy, Client::https(&options).unwrap().with_project(project))
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_of_the_server_ends_uploads_and_downloads() {
    let project = TestProject::new(pair()).unwrap();
    let server = project.source().server();
    let (proxy, client) = impatient(server, project.name()).await;
    project.source().create("web").unwrap();
    project.source().write("local", "web", "noise", &noise(8)).unwrap();
    let mut made = client.create_instance_backup("web", &named("b")).await.unwrap();
    made.wait(&patient()).await.unwrap();
    drop(made);

    let download = client.download_instance_backup("web", "b", 0).await.unwrap();
    proxy.stall_after(Direction::Down, 1 << 20);
    let error = all_of(download).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{}", chain(&error));
    let error = client.download_instance_backup("web", "b", 0).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{}", chain(&error));
    proxy.pass();

    proxy.stall_after(Direction::Up, 1 << 20);
    let began = Instant::now();
    let error = client.import_iso_volume("local", "cd", Upload::new(endless())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{}", chain(&error));
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    proxy.pass();

    // A slow source is not a silent server.
    let slow = stream::once(async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        Ok(Bytes::from(noise(1)))
    });
    let mut imported = client.import_iso_volume("local", "cd", Upload::new(slow)).await.unwrap();
    imported.wait(&patient()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_read_for_half_a_minute_is_waited_for() {
    let project = TestProject::new(pair()).unwrap();
    let server = project.source().server();
    let proxy = TcpProxy::start(server.https_address()).unwrap();
    let client = through(&proxy, server, project.name()).await;
    proxy.stall_after(Direction::Up, 1 << 20);
    let body = Upload::from(Bytes::from(noise(32)));
    let (imported, ()) = tokio::join!(client.import_iso_volume("local", "cd", body), async {
        tokio::time::sleep(Duration::from_secs(40)).await;
        proxy.pass();
    });
    imported.unwrap().wait(&patient()).await.unwrap();
    assert_eq!(project.source().volumes("local").unwrap(), ["cd"]);
}

const EXPORT: &str = "/1.0/instances/web/backups/b/export";

/// What comes of an export from byte `from` on that is answered so.
async fn answered(reply: Reply, from: u64) -> Result<Vec<u8>, Error> {
    let fake = FakeIncus::start(Version::Lts6, &[]).unwrap();
    fake.on("GET", EXPORT, [reply]);
    let download = fake_client(&fake).download_instance_backup("web", "b", from).await?;
    let range = fake.requests().last().unwrap().header("range").map(str::to_owned);
    assert_eq!(range, (from > 0).then(|| format!("bytes={from}-")));
    all_of(download).await
}

fn partial(range: &str, body: &str) -> Reply {
    Reply::status(206, body)
        .header("Content-Type", "application/octet-stream")
        .header("Content-Range", range)
}

#[tokio::test]
async fn only_the_bytes_that_were_asked_for_are_taken() {
    assert_eq!(answered(partial("bytes 3-6/7", "3456"), 3).await.unwrap(), b"3456");
    for reply in [
        Reply::bytes("0123456"),
        partial("bytes 2-6/7", "23456"),
        partial("bytes 3-5/7", "345"),
        partial("bytes 3-6/7", "345"),
        partial("bytes 3-6/*", "3456"),
        partial("bytes 3-18446744073709551615/7", "3456"),
        partial("", "3456"),
        Reply::status(416, "").header("Content-Range", "bytes */2"),
        Reply::status(416, ""),
    ] {
        let error = answered(reply.clone(), 3).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol, "{reply:?}: {}", chain(&error));
    }
    assert!(answered(partial("bytes 0-3/4", "0123"), 0).await.is_err());
}

#[tokio::test]
async fn an_answer_that_is_cut_anywhere_is_an_error() {
    let pieces = || vec![b"one".to_vec(), b"two".to_vec()];
    let chunks = || Reply::chunks(pieces(), Duration::ZERO);
    assert_eq!(answered(chunks(), 0).await.unwrap(), b"onetwo");
    // The last of them lacks nothing but the mark of the end.
    for reply in [
        Reply::bytes("onetwo").cut_after(0),
        Reply::bytes("onetwo").cut_after(5),
        chunks().cut_after(2),
        chunks().cut_after(3),
        chunks().cut_after(6),
    ] {
        let error = answered(reply.clone(), 0).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unreachable, "{reply:?}: {}", chain(&error));
        assert!(error.to_string().contains("bytes"), "{error}");
    }
}

#[tokio::test]
async fn data_whose_end_could_not_be_told_from_a_cut_are_not_taken() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("unix.socket");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = [0; 4096];
        assert!(stream.read(&mut head).unwrap() > 0);
        let answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n\r\ndata";
        stream.write_all(answer).unwrap();
    });
    let client = Client::unix(&socket).unwrap();
    let error = client.download_instance_backup("web", "b", 0).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "{}", chain(&error));
    server.join().unwrap();
}
