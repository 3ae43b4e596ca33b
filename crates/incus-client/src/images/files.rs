//! The files of an image on their way: one, or metadata and root file system.
//!
//! Names and order of the parts are known here; sending and receiving them is done elsewhere.

use bytes::Bytes;
use reqwest::header::{CONTENT_DISPOSITION, CONTENT_TYPE, HeaderMap};

use crate::download::{Download, header_text};
use crate::error::Result;
use crate::instances::InstanceType;
use crate::multipart::{FORM_DATA, Multipart, PartUpload, parameter};
use crate::upload::Upload;

/// The files of an image that is imported.
#[derive(Debug)]
pub enum ImageData {
    /// One file.
    Unified(Upload),
    /// Two files.
    Split {
        /// Properties and templates.
        metadata: ImageFile,
        /// Root file system of a container or disk of a virtual machine.
        rootfs: ImageFile,
        /// Which of the two.
        kind: InstanceType,
    },
}

/// A file of an image that is imported.
#[derive(Debug)]
pub struct ImageFile {
    /// Name, which the server only remembers.
    pub name: String,
    /// Content.
    pub body: Upload,
}

/// What a file of an image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImagePartKind {
    /// The whole image.
    Unified,
    /// Properties and templates.
    Metadata,
    /// Root file system of a container.
    Rootfs,
    /// Disk of a virtual machine.
    Disk,
}

impl ImagePartKind {
    /// The name of the part between client and server.
    fn as_str(self) -> &'static str {
        match self {
            Self::Unified => "",
            Self::Metadata => "metadata",
            Self::Rootfs => "rootfs",
            Self::Disk => "rootfs.img",
        }
    }
}

/// The files of an image that is exported, one after the other.
///
/// The image is whole only when [`next_part`](Self::next_part) has returned `None`.
pub struct ImageDownload(Parts);

enum Parts {
    Unified { download: Download, file_name: String, begun: bool },
    Split(Multipart),
}

/// A file of an image that is exported.
pub struct ImagePart<'a> {
    kind: ImagePartKind,
    file_name: String,
    parts: &'a mut Parts,
}

impl std::fmt::Debug for ImageDownload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImageDownload").field("split", &self.is_split()).finish_non_exhaustive()
    }
}

impl ImageDownload {
    /// The files in an answer with these headers.
    pub(super) fn new(download: Download, headers: &HeaderMap) -> Result<Self> {
        let content_type = header_text(headers, &CONTENT_TYPE);
        if content_type.starts_with(FORM_DATA) {
            return Ok(Self(Parts::Split(Multipart::new(download, content_type)?)));
        }
        let disposition = header_text(headers, &CONTENT_DISPOSITION);
        let file_name = base_name(&parameter(disposition, "filename").unwrap_or_default());
        Ok(Self(Parts::Unified { download, file_name, begun: false }))
    }

    /// Whether there are two files.
    pub fn is_split(&self) -> bool {
        matches!(self.0, Parts::Split(_))
    }

    /// The next file, metadata first; what was not read of the one before is skipped.
    pub async fn next_part(&mut self) -> Result<Option<ImagePart<'_>>> {
        let (kind, file_name) = match &mut self.0 {
            Parts::Unified { begun: false, file_name, .. } => {
                (ImagePartKind::Unified, std::mem::take(file_name))
            }
            Parts::Unified { download, .. } => {
                while download.chunk().await?.is_some() {}
                return Ok(None);
            }
            Parts::Split(parts) => {
                let Some(head) = parts.next_part().await? else { return Ok(None) };
                let kinds = [ImagePartKind::Metadata, ImagePartKind::Rootfs, ImagePartKind::Disk];
                let Some(kind) = kinds.into_iter().find(|kind| kind.as_str() == head.name) else {
                    let detail = format!("an image with a part {:?}", head.name);
                    return Err(parts.protocol_error(detail));
                };
                (kind, base_name(&head.file_name))
            }
        };
        if let Parts::Unified { begun, .. } = &mut self.0 {
            *begun = true;
        }
        Ok(Some(ImagePart { kind, file_name, parts: &mut self.0 }))
    }
}

impl ImagePart<'_> {
    /// What it is.
    pub fn kind(&self) -> ImagePartKind {
        self.kind
    }

    /// Its name on the server, without directories; empty if the server tells none.
    pub fn file_name(&self) -> &str {
        &self.file_name
    }

    /// Its size in bytes, if the server says so.
    pub fn length(&self) -> Option<u64> {
        match &*self.parts {
            Parts::Unified { download, .. } => download.length(),
            Parts::Split(_) => None,
        }
    }

    /// The next piece; `None` only at the end of the file.
    ///
    /// Fails like [`Download::chunk`].
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        match self.parts {
            Parts::Unified { download, .. } => download.chunk().await,
            Parts::Split(parts) => parts.chunk().await,
        }
    }
}

/// The two files as parts of an upload, or what is wrong with their names.
pub(super) fn split_parts(
    metadata: ImageFile,
    rootfs: ImageFile,
    kind: &InstanceType,
) -> std::result::Result<Vec<PartUpload>, String> {
    let rootfs_kind = match kind {
        InstanceType::VirtualMachine => ImagePartKind::Disk,
        _ => ImagePartKind::Rootfs,
    };
    let files = [(ImagePartKind::Metadata, metadata), (rootfs_kind, rootfs)];
    let parts = files.into_iter().map(|(kind, ImageFile { name: file_name, body })| {
        if file_name.chars().any(char::is_control) {
            return Err(format!("{file_name:?} cannot be the name of a file of an image"));
        }
        Ok(PartUpload { name: kind.as_str(), file_name, body })
    });
    parts.collect()
}

/// A file name without directories; empty for none.
fn base_name(name: &str) -> String {
    let base = name.rsplit(['/', '\0']).next().unwrap_or_default();
    if matches!(base, "." | "..") { String::new() } else { base.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_has_no_directories() {
        for (name, base) in [("a.tar", "a.tar"), ("../../etc/x", "x"), ("..", ""), ("a/", "")] {
            assert_eq!(base_name(name), base);
        }
    }

    #[test]
    fn a_file_name_that_would_break_the_head_of_its_part_is_refused() {
        let file =
            |name: &str| ImageFile { name: name.to_owned(), body: Upload::from(Bytes::new()) };
        let parts = |name| split_parts(file("m"), file(name), &InstanceType::Container);
        let names: Vec<_> = parts("r").unwrap().iter().map(|part| part.name).collect();
        assert_eq!(names, ["metadata", "rootfs"]);
        assert!(parts("r\r\n\r\n").is_err());
    }
}
