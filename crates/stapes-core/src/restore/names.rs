//! What Incus accepts as names of instances and volumes, as far as it is known beforehand.
//!
//! The server has the last word; it gives it only after the whole upload.

use crate::id::ProjectName;
use crate::item::ItemId;

/// What a host name may have, and so an instance.
const LONGEST_INSTANCE_NAME: usize = 63;
/// What a file name may have; volumes lie in folders named `<project>_<volume>`.
const LONGEST_FOLDER_BYTES: usize = 255;
/// What Incus 7.0 allows.
const LONGEST_STRICT_VOLUME_NAME: usize = 64;
/// What Incus 7.0 refuses in the name of a volume, beside blanks.
const REFUSED_IN_VOLUMES: &str = "$?&+\"'`*";

/// Whether an instance can have this name: 1 to 63 ASCII letters, digits and hyphens, not only
/// digits, no hyphen at either end.
///
/// # Errors
/// The rule that it breaks, as the end of a sentence about the name.
pub fn check_instance_name(name: &str) -> Result<(), String> {
    let foreign = name.chars().find(|c| !c.is_ascii_alphanumeric() && *c != '-');
    if name.is_empty() {
        return Err("it is empty".to_owned());
    }
    if let Some(character) = foreign {
        return Err(format!(
            "it holds {character:?}; instances have letters, digits and hyphens only"
        ));
    }
    if name.len() > LONGEST_INSTANCE_NAME {
        return Err(format!("it is longer than {LONGEST_INSTANCE_NAME} characters"));
    }
    if name.starts_with('-') || name.ends_with('-') {
        return Err("it begins or ends with a hyphen".to_owned());
    }
    if name.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("it has digits only".to_owned());
    }
    Ok(())
}

/// Whether an item can have the name that it is to get.
///
/// # Errors
/// The rule that it breaks.
pub(super) fn check_name(item: &ItemId) -> Result<(), String> {
    match item {
        ItemId::Instance { name, .. } => check_instance_name(name.as_str()),
        ItemId::Volume { project, name, .. } => check_volume_name(project, name.as_str()),
    }
}

/// Whether a volume can have this name also on the servers that restrict it. Incus 6.0 takes anything
/// without a slash, 7.0 does not, and no extension of the API tells them apart.
///
/// # Errors
/// The rule that it breaks.
pub(super) fn check_strict_volume_name(name: &str) -> Result<(), String> {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    if name.len() > LONGEST_STRICT_VOLUME_NAME {
        return Err(format!("it is longer than {LONGEST_STRICT_VOLUME_NAME} characters"));
    }
    if !edge(name.chars().next()) || !edge(name.chars().next_back()) {
        return Err("it does not begin and end with an ASCII letter or digit".to_owned());
    }
    match name.chars().find(|c| c.is_whitespace() || REFUSED_IN_VOLUMES.contains(*c)) {
        Some(character) => Err(format!("it holds {character:?}")),
        None => Ok(()),
    }
}

fn check_volume_name(project: &ProjectName, name: &str) -> Result<(), String> {
    let longest = LONGEST_FOLDER_BYTES.saturating_sub(project.as_str().len() + 1);
    if matches!(name, "." | "..") {
        return Err("it means a folder".to_owned());
    }
    if name.len() > longest {
        return Err(format!("it is longer than {longest} bytes"));
    }
    Ok(())
}
