//! Gives restored snapshots back when they expire, which an import forgets.
//!
//! What remains if the machine dies: snapshots that do not expire by themselves.

use incus_client::Expiry;
use jiff::Timestamp;
use stapes_core::event::ItemReport;
use stapes_core::item::ItemId;
use stapes_core::outcome::Outcome;

use super::index::{self, SnapshotRecord};
use super::item::Work;
use crate::item_api;
use crate::steps::explained;

/// Compares what was imported as `id` with what the archive says. A time that is over would remove
/// the snapshot at once: it is left out, and told.
pub(super) async fn restore(
    work: &Work<'_>,
    id: &ItemId,
    report: &mut ItemReport,
) -> Result<(), String> {
    let ItemId::Instance { name, .. } = id else { return Ok(()) };
    let stored = work.stored.clone();
    let reading = tokio::task::spawn_blocking(move || index::snapshots(&stored));
    let records = reading.await.map_err(|error| error.to_string())??;
    let now = work.shared.context.clock.now();
    let (due, over): (Vec<(SnapshotRecord, Timestamp)>, Vec<_>) = records
        .into_iter()
        .filter_map(|record| record.expires_at.map(|at| (record, at)))
        .partition(|(_, at)| *at > now);
    if !over.is_empty() {
        let names: Vec<&str> = over.iter().map(|(record, _)| record.name.as_str()).collect();
        report.remark(format!(
            "snapshots that have expired since do not expire any more: {}",
            names.join(", ")
        ));
    }
    let client = item_api::scoped(&work.shared.client, id);
    for (record, at) in due {
        let snapshot = record.name.as_str();
        let set = client
            .set_instance_snapshot_expiry(name.as_str(), snapshot, Expiry::At(at), None)
            .await;
        let done = match set {
            Ok(operation) => {
                item_api::done(operation, crate::limits::QUICK, &work.shared.context.cancel).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = done {
            let cause = format!("snapshot {snapshot} does not expire: {}", explained(&error));
            report.set_back(Outcome::Incomplete, cause);
        }
    }
    Ok(())
}
