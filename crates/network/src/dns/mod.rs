//! Cluster DNS: answers names of services and pods from memory and forwards the rest.
//!
//! [`Records`] is the pure model: what is known, and the answer to a question, after upstream's "DNS-based
//! service discovery" specification 1.1.0. [`DnsServer`] speaks the protocol over UDP and TCP; it uses
//! `hickory-proto` for the packets. Forwarded packets pass through as they are.

mod answer;
mod forward;
mod message;
mod records;
mod resolv;
mod server;

pub use answer::{Answer, Data, Kind, Question, Resource};
pub use forward::{ForwardError, Forwarder};
pub use records::{DnsEndpoint, DnsService, DnsSlice, Records, ServiceKind};
pub use resolv::Resolvers;
pub use server::{DnsError, DnsServer, DnsServerConfig};

/// How long clients may keep an answer, in seconds.
pub const TTL: u32 = 5;
