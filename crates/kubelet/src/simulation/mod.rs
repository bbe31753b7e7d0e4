//! A kubelet on a machine that exists only in memory: a fake runtime, a fake API, a clock that tests move.

pub mod api_server;
mod fake_cluster;
mod fake_runtime;
mod scenarios;
mod scenarios_clock;
mod scenarios_volumes;
mod serving;
mod whole_kubelet;
mod world;
