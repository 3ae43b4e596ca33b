//! Choices for making backups.

use std::fmt;

/// How the files of a backup are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Zstandard: the default, because it costs next to no time.
    #[default]
    Zstd,
    /// gzip, for machines that know nothing else.
    Gzip,
    /// xz: smallest and by far slowest.
    Xz,
    /// As it is.
    None,
}

impl Compression {
    /// Every choice.
    pub const ALL: [Self; 4] = [Self::Zstd, Self::Gzip, Self::Xz, Self::None];

    /// The word of the command line and of manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::None => "none",
        }
    }

    /// What is added to the name of a file: `.zst`, or nothing.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Zstd => ".zst",
            Self::Gzip => ".gz",
            Self::Xz => ".xz",
            Self::None => "",
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Which images a backup of everything takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ImageChoice {
    /// None: a restored instance does not need its image.
    None,
    /// Those that instances were made from.
    Referenced,
    /// All of them.
    #[default]
    All,
}
