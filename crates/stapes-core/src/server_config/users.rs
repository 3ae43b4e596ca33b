//! Who uses what on a server: which instances lie on a pool or hang on a network, and what a
//! project still holds.
//!
//! Computed from the documents, because the servers' own lists change with every version and are
//! left out of backups. It decides nothing.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::document::ServerConfig;
use super::kind::{ConfigKind, ObjectId, ObjectKind};
use super::object::{config, list, text};

/// What uses the objects of a server, by their identity: names for people.
#[derive(Debug, Default)]
pub(super) struct Users {
    instances: BTreeMap<ObjectId, BTreeSet<String>>,
    contents: BTreeMap<ObjectId, BTreeSet<String>>,
}

impl Users {
    /// The users of everything on a server.
    pub(super) fn of(server: &ServerConfig) -> Self {
        let mut users = Self::default();
        let features = Features::of(server);
        for instance in server.objects(ConfigKind::Instances) {
            let project = project_of(instance);
            let name = label("instance", project, text(instance, "name"));
            let profiles: Vec<&str> =
                list(instance, "profiles").iter().filter_map(Value::as_str).collect();
            let home = features.home(project, "features.profiles");
            for profile in &profiles {
                let id = ObjectId::scoped(ObjectKind::Profile, home, *profile);
                users.carries(id, &name);
            }
            for device in devices(server, instance, home, &profiles) {
                for id in references(device, &features, project) {
                    users.carries(id, &name);
                }
            }
            users.holds(ObjectId::global(ObjectKind::Project, project), &name);
        }
        for volume in server.objects(ConfigKind::Volumes) {
            let project = project_of(volume);
            let name = label("volume", project, text(volume, "name"));
            users.holds(ObjectId::global(ObjectKind::StoragePool, text(volume, "pool")), &name);
            users.holds(ObjectId::global(ObjectKind::Project, project), &name);
        }
        for image in server.objects(ConfigKind::Images) {
            let fingerprint = text(image, "fingerprint");
            let short = fingerprint.get(..12).unwrap_or(fingerprint);
            let project = ObjectId::global(ObjectKind::Project, project_of(image));
            users.holds(project, &format!("image {short}"));
        }
        users
    }

    fn carries(&mut self, id: ObjectId, name: &str) {
        self.instances.entry(id).or_default().insert(name.to_owned());
    }

    fn holds(&mut self, id: ObjectId, name: &str) {
        self.contents.entry(id).or_default().insert(name.to_owned());
    }

    /// The instances that would feel a change of this object.
    pub(super) fn instances_on(&self, id: &ObjectId) -> Option<String> {
        self.instances.get(id).map(few)
    }

    /// What is in this pool or project and would go with it.
    pub(super) fn inside(&self, id: &ObjectId) -> Option<String> {
        let mut all = self.instances.get(id).cloned().unwrap_or_default();
        all.extend(self.contents.get(id).into_iter().flatten().cloned());
        (!all.is_empty()).then(|| few(&all))
    }
}

/// A few names of many.
fn few(names: &BTreeSet<String>) -> String {
    let shown: Vec<&str> = names.iter().take(3).map(String::as_str).collect();
    let shown = shown.join(", ");
    match names.len().saturating_sub(3) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn label(kind: &str, project: &str, name: &str) -> String {
    if project == "default" { format!("{kind} {name}") } else { format!("{kind} {project}:{name}") }
}

pub(super) fn project_of(object: &Map<String, Value>) -> &str {
    match text(object, "project") {
        "" => "default",
        project => project,
    }
}

/// The devices of an instance with those of its profiles; later ones hide earlier ones.
fn devices<'a>(
    server: &'a ServerConfig,
    instance: &'a Map<String, Value>,
    home: &str,
    profiles: &[&str],
) -> Vec<&'a Map<String, Value>> {
    let find = |name: &&str| {
        server
            .objects(ConfigKind::Profiles)
            .iter()
            .find(|one| text(one, "name") == *name && project_of(one) == home)
    };
    let mut merged = BTreeMap::new();
    for object in profiles.iter().filter_map(find).chain([instance]) {
        let devices = object.get("devices").and_then(Value::as_object).into_iter().flatten();
        merged.extend(devices.filter_map(|(name, device)| Some((name, device.as_object()?))));
    }
    merged.into_values().collect()
}

/// The pool and the networks that a device names.
pub(super) fn references(
    device: &Map<String, Value>,
    features: &Features<'_>,
    project: &str,
) -> Vec<ObjectId> {
    let mut ids = Vec::new();
    match text(device, "type") {
        "disk" if !text(device, "pool").is_empty() => {
            ids.push(ObjectId::global(ObjectKind::StoragePool, text(device, "pool")));
        }
        "nic" => {
            let home = features.home(project, "features.networks");
            let names = [text(device, "network"), text(device, "parent")];
            let networks = names.into_iter().filter(|name| !name.is_empty());
            ids.extend(networks.map(|name| ObjectId::scoped(ObjectKind::Network, home, name)));
        }
        _ => {}
    }
    ids
}

/// Which projects have things of their own.
pub(super) struct Features<'a> {
    projects: BTreeMap<&'a str, &'a Map<String, Value>>,
}

impl<'a> Features<'a> {
    pub(super) fn of(server: &'a ServerConfig) -> Self {
        let projects = server.objects(ConfigKind::Projects).iter();
        Self { projects: projects.map(|project| (text(project, "name"), project)).collect() }
    }

    /// The project that holds what this one uses: itself with the feature, `default` without.
    pub(super) fn home<'p>(&self, project: &'p str, feature: &str) -> &'p str {
        let has = self.projects.get(project).is_some_and(|one| config(one, feature) == "true");
        if has { project } else { "default" }
    }
}
