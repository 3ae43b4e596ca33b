//! Who may use a repository at the same time: writers of backups and readers together, thinning alone.
//!
//! The lock is an `flock` on the file `.lock`, which the kernel releases when its owner dies. It keeps
//! processes apart that see the same file system with working locks; where there are none, the lock
//! says so and keeps nobody out. It waits for nobody.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::io::Errno;

use super::repository::{LOCK, Repository};
use crate::error::{Error, Result};

/// A lock on a repository, held until it is dropped.
#[derive(Debug)]
pub struct Lock {
    _file: Option<File>,
    warning: Option<String>,
}

impl Lock {
    /// Why it keeps nobody out, if it does not.
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }
}

impl Repository {
    /// For those that read backups and write new ones.
    ///
    /// # Errors
    /// `Locked` if somebody thins the repository now.
    pub fn lock_shared(&self) -> Result<Lock> {
        self.lock(false)
    }

    /// For those that remove backups.
    ///
    /// # Errors
    /// `Locked` if somebody uses the repository now; `ReadOnly` if nothing can be removed anyway.
    pub fn lock_exclusive(&self) -> Result<Lock> {
        self.lock(true)
    }

    fn lock(&self, exclusive: bool) -> Result<Lock> {
        let path = self.root().join(LOCK);
        let file = match open(&path) {
            Ok(file) => file,
            // Who can only read disturbs nobody but somebody that thins.
            Err(_) if !exclusive => match File::open(&path) {
                Ok(file) => file,
                Err(error) => return Ok(without_lock(&path, &error)),
            },
            Err(error) => return Err(Error::file("open the lock", &path)(error)),
        };
        let locked = if exclusive { file.try_lock() } else { file.try_lock_shared() };
        match locked {
            Ok(()) => Ok(Lock { _file: Some(file), warning: None }),
            Err(TryLockError::WouldBlock) => Err(Error::Locked {
                path: self.root().to_owned(),
                why: if exclusive {
                    "a backup, restore, verification or thinning uses it now"
                } else {
                    "it is being thinned now"
                },
            }),
            Err(TryLockError::Error(error)) if has_no_locks(&error) => {
                Ok(without_lock(&path, &error))
            }
            Err(TryLockError::Error(error)) => Err(Error::file("lock", &path)(error)),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn has_no_locks(error: &io::Error) -> bool {
    let known = [Errno::NOLCK, Errno::OPNOTSUPP, Errno::NOSYS, Errno::INVAL];
    Errno::from_io_error(error).is_some_and(|number| known.contains(&number))
}

fn without_lock(path: &Path, error: &io::Error) -> Lock {
    let path = path.display();
    let warning =
        format!("{path} could not be locked ({error}): nothing keeps others from thinning");
    Lock { _file: None, warning: Some(warning) }
}
