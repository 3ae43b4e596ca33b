//! Asks a server for everything that planning needs, in one pass.
//!
//! A restricted certificate sees less: only its own projects, and on Incus 6.0 no list of pools.
//! Pools are then asked for by the names that instances, profiles and the job use. What it may not
//! see is left out of the facts, and the planners say what is missing.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::try_join_all;
use incus_client::server::Server;
use incus_client::{Client, Error, ErrorKind, ListOptions};
use stapes_core::id::{PoolName, ProjectName, ServerName};
use stapes_core::inventory::{Devices, ItemFacts, PoolFacts, ServerFacts};
use stapes_core::item::ItemId;

use crate::facts;

/// Makes refresh leave out snapshots that are older than the newest common one.
const EXCLUDE_OLDER: &str = "custom_volume_refresh_exclude_older_snapshots";

/// Makes an upload to a pool's custom volumes take an ISO image as it is.
const IMPORT_ISO: &str = "custom_volume_iso";

/// Reads a server; `pool_hints` are names to ask for where pools cannot be listed.
///
/// # Errors
/// The first call that fails; nothing is changed by any of them.
pub(crate) async fn gather(
    client: &Client,
    name: &ServerName,
    server: &Server,
    pool_hints: &BTreeSet<PoolName>,
) -> Result<ServerFacts, Error> {
    let mut again = ATTEMPTS;
    loop {
        again -= 1;
        match gather_once(client, name, server, pool_hints).await {
            Err(error) if error.is_not_found() && again > 0 => {}
            gathered => return gathered,
        }
    }
}

/// What is listed and what is then asked of it are several calls; somebody's volume may be deleted
/// between them, and that is no reason to fail.
const ATTEMPTS: u32 = 5;

async fn gather_once(
    client: &Client,
    name: &ServerName,
    server: &Server,
    pool_hints: &BTreeSet<PoolName>,
) -> Result<ServerFacts, Error> {
    let everywhere = ListOptions::all_projects();
    let (projects, profiles, networks, instances) = tokio::try_join!(
        client.projects(),
        client.profiles(&everywhere),
        client.networks(&everywhere),
        client.instances(&everywhere),
    )?;
    let devices = instances.iter().flat_map(|instance| instance.expanded_devices.values());
    let devices = devices.chain(profiles.iter().flat_map(|profile| profile.devices.values()));
    let used = devices.filter_map(|device| device.get("pool")?.parse().ok());
    let names: BTreeSet<PoolName> = used.chain(pool_hints.iter().cloned()).collect();
    let pools = pools(client, &names).await?;
    let volumes = try_join_all(pools.keys().map(|pool: &PoolName| async move {
        let volumes = client.volumes(pool.as_str(), &ListOptions::all_projects()).await?;
        Ok::<_, Error>((pool.clone(), volumes))
    }));
    let volumes = volumes.await?;
    let instances =
        instances.into_iter().filter_map(|instance| facts::instance(instance, "default"));
    let volumes = volumes.into_iter().flat_map(|(pool, volumes)| {
        volumes
            .into_iter()
            .filter_map(move |volume| facts::volume(volume, "default", pool.as_str()))
    });
    let items: BTreeMap<ItemId, ItemFacts> =
        instances.chain(volumes).map(|item| (item.id(), item)).collect();
    Ok(ServerFacts {
        name: name.clone(),
        fingerprint: server.environment.certificate_fingerprint.clone(),
        can_exclude_older: server.has(EXCLUDE_OLDER),
        can_import_iso: server.has(IMPORT_ISO),
        lacks_virtual_machines: lacks_virtual_machines(server),
        architectures: server.environment.architectures.clone(),
        projects: projects
            .into_iter()
            .filter_map(|project| Some((project.name.parse().ok()?, project.config)))
            .collect(),
        pools,
        networks: networks
            .into_iter()
            .filter(|network| network.managed)
            .filter_map(|network| Some((project_of(&network.project)?, network.name)))
            .collect::<BTreeSet<_>>(),
        profiles: profiles
            .into_iter()
            .filter_map(|profile| {
                let devices: Devices = profile.devices;
                Some(((project_of(&profile.project)?, profile.name), devices))
            })
            .collect(),
        items,
    })
}

/// The pools of a server: all of them, or those of `names` that exist where listing is denied.
async fn pools(
    client: &Client,
    names: &BTreeSet<PoolName>,
) -> Result<BTreeMap<PoolName, PoolFacts>, Error> {
    let listed = match client.storage_pools().await {
        Ok(pools) => pools,
        Err(error) if error.kind() == ErrorKind::Denied => {
            let asked = names.iter().map(|name| async {
                match client.storage_pool(name.as_str()).await {
                    Ok(pool) => Ok(Some(pool.value)),
                    Err(error) if error.is_not_found() || error.kind() == ErrorKind::Denied => {
                        Ok(None)
                    }
                    Err(error) => Err(error),
                }
            });
            try_join_all(asked).await?.into_iter().flatten().collect()
        }
        Err(error) => return Err(error),
    };
    let known = listed
        .into_iter()
        .filter_map(|pool| Some((pool.name.parse().ok()?, PoolFacts { driver: pool.driver })));
    Ok(known.collect())
}

/// Whether a server names its drivers of instances (`lxc | qemu`), and that for virtual machines is
/// not among them, as where the machine cannot run any.
fn lacks_virtual_machines(server: &Server) -> bool {
    let drivers = server.environment.extra.get("driver").and_then(|drivers| drivers.as_str());
    drivers.is_some_and(|drivers| !drivers.split(" | ").any(|driver| driver == "qemu"))
}

/// An object whose server leaves its project out is in `default`.
fn project_of(text: &str) -> Option<ProjectName> {
    if text.is_empty() { "default" } else { text }.parse().ok()
}
