//! Restores an image into every project that had it, with its aliases and properties.
//!
//! What remains if the machine dies: the projects before that moment have it; the same command goes
//! on with the others.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;

use incus_client::images::{ImageAlias, ImageData, ImageFile, ImageUpload};
use incus_client::{Client, Config, ListOptions, WaitOptions};
use serde_json::{Value, json};
use stapes_core::backup::{BackupItem, Fingerprint};
use stapes_core::event::{ItemReport, Step};
use stapes_core::id::ProjectName;
use stapes_core::outcome::Outcome;
use stapes_core::restore::{Maps, RestoreRow};
use stapes_store::StoredBackup;
use stapes_store::tar::Holes;
use tokio_util::sync::CancellationToken;

use super::upload::{Source, upload};
use super::{Fingerprints, Shared, Stored, item};
use crate::backup::images::{FIRST, RECORDS, SECOND};
use crate::error::chain;
use crate::limits;
use crate::steps::{explained, step};

/// Far more than any number of projects needs.
const MAX_RECORDS_BYTES: u64 = 16 * 1024 * 1024;

/// The images that the server has in every project where their backups want them.
pub(crate) async fn there(
    client: &Client,
    stored: &BTreeMap<BackupItem, Stored>,
    maps: &Maps,
) -> Result<Fingerprints, incus_client::Error> {
    let mut found = Fingerprints::new();
    if !stored.keys().any(|item| matches!(item, BackupItem::Image(_))) {
        return Ok(found);
    }
    let mut places: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for image in client.images(&ListOptions::all_projects()).await? {
        places.entry(image.fingerprint).or_default().insert(image.project);
    }
    for (item, stored) in stored {
        let (BackupItem::Image(fingerprint), Stored::Backup(stored)) = (item, stored) else {
            continue;
        };
        let Some(has) = places.get(fingerprint.as_str()) else { continue };
        // A backup that cannot be read is told of when its turn comes.
        let wanted = records(stored).unwrap_or_default();
        if wanted.iter().all(|record| has.contains(&project(record, maps))) {
            found.insert(fingerprint.clone());
        }
    }
    Ok(found)
}

/// Restores the image of a row.
pub(crate) async fn restore(
    shared: &Shared<'_>,
    row: &RestoreRow,
    fingerprint: &Fingerprint,
    report: &mut ItemReport,
) -> Result<(), String> {
    let stored = shared.stored(&row.info.item)?;
    item::check(shared, row, stored, &mut report.elapsed).await?;
    let Stored::Backup(backup) = stored else { return Err("it is no image".to_owned()) };
    let records = records(backup)?;
    if records.is_empty() {
        return Err("its backup does not say in which project it was".to_owned());
    }
    let importing = async {
        let mut bytes = 0;
        let mut remarks = Vec::new();
        for record in &records {
            let project = project(record, &shared.request.options.maps);
            let client = shared.client.with_project(&project);
            let cancel = &shared.context.cancel;
            bytes += import(&client, backup, fingerprint, record, cancel).await?;
            remarks.extend(describe(&client, fingerprint, record).await?);
        }
        Ok(((bytes, remarks), Some(bytes)))
    };
    let elapsed = &mut report.elapsed;
    let events = &shared.context.events;
    let (bytes, remarks) =
        step(events, &row.target, Step::Import, elapsed, Box::pin(importing)).await?;
    report.bytes = Some(bytes);
    report.result = Some("created");
    for remark in remarks {
        report.set_back(Outcome::Incomplete, remark);
    }
    Ok(())
}

fn records(stored: &StoredBackup) -> Result<Vec<Value>, String> {
    let mut text = Vec::new();
    let file = stored.open_file(RECORDS).map_err(|error| chain(&error))?;
    file.take(MAX_RECORDS_BYTES)
        .read_to_end(&mut text)
        .map_err(|error| format!("cannot read {RECORDS}: {error}"))?;
    serde_json::from_slice(&text).map_err(|error| format!("{RECORDS} is no list: {error}"))
}

