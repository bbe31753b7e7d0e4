//! The node's network: pod interfaces and addresses, the service proxy, and cluster DNS.
//!
//! Everything here is a pure planner or an executor that tells the kernel over netlink; nothing here
//! watches the API. No external program (`ip`, `nft`, `iptables`, CNI) is run.

pub mod cidr;
pub mod dns;
pub mod nft;
pub mod obstacles;
pub mod pod;
pub mod proxy;

pub use cidr::{Cidr, InvalidCidr};
