//! Verification: every byte of every file against the manifest and `checksums.txt`, which must agree.
//!
//! It finds what has changed since the backup was made. Somebody who changes files, manifest and sums
//! alike is not found here; whether archives can be unpacked is the caller's to try.

use std::collections::BTreeMap;
use std::fs;

use sha2::{Digest, Sha256};

use super::checksums::{CHECKSUMS, MANIFEST};
use super::escape::is_clutter;
use super::file_writer::read_some;
use super::stored::StoredBackup;
use crate::document::hexadecimal;
use crate::error::{Error, Result, sentence};
use crate::manifest::FileRecord;

const BUFFER_BYTES: usize = 256 << 10;
/// A damaged disk fails at everything; so many sentences suffice.
const PROBLEMS: usize = 1_000;

impl StoredBackup {
    /// Reads all its files and says what is wrong with them, one sentence each; nothing if it is
    /// sound. `progress` is told how many bytes were read since it was last told, and `cancel` is
    /// asked between two parts of a file.
    ///
    /// # Errors
    /// `Cancelled`, and nothing else: what cannot be read is a sentence.
    pub fn verify_checksums(
        &self,
        progress: &dyn Fn(u64),
        cancel: &dyn Fn() -> bool,
    ) -> Result<Vec<String>> {
        let mut problems = Vec::new();
        match self.sums() {
            Ok(sums) => self.compare_lists(&sums, &mut problems),
            Err(why) => problems.push(why),
        }
        self.find_extra(&mut problems);
        for file in self.files() {
            match self.check_file(file, progress, cancel) {
                Ok(None) => {}
                Ok(Some(problem)) => problems.push(problem),
                Err(error @ Error::Cancelled { .. }) => return Err(error),
                Err(error) => problems.push(Self::problem(&file.name, &error)),
            }
        }
        problems.truncate(PROBLEMS);
        Ok(problems)
    }

    /// Looks whether all its files are there and as long as its manifest says; what is wrong, one
    /// sentence each.
    #[must_use]
    pub fn check_structure(&self) -> Vec<String> {
        self.files().iter().filter_map(|file| self.check_length(file).err()).collect()
    }

    fn check_length(&self, record: &FileRecord) -> Result<(), String> {
        let FileRecord { name, size, .. } = record;
        let open = self.open_file(name).map_err(|error| sentence(&error))?;
        let metadata =
            open.metadata().map_err(|error| format!("{name} cannot be looked at: {error}"))?;
        match metadata.len() {
            length if length == *size => Ok(()),
            length => Err(format!("{name} has {length} bytes instead of {size}")),
        }
    }

    fn compare_lists(&self, sums: &BTreeMap<String, String>, problems: &mut Vec<String>) {
        match sums.get(MANIFEST) {
            None => problems.push(format!("{CHECKSUMS} has no sum for {MANIFEST}")),
            Some(sum) if sum == self.manifest_sum() => {}
            Some(_) => problems.push(format!("{MANIFEST} is not what {CHECKSUMS} says")),
        }
        for file in self.files() {
            match sums.get(&file.name) {
                None => problems.push(format!("{CHECKSUMS} has no sum for {}", file.name)),
                Some(sum) if *sum == file.sha256 => {}
                Some(_) => {
                    problems
                        .push(format!("{CHECKSUMS} and {MANIFEST} disagree about {}", file.name));
                }
            }
        }
        let known = |name: &str| name == MANIFEST || self.files().iter().any(|f| f.name == name);
        for name in sums.keys().filter(|name| !known(name)) {
            problems.push(format!("{CHECKSUMS} names {name}, which {MANIFEST} does not"));
        }
    }

    fn find_extra(&self, problems: &mut Vec<String>) {
        let entries = match fs::read_dir(self.dir()) {
            Ok(entries) => entries,
            Err(error) => return problems.push(format!("its folder cannot be read: {error}")),
        };
        for entry in entries {
            let name = match entry {
                Ok(entry) => entry.file_name(),
                Err(error) => return problems.push(format!("its folder cannot be read: {error}")),
            };
            let name = name.to_string_lossy();
            let listed = self.files().iter().any(|file| file.name == name);
            if !listed && !Self::is_own(&name) && !is_clutter(&name) && problems.len() < PROBLEMS {
                problems.push(format!("{} does not belong to it", name.escape_debug()));
            }
        }
    }

    fn check_file(
        &self,
        record: &FileRecord,
        progress: &dyn Fn(u64),
        cancel: &dyn Fn() -> bool,
    ) -> Result<Option<String>> {
        let name = &record.name;
        let mut file = self.open_file(name)?;
        // Only a hint: where it is not taken, nothing is lost.
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Sequential);
        let mut hasher = Sha256::new();
        let mut size = 0_u64;
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            if cancel() {
                return Err(Error::Cancelled { what: "the verification" });
            }
            let path = self.dir().join(name);
            let count = read_some(&mut file, &mut buffer).map_err(Error::file("read", &path))?;
            let Some(part) = buffer.get(..count).filter(|part| !part.is_empty()) else { break };
            hasher.update(part);
            size += part.len() as u64;
            progress(part.len() as u64);
        }
        Ok(if size != record.size {
            Some(format!("{name} has {size} bytes instead of {}", record.size))
        } else if hexadecimal(hasher) != record.sha256 {
            Some(format!("{name} has changed: its SHA-256 sum is another one"))
        } else {
            None
        })
    }
}
