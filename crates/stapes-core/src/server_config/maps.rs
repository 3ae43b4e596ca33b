//! Other names on the new server: pools, networks, projects and profiles of the backup that are
//! called something else there.
//!
//! Where the new name exists already on the new server, that object is used as it is and never
//! changed; where it does not, the object of the backup is made under the new name.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::document::ServerConfig;
use super::kind::ConfigKind;
use super::object::text;

/// What is called otherwise on the new server, by kind: old names and new ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Maps {
    /// Storage pools.
    pub pools: BTreeMap<String, String>,
    /// Networks, of all projects.
    pub networks: BTreeMap<String, String>,
    /// Projects.
    pub projects: BTreeMap<String, String>,
    /// Profiles, of all projects.
    pub profiles: BTreeMap<String, String>,
}

/// Why a map cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// Most likely a typo.
    #[error("the backup has no {kind} «{old}»{}", hint(.known))]
    Unknown {
        /// Such as `project`.
        kind: &'static str,
        /// The old name.
        old: String,
        /// The names that it has, most similar first.
        known: Vec<String>,
    },
    /// The new name cannot be a name.
    #[error("«{new}» cannot be the name of a {kind}")]
    Name {
        /// Such as `project`.
        kind: &'static str,
        /// The new name.
        new: String,
    },
    /// Two would become one.
    #[error("both {kind} «{one}» and «{other}» of the backup would become «{new}»")]
    Clash {
        /// Such as `project`.
        kind: &'static str,
        /// One old name.
        one: String,
        /// The other.
        other: String,
        /// The name of both.
        new: String,
    },
}

fn hint(known: &[String]) -> String {
    match known {
        [] => String::new(),
        known => format!("; it has {}", known.join(", ")),
    }
}

impl Maps {
    /// Whether nothing is called otherwise.
    pub fn is_empty(&self) -> bool {
        self.each().iter().all(|(_, _, map)| map.is_empty())
    }

