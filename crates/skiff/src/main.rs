//! Skiff: Kubernetes in one binary. This is the program: commands, wiring, life cycle.

mod checks;
mod cli;
mod cmd;
mod config;
mod demo;
mod instance;
mod kubeconfig;
mod logging;
mod memory;
mod pki;
mod progress;
mod say;
mod wiring;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args_os()
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    // The shim must stay single-threaded: it is entered before anything else is made.
    if arguments.get(1).is_some_and(|argument| argument == "shim") {
        return skiff_runtime::shim_main(arguments.into_iter().skip(2));
    }
    memory::tune();
    cli::run(&arguments)
}
