//! Whether there is room for a backup, before anything is begun: in the repository, on the server's
//! disk where an export has to be staged, and on the pool where a whole copy has to be made.
//!
//! What a backup will need is known only roughly: from the last one of the same item, or from the
//! size of a block volume. Where nothing is known, only an almost full disk is refused; one that
//! fills up later fails the backup cleanly.

use std::path::Path;

use stapes_core::backup::{BackupInfo, BackupItem, Method};
use stapes_core::inventory::ItemFacts;
use stapes_core::units::ByteSize;

use super::{Shared, export};
use crate::error::chain;
use crate::repository::newest;

/// Less than this is full, whatever the backup.
const AT_LEAST: u64 = 16 * 1024 * 1024;

/// Refuses an item that cannot fit.
pub(crate) async fn check(
    shared: &Shared<'_>,
    item: &BackupItem,
    original: &ItemFacts,
    method: Method,
) -> Result<(), String> {
    let (repository, wanted) = (shared.repository.clone(), item.clone());
    let looked = tokio::task::spawn_blocking(move || {
        let free = repository.free_bytes()?;
        let last = newest(&repository, &wanted)?;
        Ok::<_, stapes_store::Error>((free, last))
    });
    let (free, last) = looked
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| format!("cannot see how much room there is: {}", chain(&error)))?;
    let stored = last.as_ref().map(|last| last.stored_bytes).unwrap_or_default();
    // Storages far away do not say.
    if let Some(free) = free {
        enough("in the repository", free, stored)?;
    }
    let content = content_bytes(original, last.as_ref());
    if !shared.about.has(export::DIRECT)
        && let Some(free) = staging_room(shared)
    {
        enough("on the server's disk, where it has to write the export first", free, content)?;
    }
    if method == Method::Clone
        && let Some(free) = copying_room(shared, original).await
    {
        enough("on the item's pool, which cannot copy on write", free, content)?;
    }
    Ok(())
}

fn enough(place: &str, free: u64, wanted: u64) -> Result<(), String> {
    let needed = wanted.saturating_add(AT_LEAST);
    if free >= needed {
        return Ok(());
    }
    Err(format!(
        "there is not enough room {place}: {} are free, and about {} are needed; nothing was begun",
        ByteSize(free),
        ByteSize(needed),
    ))
}

/// How long the export will be: as the last one, or as the block volume is.
fn content_bytes(original: &ItemFacts, last: Option<&BackupInfo>) -> u64 {
    let size = match original {
        ItemFacts::Volume(volume) if volume.content_type != "filesystem" => {
            volume.config.get("size").and_then(|size| bytes_of(size)).unwrap_or_default()
        }
        _ => 0,
    };
    last.and_then(|last| last.content_bytes).unwrap_or_default().max(size)
}

/// Free bytes where the server stages exports; known only if it is this machine's, and only if the
/// administrator has not put them on a volume.
fn staging_room(shared: &Shared<'_>) -> Option<u64> {
    if shared.about.config.contains_key("storage.backups_volume") {
        return None;
    }
    let socket = shared.client.label().strip_prefix("unix:")?;
    let dir = Path::new(socket).parent()?;
    let space = rustix::fs::statvfs(dir.join("backups")).ok()?;
    Some(space.f_bavail.saturating_mul(space.f_frsize))
}

/// Free bytes of a pool on which a copy takes as much as its original.
async fn copying_room(shared: &Shared<'_>, original: &ItemFacts) -> Option<u64> {
    let pool = original.pool()?;
    if shared.facts.pools.get(&pool)?.clones_cheaply() {
        return None;
    }
    let resources = shared.client.storage_pool_resources(pool.as_str()).await.ok()?;
    Some(resources.space.total.saturating_sub(resources.space.used))
}

/// A size as Incus writes it: `512`, `32MiB`, `10GB`.
fn bytes_of(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.trim().parse().ok()?;
    let unit: u64 = match text.get(digits.len()..)? {
        "" | "B" => 1,
        "kB" => 1000,
        "MB" => 1000_u64.pow(2),
        "GB" => 1000_u64.pow(3),
        "TB" => 1000_u64.pow(4),
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_incus_writes_them() {
        for (text, bytes) in [("512", 512), ("32MiB", 32 << 20), ("10GB", 10_000_000_000)] {
            assert_eq!(bytes_of(text), Some(bytes), "{text}");
        }
        for text in ["", "GB", "1.5GB", "7 parsecs", "99999999999999TiB"] {
            assert_eq!(bytes_of(text), None, "{text}");
        }
    }

    #[test]
    fn too_little_room_is_told_with_numbers() {
        assert_eq!(enough("here", 200 << 20, 100 << 20), Ok(()));
        let told = enough("in the repository", 100 << 20, 1 << 30).unwrap_err();
        assert_eq!(
            told,
            "there is not enough room in the repository: 100 MiB are free, and about 1.0 GiB are needed; nothing was begun"
        );
    }
}
