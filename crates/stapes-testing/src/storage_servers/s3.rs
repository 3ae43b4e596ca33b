//! An S3 server inside the test process, over a temporary directory.
//!
//! It checks signatures; it is the `s3s` server with its file system behind it, not a script.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::thread::JoinHandle;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::{Error, Result};

/// An S3 server; its connections are closed when it is dropped.
#[derive(Debug)]
pub struct S3Server {
    dir: TempDir,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl S3Server {
    /// The id of the only key.
    pub const KEY_ID: &str = "TESTKEY";
    /// Its secret.
    pub const SECRET: &str = "test/secret+key";

    /// Starts it, without any bucket.
    pub fn start() -> Result<Self> {
        let failed = |source| Error::Request { request: "start an S3 server".to_owned(), source };
        let dir = tempfile::tempdir().map_err(failed)?;
        let files = FileSystem::new(dir.path())
            .map_err(|error| failed(std::io::Error::other(format!("{error:?}"))))?;
        let mut service = S3ServiceBuilder::new(files);
        service.set_auth(SimpleAuth::from_single(Self::KEY_ID, Self::SECRET));
        let service = service.build();
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::spawn(accept(listener, service));
                // An error means that the sender is gone, which is the same wish.
                drop(stopped.await);
            });
        });
        Ok(Self { dir, address, stop: Some(stop), thread: Some(thread) })
    }

    /// `http://127.0.0.1:port`, without a slash at its end.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it keeps its buckets.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic in the server shows in what the test gets, or rather does not get.
            drop(thread.join());
        }
    }
}

async fn accept(listener: std::net::TcpListener, service: S3Service) -> std::io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let service = service.clone();
        tokio::spawn(async move {
            let connections = Builder::new(TokioExecutor::new());
            // A client that goes away is none of the server's errors.
            drop(connections.serve_connection(TokioIo::new(stream), service).await);
        });
    }
}
