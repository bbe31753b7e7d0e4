//! What a client of the kubelet may do: the API server is asked, as for any other request.

use std::collections::HashMap;
use std::time::Duration;

use http::Method;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::Client;
use kube::api::{Api, PostParams};
use parking_lot::Mutex;
use skiff_base::SharedClock;

use crate::server::authenticate::Identity;

/// How long an answer holds.
const REMEMBER_ALLOWED: Duration = Duration::from_secs(300);
const REMEMBER_DENIED: Duration = Duration::from_secs(30);
/// So many answers are remembered.
const MAX_REMEMBERED: usize = 1000;

type Question = (String, &'static str, &'static str);

/// Asks whether clients may do what they ask for.
pub struct Authorizer {
    client: Client,
    clock: SharedClock,
    node: String,
    /// Users who may do everything: the API server itself.
    trusted: Vec<String>,
    answers: Mutex<HashMap<Question, (bool, Duration)>>,
}

/// The verb of a request, as upstream's kubelet names it.
#[must_use]
pub fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    }
}

/// The subresource of the node that a path belongs to.
#[must_use]
pub fn subresource(path: &str) -> &'static str {
    let first = path
        .trim_start_matches('/')
        .split('/')
        .next()
        .unwrap_or_default();
    match first {
        "stats" => "stats",
        "metrics" => "metrics",
        "logs" => "log",
        "healthz" => "healthz",
        "pods" | "runningpods" => "pods",
        "configz" => "configz",
        _ => "proxy",
    }
}

impl Authorizer {
    /// Asks with this client for this node.
    #[must_use]
    pub fn new(client: Client, clock: SharedClock, node: &str, trusted: Vec<String>) -> Self {
        Self {
            client,
            clock,
            node: node.to_owned(),
            trusted,
            answers: Mutex::default(),
        }
    }

    /// Whether the client may do this.
    pub async fn allowed(&self, who: &Identity, method: &Method, path: &str) -> bool {
        let master = who.groups.iter().any(|g| g == "system:masters");
        if master || self.trusted.contains(&who.user) {
            return true;
        }
        let subresource = subresource(path);
        let verb = verb(method);
        // The narrow right, or the one that covers all.
        if self.ask(who, verb, subresource).await {
            return true;
        }
        subresource != "proxy" && self.ask(who, verb, "proxy").await
    }

    async fn ask(&self, who: &Identity, verb: &'static str, subresource: &'static str) -> bool {
        let question = (who.user.clone(), verb, subresource);
        let now = self.clock.monotonic();
        if let Some((allowed, until)) = self.answers.lock().get(&question)
            && *until > now
        {
            return *allowed;
        }
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(who.user.clone()),
                groups: Some(who.groups.clone()),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(verb.to_owned()),
                    version: Some("v1".to_owned()),
                    resource: Some("nodes".to_owned()),
                    subresource: Some(subresource.to_owned()),
                    name: Some(self.node.clone()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let reviews: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let allowed = match reviews.create(&PostParams::default(), &review).await {
            Ok(answer) => answer.status.is_some_and(|status| status.allowed),
            Err(error) => {
                tracing::warn!(%error, "cannot ask what a client may do");
                return false;
            }
        };
        let remember = if allowed {
            REMEMBER_ALLOWED
        } else {
            REMEMBER_DENIED
        };
        let mut answers = self.answers.lock();
        if answers.len() >= MAX_REMEMBERED {
            answers.retain(|_, (_, until)| *until > now);
        }
        if answers.len() < MAX_REMEMBERED {
            answers.insert(question, (allowed, now + remember));
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights() {
        for (path, wanted) in [
            ("/stats/summary", "stats"),
            ("/metrics/resource", "metrics"),
            ("/pods", "pods"),
            ("/healthz", "healthz"),
            ("/containerLogs/ns/p/c", "proxy"),
            ("/exec/ns/p/c", "proxy"),
            ("/logs/x", "log"),
        ] {
            assert_eq!(subresource(path), wanted, "{path}");
        }
        assert_eq!(verb(&Method::POST), "create");
    }
}
