//! `skiff server`: the control plane and a node, in the foreground.

use std::sync::Arc;

use anyhow::Result;

use crate::checks;
use crate::cli::{ServerArguments, wait_for};
use crate::config::Host;
use crate::progress::Progress;
use crate::{logging, wiring};

/// Runs until TERM or INT. Pods go on when it ends.
pub fn run(arguments: ServerArguments, progress: bool) -> Result<()> {
    let config = arguments
        .options
        .with_file(arguments.config.as_deref())?
        .resolve(&Host::detect())?;
    logging::start(&config.log_level)?;
    checks::report(&checks::all(&config), false)?;
    if progress {
        // Started by `skiff up`: away from its terminal.
        let _ = nix::unistd::setsid();
    }
    wait_for(wiring::run(config, Arc::new(Progress::new(progress))))
}
