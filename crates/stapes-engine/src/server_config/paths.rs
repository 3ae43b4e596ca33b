//! Where the API has the objects of the configuration.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use stapes_core::server_config::{ObjectId, ObjectKind};

/// Characters that stand for themselves in one segment of a path or in a query value.
const KEEP: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Escapes a name for a path or a query.
pub(super) fn escaped(name: &str) -> String {
    utf8_percent_encode(name, KEEP).to_string()
}

/// Where objects of this one's kind are made.
pub(super) fn collection(id: &ObjectId) -> String {
    format!("{}{}", folder(id), query(id))
}

/// The object itself.
pub(super) fn object(id: &ObjectId) -> String {
    match id.kind {
        ObjectKind::Settings | ObjectKind::Address => "/1.0".to_owned(),
        _ => format!("{}/{}{}", folder(id), escaped(&id.name), query(id)),
    }
}

fn folder(id: &ObjectId) -> String {
    let outer: Vec<String> = id.within.iter().map(|name| escaped(name)).collect();
    let outer = outer.join("/buckets/");
    match id.kind {
        ObjectKind::Project => "/1.0/projects".to_owned(),
        ObjectKind::StoragePool => "/1.0/storage-pools".to_owned(),
        ObjectKind::NetworkIntegration => "/1.0/network-integrations".to_owned(),
        ObjectKind::NetworkZone => "/1.0/network-zones".to_owned(),
        ObjectKind::NetworkZoneRecord => format!("/1.0/network-zones/{outer}/records"),
        ObjectKind::NetworkAddressSet => "/1.0/network-address-sets".to_owned(),
        ObjectKind::NetworkAcl => "/1.0/network-acls".to_owned(),
        ObjectKind::Network => "/1.0/networks".to_owned(),
        ObjectKind::NetworkForward => format!("/1.0/networks/{outer}/forwards"),
        ObjectKind::NetworkLoadBalancer => format!("/1.0/networks/{outer}/load-balancers"),
        ObjectKind::NetworkPeer => format!("/1.0/networks/{outer}/peers"),
        ObjectKind::Profile => "/1.0/profiles".to_owned(),
        ObjectKind::Certificate => "/1.0/certificates".to_owned(),
        ObjectKind::StorageBucket => format!("/1.0/storage-pools/{outer}/buckets"),
        // Within pool and bucket, joined above.
        ObjectKind::StorageBucketKey => format!("/1.0/storage-pools/{outer}/keys"),
        ObjectKind::Settings | ObjectKind::Address => "/1.0".to_owned(),
    }
}

fn query(id: &ObjectId) -> String {
    match &id.project {
        Some(project) => format!("?project={}", escaped(project)),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_and_parts_lie_below_what_they_belong_to() {
        let id = |kind, project: Option<&str>, within: &[&str], name: &str| ObjectId {
            kind,
            project: project.map(str::to_owned),
            within: within.iter().map(|name| (*name).to_owned()).collect(),
            name: name.to_owned(),
        };
        let lab = Some("la b");
        for (id, expected) in [
            (id(ObjectKind::Project, None, &[], "a?b"), "/1.0/projects/a%3Fb"),
            (id(ObjectKind::Profile, lab, &[], "x"), "/1.0/profiles/x?project=la%20b"),
            (
                id(ObjectKind::NetworkForward, lab, &["br0"], "fd00::1"),
                "/1.0/networks/br0/forwards/fd00%3A%3A1?project=la%20b",
            ),
            (
                id(ObjectKind::StorageBucketKey, lab, &["tank", "b"], "k"),
                "/1.0/storage-pools/tank/buckets/b/keys/k?project=la%20b",
            ),
            (id(ObjectKind::Settings, None, &[], "images"), "/1.0"),
        ] {
            assert_eq!(object(&id), expected);
        }
    }
}
