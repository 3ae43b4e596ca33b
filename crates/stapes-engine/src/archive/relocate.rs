//! The control files of an archive, changed for the place where it is restored.
//!
//! Only names that are mapped change; everything else stays as it was written. Whether the new names
//! exist is for the server and the plan.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use stapes_core::replicate::marks;

use super::document::{Document, DocumentKind, Object, object, objects, set, text};
use super::error::ArchiveError;

/// What changes on the way to a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Relocation {
    /// Another name for the instance or volume.
    pub name: Option<String>,
    /// Another project.
    pub project: Option<String>,
    /// Storage pools by their old names: of the item itself and of every disk.
    pub pools: BTreeMap<String, String>,
    /// Networks by their old names.
    pub networks: BTreeMap<String, String>,
    /// Profiles by their old names.
    pub profiles: BTreeMap<String, String>,
    /// Devices of the instance to leave out, also where they come from a profile. Snapshots keep
    /// theirs.
    pub without_devices: BTreeSet<String>,
    /// Settings of the instance or volume to set, or to remove with an empty value. Snapshots keep
    /// theirs.
    pub config: BTreeMap<String, String>,
    /// Forgets MAC addresses, UUIDs and cloud-init's identity, in snapshots too: for a restore beside
    /// the original.
    pub fresh_identity: bool,
    /// Forgets that it ran, so that no server starts it by itself for that reason.
    pub stopped: bool,
    /// Keeps it from starting by itself and from making or expiring snapshots, whatever its profiles
    /// say; what it had is kept under [`marks::ORIGINAL`].
    pub quiet: bool,
    /// Leaves the snapshots out.
    pub without_snapshots: bool,
}

/// A control file of an archive, changed for its new place.
///
/// # Errors
/// [`ArchiveError`] if the text is no such control file, or if snapshots are to be left out of an
/// archive in a driver's format, where everything builds on them.
pub fn relocate(
    document: &[u8],
    kind: DocumentKind,
    relocation: &Relocation,
) -> Result<Vec<u8>, ArchiveError> {
    let mut document = Document::read(document, kind)?;
    if let Some(driver) = document.optimized_for()
        && relocation.without_snapshots
    {
        let what = "cannot be restored without its snapshots";
        return Err(ArchiveError::Optimized { driver, what });
    }
    if let Some(index) = document.index() {
        if let Some(name) = &relocation.name {
            set(index, "name", name);
        }
        map_text(index, "pool", &relocation.pools);
        if relocation.without_snapshots {
            index.remove("snapshots");
        }
    }
    if let Some(records) = document.records() {
        relocation.records(records);
    }
    Ok(document.write())
}

impl Relocation {
    fn records(&self, records: &mut Object) {
        if self.without_snapshots {
            records.remove("snapshots");
            records.remove("volume_snapshots");
        }
        let from_profiles = self.devices_of_profiles(records);
        if let Some(pool) = object(records, "pool") {
            map_text(pool, "name", &self.pools);
        }
        for profile in objects(records, "profiles") {
            map_text(profile, "name", &self.profiles);
            self.devices(profile, "devices");
        }
        for snapshot in objects(records, "snapshots") {
            self.instance(snapshot);
        }
        let is_instance = records.get("container").is_some_and(Value::is_object);
        if let Some(instance) = object(records, "container") {
            self.instance(instance);
            self.leave_out_devices(instance, &from_profiles);
            self.item(instance);
        }
        if let Some(volume) = object(records, "volume") {
            self.place(volume);
            if !is_instance {
                self.quieten(volume, is_instance);
                self.settings(volume, "config");
            }
        }
    }

