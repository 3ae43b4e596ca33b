//! What a backup is of.

use std::fmt;
use std::str::FromStr;

use crate::id::ServiceName;
use crate::item::{ItemId, ItemKind};

/// The kinds of backups, in the order in which they are restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BackupKind {
    /// The server's declarative configuration.
    Config,
    /// An image.
    Image,
    /// A custom volume.
    Volume,
    /// A container or virtual machine.
    Instance,
    /// A service: a directory, maybe with its container.
    Service,
}

impl BackupKind {
    /// Every kind, in order.
    pub const ALL: [Self; 5] =
        [Self::Config, Self::Image, Self::Volume, Self::Instance, Self::Service];

    /// Those of what an Incus server has, in order.
    pub const OF_SERVERS: [Self; 4] = [Self::Config, Self::Image, Self::Volume, Self::Instance];

    /// The word for one of them.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Image => "image",
            Self::Volume => "volume",
            Self::Instance => "instance",
            Self::Service => "service",
        }
    }

    /// The word for all of them: the resource on the command line and the folder of a repository.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Image => "images",
            Self::Volume => "volumes",
            Self::Instance => "instances",
            Self::Service => "services",
        }
    }
}

impl fmt::Display for BackupKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a backup is of: an item of a server, one of its images, its configuration as a whole, or a
/// service beside it.
///
/// They sort in the order in which they are restored.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BackupItem {
    /// The server's declarative configuration.
    Config,
    /// An image, whatever the projects that have it.
    Image(Fingerprint),
    /// An instance or a custom volume.
    Item(ItemId),
    /// A service, which belongs to no project.
    Service(ServiceName),
}

impl BackupItem {
    /// Which kind this is.
    pub fn kind(&self) -> BackupKind {
        match self {
            Self::Config => BackupKind::Config,
            Self::Image(_) => BackupKind::Image,
            Self::Item(item) => match item.kind() {
                ItemKind::Volume => BackupKind::Volume,
                ItemKind::Instance => BackupKind::Instance,
            },
            Self::Service(_) => BackupKind::Service,
        }
    }

    /// The item as people write it, without its kind; empty for the configuration.
    pub fn path(&self) -> String {
        match self {
            Self::Config => String::new(),
            Self::Image(fingerprint) => fingerprint.short().to_owned(),
            Self::Item(item) => item.path(),
            Self::Service(name) => name.to_string(),
        }
    }

    /// Its own name, without project and pool; none for an image and the configuration.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Item(item) => Some(item.name()),
            Self::Service(name) => Some(name.as_str()),
            Self::Config | Self::Image(_) => None,
        }
    }

    /// The instance or volume, if it is one.
    pub fn item(&self) -> Option<&ItemId> {
        match self {
            Self::Item(item) => Some(item),
            Self::Config | Self::Image(_) | Self::Service(_) => None,
        }
    }
}

impl From<ItemId> for BackupItem {
    fn from(item: ItemId) -> Self {
        Self::Item(item)
    }
}

impl fmt::Display for BackupItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config => f.write_str("server configuration"),
            Self::Image(fingerprint) => write!(f, "image {}", fingerprint.short()),
            Self::Item(item) => item.fmt(f),
            Self::Service(name) => write!(f, "service {name}"),
        }
    }
}

/// SHA-256 of an image, which is its identity: 64 lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(String);

/// Why a text is no fingerprint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("«{0}» is not the fingerprint of an image: 64 hexadecimal digits")]
pub struct FingerprintError(String);

impl Fingerprint {
    /// All digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first twelve digits, as people see it.
    pub fn short(&self) -> &str {
        self.0.get(..12).unwrap_or(&self.0)
    }
}

impl FromStr for Fingerprint {
    type Err = FingerprintError;

    fn from_str(text: &str) -> Result<Self, FingerprintError> {
        let digits = text.to_ascii_lowercase();
        if digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            Ok(Self(digits))
        } else {
            Err(FingerprintError(text.to_owned()))
        }
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_sort_as_they_are_restored_and_read_as_people_write_them() {
        let fingerprint: Fingerprint = "AB".repeat(32).parse().unwrap();
        let instance = BackupItem::Item(ItemId::Instance {
            project: "lab".parse().unwrap(),
            name: "web".parse().unwrap(),
        });
        let volume = BackupItem::Item(ItemId::Volume {
            project: "default".parse().unwrap(),
            pool: "tank".parse().unwrap(),
            name: "data".parse().unwrap(),
        });
        let image = BackupItem::Image(fingerprint);
        let service = BackupItem::Service("aa gitea".parse().unwrap());
        let mut items = [service, instance, volume, image, BackupItem::Config];
        items.sort();
        let texts: Vec<String> = items.iter().map(BackupItem::to_string).collect();
        assert_eq!(
            texts,
            [
                "server configuration",
                "image abababababab",
                "volume tank/data",
                "instance lab:web",
                "service aa gitea"
            ]
        );
        let paths: Vec<String> = items.iter().map(BackupItem::path).collect();
        assert_eq!(paths, ["", "abababababab", "tank/data", "lab:web", "aa gitea"]);
        let names: Vec<Option<&str>> = items.iter().map(BackupItem::name).collect();
        assert_eq!(names, [None, None, Some("data"), Some("web"), Some("aa gitea")]);
        assert_eq!(BackupKind::OF_SERVERS, BackupKind::ALL[..4]);
        assert_eq!(items.iter().map(BackupItem::kind).collect::<Vec<_>>(), BackupKind::ALL);
        assert!("abc".parse::<Fingerprint>().is_err());
        assert!("ä".repeat(32).parse::<Fingerprint>().is_err());
    }
}
