//! Reads an export that the server writes to a disk of this machine while it is being written.
//!
//! Incus before 6.0.6 sends an export only when all of it is on its disk. Where that disk is ours and
//! we may read it, there is no need to wait. Whether what was read is what the server would have sent
//! is for the caller to ask.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};
use stapes_core::item::ItemId;
use tokio::fs::File;
use tokio::io::AsyncReadExt as _;
use tokio::sync::watch;

use super::Shared;

/// One read.
const READ_BYTES: usize = 256 * 1024;
/// How often a file that has nothing new is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(4);

/// How far the writing of an export is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Writing {
    /// It goes on.
    On,
    /// All of it is there.
    Whole,
    /// It failed; whoever wrote it says why.
    Failed,
}

/// Where the server writes an export, if that is on this machine and we may look.
///
/// The places are those of Incus 6.0; where they are others, nothing is found and nothing lost.
pub(crate) fn place(shared: &Shared<'_>, id: &ItemId, name: &str) -> Option<PathBuf> {
    if shared.about.config.contains_key("storage.backups_volume") {
        return None;
    }
    let socket = Path::new(shared.client.label().strip_prefix("unix:")?);
    let spool = socket.parent()?.join("backups");
    // Only who may look into it can wait for a file in it.
    std::fs::read_dir(&spool).ok()?;
    let project = id.project();
    Some(match id {
        ItemId::Instance { name: instance, .. } if project.is_default() => {
            spool.join("instances").join(instance.as_str()).join(name)
        }
        ItemId::Instance { name: instance, .. } => {
            spool.join("instances").join(format!("{project}_{instance}")).join(name)
        }
        ItemId::Volume { pool, name: volume, .. } => {
            let volume = format!("{project}_{volume}");
            spool.join("custom").join(pool.as_str()).join(volume).join(name)
        }
    })
}

/// The bytes of a file from its first to its last, as they come.
pub(crate) fn follow(
    path: PathBuf,
    writing: watch::Receiver<Writing>,
) -> impl Stream<Item = Result<Bytes, String>> + Send {
    let begin = Follow { path, writing, file: None };
    stream::unfold(Some(begin), |follow| async move {
        let mut follow = follow?;
        match follow.next().await {
            Ok(Some(bytes)) => Some((Ok(bytes), Some(follow))),
            Ok(None) => None,
            Err(cause) => Some((Err(cause), None)),
        }
    })
}

struct Follow {
    path: PathBuf,
    writing: watch::Receiver<Writing>,
    file: Option<File>,
}

impl Follow {
    async fn next(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            // Asked before the file is read: what was written by then is read by what follows.
            let writing = self.writing.borrow().clone();
            if writing == Writing::Failed {
                return Err("the server did not finish the export".to_owned());
            }
            if let Some(bytes) = self.read().await.map_err(|error| self.cannot(&error))? {
                return Ok(Some(bytes));
            }
            if writing == Writing::Whole {
                return Ok(None);
            }
            // The writer may be gone without a word; then the caller's own wait has ended, too.
            drop(tokio::time::timeout(LOOK_AGAIN, self.writing.changed()).await);
        }
    }

    /// What is new in the file; none if there is nothing, or no file yet.
    async fn read(&mut self) -> io::Result<Option<Bytes>> {
        let file = match &mut self.file {
            Some(file) => file,
            None => match File::open(&self.path).await {
                Ok(file) => self.file.insert(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            },
        };
        let mut buffer = BytesMut::with_capacity(READ_BYTES);
        let count = file.read_buf(&mut buffer).await?;
        Ok((count > 0).then(|| buffer.freeze()))
    }

    fn cannot(&self, error: &io::Error) -> String {
        format!("cannot read what the server writes to {}: {error}", self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use futures_util::StreamExt as _;

    use super::*;

    #[tokio::test]
    async fn a_file_is_read_to_its_last_byte_whenever_it_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("export");
        let (say, writing) = watch::channel(Writing::On);
        let writer = {
            let path = path.clone();
            tokio::task::spawn_blocking(move || {
                std::thread::sleep(Duration::from_millis(20));
                let mut file = std::fs::File::create(path).unwrap();
                for part in 0..50_u8 {
                    file.write_all(&[part; 1000]).unwrap();
                    std::thread::sleep(Duration::from_millis(1));
                }
                say.send(Writing::Whole).unwrap();
            })
        };
        let read: Vec<_> = follow(path, writing).collect().await;
        writer.await.unwrap();
        let bytes: Vec<u8> = read.into_iter().flat_map(|part| part.unwrap().to_vec()).collect();
        let expected: Vec<u8> = (0..50_u8).flat_map(|part| [part; 1000]).collect();
        assert!(bytes == expected);
    }

    #[tokio::test]
    async fn an_export_that_fails_is_no_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("export");
        std::fs::write(&path, "half").unwrap();
        let (say, writing) = watch::channel(Writing::On);
        let mut stream = Box::pin(follow(path, writing));
        assert_eq!(stream.next().await.unwrap().unwrap(), "half");
        say.send(Writing::Failed).unwrap();
        assert!(stream.next().await.unwrap().is_err());
        assert!(stream.next().await.is_none());
    }
}