    /// Devices to leave out that would come back from a profile.
    fn devices_of_profiles(&self, records: &mut Object) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for profile in objects(records, "profiles") {
            let devices = profile.get("devices").and_then(Value::as_object);
            found.extend(devices.into_iter().flat_map(|devices| devices.keys().cloned()));
        }
        found.retain(|device| self.without_devices.contains(device));
        found
    }

    /// What an instance and its snapshots have in common.
    fn instance(&self, instance: &mut Object) {
        for profile in list(instance, "profiles") {
            map_value(profile, &self.profiles);
        }
        for part in ["devices", "expanded_devices"] {
            self.devices(instance, part);
        }
        if self.fresh_identity {
            for part in ["config", "expanded_config"] {
                let Some(config) = object(instance, part) else { continue };
                config.retain(|key, _| !is_identity(key));
            }
        }
    }

    fn leave_out_devices(&self, instance: &mut Object, from_profiles: &BTreeSet<String>) {
        let expanded = instance.get("expanded_devices").and_then(Value::as_object);
        let known: BTreeSet<_> =
            expanded.into_iter().flat_map(|devices| devices.keys().cloned()).collect();
        for part in ["devices", "expanded_devices"] {
            let Some(devices) = object(instance, part) else { continue };
            devices.retain(|name, _| !self.without_devices.contains(name));
            // Only a device of that name hides one of a profile.
            for name in from_profiles.intersection(&known) {
                devices.insert(name.clone(), json!({ "type": "none" }));
            }
        }
    }

    /// What only the instance itself has.
    fn item(&self, instance: &mut Object) {
        self.place(instance);
        self.quieten(instance, true);
        for part in ["config", "expanded_config"] {
            self.settings(instance, part);
            if let Some(config) = object(instance, part)
                && self.stopped
            {
                config.remove("volatile.last_state.power");
            }
        }
        if self.stopped && instance.contains_key("status") {
            instance.insert("status".to_owned(), json!("Stopped"));
            instance.insert("status_code".to_owned(), json!(102));
        }
    }

    fn place(&self, item: &mut Object) {
        if let Some(name) = &self.name {
            set(item, "name", name);
        }
        if let Some(project) = &self.project {
            set(item, "project", project);
        }
    }

    /// Takes away what would act by itself. In the archive and not afterwards: there is then no moment
    /// in which a server could start it.
    fn quieten(&self, item: &mut Object, is_instance: bool) {
        if !self.quiet {
            return;
        }
        if item.get("config").is_none_or(Value::is_null) {
            item.insert("config".to_owned(), json!({}));
        }
        let mut changes: Vec<(String, Option<String>)> = Vec::new();
        let Some(config) = object(item, "config") else { return };
        for (key, quiet) in ACTIVE_KEYS {
            let original = text(config, key).unwrap_or_default();
            if !original.is_empty() && original != quiet {
                let kept = format!("{}{key}", marks::ORIGINAL);
                changes.push((kept, Some(original.to_owned())));
            }
            // Only an instance has profiles, which a value of its own must hide.
            let quiet = (is_instance && !quiet.is_empty()).then(|| quiet.to_owned());
            changes.push((key.to_owned(), quiet));
        }
        for part in ["config", "expanded_config"] {
            let Some(config) = object(item, part) else { continue };
            for (key, value) in &changes {
                match value {
                    Some(value) => set(config, key, value),
                    None => drop(config.remove(key)),
                }
            }
        }
    }

    /// Settings go to where settings are; a missing map is made for those that are set.
    fn settings(&self, item: &mut Object, part: &str) {
        let has_new = self.config.values().any(|value| !value.is_empty());
        let is_missing = item.get(part).is_none_or(Value::is_null);
        if part == "config" && has_new && is_missing {
            item.insert(part.to_owned(), json!({}));
        }
        let Some(config) = object(item, part) else { return };
        for (key, value) in &self.config {
            if value.is_empty() {
                config.remove(key);
            } else {
                set(config, key, value);
            }
        }
    }

    fn devices(&self, of: &mut Object, part: &str) {
        let Some(devices) = object(of, part) else { return };
        for device in devices.values_mut().filter_map(Value::as_object_mut) {
            match text(device, "type") {
                Some("disk") => map_text(device, "pool", &self.pools),
                Some("nic") => map_text(device, "network", &self.networks),
                _ => {}
            }
        }
    }
}

/// What acts by itself on a server, with the value that makes it quiet. Incus takes an empty value for
/// none, so that it hides nothing of a profile; expiry needs no more, because without a schedule no
/// snapshot is made that could expire.
pub(crate) const ACTIVE_KEYS: [(&str, &str); 3] =
    [("boot.autostart", "false"), ("snapshots.schedule", "@never"), ("snapshots.expiry", "")];

/// What two instances must not have in common.
pub(crate) fn is_identity(key: &str) -> bool {
    let Some(rest) = key.strip_prefix("volatile.") else { return false };
    rest.ends_with(".hwaddr")
        || matches!(rest, "uuid" | "uuid.generation" | "cloud-init.instance-id")
}

fn map_text(of: &mut Object, key: &str, map: &BTreeMap<String, String>) {
    if let Some(value) = of.get_mut(key) {
        map_value(value, map);
    }
}

fn map_value(value: &mut Value, map: &BTreeMap<String, String>) {
    if let Some(new) = value.as_str().and_then(|old| map.get(old)) {
        *value = Value::String(new.clone());
    }
}

fn list<'a>(of: &'a mut Object, key: &str) -> impl Iterator<Item = &'a mut Value> {
    of.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten()
}
