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
