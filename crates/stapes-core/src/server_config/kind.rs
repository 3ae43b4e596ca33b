//! The kinds of documents in a backup of the configuration, and of the objects in them.
//!
//! What the objects look like is in `object.rs`.

use std::fmt;

/// A document of the backup: one JSON file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConfigKind {
    /// Projects.
    Projects,
    /// Storage pools.
    StoragePools,
    /// Connections to the network controllers of other clusters.
    NetworkIntegrations,
    /// DNS zones with their records.
    NetworkZones,
    /// Named sets of addresses for rules (Incus 7).
    NetworkAddressSets,
    /// Access rules.
    NetworkAcls,
    /// Managed networks.
    Networks,
    /// Forwards of networks.
    NetworkForwards,
    /// Load balancers of networks.
    NetworkLoadBalancers,
    /// Connections between networks.
    NetworkPeers,
    /// Profiles.
    Profiles,
    /// Settings of the server.
    Server,
    /// The trust store.
    Certificates,
    /// Buckets with the names of their keys.
    StorageBuckets,
    /// Members and groups of a cluster; evidence.
    Cluster,
    /// Configuration of instances; evidence.
    Instances,
    /// Configuration of custom volumes; evidence.
    Volumes,
    /// Records of images; evidence.
    Images,
}

impl ConfigKind {
    /// Every kind, in the order in which objects depend on each other; evidence last.
    pub const ALL: [Self; 18] = [
        Self::Projects,
        Self::StoragePools,
        Self::NetworkIntegrations,
        Self::NetworkZones,
        Self::NetworkAddressSets,
        Self::NetworkAcls,
        Self::Networks,
        Self::NetworkForwards,
        Self::NetworkLoadBalancers,
        Self::NetworkPeers,
        Self::Profiles,
        Self::Server,
        Self::Certificates,
        Self::StorageBuckets,
        Self::Cluster,
        Self::Instances,
        Self::Volumes,
        Self::Images,
    ];

    /// The kinds without which a backup cannot be compared with a server.
    pub const ESSENTIAL: [Self; 4] =
        [Self::Projects, Self::StoragePools, Self::Networks, Self::Profiles];

    /// The word for it, which is the name of its file without `.json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Projects => "projects",
            Self::StoragePools => "storage_pools",
            Self::NetworkIntegrations => "network_integrations",
            Self::NetworkZones => "network_zones",
            Self::NetworkAddressSets => "network_address_sets",
            Self::NetworkAcls => "network_acls",
            Self::Networks => "networks",
            Self::NetworkForwards => "network_forwards",
            Self::NetworkLoadBalancers => "network_load_balancers",
            Self::NetworkPeers => "network_peers",
            Self::Profiles => "profiles",
            Self::Server => "server",
            Self::Certificates => "certificates",
            Self::StorageBuckets => "storage_buckets",
            Self::Cluster => "cluster",
            Self::Instances => "instances",
            Self::Volumes => "volumes",
            Self::Images => "images",
        }
    }

    /// The name of its file in a backup.
    pub fn file_name(self) -> String {
        format!("{}.json", self.as_str())
    }

    /// The kind of a file, if it is one of ours.
    pub fn of_file(name: &str) -> Option<Self> {
        let stem = name.strip_suffix(".json")?;
        Self::ALL.into_iter().find(|kind| kind.as_str() == stem)
    }

    /// Whether the document is one object instead of a list of them.
    pub(super) fn is_single(self) -> bool {
        matches!(self, Self::Server | Self::Cluster)
    }

    /// Whether it is recorded only, and restored by other commands or by hand.
    pub fn is_evidence(self) -> bool {
        matches!(self, Self::Cluster | Self::Instances | Self::Volumes | Self::Images)
    }

    /// The kind of the objects in its list, for those that are planned.
    pub(super) fn object(self) -> Option<ObjectKind> {
        Some(match self {
            Self::Projects => ObjectKind::Project,
            Self::StoragePools => ObjectKind::StoragePool,
            Self::NetworkIntegrations => ObjectKind::NetworkIntegration,
            Self::NetworkZones => ObjectKind::NetworkZone,
            Self::NetworkAddressSets => ObjectKind::NetworkAddressSet,
            Self::NetworkAcls => ObjectKind::NetworkAcl,
            Self::Networks => ObjectKind::Network,
            Self::NetworkForwards => ObjectKind::NetworkForward,
            Self::NetworkLoadBalancers => ObjectKind::NetworkLoadBalancer,
            Self::NetworkPeers => ObjectKind::NetworkPeer,
            Self::Profiles => ObjectKind::Profile,
            Self::Certificates => ObjectKind::Certificate,
            Self::StorageBuckets => ObjectKind::StorageBucket,
            Self::Server | Self::Cluster | Self::Instances | Self::Volumes | Self::Images => {
                return None;
            }
        })
    }
}

