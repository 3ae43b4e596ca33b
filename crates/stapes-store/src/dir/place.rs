//! Where the backups of an item lie below the root, and whose a folder is.

use std::path::PathBuf;

use stapes_core::backup::{BackupItem, BackupKind};

use super::escape::{escape, unescape};
use crate::error::Result;
use crate::names::{from_names, names};

/// The folder of an item, below the root, as this program names it.
///
/// # Errors
/// If a name is too long for a folder.
pub(crate) fn folder(item: &BackupItem) -> Result<PathBuf> {
    let mut path = PathBuf::from(item.kind().plural());
    for name in names(item) {
        path.push(escape(name)?);
    }
    Ok(path)
}

/// The folder of an item as incus-backup names it: as the names are. Nothing where that is the same,
/// or would lead elsewhere.
pub(crate) fn verbatim_folder(item: &BackupItem) -> Option<PathBuf> {
    let names = names(item);
    let plain = |name: &&str| !name.contains('/') && !name.starts_with('.') && !name.contains('\0');
    let differs = names.iter().any(|name| !escape(name).is_ok_and(|escaped| escaped == *name));
    if !differs || !names.iter().all(plain) {
        return None;
    }
    let mut path = PathBuf::from(item.kind().plural());
    path.extend(names);
    Some(path)
}

/// How many folders lie between that of a kind and those of its versions.
pub(crate) fn depth(kind: BackupKind) -> usize {
    match kind {
        BackupKind::Config => 0,
        BackupKind::Image | BackupKind::Service => 1,
        BackupKind::Instance => 2,
        BackupKind::Volume => 3,
    }
}

/// The item of a folder, from the components below that of its kind.
pub(crate) fn item_of(kind: BackupKind, components: &[String]) -> Option<BackupItem> {
    // incus-backup does not escape: what is not a spelling of ours is the name itself.
    let names: Vec<String> = components
        .iter()
        .map(|component| unescape(component).unwrap_or_else(|| component.clone()))
        .collect();
    from_names(kind, &names.iter().map(String::as_str).collect::<Vec<&str>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_tells_its_item_in_both_spellings() {
        let volume = from_names(BackupKind::Volume, &["default", "tank", "a:b"]).unwrap();
        assert_eq!(folder(&volume).unwrap(), PathBuf::from("volumes/default/tank/a%3Ab"));
        assert_eq!(verbatim_folder(&volume), Some(PathBuf::from("volumes/default/tank/a:b")));
        for last in ["a%3Ab", "a:b"] {
            let components = ["default", "tank", last].map(str::to_owned);
            assert_eq!(item_of(BackupKind::Volume, &components), Some(volume.clone()));
        }
        let usual = from_names(BackupKind::Instance, &["default", "web"]).unwrap();
        assert_eq!(verbatim_folder(&usual), None);
        let hidden = from_names(BackupKind::Instance, &["..", "web"]).unwrap();
        assert_eq!(folder(&hidden).unwrap(), PathBuf::from("instances/%2E%2E/web"));
        assert_eq!(verbatim_folder(&hidden), None);
        assert_eq!(item_of(BackupKind::Instance, &["web".to_owned()]), None);
        assert_eq!(item_of(BackupKind::Instance, &["a%0Ab".to_owned(), "web".to_owned()]), None);
        assert_eq!(folder(&BackupItem::Config).unwrap(), PathBuf::from("config"));
    }

    #[test]
    fn a_service_has_a_folder_of_its_own_and_no_project() {
        let longest = "資".repeat(64);
        for (name, component) in [
            ("Mein Wiki-2", "Mein Wiki-2"),
            (".config", "%2Econfig"),
            ("aux", "%61ux"),
            ("v1.", "v1%2E"),
            (&longest, &longest),
        ] {
            let service = from_names(BackupKind::Service, &[name]).unwrap();
            assert_eq!(names(&service), [name]);
            assert_eq!(folder(&service).unwrap(), PathBuf::from("services").join(component));
            assert_eq!(depth(BackupKind::Service), 1);
            assert_eq!(item_of(BackupKind::Service, &[component.to_owned()]), Some(service));
        }
        assert_eq!(from_names(BackupKind::Service, &["default", "gitea"]), None);
        for strange in ["%2E%2E", "a%2Fb", "a%3Ab", "-y", "--", "a "] {
            assert_eq!(item_of(BackupKind::Service, &[strange.to_owned()]), None, "{strange}");
        }
    }
}
