//! Images and their aliases against real servers, and odd answers from a fake.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::stream;
use incus_client::images::{
    ImageAlias, ImageData, ImageDownload, ImageFile, ImagePartKind, ImageUpload,
};
use incus_client::instances::{ImageSource, InstanceSource, InstanceType};
use incus_client::{Client, Config, Error, ErrorKind, ListOptions, Upload};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use stapes_testing::fake::{FakeIncus, Reply, Version};
use stapes_testing::{IncusServer, pair};

use crate::support::{chain, container, fake_client, patient, unix};
use crate::transfers::noise;

/// A project with images of its own.
fn own_images(server: &IncusServer) -> Client {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("images-{}-{number}", std::process::id());
    let body = json!({ "name": name, "config": { "features.images": "true" } });
    server.api("POST", "/1.0/projects", Some(&body)).unwrap();
    unix(server, &name)
}

/// A file of an image: kind, name and content.
type Part = (ImagePartKind, String, Vec<u8>);

async fn parts_of(mut image: ImageDownload) -> Result<Vec<Part>, Error> {
    let mut parts = Vec::new();
    while let Some(mut part) = image.next_part().await? {
        let mut content = Vec::new();
        while let Some(piece) = part.chunk().await? {
            assert!(!piece.is_empty());
            content.extend_from_slice(&piece);
        }
        assert!(part.length().is_none_or(|length| length == content.len() as u64));
        parts.push((part.kind(), part.file_name().to_owned(), content));
    }
    assert!(image.next_part().await?.is_none());
    Ok(parts)
}

