//! Extended attributes of files of any kind, ACLs and capabilities among them, as the format has them.
//!
//! Nothing is followed: a symbolic link's attributes are its own. A file that is not open is reached
//! from its folder's descriptor by way of `/proc/self/fd`, because the calls that take a descriptor
//! and a name are newer than the kernels we meet.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustic_core::repofile::Metadata;
use rustix::fs::XattrFlags;
use rustix::io::Errno;

/// The kernel's limit of a list of names and of one value.
const LIMIT_BYTES: usize = 64 * 1024;

/// What an attribute with a default ACL is called; new files in such a folder get an ACL by it.
pub(super) const DEFAULT_ACL: &str = "system.posix_acl_default";
pub(super) const ACCESS_ACL: &str = "system.posix_acl_access";

/// Adds an attribute to an entry's metadata.
pub fn add(metadata: &mut Metadata, name: &str, value: &[u8]) {
    // The type of an attribute is not among what rustic_core makes public; its fields are.
    let empty = serde_json::from_str::<Vec<_>>(r#"[{"name":"","value":null}]"#);
    metadata.extended_attributes.extend(empty.unwrap_or_default());
    if let Some(attribute) = metadata.extended_attributes.last_mut() {
        name.clone_into(&mut attribute.name);
        attribute.value = Some(value.to_owned());
    }
}

/// Reads attributes, with one buffer for many files.
#[derive(Debug)]
pub(super) struct Reader {
    names: Vec<u8>,
    value: Vec<u8>,
}

/// Why attributes are not all there.
pub(super) type Problems = Vec<String>;

impl Reader {
    pub(super) fn new() -> Self {
        Self { names: vec![0; LIMIT_BYTES], value: vec![0; LIMIT_BYTES] }
    }

    /// Adds the attributes of a file in an open folder to its metadata, sorted by name; returns those
    /// that could not be read, or that the format cannot hold, with the reason.
    pub(super) fn read(
        &mut self,
        folder: impl AsFd,
        name: &OsStr,
        metadata: &mut Metadata,
    ) -> Problems {
        let path = path_of(folder, name);
        let names = match rustix::fs::llistxattr(&path, self.names.as_mut_slice()) {
            Ok(0) | Err(Errno::NOTSUP) => return Problems::new(),
            Err(errno) => {
                return vec![format!("its extended attributes cannot be listed: {errno}")];
            }
            Ok(count) => self.names.get(..count).unwrap_or_default(),
        };
        let mut names: Vec<&[u8]> =
            names.split(|byte| *byte == 0).filter(|name| !name.is_empty()).collect();
        names.sort_unstable();
        let mut problems = Problems::new();
        for name in names {
            let shown = name.escape_ascii();
            let Ok(text) = std::str::from_utf8(name) else {
                problems
                    .push(format!("a restic repository cannot hold the attribute name {shown}"));
                continue;
            };
            match rustix::fs::lgetxattr(&path, name, self.value.as_mut_slice()) {
                Ok(count) => add(metadata, text, self.value.get(..count).unwrap_or_default()),
                // It was removed since it was listed.
                Err(Errno::NODATA) => {}
                Err(errno) => {
                    problems.push(format!("the attribute {shown} cannot be read: {errno}"));
                }
            }
        }
        problems
    }
}

/// A file whose metadata is set.
#[derive(Clone, Copy, Debug)]
pub(super) enum Object<'a> {
    /// One that is open.
    Open(BorrowedFd<'a>),
    /// One of any kind in an open folder.
    In(BorrowedFd<'a>, &'a OsStr),
}

/// Sets the attributes of a file; returns those that could not be set.
///
/// With `bare` the ACLs that the file got from its folder by itself are taken away before.
pub(super) fn write(object: Object<'_>, metadata: &Metadata, bare: bool) -> Problems {
    let mut problems = Problems::new();
    if bare {
        for acl in [ACCESS_ACL, DEFAULT_ACL] {
            // Most have none, and then it is as it should be.
            let _: Result<(), Errno> = match object {
                Object::Open(file) => rustix::fs::fremovexattr(file, acl),
                Object::In(folder, name) => rustix::fs::lremovexattr(path_of(folder, name), acl),
            };
        }
    }
    for attribute in &metadata.extended_attributes {
        let value = attribute.value.as_deref().unwrap_or_default();
        let (key, flags) = (&*attribute.name, XattrFlags::empty());
        let set = match object {
            Object::Open(file) => rustix::fs::fsetxattr(file, key, value, flags),
            Object::In(folder, name) => {
                rustix::fs::lsetxattr(path_of(folder, name), key, value, flags)
            }
        };
        if let Err(errno) = set {
            problems.push(format!("the attribute {} cannot be set: {errno}", key.escape_debug()));
        }
    }
    problems
}

/// Whether files that are made in the folder get ACLs from it.
pub(super) fn hands_on_acls(folder: impl AsFd) -> bool {
    let mut buffer = [0; 4096];
    !matches!(
        rustix::fs::fgetxattr(folder, DEFAULT_ACL, buffer.as_mut_slice()),
        Err(Errno::NODATA | Errno::NOTSUP)
    )
}

fn path_of(folder: impl AsFd, name: &OsStr) -> PathBuf {
    let mut path = OsString::from(format!("/proc/self/fd/{}/", folder.as_fd().as_raw_fd()));
    path.push(if name.as_bytes().is_empty() { OsStr::new(".") } else { name });
    Path::new(&path).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_of_a_file_and_of_a_link_come_back_on_others() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        std::fs::write(at.join("a"), "").unwrap();
        std::fs::write(at.join("b"), "").unwrap();
        std::os::unix::fs::symlink("nowhere", at.join("l")).unwrap();
        std::os::unix::fs::symlink("nowhere", at.join("m")).unwrap();
        let open = std::fs::File::open(at).unwrap();
        let mut reader = Reader::new();
        for (from, to, name) in [("a", "b", "user.empty"), ("l", "m", "trusted.link")] {
            let set = |name: &str, value: &[u8]| {
                rustix::fs::lsetxattr(at.join(from), name, value, XattrFlags::empty()).unwrap();
            };
            set(name, b"");
            set("trusted.two", &[0, 255]);
            let mut first = Metadata::default();
            assert!(reader.read(&open, OsStr::new(from), &mut first).is_empty());
            assert_eq!(first.extended_attributes.len(), 2, "{from}");
            assert!(write(Object::In(open.as_fd(), OsStr::new(to)), &first, true).is_empty());
            let mut second = Metadata::default();
            assert!(reader.read(&open, OsStr::new(to), &mut second).is_empty());
            assert_eq!(first, second);
        }
    }

    #[test]
    fn an_attribute_that_nobody_knows_is_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a"), "").unwrap();
        let mut metadata = Metadata::default();
        add(&mut metadata, "nonsense.a", b"1");
        let open = std::fs::File::open(folder.path()).unwrap();
        let problems = write(Object::In(open.as_fd(), OsStr::new("a")), &metadata, false);
        assert_eq!(problems.len(), 1);
        assert!(problems.first().unwrap().contains("nonsense.a"), "{problems:?}");
    }
}
