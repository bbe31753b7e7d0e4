//! Which flow schema a request matches, and which priority level that leads to.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use http::HeaderValue;
use k8s_openapi::api::flowcontrol::v1::{
    FlowSchema, NonResourcePolicyRule, PolicyRulesWithSubjects, PriorityLevelConfiguration,
    ResourcePolicyRule, Subject,
};

use super::allocation::Share;
use super::level::SchemaCounters;
use super::queues::Queuing;
use crate::request::{RequestInfo, UserInfo};

/// A flow schema, ready to be matched.
pub(super) struct Schema {
    pub name: String,
    pub uid: HeaderValue,
    pub level: String,
    precedence: i32,
    distinguisher: Distinguisher,
    rules: Vec<PolicyRulesWithSubjects>,
    /// Counters of what went this way.
    pub counters: Arc<SchemaCounters>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Distinguisher {
    None,
    User,
    Namespace,
}

/// A priority level's specification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LevelSpec {
    pub name: String,
    pub uid: HeaderValue,
    pub exempt: bool,
    pub share: Share,
    pub queuing: Queuing,
}

fn at_least_zero(number: Option<i32>, otherwise: u32) -> u32 {
    number.map_or(otherwise, |number| u32::try_from(number).unwrap_or(0))
}

fn header(uid: Option<&String>) -> HeaderValue {
    uid.and_then(|uid| HeaderValue::from_str(uid).ok())
        .unwrap_or_else(|| HeaderValue::from_static(""))
}

impl LevelSpec {
    /// From the object; `None`: it is not complete.
    pub fn of(object: &PriorityLevelConfiguration) -> Option<Self> {
        let spec = object.spec.as_ref()?;
        let exempt = spec.type_ == "Exempt";
        let limited = spec.limited.as_ref();
        let queuing = limited
            .and_then(|limited| limited.limit_response.as_ref())
            .filter(|response| response.type_ == "Queue")
            .map(|response| response.queuing.clone().unwrap_or_default());
        let share = match (exempt, limited) {
            (true, _) => Share {
                shares: at_least_zero(
                    spec.exempt
                        .as_ref()
                        .and_then(|exempt| exempt.nominal_concurrency_shares),
                    0,
                ),
                lendable_percent: at_least_zero(
                    spec.exempt
                        .as_ref()
                        .and_then(|exempt| exempt.lendable_percent),
                    0,
                ),
                borrowing_limit_percent: None,
            },
            (false, Some(limited)) => Share {
                shares: at_least_zero(limited.nominal_concurrency_shares, 30),
                lendable_percent: at_least_zero(limited.lendable_percent, 0),
                borrowing_limit_percent: limited
                    .borrowing_limit_percent
                    .map(|percent| u32::try_from(percent).unwrap_or(0)),
            },
            (false, None) => return None,
        };
        Some(Self {
            name: object.metadata.name.clone()?,
            uid: header(object.metadata.uid.as_ref()),
            exempt,
            share,
            queuing: Queuing {
                // More than anybody needs; each costs memory.
                queues: queuing
                    .as_ref()
                    .map_or(0, |queuing| at_least_zero(queuing.queues, 64).min(100_000)),
                hand_size: queuing
                    .as_ref()
                    .map_or(0, |queuing| at_least_zero(queuing.hand_size, 8)),
                queue_length: queuing
                    .as_ref()
                    .map_or(0, |queuing| at_least_zero(queuing.queue_length_limit, 50)),
            },
        })
    }
}

/// All schemas in the order in which they are tried.
pub(super) struct Schemas(Vec<Schema>);

