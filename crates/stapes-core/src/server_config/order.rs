//! What depends on what: the objects that another one names and that must be there before it.
//!
//! Only references that Incus checks are followed. The order of the kinds themselves is that of
//! [`ObjectKind`].

use serde_json::{Map, Value};

use super::kind::{ObjectId, ObjectKind};
use super::object::{config, list, text};
use super::users::{Features, references};

/// Everything that an object refers to, whether it exists or not.
pub(super) fn needs(
    id: &ObjectId,
    object: &Map<String, Value>,
    features: &Features<'_>,
) -> Vec<ObjectId> {
    let project = id.project.as_deref().unwrap_or("default");
    let mut needs = Vec::new();
    if let Some(project) = &id.project {
        needs.push(ObjectId::global(ObjectKind::Project, project.clone()));
    }
    match id.kind {
        ObjectKind::NetworkZoneRecord => needs.extend(outer(id, ObjectKind::NetworkZone)),
        ObjectKind::NetworkForward | ObjectKind::NetworkLoadBalancer | ObjectKind::NetworkPeer => {
            needs.extend(outer(id, ObjectKind::Network));
        }
        ObjectKind::StorageBucket => {
            let pools = id.within.iter();
            needs.extend(pools.map(|pool| ObjectId::global(ObjectKind::StoragePool, pool)));
        }
        ObjectKind::StorageBucketKey => needs.extend(outer(id, ObjectKind::StorageBucket)),
        ObjectKind::Network => needs.extend(network(project, object, features)),
        ObjectKind::NetworkAcl => needs.extend(rules(project, object)),
        ObjectKind::Profile => {
            let devices = object.get("devices").and_then(Value::as_object).into_iter().flatten();
            let devices = devices.filter_map(|(_, device)| device.as_object());
            needs.extend(devices.flat_map(|device| references(device, features, project)));
        }
        ObjectKind::Certificate => {
            let projects = list(object, "projects").iter().filter_map(Value::as_str);
            needs.extend(projects.map(|name| ObjectId::global(ObjectKind::Project, name)));
        }
        _ => {}
    }
    if id.kind == ObjectKind::NetworkPeer && !text(object, "target_integration").is_empty() {
        let name = text(object, "target_integration");
        needs.push(ObjectId::global(ObjectKind::NetworkIntegration, name));
    }
    needs
}

/// The object that this one is a part of.
fn outer(id: &ObjectId, kind: ObjectKind) -> Option<ObjectId> {
    let (name, within) = id.within.split_last()?;
    let (name, within) = (name.clone(), within.to_vec());
    Some(ObjectId { kind, project: id.project.clone(), within, name })
}

fn network(project: &str, object: &Map<String, Value>, features: &Features<'_>) -> Vec<ObjectId> {
    let mut needs = Vec::new();
    let zones = ["dns.zone.forward", "dns.zone.reverse.ipv4", "dns.zone.reverse.ipv6"];
    let home = features.home(project, "features.networks.zones");
    for key in zones {
        let names = names_in(config(object, key));
        needs.extend(names.map(|name| ObjectId::scoped(ObjectKind::NetworkZone, home, name)));
    }
    let acls = names_in(config(object, "security.acls"));
    needs.extend(acls.map(|name| ObjectId::scoped(ObjectKind::NetworkAcl, project, name)));
    let uplink = config(object, "network");
    if !uplink.is_empty() && uplink != "none" {
        needs.push(ObjectId::scoped(ObjectKind::Network, "default", uplink));
    }
    needs
}

/// The sets and the other lists that rules name.
fn rules(project: &str, object: &Map<String, Value>) -> Vec<ObjectId> {
    let rules = ["ingress", "egress"].into_iter().flat_map(|member| list(object, member));
    let subjects = rules
        .filter_map(Value::as_object)
        .flat_map(|rule| [text(rule, "source"), text(rule, "destination")])
        .flat_map(names_in);
    let id = |subject: &str| match subject.strip_prefix('$') {
        Some(set) => Some(ObjectId::scoped(ObjectKind::NetworkAddressSet, project, set)),
        None if is_acl_name(subject) => {
            Some(ObjectId::scoped(ObjectKind::NetworkAcl, project, subject))
        }
        None => None,
    };
    subjects.filter_map(id).collect()
}

/// Whether the subject of a rule can be the name of a list: no address, range or built-in name.
fn is_acl_name(subject: &str) -> bool {
    let begins = subject.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic());
    begins && !subject.contains(['/', ':', '.'])
}

fn names_in(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|name| !name.is_empty())
}

/// Whether the rules of a list can only be written once all lists, sets and peers are there.
pub(super) fn has_late_rules(id: &ObjectId, object: &Map<String, Value>) -> bool {
    let project = id.project.as_deref().unwrap_or("default");
    let other_lists =
        rules(project, object).into_iter().any(|need| need.kind == ObjectKind::NetworkAcl);
    let peers = ["ingress", "egress"]
        .into_iter()
        .flat_map(|member| list(object, member))
        .filter_map(Value::as_object)
        .flat_map(|rule| [text(rule, "source"), text(rule, "destination")])
        .any(|subjects| {
            names_in(subjects).any(|subject| subject.starts_with('@') && subject.contains('/'))
        });
    other_lists || peers
}
