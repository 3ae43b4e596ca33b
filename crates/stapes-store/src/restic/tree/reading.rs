//! Reads regular files into the ingest, and notices when they change meanwhile.
//!
//! A few threads take files from a queue, in order, while the walk goes ahead: disk and processors
//! then work at once. A file is read only as far as its size said when it was opened, so that one that
//! grows all the time comes to an end. What cannot be read is left out and named, never stored short.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};

use rustic_core::repofile::{Metadata, NodeType};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Statx, StatxFlags, StatxTimestamp};
use rustix::io::Errno;

use super::attributes::Problems;
use super::describe::Describer;
use super::missing::Lack;
use super::progress::Progress;
use super::shape::shape_of;
use crate::restic::ingest::{ContentWriter, Ingest, PendingContent};

/// Files up to this size are read with one call, into a buffer of their own.
const SMALL_BYTES: usize = 256 << 10;

/// A file to read.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) folder: Arc<OwnedFd>,
    pub(super) name: OsString,
    /// What the walk saw.
    pub(super) seen: Statx,
    /// Whom to tell.
    pub(super) reply: SyncSender<Read>,
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Read {
    /// The content is on its way into the repository.
    Stored {
        content: PendingContent,
        /// What the file is by now, if the walk saw something else, and what of that cannot be had.
        metadata: Option<Box<(Metadata, Problems)>>,
        /// How it changed while it was read.
        changed: Option<String>,
    },
    /// It is not in the backup.
    Left { lack: Lack, why: String },
}

/// Reads files until the walk is over. One thread's whole life.
pub(super) fn read_all(
    jobs: &Mutex<Receiver<Job>>,
    ingest: &Ingest,
    mut describer: Describer,
    progress: &Progress,
) {
    loop {
        let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = next else { return };
        let read = read(&job, ingest, &mut describer, progress);
        progress.add_file();
        // Nobody listens any more after an error elsewhere.
        drop(job.reply.send(read));
    }
}

fn read(job: &Job, ingest: &Ingest, describer: &mut Describer, progress: &Progress) -> Read {
    let file = match open(job) {
        Ok(file) => file,
        Err(Errno::NOENT) => return left(Lack::Vanished, "it was gone when it was to be read"),
        Err(Errno::LOOP) => return left(Lack::Vanished, "a symbolic link has taken its place"),
        Err(errno) => return left(Lack::Unreadable, errno),
    };
    let before = match stat(&file) {
        Ok(before) => before,
        Err(errno) => return left(Lack::Unreadable, errno),
    };
    if FileType::from_raw_mode(before.stx_mode.into()) != FileType::RegularFile {
        return left(Lack::Vanished, "something that is no regular file has taken its place");
    }
    // Between the walk and now. What is stored has to be of one moment.
    let metadata = (!same(&before, &job.seen))
        .then(|| Box::new(describer.metadata(&*job.folder, &job.name, &NodeType::File, &before)));
    let has_holes = before.stx_blocks.saturating_mul(512) < before.stx_size;
    let mut content = ingest.content_of(shape_of(&job.name, before.stx_size, has_holes));
    match copy(&file, before.stx_size, &mut content, progress) {
        Ok(changed) => {
            let changed = changed.or_else(|| changed_since(&file, &before));
            Read::Stored { content: content.finish(), metadata, changed }
        }
        Err(Failed::Reading(error)) => left(Lack::Unreadable, error),
        // The ingest has failed as a whole, and says why to whoever waits for this content.
        Err(Failed::Storing) => Read::Stored { content: content.finish(), metadata, changed: None },
    }
}

enum Failed {
    Reading(io::Error),
    Storing,
}

/// Copies as many bytes as the file said it has; says so if it has fewer or more.
fn copy(
    file: &File,
    size: u64,
    content: &mut ContentWriter,
    progress: &Progress,
) -> Result<Option<String>, Failed> {
    let count = match usize::try_from(size) {
        Ok(size) if size <= SMALL_BYTES => {
            let count = copy_small(file, size, content)?;
            progress.add_bytes(count);
            count
        }
        _ => copy_large(file, size, content, progress)?,
    };
    Ok(if count < size {
        Some(format!("it shrank from {size} to {count} bytes"))
    } else if count > size {
        Some(format!("it has more than the {size} bytes of its size"))
    } else {
        None
    })
}

/// With one call and one buffer. One byte more than there should be shows that there are more.
fn copy_small(file: &File, size: usize, content: &mut ContentWriter) -> Result<u64, Failed> {
    let mut buffer = vec![0; size + 1];
    let mut filled = 0;
    while filled < size.max(1) {
        let mut source = file;
        match source.read(buffer.get_mut(filled..).unwrap_or_default()) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Failed::Reading(error)),
        }
    }
    buffer.truncate(filled.min(size));
    content.write_owned(buffer).map_err(|_| Failed::Storing)?;
    Ok(filled as u64)
}

