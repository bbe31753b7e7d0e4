//! A whole cluster on this machine, driven by the real kubectl: containers, networks, nftables. Needs root and kubectl.
#![allow(
    clippy::disallowed_types,
    reason = "the tests drive the program and kubectl as a user does"
)]

mod bad_days;
mod batch;
mod cluster;
mod command_line;
mod containers;
mod crds;
mod crowd;
mod etcd;
mod front_proxy;
mod helm;
mod image;
mod images;
mod kills;
mod kubectl;
mod machine;
mod manifests;
mod network;
mod node;
mod observe;
mod parts;
mod pods;
mod policies;
mod pressure;
mod probes;
mod registry;
mod restart_all;
mod sets;
mod streams;
mod tour;
mod volumes;
mod workloads;
