//! Names of users and groups by number, from `/etc/passwd` and `/etc/group`.
//!
//! These names are for people who read a listing; restores go by number. Directories such as LDAP are
//! not asked: it would take the C library, and a slow server would then slow every backup down.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

/// What the numbers of owners are called on this machine.
#[derive(Clone, Debug, Default)]
pub(super) struct Owners {
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

impl Owners {
    /// Reads both files. What is not there or not readable has no names, which is no error.
    pub(super) fn of_this_machine() -> Self {
        Self { users: read("/etc/passwd"), groups: read("/etc/group") }
    }

    pub(super) fn user(&self, number: u32) -> Option<String> {
        self.users.get(&number).cloned()
    }

    pub(super) fn group(&self, number: u32) -> Option<String> {
        self.groups.get(&number).cloned()
    }
}

fn read(path: impl AsRef<Path>) -> HashMap<u32, String> {
    parse(&fs::read(path).unwrap_or_default())
}

/// Both files have the name first and the number third. The first line for a number counts.
fn parse(content: &[u8]) -> HashMap<u32, String> {
    let mut names = HashMap::new();
    for line in content.split(|byte| *byte == b'\n') {
        let Ok(line) = std::str::from_utf8(line) else { continue };
        let mut fields = line.split(':');
        let (Some(name), Some(number)) = (fields.next(), fields.nth(1)) else { continue };
        if let Ok(number) = number.parse() {
            names.entry(number).or_insert_with(|| name.to_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_name_of_a_number_counts_and_broken_lines_are_passed_over() {
        let names = parse(b"root:x:0:0:root:/root:/bin/sh\n\xff:x:5:\nbad\ntoor:x:0:0\nwww:x:33\n");
        assert_eq!(names, HashMap::from([(0, "root".to_owned()), (33, "www".to_owned())]));
    }
}
