//! Test equipment: real, private Incus servers that clean up after themselves, and fakes for faults
//! that a real server cannot be made to show.
//!
//! Start with [`pair`] and [`TestProject`]: two servers shared by all tests of a process, and one
//! project on both of them for each test.
//! [`IncusServer::start`] gives a test a server of its own, to kill, to pause or to configure.
//! [`TcpProxy`] breaks the network between the client and a real server, [`fake::FakeIncus`] speaks
//! the REST protocol from a script, [`sinks::HttpSink`] stands in for notification services,
//! [`storage_servers`] are real servers for repositories (SFTP, REST, S3), and [`tree`] compares file
//! trees byte for byte.
//!
//! The crate needs root and what `scripts/setup.sh` installs.
//! It knows none of our other crates, so that any of them can use it as a dev-dependency, and it
//! does no cleaning in Rust: a supervisor process does, because it survives a killed test.

mod error;
pub mod fake;
mod http;
mod pair;
mod project;
mod proxy;
mod reply;
mod serve;
mod server;
pub mod sinks;
pub mod storage_servers;
mod supervisor;
pub mod tree;

pub use error::Error;
pub use pair::{Pair, pair};
pub use project::{Launch, Scope, TestProject};
pub use proxy::{Direction, TcpProxy};
pub use server::{IncusServer, ServerOptions};

/// The result of everything in this crate that talks to a server or to the file system.
pub type Result<T, E = Error> = std::result::Result<T, E>;
