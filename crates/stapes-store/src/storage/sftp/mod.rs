//! A repository on a machine that is reached by SFTP, through the program `ssh`, so that its
//! configuration, keys, agents and known hosts are those of every other connection.
//!
//! A file is written under a temporary name, synced where the server can, and renamed. SFTP's rename
//! should not replace, and some servers do all the same, so that it is looked before. It keeps one connection and opens another one when that has broken; it does not
//! repeat what failed with it.

#[cfg(test)]
mod fake;
mod protocol;
mod requests;
mod session;

use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use protocol::{Attributes, Body, Reply};
use requests::{done, file_system, make_folder, path_body, read_all, unexpected, write_all};
use session::{PATIENCE, Session};

use super::{
    Cause, Entry, Failure, SftpLocation, Storage, check_size, length_of, name, settle_existing,
};
use crate::error::{Error, Result};

/// How many folders are listed at a time.
const LISTERS: usize = 8;

/// A repository on a machine that is reached by SFTP.
#[derive(Debug)]
pub struct SftpStorage {
    location: SftpLocation,
    command: Vec<String>,
    session: Mutex<Option<Arc<Session>>>,
    /// Part of the temporary names, so that those of two machines differ.
    writer: String,
    patience: Duration,
}

impl SftpStorage {
    /// Connects, and looks whether the folder is there.
    ///
    /// `command` is the program to run in the place of `ssh`, with arguments; it may be empty.
    ///
    /// # Errors
    /// [`Error::NoRepository`] if there is no such folder; [`Error::Storage`] if the server cannot be
    /// reached ([`Cause::Temporary`]) or does not let us in ([`Cause::Denied`]).
    pub fn open(location: &SftpLocation, command: &[String]) -> Result<Self> {
        let storage = Self::new(location, command);
        let found = storage.session().and_then(|session| storage.look(&session, ""));
        match found.map_err(|failure| Error::storage("open", &storage.label(), failure))? {
            Some(attributes) if attributes.is_folder() => Ok(storage),
            Some(_) => Err(storage.no_repository("it is not a folder")),
            None => Err(storage.no_repository("there is no such folder")),
        }
    }

    /// Connects, and makes the folder of a new repository with those above it and those in it.
    ///
    /// # Errors
    /// As [`SftpStorage::open`], and [`Error::Storage`] if a folder cannot be made.
    pub fn create(location: &SftpLocation, command: &[String]) -> Result<Self> {
        let storage = Self::new(location, command);
        let path = location.path.trim_end_matches('/').to_owned();
        let above = path.match_indices('/').filter(|(index, _)| *index > 0);
        let made = storage.session().and_then(|session| {
            for (index, _) in above {
                make_folder(&session, path.get(..index).unwrap_or_default())?;
            }
            make_folder(&session, &path)?;
            name::FOLDERS
                .into_iter()
                .try_for_each(|name| make_folder(&session, &storage.path(name)))
        });
        made.map_err(|failure| Error::storage("make the folders of", &storage.label(), failure))?;
        Ok(storage)
    }

    fn new(location: &SftpLocation, command: &[String]) -> Self {
        // Unique enough without a clock or a source of randomness of our own: the standard library
        // seeds its hashers from the system's.
        let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
        Self {
            location: location.clone(),
            command: command.to_vec(),
            session: Mutex::new(None),
            writer: format!("{random:016x}"),
            patience: PATIENCE,
        }
    }

    fn no_repository(&self, why: &str) -> Error {
        Error::NoRepository { path: self.label().into(), why: why.to_owned() }
    }

    /// The connection, or a new one if it has broken.
    fn session(&self) -> Result<Arc<Session>, Failure> {
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = session.as_ref().filter(|session| session.is_alive()) {
            return Ok(Arc::clone(session));
        }
        *session = None;
        let new = Arc::new(Session::connect(&self.command, &self.location, self.patience)?);
        *session = Some(Arc::clone(&new));
        Ok(new)
    }

