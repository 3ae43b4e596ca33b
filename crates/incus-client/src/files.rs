//! Single files inside an instance, running or stopped.
//!
//! The server takes owner, group and mode of what is written, and neither times nor extended attributes.
//! A running virtual machine needs the agent. Paths are absolute and text; what lies behind a symbolic
//! link is meant where the server follows it. Walking through folders is for the caller.

use reqwest::Method;
use reqwest::header::HeaderMap;

use crate::client::Client;
use crate::error::Result;
use crate::request::{Request, api_path};
use crate::upload::Upload;

const CONTENT_TYPE: &str = "application/octet-stream";

/// What a file inside an instance is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file, or a device, pipe or socket: the server tells no difference.
    File,
    /// A folder.
    Directory,
    /// A symbolic link; its content is its target.
    Symlink,
}

impl FileKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Directory => "directory",
            Self::Symlink => "symlink",
        }
    }
}

/// A file that is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewFile {
    /// What it becomes.
    pub kind: FileKind,
    /// Owner, as seen inside; links belong to root all the same.
    pub uid: u32,
    /// Group, as seen inside; links belong to root all the same.
    pub gid: u32,
    /// Permission bits; 0777 are sent, because servers drop setuid and most others.
    pub mode: u32,
}

/// Files inside instances.
impl Client {
    /// What is at a path; the path itself if it is a symbolic link.
    ///
    /// # Errors
    /// `NotFound` if nothing is.
    pub async fn instance_file_kind(&self, instance: &str, path: &str) -> Result<FileKind> {
        let mut request = self.file(Method::HEAD, instance, path, "look at");
        let response = request.send_raw().await?;
        if !response.status().is_success() {
            return Err(request.refusal(response).await);
        }
        match header(response.headers(), "X-Incus-type") {
            Some("file") => Ok(FileKind::File),
            Some("directory") => Ok(FileKind::Directory),
            Some("symlink") => Ok(FileKind::Symlink),
            other => Err(request.protocol_error(format!("a file of type {other:?}"))),
        }
    }

    /// Writes a file, or makes a folder or symbolic link. The folder above must be there. A file that
    /// is there is written over and keeps its owner and mode; a folder that is there is left as it is.
    ///
    /// `content` is that of a file, the target of a link, and nothing for a folder. If it ends early,
    /// the file is there as far as it came.
    pub async fn write_instance_file(
        &self,
        instance: &str,
        path: &str,
        new: NewFile,
        content: Upload,
    ) -> Result<()> {
        let mut request = self.file(Method::POST, instance, path, "write");
        request = request
            .header("X-Incus-type", new.kind.as_str())
            .header("X-Incus-uid", new.uid.to_string())
            .header("X-Incus-gid", new.gid.to_string())
            .header("X-Incus-write", "overwrite");
        if new.kind != FileKind::Symlink {
            // Without the zero the server reads a decimal number.
            request = request.header("X-Incus-mode", format!("0{:o}", new.mode & 0o777));
        }
        request.upload(CONTENT_TYPE.to_owned(), content).await.map(drop)
    }

    /// Deletes a file, a symbolic link, or a folder that is empty.
    pub async fn delete_instance_file(&self, instance: &str, path: &str) -> Result<()> {
        self.file(Method::DELETE, instance, path, "delete").done().await
    }

    fn file(&self, method: Method, instance: &str, path: &str, verb: &str) -> Request<'_> {
        let action = format!("{verb} {path:?} in instance {instance:?}");
        let url = api_path!["instances", instance, "files"];
        self.request(method, url, action).scoped().query("path", path).slow()
    }
}

fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}
