//! How an item's data is made to stand still while it is exported.
//!
//! A copy on a pool that copies on write costs nothing, is atomic, and the item goes on beneath it.
//! On other pools (`dir`) the same copy moves every byte, so what stands still anyway is read as it
//! is.
//!
//! A snapshot of btrfs is atomic for what has been written out, and before it is taken every changed
//! file of the volume is written out, one after the other: a process that goes on meanwhile leaves
//! its files at slightly different moments (three pairs of a hundred, where somebody tried hard). So
//! containers that write to a copy's original on btrfs stand still for that moment. A virtual machine
//! has one file there, and its own kernel keeps the order of what it must.
//!
//! Nothing here asks a server: after reading, the engine looks whether what should have stood still
//! did.

use std::collections::BTreeSet;

use crate::config::Consistency;
use crate::inventory::{
    InstanceFacts, InstanceKind, InstanceStatus, ItemFacts, PoolFacts, ServerFacts,
};
use crate::item::ItemId;

/// Where the data of a backup is read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// From a throw-away copy of the item, made for this.
    Clone,
    /// From the item itself, because nobody writes to it; who starts it meanwhile spoils the backup.
    Stopped,
    /// From the item itself, because nobody can write to it.
    ReadOnly,
    /// From the item itself, because its driver's own format is made from a snapshot of the server.
    ServerSnapshot,
    /// From the item itself, while it is written to.
    Live,
}

impl Method {
    /// The word that manifests use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Clone => "clone",
            Self::Stopped => "stopped",
            Self::ReadOnly => "read-only",
            Self::ServerSnapshot => "server-snapshot",
            Self::Live => "live",
        }
    }
}

/// What decides about the method, beside the item.
#[derive(Clone, Copy, Debug)]
pub struct MethodOptions {
    /// Read the item as it is.
    pub no_snapshot: bool,
    /// Take the driver's own format.
    pub optimized: bool,
    /// What happens to running instances while the copy is made.
    pub consistency: Consistency,
}

/// How one item is to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// From where.
    pub method: Method,
    /// Whether the driver's own format is taken.
    pub optimized: bool,
    /// Who stands still while the copy is made.
    pub holding: Option<Holding>,
    /// What people should know beforehand.
    pub remarks: Vec<String>,
}

/// Instances that are held while a copy is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// How.
    pub how: Hold,
    /// Which; never none. One that does not run when its turn comes is left as it is.
    pub instances: BTreeSet<ItemId>,
    /// Whether there is no backup without it. Otherwise an instance that cannot be held is copied
    /// while it goes on, and its owner is told.
    pub is_required: bool,
}

/// How an instance is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Stopped, and started again.
    Stop,
    /// Frozen, and thawed again.
    Freeze,
}

/// Drivers with a format of their own for exports.
const WITH_OWN_FORMAT: [&str; 2] = ["btrfs", "zfs"];

/// Drivers that write changed files out one after the other before they take a snapshot.
const ONE_FILE_AFTER_THE_OTHER: [&str; 1] = ["btrfs"];

/// Decides how an item is read.
pub fn method(item: &ItemFacts, server: &ServerFacts, options: MethodOptions) -> Reading {
    let pool = item.pool();
    let pool_facts = pool.as_ref().and_then(|pool| server.pools.get(pool));
    let driver = pool_facts.map_or("", |pool| pool.driver.as_str());
    let cheap = pool_facts.is_some_and(PoolFacts::clones_cheaply);
    let users = active_users(item, server);
    let mut reading = Reading {
        method: Method::Clone,
        optimized: options.optimized && WITH_OWN_FORMAT.contains(&driver),
        holding: None,
        remarks: Vec::new(),
    };
    if options.optimized && !reading.optimized {
        reading.remarks.push(format!(
            "its pool's driver ({}) has no format of its own; it is stored as files",
            if driver.is_empty() { "unknown" } else { driver }
        ));
    }
    reading.method = if is_read_only(item) {
        Method::ReadOnly
    } else if options.no_snapshot {
        Method::Live
    } else if reading.optimized {
        Method::ServerSnapshot
    } else if !cheap && users.is_empty() {
        Method::Stopped
    } else {
        Method::Clone
    };
    if reading.method == Method::Live && !users.is_empty() && !WITH_OWN_FORMAT.contains(&driver) {
        reading.remarks.push(
            "read while it is written to (--no-snapshot): its files are of different moments"
                .to_owned(),
        );
    }
    if reading.method == Method::Clone {
        if !cheap {
            reading.remarks.push(
                "its pool cannot copy on write: a whole copy is made there first, which needs as \
                 much space again and holds what runs on it for as long"
                    .to_owned(),
            );
        }
        reading.holding = match options.consistency {
            Consistency::Stop => holding(Hold::Stop, users, true),
            Consistency::Freeze => holding(Hold::Freeze, users, true),
            Consistency::Snapshot if ONE_FILE_AFTER_THE_OTHER.contains(&driver) => {
                holding(Hold::Freeze, containers(users, server), false)
            }
            // Incus freezes an instance itself while it copies its files, but not the users of a
            // volume.
            Consistency::Snapshot if !cheap && matches!(item, ItemFacts::Volume(_)) => {
                holding(Hold::Freeze, users, true)
            }
            Consistency::Snapshot => None,
        };
    }
    reading
}

