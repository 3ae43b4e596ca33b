//! The backup of the server's declarative configuration: one JSON document for each kind.

use stapes_core::backup::{BackupInfo, BackupItem, Compression};
use stapes_core::event::{ItemReport, Step};
use stapes_core::server_config::Secrets;
use stapes_store::FileRecord;

use super::{Shared, data, origin};
use crate::server_config::gather;
use crate::steps::{explained, step};

pub(crate) async fn back_up(
    shared: &Shared<'_>,
    report: &mut ItemReport,
) -> Result<BackupInfo, String> {
    let item = BackupItem::Config;
    let version = shared.version();
    let backup = data::begin(shared, &item, version).await?;
    if let Some(text) = data::of_another(&backup, &shared.about.environment.server_name) {
        report.remark(text);
    }
    let reading = async {
        // Secrets do not belong into plain text.
        let is_encrypted = shared.repository.is_encrypted();
        let secrets = if is_encrypted { Secrets::Include } else { Secrets::LeaveOut };
        let gathered = gather(&shared.client, secrets).await;
        let gathered = gathered.map_err(|error| explained(&error))?;
        let texts: Vec<(String, String)> = gathered.config.files().collect();
        let mut files: Vec<FileRecord> = Vec::new();
        for (name, text) in texts {
            files.push(data::write_file(&backup, &name, text.into_bytes()).await?);
        }
        let bytes: u64 = files.iter().map(|file| file.size).sum();
        Ok(((gathered, files, bytes), Some(bytes)))
    };
    let events = &shared.context.events;
    let elapsed = &mut report.elapsed;
    let (gathered, files, bytes) =
        step(events, &item, Step::Store, elapsed, Box::pin(reading)).await?;
    report.bytes = Some(bytes);
    if !gathered.left_out.is_empty() {
        let names: Vec<String> = gathered
            .left_out
            .iter()
            .map(|secret| format!("{} of {}", secret.key, secret.object))
            .collect();
        report.remark(format!(
            "secrets are left out of a repository that is not encrypted: {}",
            names.join(", ")
        ));
    }
    let mut manifest = origin::manifest(shared, &item, version);
    manifest.options.compression = Compression::None.as_str().to_owned();
    manifest.content_bytes = bytes;
    manifest.files = files;
    if !gathered.missing.is_empty() {
        manifest.outcome = "incomplete".to_owned();
        manifest.missing = gathered.missing;
    }
    data::publish(backup, manifest).await
}