impl fmt::Display for ConfigKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a single object is; they sort in the order in which they are created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// A project.
    Project,
    /// A storage pool.
    StoragePool,
    /// A network integration.
    NetworkIntegration,
    /// A DNS zone.
    NetworkZone,
    /// A record of a DNS zone.
    NetworkZoneRecord,
    /// A set of addresses.
    NetworkAddressSet,
    /// A list of access rules.
    NetworkAcl,
    /// A managed network.
    Network,
    /// A forward of a network.
    NetworkForward,
    /// A load balancer of a network.
    NetworkLoadBalancer,
    /// A peer of a network.
    NetworkPeer,
    /// A profile.
    Profile,
    /// Settings of the server whose names begin alike, such as `images`.
    Settings,
    /// A trusted certificate.
    Certificate,
    /// A bucket.
    StorageBucket,
    /// A key of a bucket.
    StorageBucketKey,
    /// The address that the server listens on; last, because changing it may cut us off.
    Address,
}

impl ObjectKind {
    /// The word for one of them.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Project => "project",
            Self::StoragePool => "storage pool",
            Self::NetworkIntegration => "network integration",
            Self::NetworkZone => "network zone",
            Self::NetworkZoneRecord => "record of network zone",
            Self::NetworkAddressSet => "network address set",
            Self::NetworkAcl => "network ACL",
            Self::Network => "network",
            Self::NetworkForward => "network forward",
            Self::NetworkLoadBalancer => "network load balancer",
            Self::NetworkPeer => "network peer",
            Self::Profile => "profile",
            Self::Settings => "server settings",
            Self::Certificate => "certificate",
            Self::StorageBucket => "storage bucket",
            Self::StorageBucketKey => "key of storage bucket",
            Self::Address => "server address",
        }
    }

    /// The document that it is in.
    pub fn document(self) -> ConfigKind {
        match self {
            Self::Project => ConfigKind::Projects,
            Self::StoragePool => ConfigKind::StoragePools,
            Self::NetworkIntegration => ConfigKind::NetworkIntegrations,
            Self::NetworkZone | Self::NetworkZoneRecord => ConfigKind::NetworkZones,
            Self::NetworkAddressSet => ConfigKind::NetworkAddressSets,
            Self::NetworkAcl => ConfigKind::NetworkAcls,
            Self::Network => ConfigKind::Networks,
            Self::NetworkForward => ConfigKind::NetworkForwards,
            Self::NetworkLoadBalancer => ConfigKind::NetworkLoadBalancers,
            Self::NetworkPeer => ConfigKind::NetworkPeers,
            Self::Profile => ConfigKind::Profiles,
            Self::Settings | Self::Address => ConfigKind::Server,
            Self::Certificate => ConfigKind::Certificates,
            Self::StorageBucket | Self::StorageBucketKey => ConfigKind::StorageBuckets,
        }
    }
}

/// Which object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId {
    /// What it is.
    pub kind: ObjectKind,
    /// The project that it belongs to; `None` for what belongs to the whole server.
    pub project: Option<String>,
    /// The objects that it is part of, outermost first: network, zone, or pool and bucket.
    pub within: Vec<String>,
    /// Its name; the listen address of a forward, the fingerprint of a certificate.
    pub name: String,
}

impl ObjectId {
    pub(super) fn global(kind: ObjectKind, name: impl Into<String>) -> Self {
        Self { kind, project: None, within: Vec::new(), name: name.into() }
    }

    pub(super) fn scoped(kind: ObjectKind, project: &str, name: impl Into<String>) -> Self {
        let project = Some(project.to_owned());
        Self { kind, project, within: Vec::new(), name: name.into() }
    }

    pub(super) fn part(&self, kind: ObjectKind, name: impl Into<String>) -> Self {
        let mut within = self.within.clone();
        within.push(self.name.clone());
        Self { kind, project: self.project.clone(), within, name: name.into() }
    }

    /// The object as people write it, without its kind: `lab:br0/10.0.0.5`; the project `default`
    /// goes without saying.
    pub fn path(&self) -> String {
        let mut path = match self.project.as_deref() {
            None | Some("default") => String::new(),
            Some(project) => format!("{project}:"),
        };
        for part in &self.within {
            path.push_str(part);
            path.push('/');
        }
        let short = match self.kind {
            ObjectKind::Certificate => self.name.get(..12),
            _ => None,
        };
        path.push_str(short.unwrap_or(&self.name));
        path
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            ObjectKind::Address => f.write_str("address of the server"),
            kind => write!(f, "{} {}", kind.as_str(), self.path()),
        }
    }
}
