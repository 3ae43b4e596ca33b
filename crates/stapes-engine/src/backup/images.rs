//! The backup of one image: its files as the server has them, and its records in every project.
//!
//! An image never changes, its records do. When nothing is new nothing is stored, and when only a
//! record is, the files of the backup before are linked instead of stored again.

use bytes::Bytes;
use futures_util::{Stream, stream};
use incus_client::images::{ImageDownload, ImagePart, ImagePartKind};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use stapes_core::backup::{BackupInfo, BackupItem, Compression, Fingerprint};
use stapes_core::event::{ItemReport, Step};
use stapes_store::{ErrorKind, FileRecord, NewBackup, StoredBackup};

use super::pipe::{self, Edit, Sink};
use super::{Shared, data, origin};
use crate::error::chain;
use crate::repository::newest;
use crate::steps::{explained, step};

/// The records of the image.
pub(crate) const RECORDS: &str = "image.json";
/// What the names of its files begin with: a unified image, or the metadata of one in two parts.
pub(crate) const FIRST: &str = "image.tar";
/// The second part.
pub(crate) const SECOND: &str = "rootfs";

pub(crate) async fn back_up(
    shared: &Shared<'_>,
    fingerprint: &Fingerprint,
    report: &mut ItemReport,
) -> Result<BackupInfo, String> {
    let item = BackupItem::Image(fingerprint.clone());
    let records = shared.images.get(fingerprint).map(Vec::as_slice).unwrap_or_default();
    let document = document(records);
    let last = last(shared, &item).await?;
    if let Some((info, stored)) = &last
        && read_records(stored).is_ok_and(|text| text == document)
    {
        report.result = Some("unchanged");
        return Ok(info.clone());
    }
    let version = shared.version();
    let backup = data::begin(shared, &item, version).await?;
    let mut files = vec![data::write_file(&backup, RECORDS, document).await?];
    let linked = last.map(|(_, stored)| linked(&backup, &stored)).unwrap_or_default();
    if linked.is_empty() {
        files.extend(download(shared, &item, fingerprint, records, &backup, report).await?);
    } else {
        report.result = Some("linked");
        files.extend(linked);
    }
    let mut manifest = origin::manifest(shared, &item, version);
    manifest.content_bytes = files.iter().map(|file| file.size).sum();
    manifest.options.compression = Compression::None.as_str().to_owned();
    manifest.properties.extend(properties(records));
    manifest.files = files;
    data::publish(backup, manifest).await
}

/// The files of the backup before, if all of them can be taken over; what cannot is fetched anew.
fn linked(backup: &NewBackup, stored: &StoredBackup) -> Vec<FileRecord> {
    let taken = data_files(stored).into_iter().map(|name| backup.take_over(stored, &name));
    taken.collect::<Result<_, _>>().unwrap_or_default()
}

/// The last complete backup of this image.
async fn last(
    shared: &Shared<'_>,
    item: &BackupItem,
) -> Result<Option<(BackupInfo, StoredBackup)>, String> {
    let (repository, item) = (shared.repository.clone(), item.clone());
    let looked = tokio::task::spawn_blocking(move || {
        let Some(info) = newest(&repository, &item)? else { return Ok(None) };
        match repository.backup(&item, info.version) {
            // The image is stored again then.
            Err(error) if error.kind() == ErrorKind::Damaged => Ok(None),
            stored => Ok::<_, stapes_store::Error>(Some((info, stored?))),
        }
    });
    looked.await.map_err(|error| error.to_string())?.map_err(|error| chain(&error))
}

fn data_files(stored: &StoredBackup) -> Vec<String> {
    let names = stored.files().iter().map(|file| file.name.clone());
    names.filter(|name| name != RECORDS).collect()
}

fn read_records(stored: &StoredBackup) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut text = Vec::new();
    let file = stored.open_file(RECORDS).map_err(std::io::Error::other)?;
    file.take(MAX_RECORDS_BYTES).read_to_end(&mut text)?;
    Ok(text)
}

/// Far more than any number of projects needs.
const MAX_RECORDS_BYTES: u64 = 16 * 1024 * 1024;

