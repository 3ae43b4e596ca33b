//! What is protected: the identity of an item.

use std::fmt;

use crate::id::{InstanceName, PoolName, ProjectName, VolumeName};

/// The kinds of items that retention and selection can tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ItemKind {
    /// A container or virtual machine.
    Instance,
    /// A custom storage volume.
    Volume,
}

impl fmt::Display for ItemKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Instance => "instance",
            Self::Volume => "volume",
        })
    }
}

/// One item on one server.
///
/// Volumes sort before instances, because an instance can be created only where its volumes are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ItemId {
    /// A custom volume.
    Volume {
        /// The project that holds it.
        project: ProjectName,
        /// The storage pool that it lies on.
        pool: PoolName,
        /// Its name, unique within project and pool.
        name: VolumeName,
    },
    /// An instance.
    Instance {
        /// The project that holds it.
        project: ProjectName,
        /// Its name, unique within the project.
        name: InstanceName,
    },
}

impl ItemId {
    /// Which kind of item this is.
    pub fn kind(&self) -> ItemKind {
        match self {
            Self::Volume { .. } => ItemKind::Volume,
            Self::Instance { .. } => ItemKind::Instance,
        }
    }

    /// The project that holds the item.
    pub fn project(&self) -> &ProjectName {
        match self {
            Self::Volume { project, .. } | Self::Instance { project, .. } => project,
        }
    }

    /// The item's own name, without project and pool.
    pub fn name(&self) -> &str {
        match self {
            Self::Volume { name, .. } => name.as_str(),
            Self::Instance { name, .. } => name.as_str(),
        }
    }

    /// The item as people write it: `web1`, `pool/data`, with `project:` before it unless that is `default`.
    pub fn path(&self) -> String {
        let project = self.project();
        let prefix = if project.is_default() { String::new() } else { format!("{project}:") };
        match self {
            Self::Volume { pool, name, .. } => format!("{prefix}{pool}/{name}"),
            Self::Instance { name, .. } => format!("{prefix}{name}"),
        }
    }
}

impl fmt::Display for ItemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind(), self.path())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_read_as_people_write_them_and_volumes_come_first() {
        let volume = ItemId::Volume {
            project: "default".parse().unwrap(),
            pool: "tank".parse().unwrap(),
            name: "data".parse().unwrap(),
        };
        let instance =
            ItemId::Instance { project: "lab".parse().unwrap(), name: "web1".parse().unwrap() };
        assert_eq!(volume.to_string(), "volume tank/data");
        assert_eq!(instance.to_string(), "instance lab:web1");
        assert!(volume < instance);
    }
}
