//! A whole cluster on this machine, driven by the real kubectl: containers, networks, nftables. Needs root and kubectl.
#![allow(
    clippy::disallowed_types,
    reason = "the tests drive the program and kubectl as a user does"
)]

mod cluster;
mod crowd;
mod image;
mod images;
mod kills;
mod machine;
mod manifests;
mod tour;
