//! Reads one backup: every byte against its checksums, and every archive to its end.
//!
//! The two readings go side by side, each on a thread of its own: where the disk is slow, the second
//! finds in the page cache what the first has just read, and where the processor is slow, both of
//! them share the work. Their memory does not depend on what is read.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use serde::de::IgnoredAny;
use sha2::{Digest, Sha256};
use stapes_core::backup::{BackupItem, Fingerprint, Layout};
use stapes_core::event::{Event, Step};
use stapes_core::server_config::{ConfigKind, MAX_DOCUMENT_BYTES, ServerConfig};
use stapes_store::StoredBackup;
use stapes_store::compress;
use stapes_store::tar::{self, ExportRules};
use tokio_util::sync::CancellationToken;

use crate::backup::images::{FIRST, RECORDS, SECOND};
use crate::error::chain;
use crate::events::BETWEEN_PROGRESS;
use crate::run::RunContext;

/// What reading a backup whole has shown.
pub(super) struct ReadWhole {
    /// What is wrong with it, one sentence each.
    pub(super) problems: Vec<String>,
    /// Bytes of its files.
    pub(super) bytes: u64,
}

const BUFFER_BYTES: usize = 256 << 10;

/// Reads a backup whole.
///
/// # Errors
/// With a sentence, if it was not read to its end because the run was.
pub(super) async fn whole(
    stored: &Arc<StoredBackup>,
    context: &RunContext,
) -> Result<ReadWhole, String> {
    let (summing, unpacking) = (stored.clone(), stored.clone());
    let (cancel, unpack_cancel) = (context.cancel.clone(), context.cancel.clone());
    let bytes = Arc::new(AtomicU64::new(0));
    let progress = Progress::new(stored.item(), context, bytes.clone());
    let sums = tokio::task::spawn_blocking(move || {
        summing.verify_checksums(&|more| progress.add(more), &|| cancel.is_cancelled())
    });
    let contents = tokio::task::spawn_blocking(move || unpack(&unpacking, &unpack_cancel));
    let (sums, contents) = tokio::join!(sums, contents);
    if context.cancel.is_cancelled() {
        return Err("interrupted; nothing was recorded".to_owned());
    }
    let mut problems = sums.map_err(|error| error.to_string())?.map_err(|error| chain(&error))?;
    problems.extend(contents.map_err(|error| error.to_string())?);
    Ok(ReadWhole { problems, bytes: bytes.load(Ordering::Relaxed) })
}

/// Looks whether all files of a backup are there and as long as its manifest says.
///
/// # Errors
/// If it could not be looked at for a reason of this program.
pub(super) async fn structure(stored: &Arc<StoredBackup>) -> Result<Vec<String>, String> {
    let stored = stored.clone();
    let look = move || stored.check_structure();
    tokio::task::spawn_blocking(look).await.map_err(|error| error.to_string())
}

/// Tells how far the reading is, not more often than anybody looks.
struct Progress {
    item: BackupItem,
    events: crate::events::Events,
    bytes: Arc<AtomicU64>,
    told: std::cell::Cell<Instant>,
}

impl Progress {
    fn new(item: &BackupItem, context: &RunContext, bytes: Arc<AtomicU64>) -> Self {
        let told = std::cell::Cell::new(Instant::now());
        Self { item: item.clone(), events: context.events.clone(), bytes, told }
    }

    fn add(&self, more: u64) {
        let bytes = self.bytes.fetch_add(more, Ordering::Relaxed) + more;
        if self.told.get().elapsed() < BETWEEN_PROGRESS {
            return;
        }
        self.told.set(Instant::now());
        self.events.progress(Event::StepProgress {
            item: self.item.clone(),
            step: Step::Check,
            bytes,
            bytes_per_second: None,
        });
    }
}

/// Reads what is inside the files, as a restore would; what is wrong with it, one sentence each.
fn unpack(stored: &StoredBackup, cancel: &CancellationToken) -> Vec<String> {
    match stored.item() {
        BackupItem::Config => documents(stored, cancel),
        BackupItem::Image(fingerprint) => image(stored, fingerprint, cancel),
        BackupItem::Item(_) => archives(stored, EXPORTS, cancel),
        BackupItem::Service(_) => archives(stored, SERVICES, cancel),
    }
}

/// What is read until the run is ended.
struct Watched<R> {
    inner: R,
    cancel: CancellationToken,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("the run was interrupted"));
        }
        self.inner.read(buffer)
    }
}

fn open(
    stored: &StoredBackup,
    name: &str,
    cancel: &CancellationToken,
) -> Result<Watched<Box<dyn Read + Send>>, String> {
    let inner = stored.open_file(name).map_err(|error| chain(&error))?;
    Ok(Watched { inner, cancel: cancel.clone() })
}

