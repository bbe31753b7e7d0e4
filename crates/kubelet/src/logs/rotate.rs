//! Keeps container logs small: a log that grew too long is put aside, old ones are compressed by nobody and removed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use skiff_base::Shutdown;
use skiff_runtime::cri;
use tonic::Request;

use crate::context::Context;

/// A log is rotated when it is longer than this.
const MAX_SIZE: u64 = 10 << 20;
/// So many files of one container are kept, the current one included.
const MAX_FILES: usize = 5;
/// How often logs are looked at.
const LOOK: Duration = Duration::from_secs(10);

/// Rotates logs until `shutdown`.
pub async fn run(context: Arc<Context>, shutdown: Shutdown) {
    loop {
        tokio::select! {
            () = context.clock.sleep(LOOK) => {}
            () = shutdown.triggered() => return,
        }
        let containers = match context.runtime.containers(None).await {
            Ok(containers) => containers,
            Err(error) => {
                tracing::debug!(%error, "cannot list containers to rotate their logs");
                continue;
            }
        };
        let running = cri::ContainerState::ContainerRunning as i32;
        for container in containers.into_iter().filter(|c| c.state == running) {
            if let Err(error) = rotate_one(&context, &container.id).await {
                tracing::warn!(container = container.id, error, "cannot rotate a log");
            }
        }
    }
}

async fn rotate_one(context: &Context, id: &str) -> Result<(), String> {
    let status = context
        .runtime
        .container(id)
        .await
        .map_err(|e| e.to_string())?;
    let Some(status) = status.filter(|s| !s.log_path.is_empty()) else {
        return Ok(());
    };
    let log = PathBuf::from(status.log_path);
    let size = fs::metadata(&log).map_or(0, |meta| meta.len());
    if size <= MAX_SIZE {
        return Ok(());
    }
    let now = context.cluster.now();
    put_aside(&log, now).map_err(|e| e.to_string())?;
    let reopen = Request::new(cri::ReopenContainerLogRequest {
        container_id: id.to_owned(),
    });
    context
        .runtime
        .service
        .reopen_container_log(reopen)
        .await
        .map_err(|e| e.to_string())?;
    Ok(())
}

/// Renames the log with the time in its name and removes the oldest ones.
fn put_aside(log: &Path, now: Timestamp) -> io::Result<()> {
    let mut name = log.as_os_str().to_owned();
    name.push(now.strftime(".%Y%m%d-%H%M%S").to_string());
    fs::rename(log, &name)?;
    let mut old = set_aside(log)?;
    let surplus = (old.len() + 1).saturating_sub(MAX_FILES);
    old.sort();
    for path in old.into_iter().take(surplus) {
        fs::remove_file(path)?;
    }
    Ok(())
}

/// The files that were put aside of this log.
fn set_aside(log: &Path) -> io::Result<Vec<PathBuf>> {
    let Some((directory, name)) = log.parent().zip(log.file_name()) else {
        return Ok(Vec::new());
    };
    let prefix = format!("{}.", name.to_string_lossy());
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_newest() {
        let root = tempfile::tempdir().unwrap();
        let log = root.path().join("0.log");
        fs::write(root.path().join("1.log"), "other").unwrap();
        for second in 0..8 {
            fs::write(&log, second.to_string()).unwrap();
            put_aside(&log, Timestamp::from_second(second).unwrap()).unwrap();
        }
        let mut kept: Vec<String> = set_aside(&log)
            .unwrap()
            .iter()
            .map(|p| fs::read_to_string(p).unwrap())
            .collect();
        kept.sort();
        assert_eq!(kept, ["4", "5", "6", "7"]);
        assert!(root.path().join("1.log").exists());
    }
}
