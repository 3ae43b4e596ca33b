//! Turns what the API says into the facts that planners read, and a few words back.
//!
//! An object whose name our types refuse cannot exist on a server that keeps its own rules; it is
//! left out.

use incus_client::instances::{Instance, InstanceStatus as WireStatus, InstanceType};
use incus_client::snapshots::{InstanceSnapshot, VolumeSnapshot};
use incus_client::volumes::Volume;
use jiff::Timestamp;
use percent_encoding::percent_decode_str;
use stapes_core::inventory::{
    InstanceFacts, InstanceKind, InstanceStatus, ItemFacts, SnapshotFacts, VolumeFacts,
};
use stapes_core::item::ItemId;

/// An instance as facts; `project` where the server leaves it out.
pub(crate) fn instance(wire: Instance, project: &str) -> Option<ItemFacts> {
    let project = if wire.project.is_empty() { project } else { &wire.project };
    Some(ItemFacts::Instance(InstanceFacts {
        project: project.parse().ok()?,
        name: wire.name.parse().ok()?,
        kind: match wire.kind {
            InstanceType::VirtualMachine => InstanceKind::VirtualMachine,
            _ => InstanceKind::Container,
        },
        status: match wire.status {
            WireStatus::Running => InstanceStatus::Running,
            WireStatus::Stopped => InstanceStatus::Stopped,
            WireStatus::Frozen => InstanceStatus::Frozen,
            other => InstanceStatus::Other(other.as_str().to_owned()),
        },
        architecture: wire.architecture,
        description: wire.description,
        ephemeral: wire.ephemeral,
        profiles: wire.profiles,
        config: wire.config,
        devices: wire.devices,
        expanded_config: wire.expanded_config,
        expanded_devices: wire.expanded_devices,
        // «Never» is the Unix epoch here, unlike everywhere else in the API.
        last_used_at: wire.last_used_at.filter(|at| at.as_second() > 0),
        snapshots: sorted(wire.snapshots.into_iter().map(instance_snapshot).collect()),
    }))
}

/// A volume as facts; `project` and `pool` where the server leaves them out.
pub(crate) fn volume(wire: Volume, project: &str, pool: &str) -> Option<ItemFacts> {
    let project = if wire.project.is_empty() { project } else { &wire.project };
    let pool = if wire.pool.is_empty() { pool } else { &wire.pool };
    Some(ItemFacts::Volume(VolumeFacts {
        project: project.parse().ok()?,
        pool: pool.parse().ok()?,
        name: wire.name.parse().ok()?,
        content_type: wire.content_type.as_str().to_owned(),
        description: wire.description,
        config: wire.config,
        used_by: wire.used_by,
        snapshots: sorted(wire.snapshots.into_iter().map(volume_snapshot).collect()),
    }))
}

/// The kind of an instance as the API writes it.
pub(crate) fn wire_kind(kind: InstanceKind) -> InstanceType {
    match kind {
        InstanceKind::Container => InstanceType::Container,
        InstanceKind::VirtualMachine => InstanceType::VirtualMachine,
    }
}

/// The instance that an address of the API is about, if it is about one.
pub(crate) fn instance_of(url: &str) -> Option<ItemId> {
    let (path, query) = url.split_once('?').unwrap_or((url, ""));
    let name = path.strip_prefix("/1.0/instances/")?.split('/').next()?;
    let project = query.split('&').find_map(|part| part.strip_prefix("project="));
    let decoded = |text| percent_decode_str(text).decode_utf8().ok();
    Some(ItemId::Instance {
        project: decoded(project.unwrap_or("default"))?.parse().ok()?,
        name: decoded(name)?.parse().ok()?,
    })
}

fn instance_snapshot(wire: InstanceSnapshot) -> SnapshotFacts {
    SnapshotFacts {
        name: wire.name,
        created_at: wire.created_at.unwrap_or(Timestamp::UNIX_EPOCH),
        expires_at: wire.expires_at,
    }
}

fn volume_snapshot(wire: VolumeSnapshot) -> SnapshotFacts {
    SnapshotFacts {
        name: wire.name,
        created_at: wire.created_at.unwrap_or(Timestamp::UNIX_EPOCH),
        expires_at: wire.expires_at,
    }
}

fn sorted(mut snapshots: Vec<SnapshotFacts>) -> Vec<SnapshotFacts> {
    snapshots.sort_by(|a, b| (a.created_at, &a.name).cmp(&(b.created_at, &b.name)));
    snapshots
}