    fn path(&self, name: &str) -> String {
        let folder = self.location.path.trim_end_matches('/');
        match (folder, name) {
            ("", "") => "/".to_owned(),
            (folder, "") => folder.to_owned(),
            (folder, name) => format!("{folder}/{name}"),
        }
    }

    fn what(&self, name: &str) -> String {
        format!("{name} in {}", self.label())
    }

    fn look(&self, session: &Session, name: &str) -> Result<Option<Attributes>, Failure> {
        // Through links: the folder of the repository may be one.
        match session.ask(protocol::LSTAT, &path_body(&self.path(name)))? {
            Reply::Attributes(attributes) if name.is_empty() && !attributes.is_folder() => {
                let trailing = path_body(&format!("{}/.", self.path("")));
                match session.ask(protocol::LSTAT, &trailing)? {
                    Reply::Attributes(attributes) => Ok(Some(attributes)),
                    _ => Ok(Some(attributes)),
                }
            }
            Reply::Attributes(attributes) => Ok(Some(attributes)),
            Reply::Missing => Ok(None),
            reply => Err(unexpected(reply)),
        }
    }

    /// Calls `read` with the handle of an opened file and its size, and closes it.
    fn with_file<T>(
        &self,
        name: &str,
        read: impl FnOnce(&Session, &[u8], u64) -> Result<Result<T, Failure>>,
    ) -> Result<T> {
        name::split(name)?;
        let failed = |failure| Error::storage("read", &self.what(name), failure);
        let session = self.session().map_err(failed)?;
        let body = path_body(&self.path(name)).number(protocol::OPEN_READ).number(0);
        let handle = match session.ask(protocol::OPEN, &body).map_err(failed)? {
            Reply::Handle(handle) => handle,
            Reply::Missing => return Err(Error::NotFound { what: self.what(name) }),
            reply => return Err(failed(unexpected(reply))),
        };
        let body = Body::default().string(&handle);
        let result = match session.ask(protocol::FSTAT, &body).map_err(failed)? {
            Reply::Attributes(Attributes { size: Some(size), .. }) => read(&session, &handle, size),
            Reply::Attributes(_) => Ok(Err(protocol::garbled())),
            reply => Ok(Err(unexpected(reply))),
        };
        // A file that was only read is closed for nobody but the server.
        drop(session.ask(protocol::CLOSE, &body));
        result?.map_err(failed)
    }

