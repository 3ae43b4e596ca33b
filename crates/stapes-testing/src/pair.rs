//! [`pair`]: a source and a target server, shared by all tests of a process.
//!
//! Tests that kill or reconfigure a server start their own instead.

use std::sync::OnceLock;

use crate::{IncusServer, Result, ServerOptions};

/// Two servers: where the originals live, and where the replicas go.
pub struct Pair {
    /// Server with the originals.
    pub source: IncusServer,
    /// Server with the replicas.
    pub target: IncusServer,
}

impl Pair {
    /// Starts two servers at the same time, which need not be of the same version.
    pub fn start(source: &ServerOptions, target: &ServerOptions) -> Result<Self> {
        std::thread::scope(|scope| {
            let target = scope.spawn(|| IncusServer::start_with(target));
            let source = IncusServer::start_with(source)?;
            match target.join() {
                Ok(target) => Ok(Self { source, target: target? }),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

/// The pair of this process, started at the first call and removed when the process ends in whatever way.
///
/// Both servers have [`ServerOptions::lane`].
///
/// # Panics
///
/// If the servers do not start: a test without its servers has failed.
#[expect(clippy::panic, reason = "every caller is a test, and a missing server fails it")]
pub fn pair() -> &'static Pair {
    static PAIR: OnceLock<Pair> = OnceLock::new();
    let lane = ServerOptions::lane();
    PAIR.get_or_init(|| match Pair::start(&lane, &lane) {
        Ok(pair) => pair,
        Err(error) => panic!("cannot start the pair of Incus servers: {error}: {error:?}"),
    })
}
