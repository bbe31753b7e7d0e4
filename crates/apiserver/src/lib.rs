//! The API server: the only door to the cluster's state.
//!
//! One generic pipeline serves every resource; what differs per kind is data (`skiff_api::Kind`). Bytes come in,
//! a typed view is made once for a write, bytes go out; reads hand out cached bytes and decode nothing.

pub mod authn;
pub mod authz;
pub mod bootstrap;
pub mod request;
pub mod seam;

pub use request::{Attributes, RequestInfo, UserInfo};
pub use seam::{
    Authenticator, AuthnError, Authorizer, Decision, IssuedToken, MastersOnly, NonResourceRule,
    PeerCertificates, ResourceRule, Rules, TokenIssuer, TokenRequestParams,
};