fn fingerprint(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn busybox(server: &IncusServer) -> (String, Vec<Part>) {
    let admin = unix(server, "default");
    let aliases = admin.image_aliases().await.unwrap();
    let busybox = aliases.into_iter().find(|alias| alias.name == "busybox").unwrap();
    let image = admin.export_image(&busybox.target).await.unwrap();
    assert!(!image.is_split());
    (busybox.target, parts_of(image).await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unified_image_is_exported_and_imported_with_what_is_said_of_it() {
    let server = &pair().source;
    let client = own_images(server);
    let (print, parts) = busybox(server).await;
    let [(kind, file_name, content)] = parts.as_slice() else { panic!("{}", parts.len()) };
    assert_eq!(*kind, ImagePartKind::Unified);
    assert!(file_name.starts_with(&print), "{file_name}");
    assert_eq!(fingerprint(&[content]), print);

    let awkward = "a&b=c +ü";
    let image = ImageUpload {
        filename: Some("busybox.tar".to_owned()),
        public: true,
        properties: Config::from([("note".to_owned(), awkward.to_owned())]),
        aliases: vec!["box/one".to_owned(), "two".to_owned()],
        profiles: vec!["default".to_owned()],
        fingerprint: Some(print.clone()),
    };
    let body = || ImageData::Unified(Upload::from(Bytes::from(content.clone())));
    let mut imported = client.import_image(&image, body()).await.unwrap();
    let done = imported.wait(&patient()).await.unwrap();
    assert_eq!(done.image_fingerprint(), Some(print.as_str()));
    let read = client.image(&print[..12]).await.unwrap();
    assert_eq!(read.value.fingerprint, print);
    assert_eq!(read.value.properties["note"], awkward);
    assert_eq!(read.value.properties["os"], "busybox");
    assert_eq!((read.value.public, read.value.kind.clone()), (true, InstanceType::Container));
    assert_eq!(read.value.size, content.len() as u64);
    assert_eq!(read.value.profiles, ["default"]);
    assert_eq!((read.value.expires_at, read.value.cached), (None, false));
    let mut names: Vec<_> = read.value.aliases.iter().map(|alias| alias.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["box/one", "two"]);

    let again = ImageUpload::default();
    let mut refused = client.import_image(&again, body()).await.unwrap();
    let error = refused.wait(&patient()).await.unwrap_err();
    assert_eq!(error.detail_kind(), ErrorKind::Exists, "{}", chain(&error));
    let wrong = ImageUpload { fingerprint: Some("0".repeat(64)), ..ImageUpload::default() };
    let mut refused = client.import_image(&wrong, body()).await.unwrap();
    let error = refused.wait(&patient()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OperationFailed, "{}", chain(&error));

    let everywhere = client.images(&ListOptions::all_projects()).await.unwrap();
    let here = everywhere.iter().find(|image| image.project == client.project()).unwrap();
    assert_eq!(here.fingerprint, print);
    assert!(everywhere.iter().any(|image| image.project == "default"));
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_changed_named_and_deleted() {
    let server = &pair().source;
    let client = own_images(server);
    let (print, parts) = busybox(server).await;
    let body = Upload::from(Bytes::from(parts[0].2.clone()));
    let image = ImageUpload::default();
    let mut imported = client.import_image(&image, ImageData::Unified(body)).await.unwrap();
    imported.wait(&patient()).await.unwrap();

    let read = client.image(&print).await.unwrap();
    let mut put = read.value.to_put();
    put.auto_update = true;
    put.expires_at = Some("2100-01-01T00:00:00Z".parse().unwrap());
    put.properties.insert("note".to_owned(), "mine".to_owned());
    client.update_image(&print, &put, read.etag.as_ref()).await.unwrap();
    let error = client.update_image(&print, &put, read.etag.as_ref()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{}", chain(&error));
    client.patch_image(&print, &json!({ "public": true }), None).await.unwrap();
    let changed = client.image(&print).await.unwrap().value;
    assert!(changed.auto_update && changed.public);
    assert_eq!((changed.expires_at, changed.properties), (put.expires_at, put.properties));

    let alias = ImageAlias {
        name: "busy/box-1".to_owned(),
        description: "for tests".to_owned(),
        target: print.clone(),
        kind: InstanceType::Container,
        ..ImageAlias::default()
    };
    client.create_image_alias(&alias).await.unwrap();
    assert!(client.create_image_alias(&alias).await.is_err());
    assert_eq!(client.image_aliases().await.unwrap(), [alias]);
    client.delete_image_alias("busy/box-1").await.unwrap();
    assert!(client.image_aliases().await.unwrap().is_empty());
    let error = client.delete_image_alias("busy/box-1").await.unwrap_err();
    assert!(error.is_not_found(), "{}", chain(&error));

    client.delete_image(&print).await.unwrap().wait(&patient()).await.unwrap();
    let error = client.image(&print).await.unwrap_err();
    assert!(error.is_not_found(), "{}", chain(&error));
    let error = client.export_image(&print).await.unwrap_err();
    assert!(error.is_not_found(), "{}", chain(&error));
}

/// Runs a program that must succeed.
fn run(program: &str, arguments: &[&str], directory: &Path) {
    let mut command = Command::new(program);
    let output = command.args(arguments).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The metadata and the root file system of the busybox image as two files.
fn split(unified: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    std::fs::write(path.join("image.tar"), unified).unwrap();
    run("tar", &["-xf", "image.tar"], path);
    run("tar", &["-cf", "metadata.tar", "metadata.yaml"], path);
    run("mksquashfs", &["rootfs", "rootfs.squashfs", "-noappend", "-quiet"], path);
    let read = |name| std::fs::read(path.join(name)).unwrap();
    (read("metadata.tar"), read("rootfs.squashfs"))
}

fn file(name: &str, content: &[u8]) -> ImageFile {
    let pieces: Vec<_> = content.chunks(70_000).map(|p| Ok(p.to_vec().into())).collect();
    ImageFile { name: name.to_owned(), body: Upload::new(stream::iter(pieces)) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_split_image_is_imported_and_exported_in_its_two_files() {
    let server = &pair().source;
    let client = own_images(server);
    let (_, parts) = busybox(server).await;
    let (metadata, rootfs) = split(&parts[0].2);
    let print = fingerprint(&[&metadata, &rootfs]);
    let files = |rootfs: &[u8], length: Option<u64>| {
        let mut rootfs = file("rootfs.squashfs", rootfs);
        if let Some(length) = length {
            rootfs.body = rootfs.body.with_length(length);
        }
        let metadata = file("metadata \"1\".tar", &metadata);
        ImageData::Split { metadata, rootfs, kind: InstanceType::Container }
    };
    let image = ImageUpload { fingerprint: Some(print.clone()), ..ImageUpload::default() };
    // A file that is shorter than announced must not become an image.
    let short = files(&rootfs, Some(rootfs.len() as u64 + 1));
    let error = client.import_image(&image, short).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Upload, "{}", chain(&error));
    let length = Some(rootfs.len() as u64);
    let mut imported = client.import_image(&image, files(&rootfs, length)).await.unwrap();
    let done = imported.wait(&patient()).await.unwrap();
    assert_eq!(done.image_fingerprint(), Some(print.as_str()));
    assert_eq!(client.images(&ListOptions::default()).await.unwrap().len(), 1);

    let exported = client.export_image(&print).await.unwrap();
    assert!(exported.is_split());
    let parts = parts_of(exported).await.unwrap();
    let kinds: Vec<_> = parts.iter().map(|(kind, ..)| *kind).collect();
    assert_eq!(kinds, [ImagePartKind::Metadata, ImagePartKind::Rootfs]);
    assert!(parts.iter().all(|(_, name, _)| name.contains(&print)), "{:?}", parts[0].1);
    assert!(parts[0].2 == metadata && parts[1].2 == rootfs);

    // What is not read is skipped.
    let mut exported = client.export_image(&print).await.unwrap();
    exported.next_part().await.unwrap().unwrap().chunk().await.unwrap().unwrap();
    let rest = parts_of(exported).await.unwrap();
    assert!(rest.len() == 1 && rest[0].2 == rootfs);

    let image = ImageSource { fingerprint: Some(print), ..ImageSource::default() };
    let source = InstanceSource::Image(image);
    let new = container("web", "local", source);
    client.create_instance(&new).await.unwrap().wait(&patient()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_disk_of_a_virtual_machine_is_a_part_of_its_own() {
    let server = &pair().source;
    let client = own_images(server);
    let (_, parts) = busybox(server).await;
    let (metadata, _) = split(&parts[0].2);
    // The server does not look into a disk.
    let disk = [&b"QFI\xfb"[..], &noise(1)].concat();
    let data = ImageData::Split {
        metadata: file("metadata.tar", &metadata),
        rootfs: file("disk.qcow2", &disk),
        kind: InstanceType::VirtualMachine,
    };
    let mut imported = client.import_image(&ImageUpload::default(), data).await.unwrap();
    let done = imported.wait(&patient()).await.unwrap();
    let print = done.image_fingerprint().unwrap();
    let image = client.image(print).await.unwrap().value;
    assert_eq!(image.kind, InstanceType::VirtualMachine);
    let parts = parts_of(client.export_image(print).await.unwrap()).await.unwrap();
    assert_eq!((parts[1].0, parts[1].2 == disk), (ImagePartKind::Disk, true));
}

async fn exported(content_type: &str, body: &[u8]) -> Result<Vec<Part>, Error> {
    let fake = FakeIncus::start(Version::Lts6, &[]).unwrap();
    let reply = Reply::status(200, body).header("Content-Type", content_type);
    fake.on("GET", "/1.0/images/f/export", [reply]);
    parts_of(fake_client(&fake).export_image("f").await?).await
}

#[tokio::test]
async fn an_image_that_is_cut_odd_or_hostile_is_an_error() {
    const SPLIT: &str = "multipart/form-data; boundary=b0";
    let part = |name: &str, file: &str| {
        let disposition = format!("form-data; name=\"{name}\"; filename=\"{file}\"");
        format!("--b0\r\nContent-Disposition: {disposition}\r\n\r\ncontent\r\n")
    };
    let whole = format!("{}{}--b0--\r\n", part("metadata", "../../m"), part("rootfs", "r"));
    let parts = exported(SPLIT, whole.as_bytes()).await.unwrap();
    let names: Vec<_> = parts.iter().map(|(_, name, _)| name.as_str()).collect();
    assert_eq!(names, ["m", "r"]);
    let endless = "x".repeat(1 << 20);
    for (content_type, body) in [
        (SPLIT, part("metadata", "m")),
        (SPLIT, format!("{}--b0--\r\n", part("surprise", "m"))),
        (SPLIT, endless.clone()),
        (SPLIT, format!("--b0\r\n{endless}")),
        (SPLIT, format!("{whole}{endless}")),
        ("multipart/form-data", whole.clone()),
        ("text/html", "<html>".to_owned()),
        ("application/json", json!({ "type": "sync", "metadata": {} }).to_string()),
    ] {
        let error = exported(content_type, body.as_bytes()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol, "{content_type}: {}", chain(&error));
        assert!(error.to_string().starts_with("fetch image f: "), "{error}");
    }
}
