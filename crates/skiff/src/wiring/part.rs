//! One part alone, against an API server elsewhere.

use anyhow::{Result, bail};

use crate::config::Config;

/// Runs `part` until TERM or INT.
pub async fn run(part: &str, _config: Config, _client: kube::Client) -> Result<()> {
    bail!("{part} TODO")
}
