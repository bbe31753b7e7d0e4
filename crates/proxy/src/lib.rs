//! The node's service proxy and cluster DNS: they watch the API and keep `skiff-network` in step.
//!
//! Both hold compact rows instead of objects, plan per service, and touch only what changed.

mod dns;
mod feed;
mod rows;
mod services;

pub use dns::{ClusterDns, DnsConfig, dns};
pub use services::{ProxyConfig, ServiceProxy, service_proxy};
