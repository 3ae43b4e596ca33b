//! Helper process of this crate's own tests: starts a private server, fills it, tells where it is,
//! and then waits to be killed, or panics if its argument says so.

use std::time::Duration;

use stapes_testing::{IncusServer, Result};

#[expect(clippy::print_stdout, reason = "the test reads the directory from here")]
#[expect(clippy::panic, reason = "that is what is tested")]
fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (ending, bridge) = (arguments.next(), arguments.next().unwrap_or_default());
    let server = IncusServer::start()?;
    server.create_bridge(&bridge)?;
    server.incus(&["launch", "busybox", "one", "--network", &bridge])?;
    server.incus(&["launch", "busybox", "two", "--storage", "plain"])?;
    server.incus(&["pause", "two"])?;
    println!("{}", server.dir().display());
    if ending.as_deref() == Some("panic") {
        panic!("as asked");
    }
    std::thread::sleep(Duration::from_secs(600));
    Ok(())
}
