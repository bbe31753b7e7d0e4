//! Who our own components are to the API server: upstream's names, and no more rights than their roles give.

use axum::body::Body;
use http::Request;
use skiff_apiserver::{ApiServer, UserInfo};
use std::sync::Arc;
use tower::ServiceExt as _;

use super::leading::{Candidate, fence};

/// The API server itself, for the objects it keeps.
#[must_use]
pub fn api_server() -> UserInfo {
    UserInfo::new(
        "system:apiserver",
        &["system:masters", "system:authenticated"],
    )
}

/// The scheduler.
#[must_use]
pub fn scheduler() -> UserInfo {
    UserInfo::new("system:kube-scheduler", &["system:authenticated"])
}

/// The service proxy.
#[must_use]
pub fn proxy() -> UserInfo {
    UserInfo::new("system:kube-proxy", &["system:authenticated"])
}

/// A kubelet.
#[must_use]
pub fn node(name: &str) -> UserInfo {
    UserInfo::new(
        &format!("system:node:{name}"),
        &["system:nodes", "system:authenticated"],
    )
}

/// A part that runs alone: the same names as in one process. The groups are those that its certificate carries.
#[must_use]
pub fn part(part: &str, node_name: &str) -> UserInfo {
    let mut user = match part {
        "scheduler" => scheduler(),
        "controllers" => UserInfo::new("system:kube-controller-manager", &[]),
        "kubelet" => node(node_name),
        "proxy" => proxy(),
        _ => kube_system("kube-dns"),
    };
    user.groups.retain(|group| group != "system:authenticated");
    user
}

/// A service account of kube-system, as each controller has one.
#[must_use]
pub fn kube_system(account: &str) -> UserInfo {
    let groups = [
        "system:serviceaccounts",
        "system:serviceaccounts:kube-system",
        "system:authenticated",
    ];
    UserInfo::new(
        &format!("system:serviceaccount:kube-system:{account}"),
        &groups,
    )
}

/// A client whose requests are function calls into the API server, made as `user`.
#[must_use]
pub fn client(server: &Arc<ApiServer>, user: UserInfo) -> kube::Client {
    let service = server
        .in_process(user)
        .map_request(|request: Request<kube::client::Body>| request.map(Body::new));
    kube::Client::new(service, "default")
}

/// The same, whose writes stop when `candidate` no longer leads.
pub(crate) fn client_of(
    server: &Arc<ApiServer>,
    user: UserInfo,
    candidate: Option<&Candidate>,
) -> kube::Client {
    let Some(candidate) = candidate else {
        return client(server, user);
    };
    let service = server
        .in_process(user)
        .map_request(|request: Request<kube::client::Body>| request.map(Body::new));
    kube::Client::new(fence(candidate, service), "default")
}
