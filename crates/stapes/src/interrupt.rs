//! Ctrl-C and SIGTERM: the first ends the run cleanly, the second at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::exit::Exit;
use crate::output;

/// A token that the first signal cancels. The second ends the process; what it leaves half done is
/// in the journal.
pub(crate) fn token() -> CancellationToken {
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        let (Ok(mut interrupt), Ok(mut terminate)) =
            (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        else {
            return;
        };
        let mut next = async || {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        };
        next().await;
        output::error_line(
            "interrupted: cleaning up, instances that were stopped are started again; \
             once more to stop at once",
        );
        cancelled.cancel();
        next().await;
        std::process::exit(i32::from(Exit::Interrupted.code()));
    });
    token
}

/// The next Ctrl-C or SIGTERM from now on, for work that simply ends then.
pub(crate) fn signalled() -> impl Future<Output = ()> {
    let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    async move {
        let (Ok(mut interrupt), Ok(mut terminate)) = signals else {
            return std::future::pending().await;
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }
}

/// Keeps this process alive when `restic unlock` asks whether it is: restic does so by sending SIGHUP to
/// the holder of each lock of this machine, and a program that did not expect it would die of that.
///
/// A terminal that is closed does not end the process either then: what was begun is finished.
pub(crate) fn outlive_restic_unlock() {
    // From now on the signal goes to a stream that nobody reads. Where that fails nothing is worse
    // than it was.
    drop(tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup()));
}
