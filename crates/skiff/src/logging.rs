//! Where log lines go: standard error, with the time, the level and the component.

use anyhow::{Context as _, Result};
use tracing_subscriber::EnvFilter;

/// Starts logging; `filter` is a level or a tracing filter.
pub fn start(filter: &str) -> Result<()> {
    // The netlink library warns of every error that the kernel answers, also those that are expected (exists already).
    let quiet = format!("{filter},nlink=error");
    let filter = EnvFilter::try_new(if filter.contains('=') { filter } else { &quiet })
        .with_context(|| format!("--log-level {filter:?} is not understood"))?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false);
    subscriber
        .try_init()
        .map_err(|error| anyhow::anyhow!("{error}"))
}
