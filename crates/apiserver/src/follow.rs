//! Follows configuration files while the server runs: told by the kernel, and looked at once a minute all the same.

use std::path::Path;
use std::time::Duration;

use skiff_base::{SharedClock, Shutdown};

const INTERVAL: Duration = Duration::from_secs(60);

/// Calls `changed` when the file may have changed, until `shutdown`.
pub async fn follow(
    path: &Path,
    clock: &SharedClock,
    shutdown: Shutdown,
    mut changed: impl FnMut() + Send,
) {
    let (sender, mut changes) = tokio::sync::mpsc::channel::<()>(1);
    let watcher = crate::encryption::watch_directory(path, sender);
    loop {
        tokio::select! {
            Some(()) = changes.recv() => {}
            () = clock.sleep(INTERVAL) => {}
            () = shutdown.triggered() => break,
        }
        changed();
    }
    drop(watcher);
}
