//! [`MountPoint`]: a folder that the kernel asks us about, from mounting to unmounting.
//!
//! As root the system is asked directly; where it does not allow that, `fusermount3` is, which belongs
//! to the package `fuse3`. Who answers the kernel is for [`super::filesystem`].
//!
//! If the machine dies, nothing remains. If only this process is killed, the mount remains and answers
//! «Transport endpoint is not connected»; `fusermount3 -u` or `umount` clears it, and [`mount`] says so
//! when it finds one.

use std::ffi::{CString, OsString};
use std::fs;
use std::io::{self, IoSliceMut, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::PoisonError;

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use crate::error::{Error, Result};

const DEVICE: &str = "/dev/fuse";
/// What lists of mounts show.
const SOURCE: &str = "stapes";
const MOUNTS: &str = "/proc/self/mountinfo";
/// The program that mounts for users, and what it was called before.
const HELPERS: [&str; 2] = ["fusermount3", "fusermount"];

/// A mount.
#[derive(Debug)]
pub(super) struct MountPoint {
    at: PathBuf,
    /// The kernel's number of the mount, as long as it is there for all we know.
    id: Mutex<Option<u64>>,
}

/// How to mount.
#[derive(Clone, Copy, Debug)]
pub(super) struct How {
    pub(super) allow_other: bool,
    pub(super) checks_access: bool,
}

/// Mounts at an empty folder; the kernel's questions come from the descriptor, and whoever looks there
/// waits for answers.
pub(super) fn mount(at: &Path, how: How) -> Result<(OwnedFd, MountPoint)> {
    let at = check(at)?;
    let device = match mount_directly(&at, how) {
        Ok(device) => device,
        Err(Errno::PERM | Errno::ACCESS) => mount_with_helper(&at, how)?,
        Err(Errno::NOENT | Errno::NODEV | Errno::NXIO) => {
            let why = "this system has no FUSE: «modprobe fuse» brings it; a container needs the \
                       device /dev/fuse";
            return Err(refused(&at, why));
        }
        Err(errno) => return Err(Error::file("mount at", &at)(errno.into())),
    };
    let id = Mutex::new(mount_id(&at));
    Ok((device, MountPoint { at, id }))
}

impl MountPoint {
    pub(super) fn at(&self) -> &Path {
        &self.at
    }

    /// Takes the mount away, also while programs use it: these go on with what they have open.
    pub(super) fn unmount(&self) -> Result<()> {
        let mut id = self.id.lock().unwrap_or_else(PoisonError::into_inner);
        // Somebody else may have unmounted it, and mounted something else.
        if id.is_none() || mount_id(&self.at) != *id {
            *id = None;
            return Ok(());
        }
        match rustix::mount::unmount(&self.at, UnmountFlags::DETACH) {
            Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
            Err(Errno::PERM) => unmount_with_helper(&self.at)?,
            Err(errno) => return Err(Error::file("unmount", &self.at)(errno.into())),
        }
        *id = None;
        Ok(())
    }
}

fn refused(at: &Path, why: impl Into<String>) -> Error {
    Error::refused(format!("mounting at {}", at.display()), why)
}

/// The folder as the kernel calls it, if something can be mounted there.
fn check(at: &Path) -> Result<PathBuf> {
    let dead = |error: io::Error| match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOTCONN) => {
            let path = at.display();
            let why = format!(
                "the mount of a dead process is there; «fusermount3 -u {path}» or «umount {path}» \
                 clears it"
            );
            refused(at, why)
        }
        Some(Errno::NOENT) => refused(at, "it does not exist; make an empty folder there"),
        _ => Error::file("mount at", at)(error),
    };
    let real = fs::canonicalize(at).map_err(dead)?;
    if !fs::metadata(&real).map_err(dead)?.is_dir() {
        return Err(refused(at, "it is no folder; make an empty one"));
    }
    if fs::read_dir(&real).map_err(dead)?.next().is_some() {
        return Err(refused(at, "it is not empty, and a mount would hide what is in it"));
    }
    Ok(real)
}

fn mount_directly(at: &Path, how: How) -> Result<OwnedFd, Errno> {
    use rustix::fs::{Mode, OFlags};
    let device = rustix::fs::open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let descriptor = device.as_raw_fd();
    let mut data = format!("fd={descriptor},rootmode=40000,user_id={user},group_id={group}");
    for (wanted, option) in options(how) {
        if wanted {
            data.push(',');
            data.push_str(option);
        }
    }
    let data = CString::new(data).map_err(|_| Errno::INVAL)?;
    let flags = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOATIME;
    rustix::mount::mount(SOURCE, at, "fuse.stapes", flags, &*data)?;
    Ok(device)
}