/// Right into the chunks.
fn copy_large(
    file: &File,
    size: u64,
    content: &mut ContentWriter,
    progress: &Progress,
) -> Result<u64, Failed> {
    let mut source = Noting { file, failed: false }.take(size);
    loop {
        match content.read_from(&mut source) {
            Ok(0) => break,
            Ok(count) => progress.add_bytes(count as u64),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if source.get_ref().failed => return Err(Failed::Reading(error)),
            Err(_) => return Err(Failed::Storing),
        }
    }
    let count = size - source.limit();
    // A file that is being written to may have more; the system's own files often say that they are
    // empty.
    let more = count == size && matches!(source.get_mut().read(&mut [0]), Ok(1));
    Ok(count + u64::from(more))
}

/// Remembers whether it was reading that failed.
struct Noting<'a> {
    file: &'a File,
    failed: bool,
}

impl io::Read for Noting<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer);
        self.failed = read.is_err();
        read
    }
}

fn changed_since(file: &File, before: &Statx) -> Option<String> {
    match stat(file) {
        Ok(after) if same(&after, before) => None,
        Ok(after) if after.stx_size != before.stx_size => {
            Some(format!("its size went from {} to {} bytes", before.stx_size, after.stx_size))
        }
        Ok(_) => Some("its times changed".to_owned()),
        Err(errno) => Some(format!("it could not be looked at afterwards: {errno}")),
    }
}

/// The system is asked not to note the reading as an access; it allows that to the owner and root.
fn open(job: &Job) -> Result<File, Errno> {
    // A pipe that has taken the file's place must not make the opening wait for a writer.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let open = |flags| rustix::fs::openat(&*job.folder, &*job.name, flags, Mode::empty());
    let opened = match open(flags | OFlags::NOATIME) {
        Err(Errno::PERM) => open(flags),
        opened => opened,
    };
    opened.map(File::from)
}

fn stat(file: &File) -> Result<Statx, Errno> {
    rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)
}

fn same(left: &Statx, right: &Statx) -> bool {
    let key = |stat: &Statx| {
        let stamp = |time: StatxTimestamp| (time.tv_sec, time.tv_nsec);
        let file = (stat.stx_ino, stat.stx_dev_major, stat.stx_dev_minor, stat.stx_size);
        (file, stamp(stat.stx_mtime), stamp(stat.stx_ctime))
    };
    key(left) == key(right)
}

fn left(lack: Lack, why: impl std::fmt::Display) -> Read {
    Read::Left { lack, why: why.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restic::ingest::IngestOptions;
    use crate::restic::repository::Repository;
    use crate::storage::LocalStorage;

    #[test]
    fn attributes_of_a_file_that_changed_since_the_walk_are_not_lost_without_a_word() {
        use std::os::unix::ffi::OsStringExt as _;
        let folder = tempfile::tempdir().unwrap();
        let storage = Arc::new(LocalStorage::create(&folder.path().join("repo")).unwrap());
        let repository = Repository::init(storage, b"x").unwrap();
        let ingest =
            Ingest::new(Arc::new(repository), Arc::default(), IngestOptions::default()).unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "as the walk saw it").unwrap();
        let seen = stat(&File::open(&path).unwrap()).unwrap();
        std::fs::write(&path, "as it is by now").unwrap();
        let attribute = OsString::from_vec(b"user.\xff".to_vec());
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(&path, &attribute, b"1", flags).unwrap();
        let above = Arc::new(File::open(folder.path()).unwrap().into());
        let (reply, _read) = std::sync::mpsc::sync_channel(1);
        let job = Job { folder: above, name: "file".into(), seen, reply };
        let Read::Stored { metadata: Some(described), changed: None, .. } =
            read(&job, &ingest, &mut Describer::new(false), &Progress::default())
        else {
            panic!("it can be read, and is another one than before");
        };
        let (metadata, problems) = *described;
        assert_eq!(metadata.size, 15);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].contains("user.\\xff"), "{problems:?}");
    }

    #[test]
    fn a_file_of_another_length_than_it_said_is_told() {
        use std::io::{Seek as _, Write as _};
        let folder = tempfile::tempdir().unwrap();
        let storage = Arc::new(LocalStorage::create(&folder.path().join("repo")).unwrap());
        let repository = Arc::new(Repository::init(storage, b"x").unwrap());
        let ingest = Ingest::new(repository, Arc::default(), IngestOptions::default()).unwrap();
        for length in [0, 1, 1000, SMALL_BYTES, 4 * SMALL_BYTES] {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&vec![7; length]).unwrap();
            let length = length as u64;
            let copied = |size: u64| {
                (&file).rewind().unwrap();
                let mut content = ingest.content();
                let changed = copy(&file, size, &mut content, &Progress::default())
                    .unwrap_or_else(|_| panic!("fails"));
                (content.finish().wait().unwrap().size, changed.unwrap_or_default())
            };
            assert_eq!(copied(length), (length, String::new()));
            let (count, fewer) = copied(length + 5);
            assert_eq!((count, fewer.contains(&format!("to {length} bytes"))), (length, true));
            let (count, fewer) = copied(length + (1 << 20));
            assert_eq!((count, fewer.contains(&format!("to {length} bytes"))), (length, true));
            if length > 0 {
                let (count, more) = copied(length - 1);
                assert_eq!((count, more.contains("more than the")), (length - 1, true));
            }
        }
    }
}
