//! What a storage asks of an SFTP server that takes more than one request, or more than one reply to
//! understand. Nothing here knows names of a repository.

use std::collections::VecDeque;
use std::ops::Range;

use super::super::{Cause, Failure};
use super::protocol::{self, Body, Reply};
use super::session::{Pending, Session};

/// How many bytes of one file are on their way at a time.
const WINDOW_BYTES: usize = 4 << 20;

pub(super) fn path_body(path: &str) -> Body {
    Body::default().string(path.as_bytes())
}

pub(super) fn done(reply: Reply) -> Result<(), Failure> {
    match reply {
        Reply::Done => Ok(()),
        reply => Err(unexpected(reply)),
    }
}

/// What a reply means that is not the one that was hoped for.
pub(super) fn unexpected(reply: Reply) -> Failure {
    match reply {
        Reply::Failed(true, text) => {
            Failure::new(Cause::Denied, format!("the server says: {text}"))
        }
        Reply::Failed(false, text) => {
            Failure::new(Cause::Other, format!("the server says: {text}"))
        }
        Reply::Missing => Failure::new(Cause::Gone, "its folder is not there"),
        Reply::End => Failure::new(Cause::Short, "it has ended"),
        _ => protocol::garbled(),
    }
}

/// Makes a folder; one that is there is a success.
pub(super) fn make_folder(session: &Session, path: &str) -> Result<(), Failure> {
    let failed = match session.ask(protocol::MKDIR, &path_body(path).mode(0o700))? {
        Reply::Done => return Ok(()),
        reply => unexpected(reply),
    };
    // Servers do not say that it exists. A link to a folder serves as well.
    let inside = path_body(&format!("{path}/."));
    match session.ask(protocol::LSTAT, &inside)? {
        Reply::Attributes(about) if about.is_folder() => Ok(()),
        _ => Err(failed),
    }
}

/// What a server says of the file system below a folder.
pub(super) struct FileSystem {
    pub(super) free_bytes: u64,
    pub(super) is_read_only: bool,
    /// Whether there can be no file more, however much room there is.
    pub(super) has_no_files: bool,
}

/// Asks for the file system below a folder; only servers that have the ability know the request.
pub(super) fn file_system(session: &Session, path: &str) -> Result<FileSystem, Failure> {
    let body = Body::default().string(b"statvfs@openssh.com").string(path.as_bytes());
    let answer = match session.ask(protocol::EXTENDED, &body)? {
        Reply::Extended(answer) => answer,
        reply => return Err(unexpected(reply)),
    };
    let mut fields = protocol::Fields(&answer);
    let mut next = || fields.long().ok_or_else(protocol::garbled);
    let [_block, fragment, _blocks, _free, available] =
        [next()?, next()?, next()?, next()?, next()?];
    let [files, _free_files, available_files, _id, flags] =
        [next()?, next()?, next()?, next()?, next()?];
    Ok(FileSystem {
        free_bytes: available.saturating_mul(fragment),
        is_read_only: flags & 1 != 0,
        // File systems without a number of files say 0 of 0.
        has_no_files: files > 0 && available_files == 0,
    })
}

/// Writes all parts, several requests at a time, and syncs.
pub(super) fn write_all(
    session: &Session,
    handle: &[u8],
    content: &[&[u8]],
) -> Result<(), Failure> {
    let at_once = usize::try_from(session.abilities().write_bytes).unwrap_or(32 << 10);
    let mut pending: VecDeque<Pending<'_>> = VecDeque::new();
    let mut offset = 0_u64;
    for block in content.iter().flat_map(|part| part.chunks(at_once)) {
        if pending.len() >= (WINDOW_BYTES / at_once).max(1)
            && let Some(first) = pending.pop_front()
        {
            done(first.wait()?)?;
        }
        let length = u32::try_from(block.len()).unwrap_or(u32::MAX);
        let body = Body::default().string(handle).long(offset).number(length);
        pending.push_back(session.send(protocol::WRITE, &body, block)?);
        offset += u64::from(length);
    }
    for reply in pending {
        done(reply.wait()?)?;
    }
    // Not every server and file system has modes; restic sets them, and does not insist either.
    drop(session.ask(protocol::FSETSTAT, &Body::default().string(handle).mode(0o400)));
    if session.abilities().sync {
        let body = Body::default().string(b"fsync@openssh.com").string(handle);
        done(session.ask(protocol::EXTENDED, &body)?)?;
    }
    Ok(())
}

/// Reads a range, several requests at a time; a file that ends before is an error.
pub(super) fn read_all(
    session: &Session,
    handle: &[u8],
    range: &Range<u64>,
) -> Result<Vec<u8>, Failure> {
    let at_once = u64::from(session.abilities().read_bytes);
    let window = (WINDOW_BYTES as u64 / at_once).max(1);
    let ask = |start: u64, end: u64| {
        let length = u32::try_from(end - start).unwrap_or(u32::MAX);
        session.send(
            protocol::READ,
            &Body::default().string(handle).long(start).number(length),
            &[],
        )
    };
    let mut content = Vec::new();
    let mut pending = VecDeque::new();
    let mut next = range.start;
    loop {
        while next < range.end && (pending.len() as u64) < window {
            let end = range.end.min(next.saturating_add(at_once));
            pending.push_back((next, end, ask(next, end)?));
            next = end;
        }
        let Some((mut start, end, reply)) = pending.pop_front() else { return Ok(content) };
        let mut reply = reply.wait()?;
        loop {
            let data = match reply {
                Reply::Data(data) if !data.is_empty() && data.len() as u64 <= end - start => data,
                reply => return Err(unexpected(reply)),
            };
            start += data.len() as u64;
            content.extend(data);
            if start == end {
                break;
            }
            // Servers may send less than was asked for.
            reply = ask(start, end)?.wait()?;
        }
    }
}
