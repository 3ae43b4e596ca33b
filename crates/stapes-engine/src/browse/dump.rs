//! [`dump()`]: the content of a file, or a folder as an archive, as a stream of bytes.

use std::io::Write;

use stapes_store::restic::archive;
use stapes_store::restic::readout::Content;

use super::entry::{EntryKind, kind_of};
use super::{Place, Tree, shown};
use crate::error::{Error, Result};

/// What was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dumped {
    /// Bytes of a file's content.
    pub content_bytes: u64,
    /// Sockets in a folder, which no archive can hold.
    pub sockets: u64,
}

/// Writes the content of a file; of a folder, an uncompressed tar archive whose members are named from
/// the folder on, with owners, modes, times and extended attributes.
///
/// # Errors
/// [`Error::Browse`] for what has no content, and for a file that is damaged; if the repository or the
/// output fails. What was written is a part of it then.
pub fn dump(tree: &Tree, place: &Place, output: &mut dyn Write) -> Result<Dumped> {
    match kind_of(&place.node) {
        EntryKind::File => file(tree, place, output),
        EntryKind::Folder => folder(tree, place, output),
        kind => Err(Error::Browse {
            message: format!(
                "{}: {} is a {} and has no content",
                tree.title(),
                shown(&place.path()),
                kind.as_str()
            ),
            help: None,
        }),
    }
}

fn file(tree: &Tree, place: &Place, output: &mut dyn Write) -> Result<Dumped> {
    let ids = place.node.content.clone().unwrap_or_default();
    // A blob that is missing is told before anything is written.
    let content_bytes = tree.reading().content_bytes(&ids)?;
    if content_bytes != place.node.meta.size {
        return Err(Error::Browse {
            message: format!(
                "{}: {} is damaged: {content_bytes} bytes are stored of {}",
                tree.title(),
                shown(&place.path()),
                place.node.meta.size
            ),
            help: None,
        });
    }
    let mut content = Content::new(tree.reading(), ids)?;
    while let Some(blob) = content.next_blob() {
        output.write_all(&blob?).map_err(written)?;
    }
    output.flush().map_err(written)?;
    Ok(Dumped { content_bytes, sockets: 0 })
}

fn folder(tree: &Tree, place: &Place, output: &mut dyn Write) -> Result<Dumped> {
    // From the root of all that is stored, where the notes of an archive are; but what is `/` inside
    // has another name there.
    let packed = if place.path.is_empty() {
        archive::dump(tree.reading(), tree.root(), b"", output)?
    } else {
        let (root, path) = tree.stored(&place.path);
        archive::dump(tree.reading(), root, &path, output)?
    };
    Ok(Dumped { content_bytes: packed.content_bytes, sockets: packed.sockets })
}

fn written(source: std::io::Error) -> Error {
    Error::file("write to", "standard output")(source)
}
