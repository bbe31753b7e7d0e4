//! `skiff scheduler|controllers|kubelet|proxy|dns`: one part alone, against any Kubernetes API server.

use std::path::PathBuf;

use anyhow::Result;

use crate::cli::{ServerArguments, wait_for};
use crate::config::Host;
use crate::{logging, wiring};

/// What a part is started with.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// How to reach the API server, and as whom
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: PathBuf,
    #[command(flatten)]
    pub server: ServerArguments,
}

/// Runs the part until TERM or INT.
pub fn run(part: &'static str, arguments: Arguments) -> Result<()> {
    let options = arguments
        .server
        .options
        .with_file(arguments.server.config.as_deref())?;
    let config = options.resolve(&Host::detect())?;
    logging::start(&config.log_level)?;
    wait_for(async move {
        wiring::use_ring();
        let target = crate::kubeconfig::target(&arguments.kubeconfig).await?;
        wiring::run_part(part, config, target).await
    })
}
