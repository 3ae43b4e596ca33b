//! Which instances use a custom volume at this moment, beyond what the facts of a run say.
//!
//! Decides nothing and changes nothing.

use std::collections::BTreeSet;

use incus_client::{Client, ErrorKind};
use stapes_core::inventory::{ItemFacts, ServerFacts, VolumeFacts};
use stapes_core::item::ItemId;

use crate::error::chain;
use crate::{facts, item_api};

/// The facts of a server with the instances that use a volume as they are now, also those that it
/// was attached to since: Incus does not refuse to refresh a volume under a running instance, and
/// that breaks its mount.
pub(crate) async fn with_users_now(
    client: &Client,
    known: &ServerFacts,
    volume: &VolumeFacts,
) -> Result<ServerFacts, String> {
    let mut server = known.clone();
    let mut users: BTreeSet<ItemId> =
        volume.used_by.iter().filter_map(|url| facts::instance_of(url)).collect();
    users.extend(known.items.values().filter_map(|item| match item {
        ItemFacts::Instance(instance) => {
            let attached = known.attached_volumes(instance).any(|(_, id)| id == volume.id());
            attached.then(|| instance.id())
        }
        ItemFacts::Volume(_) => None,
    }));
    for id in users {
        match item_api::read(client, &id).await {
            Ok(Some(now)) => drop(server.items.insert(id, now)),
            Ok(None) => {}
            // In a project that our certificate does not reach: nobody can know there.
            Err(error) if error.kind() == ErrorKind::Denied => {}
            Err(error) => {
                return Err(format!("cannot see whether {id} runs on it: {}", chain(&error)));
            }
        }
    }
    Ok(server)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use stapes_core::inventory::InstanceStatus;
    use stapes_testing::fake::{FakeIncus, Reply, Version};

    use super::*;

    #[tokio::test]
    async fn an_instance_that_got_the_volume_since_is_seen() {
        let fake = FakeIncus::start(Version::Lts6, &[]).unwrap();
        let new = json!({
            "name": "new", "project": "p", "type": "container", "status": "Running",
            "expanded_devices": {
                "data": { "type": "disk", "pool": "fast", "source": "data", "path": "/data" },
            },
        });
        fake.on("GET", "/1.0/instances/new", [Reply::sync(new)]);
        fake.on("GET", "/1.0/instances/far", [Reply::error(403, "not yours")]);
        let volume = VolumeFacts {
            project: "p".parse().unwrap(),
            pool: "fast".parse().unwrap(),
            name: "data".parse().unwrap(),
            content_type: "filesystem".to_owned(),
            description: String::new(),
            config: [].into(),
            used_by: vec![
                "/1.0/instances/new?project=p".to_owned(),
                "/1.0/instances/far?project=other".to_owned(),
                "/1.0/instances/gone".to_owned(),
                "/1.0/profiles/any".to_owned(),
            ],
            snapshots: Vec::new(),
        };
        let known = ServerFacts {
            name: "spare".parse().unwrap(),
            fingerprint: String::new(),
            can_exclude_older: false,
            can_import_iso: false,
            lacks_virtual_machines: false,
            architectures: Vec::new(),
            projects: [].into(),
            pools: [].into(),
            networks: [].into(),
            profiles: [].into(),
            items: [].into(),
        };
        let client = Client::unix(fake.socket()).unwrap();
        let now = with_users_now(&client, &known, &volume).await.unwrap();
        let found: Vec<&ItemFacts> = now.items.values().collect();
        let [ItemFacts::Instance(user)] = found[..] else { panic!("{found:?}") };
        assert_eq!((user.name.as_str(), &user.status), ("new", &InstanceStatus::Running));
        assert!(now.attached_volumes(user).any(|(_, id)| id == volume.id()));
    }
}