/// The records, without what changes by itself, in a stable order.
fn document(records: &[Value]) -> Vec<u8> {
    const VOLATILE: [&str; 3] = ["last_used_at", "used_by", "locations"];
    let mut records: Vec<Value> = records.to_vec();
    for record in records.iter_mut().filter_map(Value::as_object_mut) {
        record.retain(|key, _| !VOLATILE.contains(&key.as_str()));
    }
    let project = |record: &Value| record.get("project").and_then(Value::as_str).map(str::to_owned);
    records.sort_by_key(project);
    let mut text = format!("{:#}", json!(records)).into_bytes();
    text.push(b'\n');
    text
}

fn properties(records: &[Value]) -> impl Iterator<Item = (String, String)> {
    let first = records.first();
    let of = |key: &str| first.and_then(|record| record.get(key)).and_then(Value::as_str);
    let kind = of("type").map(|kind| ("instance_type".to_owned(), kind.to_owned()));
    let architecture = of("architecture").map(|arch| ("architecture".to_owned(), arch.to_owned()));
    kind.into_iter().chain(architecture).collect::<Vec<_>>().into_iter()
}

/// What is stored of an image.
struct Parts {
    files: Vec<FileRecord>,
    /// SHA-256 of all parts one after the other: what the fingerprint is.
    digest: String,
}

async fn download(
    shared: &Shared<'_>,
    item: &BackupItem,
    fingerprint: &Fingerprint,
    records: &[Value],
    backup: &NewBackup,
    report: &mut ItemReport,
) -> Result<Vec<FileRecord>, String> {
    let project = records.first().and_then(|record| record.get("project")).and_then(Value::as_str);
    let client = shared.client.with_project(project.unwrap_or("default"));
    let storing = async {
        let image = client.export_image(fingerprint.as_str()).await;
        let parts = store(shared, image.map_err(|error| explained(&error))?, backup).await?;
        let bytes: u64 = parts.files.iter().map(|file| file.size).sum();
        Ok(((parts, bytes), Some(bytes)))
    };
    let events = &shared.context.events;
    let elapsed = &mut report.elapsed;
    let (parts, bytes) = step(events, item, Step::Store, elapsed, Box::pin(storing)).await?;
    report.bytes = Some(bytes);
    if parts.digest != fingerprint.as_str() {
        return Err(format!(
            "what the server sent is not this image: its SHA-256 is {}; nothing was kept",
            parts.digest
        ));
    }
    Ok(parts.files)
}

async fn store(
    shared: &Shared<'_>,
    mut image: ImageDownload,
    backup: &NewBackup,
) -> Result<Parts, String> {
    let mut hash = Sha256::new();
    let mut files = Vec::new();
    while let Some(mut part) = image.next_part().await.map_err(|error| explained(&error))? {
        let stem = match part.kind() {
            ImagePartKind::Unified | ImagePartKind::Metadata => FIRST,
            ImagePartKind::Rootfs | ImagePartKind::Disk => SECOND,
        };
        let name = format!("{stem}{}", suffix(part.file_name(), part.kind()));
        let file = backup.file(&name).map_err(|error| chain(&error))?;
        let hash = &mut hash;
        let stream = Box::pin(async_stream(&mut part, hash));
        let cancel = &shared.context.cancel;
        let stored =
            pipe::store(stream, Sink::File(file), Compression::None, Edit::Bytes, cancel, |_| {})
                .await?;
        files.push(stored.file);
    }
    let digest = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Parts { files, digest })
}

/// The pieces of a part, each of them hashed as it passes.
fn async_stream<'a>(
    part: &'a mut ImagePart<'a>,
    hash: &'a mut Sha256,
) -> impl Stream<Item = Result<Bytes, String>> + use<'a> {
    stream::unfold((part, hash), |(part, hash)| async move {
        let chunk = part.chunk().await.transpose()?;
        if let Ok(bytes) = &chunk {
            hash.update(bytes);
        }
        Some((pipe::told(chunk), (part, hash)))
    })
}

/// What follows the stem of a file's name: its kind and compression, as the server's name says.
fn suffix(server_name: &str, kind: ImagePartKind) -> String {
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let of =
        |text: &str| text.rsplit_once('.').map(|(_, end)| end.to_owned()).filter(|end| plain(end));
    let end = of(server_name).unwrap_or_default();
    match kind {
        ImagePartKind::Unified | ImagePartKind::Metadata if end == "tar" || end.is_empty() => {
            String::new()
        }
        _ if end.is_empty() => String::new(),
        _ => format!(".{end}"),
    }
}
