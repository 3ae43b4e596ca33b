//! Exports an instance with its snapshots to a file that `incus import` reads.
//!
//!     cargo run --example export -- /var/lib/incus/unix.socket default web web.tar

#![expect(clippy::print_stdout, reason = "an example's purpose is to print")]

use std::time::Duration;

use incus_client::backups::NewBackup;
use incus_client::{Client, Download, Expiry, WaitOptions};
use tokio::io::AsyncWriteExt as _;

/// What a server that cannot stream calls its copy.
const STAGED: &str = "export-example";

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [socket, project, instance, file] = arguments.as_slice() else {
        return Err("usage: export SOCKET PROJECT INSTANCE FILE".into());
    };
    let client = Client::unix(socket)?.with_project(project);
    let mut backup = NewBackup { compression: "none".to_owned(), ..NewBackup::default() };
    if client.server().await?.has("direct_backup") {
        let download = client.stream_instance_backup(instance, &backup).await?;
        if let Err(error) = save(download, file).await {
            // The stream itself only breaks off; the server knows why.
            let why = client.instance_backup_failure(instance).await?;
            println!("{}", why.unwrap_or_default());
            return Err(error);
        }
        return Ok(());
    }
    backup.name = Some(STAGED.to_owned());
    // Should this program die, the server removes its copy itself.
    backup.expires_at = Expiry::At(now() + Duration::from_secs(24 * 3600));
    let mut made = client.create_instance_backup(instance, &backup).await?;
    made.wait(&WaitOptions::default()).await?;
    let saved = async {
        let download = client.download_instance_backup(instance, STAGED, 0).await?;
        save(download, file).await
    };
    let saved = saved.await;
    let mut deleted = client.delete_instance_backup(instance, STAGED).await?;
    deleted.wait(&WaitOptions::default()).await?;
    saved
}

#[expect(clippy::disallowed_methods, reason = "an example has no clock of its own")]
fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

/// Writes everything to a new file.
async fn save(mut download: Download, file: &str) -> Result<(), Box<dyn std::error::Error>> {
    let mut target = tokio::fs::File::create_new(file).await?;
    while let Some(piece) = download.chunk().await? {
        target.write_all(&piece).await?;
    }
    target.sync_all().await?;
    println!("{} bytes", download.received_bytes());
    Ok(())
}
