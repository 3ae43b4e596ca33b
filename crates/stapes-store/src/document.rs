//! Small documents of ours, and the SHA-256 sums in them.

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// A document of ours: indented, with a final newline.
pub(crate) fn json(document: &impl serde::Serialize) -> Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(document)
        .map_err(|error| Error::refused("a document", error.to_string()))?;
    text.push(b'\n');
    Ok(text)
}

/// The sum of a content: lower-case hexadecimal.
pub(crate) fn sha256(content: &[u8]) -> String {
    hexadecimal(Sha256::new_with_prefix(content))
}

/// The sum of everything that the hasher was given.
pub(crate) fn hexadecimal(hasher: Sha256) -> String {
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
