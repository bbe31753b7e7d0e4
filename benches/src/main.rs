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
mod bound;
mod cluster;
mod control;
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
    /// A large cluster of simulated nodes: heartbeats at rest, pods created and bound, memory and rest with them
    Nodes {
        /// How many nodes
        #[arg(long, default_value_t = 5000)]
        nodes: usize,
        /// How many pods
        #[arg(long, default_value_t = 100_000)]
        pods: usize,
        /// A share of these
        #[arg(long, default_value_t = 1.0)]
        scale: f64,
    },
    /// The control plane alone, with nodes that are mere objects: pods created and bound, memory, a scheduler that starts
    Control {
        /// How many nodes
        #[arg(long, default_value_t = 1000)]
        nodes: usize,
        /// How many pods
        #[arg(long, default_value_t = 5000)]
        pods: usize,
    },
    /// Controllers on simulated nodes: a Deployment from 0 to 10,000, a rollout of 1,000 Deployments, a namespace with 20,000 objects deleted
    Controllers {
        /// A share of these sizes
        #[arg(long, default_value_t = 1.0)]
        scale: f64,
    },
    /// The shapes of upstream's scheduler_perf: pods bound a second through the real API server
    Scheduler {
        /// Only shapes whose names contain this
        #[arg(long, default_value = "")]
        only: String,
        /// A share of the nodes and pods
        #[arg(long, default_value_t = 1.0)]
        scale: f64,
        /// The scheduler's core alone, in this process: pods decided a second
        #[arg(long)]
        core: bool,
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
        Subject::Nodes { nodes, pods, scale } => {
            let (nodes, pods) = (
                scheduler::scaled(nodes, scale),
                scheduler::scaled(pods, scale),
            );
            runtime.block_on(nodes::measure(skiff, nodes, pods, &mut figures))?;
        }
        Subject::Control { nodes, pods } => {
            runtime.block_on(control::measure(skiff, nodes, pods, &mut figures))?;
        }
        Subject::Controllers { scale } => {
            runtime.block_on(nodes::controllers(skiff, scale, &mut figures))?;
        }
        Subject::Scheduler {
            only,
            scale,
            core: true,
        } => {
            scheduler::measure(&only, scale, &mut figures)?;
        }
        Subject::Scheduler {
            only,
            scale,
            core: false,
        } => {
            runtime.block_on(bound::measure(skiff, &only, scale, &mut figures))?;
        }
        Subject::All => {
            start::measure(skiff, &mut figures)?;
            runtime.block_on(api::measure(skiff, 5, &[], &mut figures))?;
            runtime.block_on(pods::measure(skiff, 50, 30, &mut figures))?;
            runtime.block_on(control::measure(skiff, 1000, 5000, &mut figures))?;
            runtime.block_on(nodes::measure(skiff, 1000, 5000, &mut figures))?;
            runtime.block_on(nodes::controllers(skiff, 1.0, &mut figures))?;
            runtime.block_on(bound::measure(skiff, "", 1.0, &mut figures))?;
        }
        Subject::Bare { bytes } => return runtime.block_on(bare::serve(bytes)),
    }
    figures.print();
    Ok(())
}