/// The names of files that begin so.
fn named<'a>(stored: &'a StoredBackup, stems: &'a [&str]) -> impl Iterator<Item = &'a str> {
    let names = stored.files().iter().map(|file| file.name.as_str());
    names.filter(|name| stems.iter().any(|stem| name.starts_with(stem)))
}

const DISC: &str = "volume.iso";
/// What the archive of an instance or volume is called, up to how it is packed.
const EXPORTS: &[&str] = &["export.tar", "volume.tar", DISC];
/// What that of a service is called.
const SERVICES: &[&str] = &["archive.tar"];

/// The one archive that a backup with these names has.
fn archives(stored: &StoredBackup, stems: &[&str], cancel: &CancellationToken) -> Vec<String> {
    let mut problems = Vec::new();
    let mut count = 0;
    for name in named(stored, stems) {
        count += 1;
        let read = open(stored, name, cancel).and_then(|file| {
            let inner = compress::decoder(file).map_err(|error| chain(&error))?;
            // A few bytes can unpack to any number of them.
            let mut content = Watched { inner, cancel: cancel.clone() };
            match stored.item() {
                _ if name.starts_with(DISC) => to_the_end(&mut content),
                BackupItem::Service(_) => files(&mut content),
                _ => export(&mut content),
            }
        });
        problems.extend(read.err().map(|cause| format!("{name}: {cause}")));
    }
    if count != 1 {
        problems.push(format!("it has {count} archives instead of one"));
    }
    problems
}

fn export(content: &mut dyn Read) -> Result<(), String> {
    let mut rules = ExportRules::new();
    tar::check(content, &mut |member| rules.member(member)).map_err(|error| chain(&error))?;
    rules.finish()
}

/// An archive of files without the order that an export has.
fn files(content: &mut dyn Read) -> Result<(), String> {
    tar::check(content, &mut |_| Ok(())).map(drop).map_err(|error| chain(&error))
}

fn to_the_end(content: &mut dyn Read) -> Result<(), String> {
    each_part(content, |_| {})
}

fn each_part(content: &mut dyn Read, mut look: impl FnMut(&[u8])) -> Result<(), String> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match content.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => look(buffer.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(format!("it cannot be read to its end: {error}")),
        }
    }
}

/// The fingerprint of an image is the sum of its files, the first part before the second.
fn image(
    stored: &StoredBackup,
    fingerprint: &Fingerprint,
    cancel: &CancellationToken,
) -> Vec<String> {
    let mut problems = Vec::new();
    let mut sum = Sha256::new();
    let parts: Vec<&str> = named(stored, &[FIRST]).chain(named(stored, &[SECOND])).collect();
    for name in &parts {
        let read = open(stored, name, cancel)
            .and_then(|mut file| each_part(&mut file, |part| sum.update(part)));
        problems.extend(read.err().map(|cause| format!("{name}: {cause}")));
    }
    let sum: String = sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if parts.is_empty() {
        problems.push("it has no file with the image".to_owned());
    } else if problems.is_empty() && sum != fingerprint.as_str() {
        problems.push(format!("its files are another image, with the fingerprint {sum}"));
    }
    if stored.layout() == Layout::Stapes {
        let list = document(stored, RECORDS, cancel).and_then(|text| {
            let records: Result<Vec<IgnoredAny>, _> = serde_json::from_slice(&text);
            records.map(drop).map_err(|error| format!("{RECORDS} is no list of records: {error}"))
        });
        problems.extend(list.err());
    }
    problems
}

/// The documents of the configuration, one at a time: all of them at once can be large.
fn documents(stored: &StoredBackup, cancel: &CancellationToken) -> Vec<String> {
    let mut problems = Vec::new();
    for file in stored.files() {
        let name = file.name.as_str();
        if ConfigKind::of_file(name).is_none() {
            continue;
        }
        let read = document(stored, name, cancel).and_then(|text| match stored.layout() {
            Layout::Stapes => {
                let parsed = ServerConfig::parse([(name, text.as_slice())]);
                parsed.map(drop).map_err(|problems| problems.to_string())
            }
            // Their objects have members of other names.
            Layout::IncusBackup => serde_json::from_slice::<IgnoredAny>(&text)
                .map(drop)
                .map_err(|error| format!("{name}: this is no JSON: {error}")),
        });
        problems.extend(read.err());
    }
    problems
}

fn document(
    stored: &StoredBackup,
    name: &str,
    cancel: &CancellationToken,
) -> Result<Vec<u8>, String> {
    let mut text = Vec::new();
    // One byte more, so that one that is too long is seen as that.
    let limit = MAX_DOCUMENT_BYTES as u64 + 1;
    let read = open(stored, name, cancel)?.take(limit).read_to_end(&mut text);
    read.map_err(|error| format!("{name}: it cannot be read to its end: {error}"))?;
    if text.len() as u64 == limit {
        return Err(format!("{name}: it is larger than any such document ({limit} bytes)"));
    }
    Ok(text)
}
