//! The API server: the only door to the cluster's state.
//!
//! One generic pipeline serves every resource; what differs per kind is data (`skiff_api::Kind`). Bytes come in,
//! a typed view is made once for a write, bytes go out; reads hand out cached bytes and decode nothing.

mod admission;
mod aggregation;
pub mod audit;
pub mod authn;
pub mod authz;
pub mod bootstrap;
pub mod cache;
mod component_status;
mod connect;
mod connection;
mod content;
pub mod crd;
mod create;
mod delete;
mod denied;
mod dispatch;
mod documents;
pub mod duration;
pub mod encryption;
mod fields;
mod flow;
pub mod follow;
mod health;
mod held;
mod kubernetes_service;
pub mod limits;
mod list_body;
mod metrics;
mod openapi;
mod own_services;
mod patch;
mod peers;
pub mod query;
mod read;
pub mod registry;
pub mod request;
pub mod seam;
pub mod selector;
pub mod serve;
mod served_kind;
mod server;
mod service_holdings;
pub mod service_ranges;
mod service_repair;
mod services;
mod subresource;
mod table;
mod unread;
mod update;
mod watch;
pub mod webhook;
mod write;
mod zpages;

pub use admission::AdmissionChain;
pub use aggregation::{FRONT_PROXY_NAME, FrontProxy};
pub use connect::KUBELET_AUTHORITY;
pub use own_services::Answer;
pub use request::{Attributes, RequestInfo, UserInfo};
pub use seam::{
    Authenticator, AuthnError, Authorizer, Decision, IssuedToken, MastersOnly, NonResourceRule,
    Notes, PeerCertificates, ResourceRule, Rules, TokenIssuer, TokenRequestParams,
};
pub use server::{ApiServer, ApiServerConfig, ApiService};
