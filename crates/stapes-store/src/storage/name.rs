//! Names of files in a repository, as restic lays them out.
//!
//! Nothing else is a name, so that no name can lead out of the repository.

use crate::error::{Error, Result};

/// The folders of a repository.
pub(super) const FOLDERS: [&str; 5] = ["data", "index", "keys", "locks", "snapshots"];

/// Between the name of a file and what makes the name under which it is written unique.
/// It is restic's own, so that the left-overs of both are known to both.
pub(super) const TEMPORARY: &str = "-tmp-";

/// The folder of a checked name and the rest: `data/5c` and `5c65…`; the folder of `config` is empty.
pub(super) fn split(name: &str) -> Result<(&str, &str)> {
    let refused = || Error::refused(format!("the name {name:?}"), "no file of a repository has it");
    let (folder, file) = name.rsplit_once('/').unwrap_or(("", name));
    let plain = !file.is_empty()
        && file.len() <= 128
        && file.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        && !file.contains(TEMPORARY);
    let known = match folder.strip_prefix("data/") {
        Some(shard) => is_shard(shard) && file.starts_with(shard),
        None => folder.is_empty() || (folder != "data" && FOLDERS.contains(&folder)),
    };
    if plain && known { Ok((folder, file)) } else { Err(refused()) }
}

/// Whether a folder below `data` is one of restic's 256.
pub(super) fn is_shard(name: &str) -> bool {
    name.len() == 2 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Refuses a folder that no repository has.
pub(super) fn check_folder(folder: &str) -> Result<()> {
    if FOLDERS.contains(&folder) {
        return Ok(());
    }
    Err(Error::refused(format!("the folder {folder:?}"), "no repository has it"))
}

/// Whether a file is whole: not one that is being written, nor hidden.
pub(super) fn is_whole(file: &str) -> bool {
    !file.starts_with('.') && !file.contains(TEMPORARY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_a_repository_are_names() {
        assert_eq!(split("config").unwrap(), ("", "config"));
        assert_eq!(split("keys/5c65").unwrap(), ("keys", "5c65"));
        assert_eq!(split("data/5c/5c65").unwrap(), ("data/5c", "5c65"));
        for bad in [
            "",
            "/",
            "/etc/passwd",
            "../config",
            "keys/",
            "keys/..",
            "keys/../config",
            "keys/a/b",
            "data/5c65",
            "data/5c/1234",
            "data/../5c65",
            "data/5C/5C65",
            "other/5c65",
            "keys/a b",
            "keys/a-tmp-1",
            "keys/.a",
            "con\0fig",
        ] {
            assert!(split(bad).is_err(), "{bad:?} is taken for a name");
        }
    }

    #[test]
    fn a_file_under_a_temporary_name_is_not_whole() {
        assert!(is_whole("5c65"));
        assert!(!is_whole("5c65-tmp-123"));
        assert!(!is_whole(".5c65"));
    }
}