    /// Writes a file under a temporary name and gives it its own.
    /// `false`: there is a file of that name already, which was not touched.
    fn write(&self, folder: &str, file: &str, content: &[&[u8]]) -> Result<bool, Failure> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let session = self.session()?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let beside = format!("{file}{}{}-{number}", name::TEMPORARY, self.writer);
        let at = |file: &str| self.path(format!("{folder}/{file}").trim_start_matches('/'));
        let (beside, named) = (at(&beside), at(file));
        let open = path_body(&beside).number(protocol::OPEN_NEW).mode(0o600);
        let mut opened = session.ask(protocol::OPEN, &open)?;
        if opened == Reply::Missing {
            if let Some((above, _)) = folder.rsplit_once('/') {
                make_folder(&session, &self.path(above))?;
            }
            make_folder(&session, &self.path(folder))?;
            opened = session.ask(protocol::OPEN, &open)?;
        }
        let handle = match opened {
            Reply::Handle(handle) => handle,
            reply => return Err(self.explained(&session, unexpected(reply))),
        };
        let written = write_all(&session, &handle, content);
        let closed = session.ask(protocol::CLOSE, &Body::default().string(&handle));
        let renamed = written
            .and_then(|()| done(closed?))
            .and_then(|()| self.rename(&session, &beside, &named));
        match renamed {
            Ok(true) => Ok(true),
            other => {
                // Best effort: `sweep` removes what is left.
                drop(session.ask(protocol::REMOVE, &path_body(&beside)));
                other.map_err(|failure| self.explained(&session, failure))
            }
        }
    }

    /// `false`: there is a file of that name already.
    fn rename(&self, session: &Session, from: &str, to: &str) -> Result<bool, Failure> {
        let exists = || match session.ask(protocol::LSTAT, &path_body(to))? {
            Reply::Attributes(_) => Ok(true),
            Reply::Missing => Ok(false),
            reply => Err(unexpected(reply)),
        };
        // Not every server keeps to it that a rename replaces nothing. What comes between the two is
        // the same file, as names are hashes of the content; for the one that is none, the making of a
        // repository looks for others by itself.
        if exists()? {
            return Ok(false);
        }
        let body = path_body(from).string(to.as_bytes());
        let failed = match session.ask(protocol::RENAME, &body)? {
            Reply::Done => return Ok(true),
            reply => unexpected(reply),
        };
        if exists()? {
            return Ok(false);
        }
        // Some servers rename by linking, on file systems that cannot link.
        if !session.abilities().posix_rename {
            return Err(failed);
        }
        let body = Body::default()
            .string(b"posix-rename@openssh.com")
            .string(from.as_bytes())
            .string(to.as_bytes());
        done(session.ask(protocol::EXTENDED, &body)?).map(|()| true)
    }

    /// Finds out what is behind a failure that SFTP has no number for.
    fn explained(&self, session: &Session, failure: Failure) -> Failure {
        if failure.cause() != Cause::Other || !session.abilities().free_space {
            return failure;
        }
        match file_system(session, &self.path("")) {
            Ok(room) if room.is_read_only => {
                let why = format!("{failure}: the file system is read-only");
                Failure::new(Cause::ReadOnly, why)
            }
            // Less than a pack, or no file more.
            Ok(room) if room.has_no_files || room.free_bytes < 1 << 20 => {
                Failure::new(Cause::Full, format!("{failure}: the file system is full"))
            }
            _ => failure,
        }
    }

    /// The regular files and the folders of a folder that may not be there.
    fn read_folder(
        &self,
        session: &Session,
        folder: &str,
    ) -> Result<Vec<(String, Attributes)>, Failure> {
        let handle = match session.ask(protocol::OPENDIR, &path_body(&self.path(folder)))? {
            Reply::Handle(handle) => handle,
            Reply::Missing => return Ok(Vec::new()),
            reply => return Err(unexpected(reply)),
        };
        let handle = Body::default().string(&handle);
        let mut found = Vec::new();
        let read = loop {
            match session.ask(protocol::READDIR, &handle)? {
                Reply::Names(names) if !names.is_empty() => {
                    // A name that is not text is none of ours.
                    let texts = names
                        .into_iter()
                        .filter_map(|(name, about)| Some((String::from_utf8(name).ok()?, about)));
                    found.extend(texts);
                }
                Reply::Names(_) => break Err(protocol::garbled()),
                Reply::End => break Ok(found),
                reply => break Err(unexpected(reply)),
            }
        };
        drop(session.ask(protocol::CLOSE, &handle));
        read
    }

    /// All files of a folder, also temporary ones: `data/5c`, `5c65…`.
    fn walk(&self, folder: &str) -> Result<Vec<(String, String, Attributes)>, Failure> {
        let session = self.session()?;
        let mut files = Vec::new();
        let mut shards = Vec::new();
        for (file, about) in self.read_folder(&session, folder)? {
            if about.is_regular() {
                files.push((folder.to_owned(), file, about));
            } else if folder == "data" && name::is_shard(&file) {
                shards.push(format!("data/{file}"));
            }
        }
        let next = AtomicUsize::new(0);
        let list = || -> Result<Vec<(String, String, Attributes)>, Failure> {
            let mut files = Vec::new();
            while let Some(shard) = shards.get(next.fetch_add(1, Ordering::Relaxed)) {
                let found = self.read_folder(&session, shard)?;
                let regular = found.into_iter().filter(|(_, about)| about.is_regular());
                files.extend(regular.map(|(file, about)| (shard.clone(), file, about)));
            }
            Ok(files)
        };
        let listed: Vec<_> = thread::scope(|scope| {
            let listers: Vec<_> =
                (0..LISTERS.min(shards.len())).map(|_| scope.spawn(list)).collect();
            listers.into_iter().map(thread::ScopedJoinHandle::join).collect()
        });
        for listed in listed {
            let panicked = |_| Failure::new(Cause::Other, "a thread that listed it has panicked");
            files.extend(listed.map_err(panicked)??);
        }
        Ok(files)
    }
}