    fn each(&self) -> [(&'static str, ConfigKind, &BTreeMap<String, String>); 4] {
        [
            ("pool", ConfigKind::StoragePools, &self.pools),
            ("network", ConfigKind::Networks, &self.networks),
            ("project", ConfigKind::Projects, &self.projects),
            ("profile", ConfigKind::Profiles, &self.profiles),
        ]
    }

    /// Checks the maps against a backup.
    ///
    /// # Errors
    /// The first name that the backup does not have, or that cannot be a name, or that two would
    /// share. Two pools or networks may become one that the new server has; what is there then stays as it is.
    pub fn check(&self, backup: &ServerConfig) -> Result<(), MapError> {
        for (kind, document, map) in self.each() {
            let objects = backup.objects(document);
            let names: BTreeSet<&str> = objects.iter().map(|object| text(object, "name")).collect();
            let mut taken: BTreeMap<&str, &str> = BTreeMap::new();
            for (old, new) in map {
                if !names.contains(old.as_str()) {
                    return Err(MapError::Unknown {
                        kind,
                        old: old.clone(),
                        known: similar(old, &names),
                    });
                }
                if new.is_empty() || new.contains('/') || new.chars().any(char::is_control) {
                    return Err(MapError::Name { kind, new: new.clone() });
                }
                let other = taken.insert(new, old);
                // Projects hold things, and two of them would hold two of each.
                let kept = (kind == "project" && names.contains(new.as_str()))
                    .then_some(new.as_str())
                    .filter(|name| !map.contains_key(*name));
                if let Some(other) = other.filter(|_| kind == "project").or(kept) {
                    let (one, other) = (other.to_owned(), old.clone());
                    return Err(MapError::Clash { kind, one, other, new: new.clone() });
                }
            }
        }
        Ok(())
    }

    /// The backup with the names of the new server.
    ///
    /// What is mapped to something that `exists` says the new server has is taken out of it,
    /// together with its parts, and so are second objects of one new name.
    pub(super) fn apply(
        &self,
        backup: &ServerConfig,
        exists: impl Fn(ConfigKind, &str, &str) -> bool,
    ) -> ServerConfig {
        let mut mapped = backup.without_evidence();
        for (kind, objects) in mapped.documents_mut() {
            // Two old names may be one pool or network now.
            let merges = self.each().iter().any(|(_, mapped, _)| *mapped == kind);
            let mut seen = BTreeSet::new();
            objects.retain_mut(|object| {
                let taken_as_is = self.rename(kind, object, &exists);
                let identity = [text(object, "project"), text(object, "name")].map(str::to_owned);
                let again = merges && !seen.insert(identity);
                !taken_as_is && !again
            });
        }
        mapped
    }

    /// Renames an object and what it refers to; says whether it is used as it is on the server.
    fn rename(
        &self,
        kind: ConfigKind,
        object: &mut Map<String, Value>,
        exists: &impl Fn(ConfigKind, &str, &str) -> bool,
    ) -> bool {
        let in_network = text(object, "network").to_owned();
        set(object, "project", &self.projects);
        set(object, "pool", &self.pools);
        set(object, "network", &self.networks);
        let old = text(object, "name").to_owned();
        let map = match kind {
            ConfigKind::StoragePools => Some(&self.pools),
            ConfigKind::Networks => Some(&self.networks),
            ConfigKind::Projects => Some(&self.projects),
            ConfigKind::Profiles => Some(&self.profiles),
            _ => None,
        };
        let renamed = map.is_some_and(|map| map.contains_key(&old));
        if let Some(map) = map {
            set(object, "name", map);
        }
        self.rename_inside(kind, object);
        let project = text(object, "project").to_owned();
        if !in_network.is_empty() && self.networks.contains_key(&in_network) {
            return exists(ConfigKind::Networks, &project, text(object, "network"));
        }
        renamed && exists(kind, &project, text(object, "name"))
    }

    fn rename_inside(&self, kind: ConfigKind, object: &mut Map<String, Value>) {
        if let Some(Value::Object(devices)) = object.get_mut("devices") {
            for device in devices.values_mut().filter_map(Value::as_object_mut) {
                match text(device, "type") {
                    "disk" => set(device, "pool", &self.pools),
                    "nic" => {
                        set(device, "network", &self.networks);
                        set(device, "parent", &self.networks);
                    }
                    _ => {}
                }
            }
        }
        if let Some(Value::Array(projects)) = object.get_mut("projects") {
            for project in projects {
                if let Some(new) = project.as_str().and_then(|old| self.projects.get(old)) {
                    *project = new.clone().into();
                }
            }
        }
        set(object, "target_network", &self.networks);
        set(object, "target_project", &self.projects);
        if let Some(Value::Object(config)) = object.get_mut("config") {
            self.rename_in_config(kind, config);
        }
    }

    fn rename_in_config(&self, kind: ConfigKind, config: &mut Map<String, Value>) {
        match kind {
            // The uplink of an OVN network.
            ConfigKind::Networks => set(config, "network", &self.networks),
            ConfigKind::Projects => {
                set_list(config, "restricted.networks.access", &self.networks);
                set_list(config, "restricted.networks.uplinks", &self.networks);
                for (old, new) in &self.pools {
                    if let Some(limit) = config.remove(&format!("limits.disk.pool.{old}")) {
                        config.insert(format!("limits.disk.pool.{new}"), limit);
                    }
                }
            }
            ConfigKind::Server => {
                for key in VOLUME_KEYS {
                    let moved = text(config, key).split_once('/').and_then(|(pool, volume)| {
                        Some(format!("{}/{volume}", self.pools.get(pool)?))
                    });
                    if let Some(place) = moved {
                        config.insert(key.to_owned(), place.into());
                    }
                }
            }
            _ => {}
        }
    }
}

/// Server settings that name a custom volume of the project `default`, as `POOL/VOLUME`.
pub(super) const VOLUME_KEYS: [&str; 3] =
    ["storage.backups_volume", "storage.images_volume", "storage.logs_volume"];

fn set(object: &mut Map<String, Value>, member: &str, map: &BTreeMap<String, String>) {
    if let Some(new) = map.get(text(object, member)) {
        object.insert(member.to_owned(), new.clone().into());
    }
}

fn set_list(config: &mut Map<String, Value>, key: &str, map: &BTreeMap<String, String>) {
    let old = text(config, key);
    if old.is_empty() || map.is_empty() {
        return;
    }
    let names = old.split(',').map(str::trim);
    let names = names.map(|name| map.get(name).map_or(name, String::as_str));
    let new = names.collect::<Vec<_>>().join(",");
    config.insert(key.to_owned(), new.into());
}

/// A few of the names, the most similar first.
fn similar(name: &str, known: &BTreeSet<&str>) -> Vec<String> {
    let mut known: Vec<&str> = known.iter().copied().collect();
    known.sort_by_key(|other| strsim::damerau_levenshtein(name, other));
    known.into_iter().take(5).map(str::to_owned).collect()
}