impl Schemas {
    /// From the objects. Those whose level does not exist lead nowhere and are left out. `counters` are found again by schema and
    /// level.
    pub fn new(
        objects: &[FlowSchema],
        levels: &[LevelSpec],
        counters: &mut BTreeMap<(String, String), Arc<SchemaCounters>>,
    ) -> Self {
        let mut schemas: Vec<Schema> = objects
            .iter()
            .filter_map(|object| {
                let (name, spec) = (object.metadata.name.clone()?, object.spec.as_ref()?);
                let level = spec.priority_level_configuration.name.clone();
                if !levels.iter().any(|known| known.name == level) {
                    return None;
                }
                let method = spec.distinguisher_method.as_ref();
                Some(Schema {
                    counters: counters
                        .entry((name.clone(), level.clone()))
                        .or_default()
                        .clone(),
                    name,
                    uid: header(object.metadata.uid.as_ref()),
                    level,
                    precedence: spec.matching_precedence.unwrap_or(1000),
                    distinguisher: match method.map(|method| method.type_.as_str()) {
                        Some("ByUser") => Distinguisher::User,
                        Some("ByNamespace") => Distinguisher::Namespace,
                        _ => Distinguisher::None,
                    },
                    rules: spec.rules.clone().unwrap_or_default(),
                })
            })
            .collect();
        schemas.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
        Self(schemas)
    }

    /// The schemas.
    pub fn iter(&self) -> impl Iterator<Item = &Schema> {
        self.0.iter()
    }

    /// The first schema that a request matches, else the last one of all.
    pub fn find(&self, info: &RequestInfo, user: &UserInfo) -> Option<(usize, &Schema)> {
        self.0
            .iter()
            .enumerate()
            .find(|(_, schema)| schema.matches(info, user))
            .or_else(|| self.0.iter().enumerate().next_back())
    }
}

impl Schema {
    fn matches(&self, info: &RequestInfo, user: &UserInfo) -> bool {
        self.rules.iter().any(|rule| {
            rule.subjects.iter().any(|subject| is_meant(subject, user))
                && if info.is_resource {
                    let mut rules = rule.resource_rules.iter().flatten();
                    rules.any(|rule| matches_resource(rule, info))
                } else {
                    let mut rules = rule.non_resource_rules.iter().flatten();
                    rules.any(|rule| matches_path(rule, info))
                }
        })
    }

    /// What tells the flow of a request from others of the schema.
    pub fn flow<'a>(&self, info: &'a RequestInfo, user: &'a UserInfo) -> &'a str {
        match self.distinguisher {
            Distinguisher::None => "",
            Distinguisher::User => &user.name,
            Distinguisher::Namespace => &info.namespace,
        }
    }

    /// The number by which a flow's queues are dealt.
    pub fn hash(&self, flow: &str) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.name.hash(&mut hasher);
        flow.hash(&mut hasher);
        hasher.finish()
    }
}

fn is_meant(subject: &Subject, user: &UserInfo) -> bool {
    let named = |name: &str, have: &str| name == "*" || name == have;
    match subject.kind.as_str() {
        "User" => subject
            .user
            .as_ref()
            .is_some_and(|wanted| named(&wanted.name, &user.name)),
        "Group" => subject
            .group
            .as_ref()
            .is_some_and(|wanted| wanted.name == "*" || user.in_group(&wanted.name)),
        "ServiceAccount" => subject.service_account.as_ref().is_some_and(|wanted| {
            user.name
                .strip_prefix("system:serviceaccount:")
                .and_then(|rest| rest.strip_prefix(wanted.namespace.as_str()))
                .and_then(|rest| rest.strip_prefix(':'))
                .is_some_and(|name| named(&wanted.name, name))
        }),
        _ => false,
    }
}

/// Whether a list holds a value, or nothing but the star.
fn holds(list: &[String], value: &str) -> bool {
    matches!(list, [one] if one == "*") || list.iter().any(|have| have == value)
}

fn matches_resource(rule: &ResourcePolicyRule, info: &RequestInfo) -> bool {
    let resource = || {
        if info.subresource.is_empty() {
            return holds(&rule.resources, &info.resource);
        }
        let whole = format!("{}/{}", info.resource, info.subresource);
        holds(&rule.resources, &whole)
    };
    holds(&rule.verbs, &info.verb)
        && holds(&rule.api_groups, &info.group)
        && resource()
        && match info.namespace.as_str() {
            "" => rule.cluster_scope == Some(true),
            namespace => holds(rule.namespaces.as_deref().unwrap_or_default(), namespace),
        }
}