fn options(how: How) -> [(bool, &'static str); 2] {
    [(how.checks_access, "default_permissions"), (how.allow_other, "allow_other")]
}

/// Has `fusermount3` mount. It hands the descriptor back over a socket, which is its standard input.
fn mount_with_helper(at: &Path, how: How) -> Result<OwnedFd> {
    let failed = |doing| Error::file(doing, at);
    let (ours, theirs) = UnixStream::pair().map_err(failed("make a socket for mounting at"))?;
    let mut arguments = "ro,nodev,nosuid,noatime,fsname=stapes,subtype=stapes".to_owned();
    for (wanted, option) in options(how) {
        if wanted {
            arguments.push(',');
            arguments.push_str(option);
        }
    }
    let run = |program: &str| -> io::Result<_> {
        let mut command = Command::new(program);
        command.env("_FUSE_COMMFD", "0").arg("-o").arg(&arguments).arg("--").arg(at);
        command.stdin(OwnedFd::from(theirs.try_clone()?));
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()
    };
    let mut child = first_helper(at, run)?;
    drop(theirs);
    let received = receive(&ours);
    let mut said = String::new();
    if let Some(stderr) = child.stderr.take() {
        // What it says is of use only if it has failed, and then it is short.
        drop(stderr.take(4096).read_to_string(&mut said));
    }
    let ended = child.wait().map_err(failed("wait for fusermount3 at"))?;
    match received {
        Ok(Some(device)) if ended.success() => Ok(device),
        Err(errno) => Err(failed("mount with fusermount3 at")(errno.into())),
        _ if said.contains("user_allow_other") => {
            let why =
                "other users may look only if the line «user_allow_other» is in /etc/fuse.conf";
            Err(refused(at, why))
        }
        _ => Err(refused(at, format!("fusermount3 says: {}", said.trim().escape_debug()))),
    }
}

/// Runs the first of the helpers that is installed.
fn first_helper<T>(at: &Path, run: impl Fn(&str) -> io::Result<T>) -> Result<T> {
    for program in HELPERS {
        match run(program) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            started => return started.map_err(Error::file("run fusermount3 for", at)),
        }
    }
    Err(refused(at, "only root may mount without fusermount3, which is in the package fuse3"))
}

/// The descriptor that comes over a socket, if one comes.
fn receive(socket: &UnixStream) -> Result<Option<OwnedFd>, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message {
            return Ok(descriptors.next());
        }
    }
    Ok(None)
}

fn unmount_with_helper(at: &Path) -> Result<()> {
    let output = first_helper(at, |program| {
        Command::new(program).args(["-u", "-z", "--"]).arg(at).stdin(Stdio::null()).output()
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let why = format!("fusermount3 says: {}", said.trim().escape_debug());
    Err(Error::refused(format!("unmounting {}", at.display()), why))
}

/// The number of the uppermost mount at a folder.
fn mount_id(at: &Path) -> Option<u64> {
    let mounts = fs::read(MOUNTS).ok()?;
    mounts.split(|byte| *byte == b'\n').rev().find_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let id = fields.next()?;
        let is_here = unescaped(fields.nth(3)?) == at.as_os_str();
        is_here.then(|| std::str::from_utf8(id).ok()?.parse().ok()).flatten()
    })
}

/// A path of the list, in which spaces and their kin are octal numbers.
fn unescaped(field: &[u8]) -> OsString {
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, behind)) = rest.split_first() {
        let octal = behind.get(..3).filter(|_| *first == b'\\');
        let octal = octal.and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(byte) = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            path.push(byte);
            rest = behind.get(3..).unwrap_or_default();
        } else {
            path.push(*first);
            rest = behind;
        }
    }
    OsString::from_vec(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_in_the_list_of_mounts_is_read_as_the_kernel_writes_it() {
        assert_eq!(unescaped(b"/a\\040b\\134c\\011"), "/a b\\c\t");
        assert_eq!(unescaped(b"/plain\\9"), "/plain\\9");
        assert!(mount_id(Path::new("/")).is_some());
        assert_eq!(mount_id(Path::new("/no/mount")), None);
    }

    #[test]
    fn only_an_empty_folder_is_mounted_at_and_the_error_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        for (at, why) in [
            (dir.path().join("none"), "make an empty folder"),
            (file, "it is no folder"),
            (dir.path().to_owned(), "it is not empty"),
        ] {
            let error = check(&at).unwrap_err().to_string();
            assert!(error.contains(why) && error.contains(at.to_str().unwrap()), "{error}");
        }
    }

    #[test]
    fn the_mount_of_a_dead_process_is_refused_with_what_clears_it() {
        let dir = tempfile::tempdir().unwrap();
        let how = How { allow_other: false, checks_access: true };
        let (device, point) = mount(dir.path(), how).unwrap();
        drop(device);
        let error = mount(dir.path(), how).unwrap_err().to_string();
        let clears = format!("fusermount3 -u {}", point.at().display());
        point.unmount().unwrap();
        assert!(error.contains(&clears), "{error}");
        assert!(check(dir.path()).is_ok(), "it is gone");
    }

    #[test]
    fn the_helper_mounts_and_unmounts_and_says_why_it_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let at = fs::canonicalize(dir.path()).unwrap();
        let how = How { allow_other: true, checks_access: true };
        let device = mount_with_helper(&at, how).unwrap();
        assert!(mount_id(&at).is_some());
        let listed = fs::read_to_string(MOUNTS).unwrap();
        let line = listed.lines().find(|line| line.contains(at.to_str().unwrap())).unwrap();
        for part in ["ro,nosuid,nodev", "fuse.stapes stapes", "default_permissions", "allow_other"]
        {
            assert!(line.contains(part), "{line}");
        }
        unmount_with_helper(&at).unwrap();
        assert_eq!(mount_id(&at), None);
        drop(device);
        let error = mount_with_helper(&at.join("none"), how).unwrap_err().to_string();
        assert!(error.contains("fusermount3 says: "), "{error}");
        let error = unmount_with_helper(&at).unwrap_err().to_string();
        assert!(error.contains("unmounting") && error.contains("fusermount3 says: "), "{error}");
    }
}
