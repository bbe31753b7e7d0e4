//! The service proxy: sends connections to service addresses on to the pods behind them.
//!
//! [`plan_service`] is a pure function from one service and its endpoints to the chains and map
//! elements that it needs; [`ServiceTable`] merges the plans into one nftables table and changes only
//! what changed. A packet's way is one lookup by destination address, protocol and port, however many
//! services there are. This follows upstream's nftables mode: node ports do not answer on 127.0.0.1.

mod base;
mod datagrams;
mod plan;
mod rows;
mod table;

pub use base::base;
pub use datagrams::{Backend, Datagrams, Place, StaleFlows};
pub use plan::{ServicePlan, plan_service};
pub use rows::{Endpoint, Hints, NodeRow, ServiceId, ServicePort, ServiceRow, SlicePort, SliceRow};
pub use table::{ProxyError, ServiceTable};
