//! Measures a built `skiff` from outside, as its users meet it, and prints the figures beside the budgets of the design.
//!
//! Nothing is asserted: the figures wander with the machine, and the ratio to the bare server of the same run counts.
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a bench measures real processes in real time"
)]

mod api;
mod bare;
mod cluster;
mod figures;
mod load;
mod nodes;
mod pods;
mod scheduler;
mod start;
mod watches;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};
use figures::Figures;

/// Prints Skiff's figures beside the design's budgets. Run it as root on an idle machine, with a release build.
#[derive(Parser)]
struct Arguments {
    /// The program to measure
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/x86_64-unknown-linux-gnu/release/skiff"))]
    skiff: PathBuf,
    #[command(subcommand)]
    subject: Subject,
}

#[derive(Subcommand)]
enum Subject {
    /// Time of a first and a second start, size of the program
    Start,
    /// Throughput and latency of the API server alone
    Api {
        /// How long each closed loop runs, in seconds
        #[arg(long, default_value_t = 5)]
        seconds: u64,
        /// Only these parts
        #[arg(long, value_delimiter = ',')]
        only: Vec<api::Part>,
    },
    /// Memory and CPU at rest, then pods: latency of their start and memory with them
    Pods {
        /// How many pods
        #[arg(long, default_value_t = 50)]
        pods: usize,
        /// How long the idle cluster is watched, in seconds
        #[arg(long, default_value_t = 30)]
        idle: u64,
    },
    /// A large cluster of simulated nodes: rates, memory, rest
    Nodes {
        /// How many nodes
        #[arg(long, default_value_t = 1000)]
        nodes: usize,
        /// How many pods, by hand and again by a Deployment
        #[arg(long, default_value_t = 5000)]
        pods: usize,
    },
    /// The scheduler's core alone: pods decided a second, in upstream's shapes
    Scheduler {
        /// Only shapes whose names contain this
        #[arg(long, default_value = "")]
        only: String,
        /// On so many percent of the nodes and pods
        #[arg(long, default_value_t = 100)]
        share: usize,
    },
    /// All of these
    All,
    /// The yardstick: a server that answers every request with the same bytes (the api bench starts it by itself)
    #[command(hide = true)]
    Bare { bytes: usize },
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Runtime::new()?;
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut figures = Figures::default();
    let skiff = &arguments.skiff;
    match arguments.subject {
        Subject::Start => start::measure(skiff, &mut figures)?,
        Subject::Api { seconds, only } => {
            runtime.block_on(api::measure(skiff, seconds, &only, &mut figures))?;
        }
        Subject::Pods { pods, idle } => {
            runtime.block_on(pods::measure(skiff, pods, idle, &mut figures))?;
        }
        Subject::Nodes { nodes, pods } => {
            runtime.block_on(nodes::measure(skiff, nodes, pods, &mut figures))?;
        }
        Subject::Scheduler { only, share } => scheduler::measure(&only, share, &mut figures)?,
        Subject::All => {
            start::measure(skiff, &mut figures)?;
            runtime.block_on(api::measure(skiff, 5, &[], &mut figures))?;
            runtime.block_on(pods::measure(skiff, 50, 30, &mut figures))?;
            runtime.block_on(nodes::measure(skiff, 1000, 5000, &mut figures))?;
        }
        Subject::Bare { bytes } => return runtime.block_on(bare::serve(bytes)),
    }
    figures.print();
    Ok(())
}