fn matches_path(rule: &NonResourcePolicyRule, info: &RequestInfo) -> bool {
    let below = |url: &String| {
        let prefix = url.strip_suffix('*').unwrap_or(url);
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        url == "*"
            || *url == info.path
            || info
                .path
                .strip_prefix(prefix)
                .is_some_and(|rest| rest.starts_with('/'))
    };
    holds(&rule.verbs, &info.verb) && rule.non_resource_urls.iter().any(below)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bootstrap() -> Schemas {
        let objects = crate::bootstrap::objects();
        let of_kind = |kind: &str| {
            objects
                .iter()
                .filter(|object| object["kind"] == kind)
                .cloned()
                .collect::<Vec<_>>()
        };
        let levels: Vec<LevelSpec> = of_kind("PriorityLevelConfiguration")
            .into_iter()
            .map(|value| LevelSpec::of(&serde_json::from_value(value).unwrap()).unwrap())
            .collect();
        let schemas: Vec<FlowSchema> = of_kind("FlowSchema")
            .into_iter()
            .map(|value| serde_json::from_value(value).unwrap())
            .collect();
        Schemas::new(&schemas, &levels, &mut BTreeMap::new())
    }

    #[test]
    fn requests_find_upstreams_schemas() {
        let schemas = bootstrap();
        let find = |method: &http::Method, path: &str, user: &str, groups: &[&str]| {
            let info = RequestInfo::resolve(method, path, None);
            let user = UserInfo::new(user, groups);
            let (_, schema) = schemas.find(&info, &user).unwrap();
            (schema.name.clone(), schema.level.clone())
        };
        let (get, put) = (&http::Method::GET, &http::Method::PUT);
        let everybody = "system:authenticated";
        for (method, path, user, groups, schema, level) in [
            (
                get,
                "/api/v1/pods",
                "root",
                &["system:masters"][..],
                "exempt",
                "exempt",
            ),
            (get, "/healthz", "x", &[everybody][..], "probes", "exempt"),
            (
                get,
                "/readyz/etcd",
                "x",
                &[everybody][..],
                "probes",
                "exempt",
            ),
            (
                put,
                "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/s",
                "system:kube-scheduler",
                &[everybody][..],
                "system-leader-election",
                "leader-election",
            ),
            (
                put,
                "/api/v1/nodes/n/status",
                "system:node:n",
                &["system:nodes", everybody][..],
                "system-node-high",
                "node-high",
            ),
            (
                get,
                "/api/v1/namespaces/a/pods",
                "system:node:n",
                &["system:nodes", everybody][..],
                "system-nodes",
                "system",
            ),
            (
                get,
                "/api/v1/pods",
                "system:kube-scheduler",
                &[everybody][..],
                "kube-scheduler",
                "workload-high",
            ),
            (
                get,
                "/api/v1/pods",
                "system:serviceaccount:kube-system:gc",
                &["system:serviceaccounts", everybody][..],
                "kube-system-service-accounts",
                "workload-high",
            ),
            (
                get,
                "/api/v1/pods",
                "system:serviceaccount:kube-systems:gc",
                &["system:serviceaccounts", everybody][..],
                "service-accounts",
                "workload-low",
            ),
            (
                get,
                "/api/v1/pods",
                "bob",
                &[everybody][..],
                "global-default",
                "global-default",
            ),
            (
                get,
                "/api/v1/pods",
                "nobody",
                &[][..],
                "catch-all",
                "catch-all",
            ),
        ] {
            assert_eq!(
                find(method, path, user, groups),
                (schema.to_owned(), level.to_owned()),
                "{path} {user}"
            );
        }
    }
}
