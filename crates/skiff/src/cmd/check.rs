//! `skiff check`: what a cluster needs of this machine.

use anyhow::Result;

use crate::checks;
use crate::cli::ServerArguments;
use crate::config::Host;

/// Prints every check; fails when something is missing.
pub fn run(arguments: ServerArguments) -> Result<()> {
    let config = arguments
        .options
        .with_file(arguments.config.as_deref())?
        .resolve(&Host::detect())?;
    checks::report(&checks::all(&config), true)
}
