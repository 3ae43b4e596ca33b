//! The instances and profiles that attach a custom volume: taking it away from them and giving it
//! back.
//!
//! Incus follows the renaming of an attached volume and takes half a minute for it; a volume that
//! nobody attaches is renamed at once.

use std::collections::BTreeMap;

use incus_client::{Client, Config, Devices};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use stapes_core::item::ItemId;
use tokio_util::sync::CancellationToken;

use crate::steps::explained;
use crate::{item_api, limits};

/// What attaches a volume.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
enum User {
    Instance { project: String, name: String },
    Profile { project: String, name: String },
}

/// One user of a volume with the devices by which it has it attached.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Attachment {
    user: User,
    devices: BTreeMap<String, Config>,
}

/// Reads `/1.0/instances/NAME?project=P` and `/1.0/profiles/NAME?project=P`.
fn user_of(url: &str) -> Option<User> {
    let (path, query) = url.split_once('?').unwrap_or((url, ""));
    let decoded = |text: &str| percent_decode_str(text).decode_utf8().ok().map(String::from);
    let project = query.split('&').find_map(|part| part.strip_prefix("project="));
    let project = decoded(project.unwrap_or("default"))?;
    if let Some(name) = path.strip_prefix("/1.0/instances/") {
        return Some(User::Instance { project, name: decoded(name)? });
    }
    let name = decoded(path.strip_prefix("/1.0/profiles/")?)?;
    Some(User::Profile { project, name })
}

/// Everything that attaches a volume at this moment.
pub(crate) async fn attachments(
    client: &Client,
    volume: &ItemId,
) -> Result<Vec<Attachment>, String> {
    let ItemId::Volume { pool, name, .. } = volume else { return Ok(Vec::new()) };
    let scoped = item_api::scoped(client, volume);
    let found = scoped.volume(pool.as_str(), name.as_str()).await;
    let found = found.map_err(|error| explained(&error))?.value;
    let mut attachments = Vec::new();
    for user in found.used_by.iter().filter_map(|url| user_of(url)) {
        let of_volume = |devices: &Devices| -> BTreeMap<String, Config> {
            let is_meant = |device: &Config| is_disk_of(device, pool.as_str(), name.as_str());
            let devices = devices.iter().filter(|(_, device)| is_meant(device));
            devices.map(|(name, device)| (name.clone(), device.clone())).collect()
        };
        let devices = match &user {
            User::Instance { project, name } => {
                let instance = client.with_project(project).instance(name).await;
                of_volume(&instance.map_err(|error| explained(&error))?.value.devices)
            }
            User::Profile { project, name } => {
                let profile = client.with_project(project).profile(name).await;
                of_volume(&profile.map_err(|error| explained(&error))?.value.devices)
            }
        };
        // An instance that has it from its profile only is a user of no device of its own.
        if !devices.is_empty() {
            attachments.push(Attachment { user, devices });
        }
    }
    Ok(attachments)
}

/// Takes the volume away from its users.
pub(crate) async fn detach(
    client: &Client,
    attachments: &[Attachment],
    cancel: &CancellationToken,
) -> Result<(), String> {
    for Attachment { user, devices } in attachments {
        let take = |all: &mut Devices| all.retain(|name, _| !devices.contains_key(name));
        change(client, user, take, cancel).await?;
    }
    Ok(())
}

/// Gives the volume back to its users; those that have it already stay as they are.
pub(crate) async fn attach(
    client: &Client,
    attachments: &[Attachment],
    cancel: &CancellationToken,
) -> Result<(), String> {
    for Attachment { user, devices } in attachments {
        let give = |all: &mut Devices| all.extend(devices.clone());
        change(client, user, give, cancel).await?;
    }
    Ok(())
}

/// Changes the devices of a user, if that changes anything; one that is gone needs nothing.
async fn change(
    client: &Client,
    user: &User,
    change: impl Fn(&mut Devices),
    cancel: &CancellationToken,
) -> Result<(), String> {
    let changed = match user {
        User::Instance { project, name } => {
            let client = client.with_project(project);
            let found = match client.instance(name).await {
                Err(error) if error.is_not_found() => return Ok(()),
                found => found.map_err(|error| explained(&error))?,
            };
            let mut put = found.value.to_put();
            change(&mut put.devices);
            if put.devices == found.value.devices {
                return Ok(());
            }
            match client.update_instance(name, &put, found.etag.as_ref()).await {
                Ok(operation) => item_api::done(operation, limits::QUICK, cancel).await,
                Err(error) => Err(error),
            }
        }
        User::Profile { project, name } => {
            let client = client.with_project(project);
            let found = match client.profile(name).await {
                Err(error) if error.is_not_found() => return Ok(()),
                found => found.map_err(|error| explained(&error))?,
            };
            let mut profile = found.value.clone();
            change(&mut profile.devices);
            if profile.devices == found.value.devices {
                return Ok(());
            }
            client.update_profile(&profile, found.etag.as_ref()).await
        }
    };
    changed.map_err(|error| format!("cannot change the devices of {user}: {}", explained(&error)))
}

/// Whether a device is this volume, or a folder of it.
fn is_disk_of(device: &Config, pool: &str, volume: &str) -> bool {
    let of = |key: &str| device.get(key).map(String::as_str).unwrap_or_default();
    of("type") == "disk" && of("pool") == pool && of("source").split('/').next() == Some(volume)
}

impl std::fmt::Display for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Instance { project, name } => write!(f, "instance {name} (project {project})"),
            Self::Profile { project, name } => write!(f, "profile {name} (project {project})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_read_from_their_addresses() {
        let user = |url: &str| user_of(url).map(|user| user.to_string()).unwrap_or_default();
        assert_eq!(user("/1.0/instances/web?project=my%20lab"), "instance web (project my lab)");
        assert_eq!(user("/1.0/profiles/a%2Fb"), "profile a/b (project default)");
        assert_eq!(user("/1.0/images/x"), "");
    }

    #[test]
    fn only_disks_of_that_volume_are_meant_and_their_folders() {
        let disk = |kind: &str, pool: &str, source: &str| -> Config {
            [("type", kind), ("pool", pool), ("source", source)]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into()
        };
        assert!(is_disk_of(&disk("disk", "p", "data"), "p", "data"));
        assert!(is_disk_of(&disk("disk", "p", "data/sub/x"), "p", "data"));
        for other in
            [disk("disk", "q", "data"), disk("disk", "p", "data2"), disk("nic", "p", "data")]
        {
            assert!(!is_disk_of(&other, "p", "data"), "{other:?}");
        }
    }
}
