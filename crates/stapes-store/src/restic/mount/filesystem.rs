//! The questions of the kernel, put to a [`View`] and answered.
//!
//! Nothing ever changes, so the kernel may keep every answer. Reports, waiting and finding things out
//! are elsewhere; what the kernel asks is written down here.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;
use std::time::Duration;

use fuser::{
    AccessFlags, Errno, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyXattr, Request,
};

use super::view::{Result, View};

/// For how long the kernel may believe an answer: it stays true.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// Numbers are not used twice.
const FIRST: Generation = Generation(0);

/// See the module's documentation.
pub(super) struct Kernel {
    pub(super) view: Arc<View>,
    /// Whether the kernel decides who may read what, and reads ACLs for that.
    pub(super) checks_access: bool,
}

impl Filesystem for Kernel {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let mut wanted = InitFlags::FUSE_CACHE_SYMLINKS | InitFlags::FUSE_PARALLEL_DIROPS;
        if self.checks_access {
            // Without them, the bits of the group would give it what an ACL gives to somebody else.
            wanted |= InitFlags::FUSE_POSIX_ACL;
        }
        // An older kernel knows fewer, and asks more often.
        let known = wanted & config.capabilities();
        config.add_capabilities(known).map_err(|_| io::ErrorKind::Unsupported)?;
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.view.look_up(parent.0, name) {
            Ok(attributes) => reply.entry(&FOR_EVER, &attributes, FIRST),
            Err(errno) => reply.error(errno),
        }
    }

    fn forget(&self, _: &Request, number: INodeNo, lookups: u64) {
        self.view.inodes.forget(number.0, lookups);
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.view.attributes(number.0) {
            Ok(attributes) => reply.attr(&FOR_EVER, &attributes),
            Err(errno) => reply.error(errno),
        }
    }

    fn readlink(&self, _: &Request, number: INodeNo, reply: ReplyData) {
        match self.view.target(number.0) {
            Ok(target) => reply.data(target.as_bytes()),
            Err(errno) => reply.error(errno),
        }
    }

    fn open(&self, _: &Request, number: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.view.open(number.0) {
            Ok(opened) => reply.opened(FileHandle(opened), FopenFlags::FOPEN_KEEP_CACHE),
            Err(errno) => reply.error(errno),
        }
    }

    fn read(
        &self,
        _: &Request,
        number: INodeNo,
        opened: FileHandle,
        offset: u64,
        length: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.view.read(number.0, opened.0, offset, length) {
            Ok(bytes) => reply.data(&bytes),
            Err(errno) => reply.error(errno),
        }
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        opened: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.view.close(opened.0);
        reply.ok();
    }

    fn opendir(&self, _: &Request, number: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let flags = FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE;
        match self.view.open_folder(number.0) {
            Ok(opened) => reply.opened(FileHandle(opened), flags),
            Err(errno) => reply.error(errno),
        }
    }

    fn readdir(
        &self,
        _: &Request,
        number: INodeNo,
        opened: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        match self.fill(number.0, opened.0, offset, &mut reply) {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn releasedir(
        &self,
        _: &Request,
        _: INodeNo,
        opened: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.view.close_folder(opened.0);
        reply.ok();
    }

    fn getxattr(&self, _: &Request, number: INodeNo, name: &OsStr, room: u32, reply: ReplyXattr) {
        answer(reply, room, self.view.attribute(number.0, name));
    }

    fn listxattr(&self, _: &Request, number: INodeNo, room: u32, reply: ReplyXattr) {
        answer(reply, room, self.view.attribute_names(number.0));
    }

    /// Asked where the kernel does not check by itself: only who mounted it gets here, and may.
    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        reply.ok();
    }
}

impl Kernel {
    /// Lists a folder from an offset on, until the answer is full. The offset of an entry is the number
    /// of those up to it.
    fn fill(
        &self,
        number: u64,
        opened: u64,
        offset: u64,
        reply: &mut ReplyDirectory,
    ) -> Result<()> {
        let listing = self.view.listing(opened)?;
        let first = usize::try_from(offset).map_err(|_| Errno::EINVAL)?;
        for at in first.. {
            let (number, kind, name) = match at {
                0 => (number, FileType::Directory, OsStr::new(".")),
                1 => (self.view.parent(number)?, FileType::Directory, OsStr::new("..")),
                _ => match self.view.entry(&listing, at - 2) {
                    Some(entry) => entry,
                    None => break,
                },
            };
            if reply.add(INodeNo(number), at as u64 + 1, kind, name) {
                break;
            }
        }
        Ok(())
    }
}

/// Gives out an extended attribute, or its length if no room is offered.
fn answer(reply: ReplyXattr, room: u32, bytes: Result<Vec<u8>>) {
    match bytes {
        Ok(bytes) if room == 0 => match u32::try_from(bytes.len()) {
            Ok(length) => reply.size(length),
            Err(_) => reply.error(Errno::E2BIG),
        },
        Ok(bytes) if bytes.len() as u64 <= u64::from(room) => reply.data(&bytes),
        Ok(_) => reply.error(Errno::ERANGE),
        Err(errno) => reply.error(errno),
    }
}