impl Storage for SftpStorage {
    fn put(&self, name: &str, content: &[&[u8]]) -> Result<()> {
        let (folder, file) = name::split(name)?;
        let written = self
            .write(folder, file, content)
            .map_err(|failure| Error::storage("store", &self.what(name), failure))?;
        if written { Ok(()) } else { settle_existing(self, name, content) }
    }

    fn get(&self, name: &str) -> Result<Vec<u8>> {
        self.with_file(name, |session, handle, size| {
            check_size(&self.what(name), size)?;
            Ok(read_all(session, handle, &(0..size)))
        })
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        self.with_file(name, |session, handle, size| {
            Ok(length_of(&range, size).and_then(|_| read_all(session, handle, &range)))
        })
    }

    fn stat(&self, name: &str) -> Result<Option<u64>> {
        name::split(name)?;
        let failed = |failure| Error::storage("look at", &self.what(name), failure);
        let found = self.session().and_then(|session| self.look(&session, name)).map_err(failed)?;
        match found {
            None => Ok(None),
            Some(Attributes { size: Some(size), .. }) => Ok(Some(size)),
            Some(_) => Err(failed(protocol::garbled())),
        }
    }

    fn list(&self, folder: &str) -> Result<Vec<Entry>> {
        name::check_folder(folder)?;
        let failed = |failure| Error::storage("list", &self.what(folder), failure);
        let mut entries = Vec::new();
        for (_, name, about) in self.walk(folder).map_err(failed)? {
            if name::is_whole(&name) {
                let size = about.size.ok_or_else(|| failed(protocol::garbled()))?;
                entries.push(Entry { name, size });
            }
        }
        Ok(entries)
    }

    fn delete(&self, name: &str) -> Result<()> {
        name::split(name)?;
        let failed = |failure| Error::storage("remove", &self.what(name), failure);
        let session = self.session().map_err(failed)?;
        match session.ask(protocol::REMOVE, &path_body(&self.path(name))).map_err(failed)? {
            Reply::Missing => Err(Error::NotFound { what: self.what(name) }),
            reply => done(reply).map_err(|failure| failed(self.explained(&session, failure))),
        }
    }

    fn label(&self) -> String {
        self.location.to_string()
    }

    fn free_bytes(&self) -> Result<Option<u64>> {
        let failed = |failure| Error::storage("ask for the free space of", &self.label(), failure);
        let session = self.session().map_err(failed)?;
        if !session.abilities().free_space {
            return Ok(None);
        }
        let room = file_system(&session, &self.path("")).map_err(failed)?;
        Ok(Some(room.free_bytes))
    }

    fn sweep(&self, before: SystemTime) -> Result<u64> {
        let before = before.duration_since(UNIX_EPOCH).unwrap_or_default();
        let old = |about: &Attributes| {
            about.modified.is_some_and(|time| Duration::from_secs(time.into()) < before)
        };
        let mut removed = 0;
        for folder in name::FOLDERS.into_iter().chain([""]) {
            let failed = |failure| Error::storage("sweep", &self.what(folder), failure);
            let session = self.session().map_err(failed)?;
            for (folder, file, about) in self.walk(folder).map_err(failed)? {
                if file.contains(name::TEMPORARY) && old(&about) {
                    let path = self.path(format!("{folder}/{file}").trim_start_matches('/'));
                    let reply = session.ask(protocol::REMOVE, &path_body(&path));
                    reply.and_then(done).map_err(failed)?;
                    removed += 1;
                }
            }
        }
        Ok(removed)
    }
}