/// The project of a record, by its name on the target.
fn project(record: &Value, maps: &Maps) -> String {
    let old = record.get("project").and_then(Value::as_str).unwrap_or("default");
    match old.parse::<ProjectName>() {
        Ok(project) => maps.project(&project).to_string(),
        Err(_) => old.to_owned(),
    }
}

/// Sends the image unless the project has it; returns the bytes sent.
async fn import(
    client: &Client,
    stored: &StoredBackup,
    fingerprint: &Fingerprint,
    record: &Value,
    cancel: &CancellationToken,
) -> Result<u64, String> {
    match client.image(fingerprint.as_str()).await {
        Ok(_) => return Ok(0),
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(explained(&error)),
    }
    let text = |key: &str| record.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let strings = |key: &str| -> Vec<String> {
        let list = record.get(key).and_then(Value::as_array).into_iter().flatten();
        list.filter_map(|value| Some(value.as_str()?.to_owned())).collect()
    };
    let request = ImageUpload {
        filename: Some(text("filename")).filter(|name| !name.is_empty()),
        public: record.get("public").and_then(Value::as_bool).unwrap_or_default(),
        properties: Config::new(),
        aliases: Vec::new(),
        profiles: strings("profiles"),
        fingerprint: Some(fingerprint.to_string()),
    };
    let mut bytes = 0;
    let mut part = |stem: &str| -> Result<Option<ImageFile>, String> {
        let mut files = stored.files().iter();
        let Some(record) = files.find(|file| file.name.starts_with(stem)) else { return Ok(None) };
        let file = stored.open_file(&record.name).map_err(|error| chain(&error))?;
        bytes += record.size;
        let holes = Holes::default();
        let cancel = cancel.clone();
        let body = upload(
            Source { file, relocation: None, holes, raw: true, cancel, verdict: None },
            |_| {},
        );
        Ok(Some(ImageFile { name: record.name.clone(), body }))
    };
    let first = part(FIRST)?.ok_or_else(|| "its backup has no data".to_owned())?;
    let data = match part(SECOND)? {
        None => ImageData::Unified(first.body),
        Some(rootfs) => ImageData::Split { metadata: first, rootfs, kind: text("type").into() },
    };
    let begun = client.import_image(&request, data).await;
    let mut operation = begun.map_err(|error| explained(&error))?;
    let options = WaitOptions::default().deadline(limits::LOCAL_DATA);
    operation.wait(&options).await.map_err(|error| explained(&error))?;
    Ok(bytes)
}

/// Gives the image its properties and aliases; returns what could not be given.
async fn describe(
    client: &Client,
    fingerprint: &Fingerprint,
    record: &Value,
) -> Result<Vec<String>, String> {
    let of = |key: &str| record.get(key).cloned().unwrap_or(Value::Null);
    let patch = json!({
        "properties": of("properties"),
        "public": of("public"),
        "auto_update": of("auto_update"),
    });
    let patched = client.patch_image(fingerprint.as_str(), &patch, None).await;
    patched.map_err(|error| explained(&error))?;
    let taken = client.image_aliases().await.map_err(|error| explained(&error))?;
    let mut remarks = Vec::new();
    for alias in record.get("aliases").and_then(Value::as_array).into_iter().flatten() {
        let get = |key: &str| alias.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let name = get("name");
        match taken.iter().find(|alias| alias.name == name) {
            Some(alias) if alias.target == fingerprint.as_str() => continue,
            Some(_) => {
                remarks.push(format!("its alias {name} is that of another image here"));
                continue;
            }
            None => {}
        }
        let alias = ImageAlias {
            name,
            description: get("description"),
            target: fingerprint.to_string(),
            ..ImageAlias::default()
        };
        client.create_image_alias(&alias).await.map_err(|error| explained(&error))?;
    }
    Ok(remarks)
}
