//! The command line.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::cmd;
use crate::config::{Options, without_links};
use crate::demo;
use crate::say::say;

/// Kubernetes in one binary
///
/// `skiff up` starts a cluster on this machine and adds it to your kubeconfig; then use kubectl as always.
#[derive(Parser)]
#[command(name = "skiff", version = cmd::version::TEXT, propagate_version = false)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What a server is started with.
#[derive(Clone, Debug, clap::Args)]
pub struct ServerArguments {
    /// YAML file with the same settings as these flags, keys in camelCase; flags outweigh it [default: none]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub options: Options,
}

/// Which data directory a command means.
#[derive(Clone, Debug, clap::Args)]
pub struct DataDir {
    /// Folder that holds all state
    #[arg(
        long,
        env = "SKIFF_DATA_DIR",
        value_name = "DIR",
        global = true,
        default_value = "/var/lib/skiff",
        value_parser = |path: &str| Ok::<_, std::convert::Infallible>(without_links(Path::new(path)))
    )]
    pub data_dir: PathBuf,
}

#[derive(Subcommand)]
enum Command {
    /// Start a cluster in the background and wait until it works
    Up {
        #[command(flatten)]
        server: ServerArguments,
        /// Deploy the demo application behind a Service and print its address [default: off]
        #[arg(long)]
        demo: bool,
        /// Leave the user's kubeconfig alone [default: off]
        #[arg(long)]
        no_kubeconfig: bool,
    },
    /// Stop the cluster: its pods, and the networks, mounts and cgroups that it made
    Down {
        #[command(flatten)]
        data: DataDir,
        /// Remove the data directory as well: objects, images, certificates [default: off]
        #[arg(long)]
        purge: bool,
        /// Longest time in seconds that pods get to end by themselves, however long their grace periods are; 0 ends
        /// them at once
        #[arg(long, value_name = "SECONDS", default_value_t = 10)]
        grace_period: u64,
        /// Leave the user's kubeconfig alone [default: off]
        #[arg(long)]
        no_kubeconfig: bool,
    },
    /// Tell what runs: versions, addresses, memory
    Status(DataDir),
    /// Check what a cluster needs of this machine, without changing anything
    Check(ServerArguments),
    /// Run the control plane and a node in the foreground, as for systemd
    Server {
        #[command(flatten)]
        server: ServerArguments,
        /// Report the start's progress on standard output (used by `skiff up`)
        #[arg(long, hide = true)]
        progress: bool,
    },
    /// Run one part alone: the API server on this machine's store
    Apiserver(ServerArguments),
    /// Run the scheduler alone, against any Kubernetes API server
    Scheduler(cmd::part::Arguments),
    /// Run the controllers alone, against any Kubernetes API server
    Controllers(cmd::part::Arguments),
    /// Run the kubelet alone, against any Kubernetes API server
    Kubelet(cmd::part::Arguments),
    /// Run the service proxy alone, against any Kubernetes API server
    Proxy(cmd::part::Arguments),
    /// Run the cluster DNS alone, against any Kubernetes API server
    Dns(cmd::part::Arguments),
    /// Work on the node's images
    Image(cmd::image::Arguments),
    /// Print the administrator's kubeconfig, or one for a part that runs alone
    Kubeconfig(cmd::kubeconfig::Arguments),
    /// Run kubectl against this cluster (an installed one, for now)
    #[command(disable_help_flag = true)]
    Kubectl {
        /// What kubectl is given
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Print the version
    Version(DataDir),
    /// Run the demo application (in the image skiff.local/demo)
    #[command(hide = true)]
    Demo(demo::Arguments),
}

/// Runs what the command line says.
pub fn run(arguments: &[String]) -> ExitCode {
    let called = arguments
        .first()
        .map(|name| name.rsplit('/').next().unwrap_or(name))
        .unwrap_or_default();
    let outcome = if called == "kubectl" {
        cmd::kubectl::run(&arguments[1..])
    } else {
        dispatch(Cli::parse_from(arguments).command)
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("skiff: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Up {
            server,
            demo,
            no_kubeconfig,
        } => cmd::up::run(server, demo, no_kubeconfig),
        Command::Down {
            data,
            purge,
            grace_period,
            no_kubeconfig,
        } => cmd::down::run(&data.data_dir, purge, no_kubeconfig, grace_period),
        Command::Status(data) => cmd::status::run(&data.data_dir),
        Command::Check(server) => cmd::check::run(server),
        Command::Server { server, progress } => cmd::server::run(server, progress),
        Command::Apiserver(mut server) => {
            server.options.disable = Some(crate::config::PARTS.map(str::to_owned).to_vec());
            cmd::server::run(server, false)
        }
        Command::Scheduler(arguments) => cmd::part::run("scheduler", arguments),
        Command::Controllers(arguments) => cmd::part::run("controllers", arguments),
        Command::Kubelet(arguments) => cmd::part::run("kubelet", arguments),
        Command::Proxy(arguments) => cmd::part::run("proxy", arguments),
        Command::Dns(arguments) => cmd::part::run("dns", arguments),
        Command::Image(arguments) => cmd::image::run(arguments),
        Command::Kubeconfig(arguments) => cmd::kubeconfig::run(&arguments),
        Command::Kubectl { arguments } => cmd::kubectl::run(&arguments),
        Command::Version(_) => {
            say!("skiff {}", cmd::version::TEXT);
            Ok(())
        }
        Command::Demo(arguments) => wait_for(demo::run(arguments)),
    }
}

/// Runs a future on a small runtime.
pub fn wait_for<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(future)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn every_flag_has_help() {
        let command = Cli::command();
        command.clone().debug_assert();
        explained(&command);
    }

    fn explained(command: &clap::Command) {
        for sub in command.get_subcommands() {
            assert!(sub.get_about().is_some(), "{}", sub.get_name());
            for argument in sub.get_arguments() {
                let named = format!("skiff {} {}", sub.get_name(), argument.get_id());
                let help = argument.get_help();
                let help = help.unwrap_or_else(|| panic!("{named}")).to_string();
                let given = argument.is_positional()
                    || argument.is_required_set()
                    || argument.is_hide_set()
                    || ["help", "version"].contains(&argument.get_id().as_str());
                let default = help.contains("[default: ")
                    || (argument.get_action().takes_values()
                        && !argument.get_default_values().is_empty());
                assert!(given || default, "{named} says no default: {help}");
            }
            explained(sub);
        }
    }

    /// Every key of the configuration file is in the user's guide, under the name that the file takes.
    #[test]
    fn the_guide_knows_every_key() {
        let guide = include_str!("../../../docs/GUIDE.md");
        let command = Cli::command();
        let server = command.find_subcommand("server").unwrap();
        for argument in server.get_arguments() {
            let flag = argument.get_long().unwrap_or_default();
            if ["config", "help", "progress"].contains(&flag) {
                continue;
            }
            let mut words = flag.split('-');
            let mut key = words.next().unwrap().to_owned();
            for word in words {
                key.extend([word[..1].to_uppercase(), word[1..].to_owned()]);
            }
            let line = format!("\n| `{key}` |");
            assert!(guide.contains(&line), "{key} is not in docs/GUIDE.md");
            assert!(guide.contains(&format!("`--{flag}`")), "{flag}");
        }
    }

    #[test]
    fn unknown_flags_are_refused() {
        let error = Cli::try_parse_from(["skiff", "up", "--dta-dir", "/x"])
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.contains("--dta-dir") && error.contains("--data-dir"),
            "{error}"
        );
    }
}