fn holding(how: Hold, instances: BTreeSet<ItemId>, is_required: bool) -> Option<Holding> {
    (!instances.is_empty()).then_some(Holding { how, instances, is_required })
}

fn containers(mut users: BTreeSet<ItemId>, server: &ServerFacts) -> BTreeSet<ItemId> {
    users.retain(|id| {
        let user = server.items.get(id);
        matches!(user, Some(ItemFacts::Instance(user)) if user.kind == InstanceKind::Container)
    });
    users
}

/// Whether nothing can write to it.
fn is_read_only(item: &ItemFacts) -> bool {
    matches!(item, ItemFacts::Volume(volume) if volume.content_type == "iso")
}

/// The instances whose processes may write to the item: itself, or the users of a volume.
pub(crate) fn active_users(item: &ItemFacts, server: &ServerFacts) -> BTreeSet<ItemId> {
    let active = |status: &InstanceStatus| *status != InstanceStatus::Stopped;
    match item {
        ItemFacts::Instance(instance) => {
            active(&instance.status).then(|| instance.id()).into_iter().collect()
        }
        ItemFacts::Volume(volume) => {
            let id = volume.id();
            let instances = server.items.values().filter_map(|item| match item {
                ItemFacts::Instance(instance) if active(&instance.status) => Some(instance),
                _ => None,
            });
            instances
                .filter(|user| server.attached_volumes(user).any(|(_, attached)| attached == id))
                .map(InstanceFacts::id)
                .collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::{InstanceKind, VolumeFacts};

    fn server(driver: &str, items: Vec<ItemFacts>) -> ServerFacts {
        let pools = [("p".parse().unwrap(), PoolFacts { driver: driver.to_owned() })];
        ServerFacts {
            name: "local".parse().unwrap(),
            fingerprint: String::new(),
            can_exclude_older: true,
            can_import_iso: true,
            lacks_virtual_machines: false,
            architectures: Vec::new(),
            projects: [("default".parse().unwrap(), [].into())].into(),
            pools: pools.into(),
            networks: [].into(),
            profiles: [].into(),
            items: items.into_iter().map(|item| (item.id(), item)).collect(),
        }
    }

    fn instance(status: InstanceStatus) -> ItemFacts {
        let disk = |path: &str, source: Option<&str>| {
            let mut keys = vec![("type", "disk"), ("pool", "p"), ("path", path)];
            keys.extend(source.map(|source| ("source", source)));
            keys.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
        };
        ItemFacts::Instance(InstanceFacts {
            project: "default".parse().unwrap(),
            name: "web".parse().unwrap(),
            kind: InstanceKind::Container,
            status,
            architecture: "x86_64".to_owned(),
            description: String::new(),
            ephemeral: false,
            profiles: Vec::new(),
            config: [].into(),
            devices: [].into(),
            expanded_config: [].into(),
            expanded_devices: [
                ("root".to_owned(), disk("/", None)),
                ("data".to_owned(), disk("/data", Some("data"))),
            ]
            .into(),
            last_used_at: None,
            snapshots: Vec::new(),
        })
    }

    fn volume(content_type: &str) -> ItemFacts {
        ItemFacts::Volume(VolumeFacts {
            project: "default".parse().unwrap(),
            pool: "p".parse().unwrap(),
            name: "data".parse().unwrap(),
            content_type: content_type.to_owned(),
            description: String::new(),
            config: [].into(),
            used_by: Vec::new(),
            snapshots: Vec::new(),
        })
    }

    const PLAIN: MethodOptions =
        MethodOptions { no_snapshot: false, optimized: false, consistency: Consistency::Snapshot };

    fn decide(
        driver: &str,
        status: InstanceStatus,
        of: &ItemFacts,
        options: MethodOptions,
    ) -> Reading {
        method(of, &server(driver, vec![instance(status), volume("filesystem")]), options)
    }

    /// What holds the instance `web`, and whether it must.
    fn held(how: Hold, is_required: bool) -> Option<Holding> {
        let instances = BTreeSet::from([instance(InstanceStatus::Running).id()]);
        Some(Holding { how, instances, is_required })
    }

    #[test]
    fn a_pool_that_copies_on_write_always_clones() {
        for driver in ["btrfs", "zfs", "lvm"] {
            for status in [InstanceStatus::Running, InstanceStatus::Stopped] {
                for item in [instance(status.clone()), volume("filesystem")] {
                    let reading = decide(driver, status.clone(), &item, PLAIN);
                    assert_eq!(reading.method, Method::Clone);
                    assert!(reading.remarks.is_empty());
                    let is_held = driver == "btrfs" && status == InstanceStatus::Running;
                    let expected = if is_held { held(Hold::Freeze, false) } else { None };
                    assert_eq!(reading.holding, expected, "{driver} {status:?} {item:?}");
                }
            }
        }
    }

    #[test]
    fn a_virtual_machine_is_not_held_unless_somebody_asks_for_it() {
        let mut machine = instance(InstanceStatus::Running);
        if let ItemFacts::Instance(machine) = &mut machine {
            machine.kind = InstanceKind::VirtualMachine;
        }
        let freeze = MethodOptions { consistency: Consistency::Freeze, ..PLAIN };
        for item in [machine.clone(), volume("filesystem")] {
            let server = server("btrfs", vec![machine.clone(), volume("filesystem")]);
            assert_eq!(method(&item, &server, PLAIN).holding, None);
            assert_eq!(method(&item, &server, freeze).holding, held(Hold::Freeze, true));
        }
    }

    #[test]
    fn on_a_pool_of_plain_directories_only_what_runs_is_copied_first() {
        let stopped = instance(InstanceStatus::Stopped);
        let reading = decide("dir", InstanceStatus::Stopped, &stopped, PLAIN);
        assert_eq!(reading.method, Method::Stopped);
        let reading = decide("dir", InstanceStatus::Stopped, &volume("filesystem"), PLAIN);
        assert_eq!(reading.method, Method::Stopped);
        let frozen = instance(InstanceStatus::Frozen);
        let reading = decide("dir", InstanceStatus::Frozen, &frozen, PLAIN);
        assert_eq!((reading.method, reading.holding), (Method::Clone, None));
        assert_eq!(reading.remarks.len(), 1);
        let reading = decide("dir", InstanceStatus::Running, &volume("filesystem"), PLAIN);
        assert_eq!((reading.method, reading.holding), (Method::Clone, held(Hold::Freeze, true)));
    }

    #[test]
    fn stop_and_freeze_hold_what_runs_and_nothing_else() {
        let asked = [(Consistency::Stop, Hold::Stop), (Consistency::Freeze, Hold::Freeze)];
        for (consistency, how) in asked {
            let options = MethodOptions { consistency, ..PLAIN };
            let running = instance(InstanceStatus::Running);
            let reading = decide("btrfs", InstanceStatus::Running, &running, options);
            assert_eq!(reading.holding, held(how, true));
            let stopped = instance(InstanceStatus::Stopped);
            let reading = decide("btrfs", InstanceStatus::Stopped, &stopped, options);
            assert_eq!(reading.holding, None);
        }
    }

    #[test]
    fn what_is_read_from_a_snapshot_of_the_server_or_while_it_is_written_to_holds_nobody() {
        let running = instance(InstanceStatus::Running);
        let optimized = MethodOptions { optimized: true, ..PLAIN };
        let live = MethodOptions { no_snapshot: true, ..PLAIN };
        for options in [optimized, live] {
            let reading = decide("btrfs", InstanceStatus::Running, &running, options);
            assert_eq!(reading.holding, None);
        }
    }

    #[test]
    fn the_format_of_a_driver_is_taken_only_where_there_is_one() {
        let optimized = MethodOptions { optimized: true, ..PLAIN };
        let running = instance(InstanceStatus::Running);
        let reading = decide("btrfs", InstanceStatus::Running, &running, optimized);
        assert_eq!((reading.method, reading.optimized), (Method::ServerSnapshot, true));
        let reading = decide("dir", InstanceStatus::Running, &running, optimized);
        assert_eq!((reading.method, reading.optimized), (Method::Clone, false));
        assert!(reading.remarks.iter().any(|remark| remark.contains("(dir)")), "{reading:?}");
    }

    #[test]
    fn live_reading_is_told_and_an_iso_needs_nothing() {
        let live = MethodOptions { no_snapshot: true, ..PLAIN };
        let running = instance(InstanceStatus::Running);
        let reading = decide("dir", InstanceStatus::Running, &running, live);
        assert_eq!((reading.method, reading.remarks.len()), (Method::Live, 1));
        let reading = decide("dir", InstanceStatus::Running, &volume("iso"), PLAIN);
        assert_eq!((reading.method, reading.remarks.len()), (Method::ReadOnly, 0));
    }
}
