//! Why a control file of an archive cannot be used.

use stapes_store::tar::TarError;

/// Why an archive or a control file in it cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The text is not YAML.
    #[error("{document} is no valid YAML: {why}")]
    Yaml {
        /// Its name in the archive.
        document: &'static str,
        /// What the parser says.
        why: String,
    },
    /// Something is missing in it, or is not what it must be.
    #[error("{document}: {what}")]
    Document {
        /// Its name in the archive.
        document: &'static str,
        /// What is wrong.
        what: String,
    },
    /// It is about other snapshots than the server.
    #[error("{document} and the server do not agree about the snapshots of {name}: {what}")]
    Snapshots {
        /// Its name in the archive.
        document: &'static str,
        /// The instance or volume.
        name: String,
        /// The difference.
        what: String,
    },
    /// The archive lacks a control file that must be changed.
    #[error("the archive holds no {document}, so it cannot be imported")]
    Missing {
        /// Its name in the archive.
        document: &'static str,
    },
    /// An archive in the format of a storage driver cannot be changed this way.
    #[error("the archive is in the format of the storage driver {driver}, which {what}")]
    Optimized {
        /// The driver.
        driver: String,
        /// What cannot be done with it.
        what: &'static str,
    },
    /// The archive cannot be read.
    #[error("cannot read the archive")]
    Tar(#[from] TarError),
}
