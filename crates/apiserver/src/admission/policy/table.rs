//! The policies in force, compiled, with their bindings: a table that follows the store, so that a request looks
//! nothing up and parses nothing.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use k8s_openapi::Metadata;
use k8s_openapi::api::admissionregistration::v1::{
    MatchResources, MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding, ParamKind, ParamRef,
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;
use skiff_api::{ApiError, ApiResult};
use tokio::sync::watch;

use super::params::ParamCache;
use super::{mutating, validating};
use crate::admission::matching::Criteria;
use crate::cache::{ResourceCache, Since, Trigger};
use crate::server::ApiServer;

const GROUP: &str = "admissionregistration.k8s.io";
/// How long a request waits for the table to be there, as upstream's does.
const READY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the table waits before it asks again for a cache that failed.
const RETRY: Duration = Duration::from_millis(200);
/// Changes taken from a cache at once; how many there were does not matter.
const BATCH: usize = 1024;

/// Whether an error refuses the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailurePolicy {
    Fail,
    Ignore,
}

impl FailurePolicy {
    /// `Fail` where nothing is said.
    pub fn of(text: Option<&String>) -> Self {
        match text.map(String::as_str) {
            Some("Ignore") => Self::Ignore,
            _ => Self::Fail,
        }
    }
}

/// What a policy of either sort says before its expressions.
pub(crate) struct Head {
    pub name: String,
    pub failure: FailurePolicy,
    /// `None`: the policy has none, which validation refuses.
    pub criteria: Option<Criteria>,
    /// The group, version and kind of the parameters.
    pub param_kind: Option<ParamGvk>,
    pub params: ParamCache,
}

/// The kind of the parameters of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ParamGvk {
    pub api_version: String,
    pub kind: String,
}

impl std::fmt::Display for ParamGvk {
    /// As upstream shows it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.api_version.split_once('/') {
            Some(_) => write!(f, "{}, Kind={}", self.api_version, self.kind),
            None => write!(f, "/{}, Kind={}", self.api_version, self.kind),
        }
    }
}

/// A binding of either sort.
pub(crate) struct Binding {
    pub name: String,
    /// `None`: whatever the policy is for.
    pub criteria: Option<Criteria>,
    pub param_ref: Option<ParamRef>,
    /// What a failed validation does; empty for mutating policies.
    pub actions: Vec<String>,
}

/// A policy with its bindings, at least one.
pub(crate) struct Hook<P> {
    pub policy: Arc<P>,
    pub bindings: Vec<Binding>,
}

/// The policies of one sort, by name.
pub(crate) type Hooks<P> = Vec<Hook<P>>;

/// All policies in force.
#[derive(Default)]
pub(crate) struct Policies {
    validating: ArcSwapOption<Hooks<validating::Policy>>,
    mutating: ArcSwapOption<Hooks<mutating::Policy>>,
    ready: watch::Sender<bool>,
    /// The namespaces of requests, as expressions see them.
    pub namespaces: ParamCache,
}

/// What the table needs to know of an object to compile it once per generation.
type Generation = (String, i64);

fn generation(meta: &ObjectMeta) -> Generation {
    (
        meta.uid.clone().unwrap_or_default(),
        meta.generation.unwrap_or(0),
    )
}

/// A kind of policy: how it and its bindings are read.
pub(crate) trait PolicyKind: Send + Sync + 'static {
    /// The policy as stored.
    type Object: DeserializeOwned + k8s_openapi::Metadata<Ty = ObjectMeta> + Send;
    /// The binding as stored.
    type Bound: DeserializeOwned + Send;
    const PLURALS: [&'static str; 2];

    fn compile(object: &Self::Object) -> Self;
    /// The policy that a binding names, and the binding.
    fn binding(object: Self::Bound) -> (String, Binding);
    fn slot(policies: &Policies) -> &ArcSwapOption<Hooks<Self>>
    where
        Self: Sized;
}

/// The name, failure policy, criteria and parameters of a policy.
pub(crate) fn head(
    meta: &ObjectMeta,
    failure: Option<&String>,
    constraints: Option<&MatchResources>,
    param_kind: Option<&ParamKind>,
) -> Head {
    Head {
        name: meta.name.clone().unwrap_or_default(),
        failure: FailurePolicy::of(failure),
        criteria: constraints.map(Criteria::from),
        param_kind: param_kind.map(|kind| ParamGvk {
            api_version: kind.api_version.clone().unwrap_or_default(),
            kind: kind.kind.clone().unwrap_or_default(),
        }),
        params: ParamCache::default(),
    }
}

impl PolicyKind for validating::Policy {
    type Object = ValidatingAdmissionPolicy;
    type Bound = ValidatingAdmissionPolicyBinding;
    const PLURALS: [&'static str; 2] = [
        "validatingadmissionpolicies",
        "validatingadmissionpolicybindings",
    ];

    fn compile(object: &ValidatingAdmissionPolicy) -> Self {
        Self::new(object)
    }

    fn binding(object: ValidatingAdmissionPolicyBinding) -> (String, Binding) {
        let spec = object.spec;
        let binding = Binding {
            name: object.metadata.name.unwrap_or_default(),
            criteria: spec.match_resources.as_ref().map(Criteria::from),
            param_ref: spec.param_ref,
            actions: spec.validation_actions,
        };
        (spec.policy_name, binding)
    }

    fn slot(policies: &Policies) -> &ArcSwapOption<Hooks<Self>> {
        &policies.validating
    }
}

impl PolicyKind for mutating::Policy {
    type Object = MutatingAdmissionPolicy;
    type Bound = MutatingAdmissionPolicyBinding;
    const PLURALS: [&'static str; 2] = [
        "mutatingadmissionpolicies",
        "mutatingadmissionpolicybindings",
    ];

    fn compile(object: &MutatingAdmissionPolicy) -> Self {
        Self::new(object)
    }

    fn binding(object: MutatingAdmissionPolicyBinding) -> (String, Binding) {
        let spec = object.spec.unwrap_or_default();
        let binding = Binding {
            name: object.metadata.name.unwrap_or_default(),
            criteria: spec.match_resources.as_ref().map(Criteria::from),
            param_ref: spec.param_ref,
            actions: Vec::new(),
        };
        (spec.policy_name.unwrap_or_default(), binding)
    }

    fn slot(policies: &Policies) -> &ArcSwapOption<Hooks<Self>> {
        &policies.mutating
    }
}

impl Policies {
    /// The policies of one sort; waits while the server starts.
    pub async fn hooks<P: PolicyKind>(
        &self,
        server: &ApiServer,
    ) -> ApiResult<Option<Arc<Hooks<P>>>> {
        let slot = P::slot(self);
        if let Some(hooks) = slot.load_full() {
            return Ok(Some(hooks).filter(|hooks| !hooks.is_empty()));
        }
        let mut ready = self.ready.subscribe();
        let waited = ready.wait_for(|_| slot.load().is_some());
        tokio::select! {
            _ = waited => Ok(slot.load_full().filter(|hooks| !hooks.is_empty())),
            () = server.clock.sleep(READY_TIMEOUT) => {
                Err(ApiError::internal("not yet ready to handle request"))
            }
        }
    }
}

/// Keeps the table of one sort of policies until the server stops.
pub(crate) async fn follow<P: PolicyKind>(server: Arc<ApiServer>) {
    let mut compiled = HashMap::new();
    loop {
        tokio::select! {
            () = server.shutdown.triggered() => return,
            outcome = follow_caches::<P>(&server, &mut compiled) => {
                if let Err(error) = outcome {
                    tracing::warn!(%error, kind = P::PLURALS[0], "policies cannot be read");
                }
            }
        }
        tokio::select! {
            () = server.shutdown.triggered() => return,
            () = server.clock.sleep(RETRY) => {}
        }
    }
}

type Compilations<P> = HashMap<String, (Generation, Arc<P>)>;

/// Follows the two caches until one is given up.
async fn follow_caches<P: PolicyKind>(
    server: &Arc<ApiServer>,
    compiled: &mut Compilations<P>,
) -> ApiResult<()> {
    if server
        .registry
        .load()
        .stored(GROUP, P::PLURALS[0])
        .is_none()
    {
        // A server of other kinds has no policies.
        P::slot(&server.policies).store(Some(Arc::default()));
        server.policies.ready.send_replace(true);
        std::future::pending::<()>().await;
    }
    let [policies, bindings] = [
        cache(server, P::PLURALS[0]).await?,
        cache(server, P::PLURALS[1]).await?,
    ];
    let changed = [
        policies.subscribe(Trigger::Any),
        bindings.subscribe(Trigger::Any),
    ];
    loop {
        let (objects, mut policy_cursor) = policies.snapshot(policies.prefix());
        let (bound, mut binding_cursor) = bindings.snapshot(bindings.prefix());
        let objects: Vec<P::Object> = objects.iter().filter_map(|entry| entry.decode()).collect();
        let bound: Vec<P::Bound> = bound.iter().filter_map(|entry| entry.decode()).collect();
        let hooks = assemble(objects, bound, compiled);
        P::slot(&server.policies).store(Some(Arc::new(hooks)));
        server.policies.ready.send_replace(true);
        // Woken without a change: only that the ring is to be read before it overflows.
        loop {
            tokio::select! {
                () = changed[0].changed() => {}
                () = changed[1].changed() => {}
            }
            let moved = [
                moved(&policies, &mut policy_cursor),
                moved(&bindings, &mut binding_cursor),
            ];
            match moved {
                [None, _] | [_, None] => return Ok(()),
                [Some(false), Some(false)] => {}
                _ => break,
            }
        }
    }
}

/// Whether there are changes behind the cursor; `None`: the cache was given up.
fn moved(cache: &ResourceCache, cursor: &mut u64) -> Option<bool> {
    match cache.since(*cursor, BATCH) {
        Since::Lost => None,
        Since::Events(events, next) => {
            *cursor = next;
            Some(!events.is_empty())
        }
    }
}

async fn cache(server: &Arc<ApiServer>, plural: &str) -> ApiResult<Arc<ResourceCache>> {
    let registry = server.registry.load_full();
    let resource = registry
        .stored(GROUP, plural)
        .ok_or_else(ApiError::no_such_path)?;
    server.hub_cache(resource).await
}

/// Policies with their bindings, both by name; what is bound to nothing does nothing. What was compiled before and
/// has not changed is taken over.
fn assemble<P: PolicyKind>(
    objects: Vec<P::Object>,
    bound: Vec<P::Bound>,
    compiled: &mut Compilations<P>,
) -> Hooks<P> {
    let mut bindings: BTreeMap<String, BTreeMap<String, Binding>> = BTreeMap::new();
    for object in bound {
        let (policy, binding) = P::binding(object);
        let of_policy = bindings.entry(policy).or_default();
        of_policy.insert(binding.name.clone(), binding);
    }
    let mut before = std::mem::take(compiled);
    let mut hooks = BTreeMap::new();
    for object in objects {
        let meta = object.metadata();
        let name = meta.name.clone().unwrap_or_default();
        let Some(bindings) = bindings.remove(&name) else {
            continue;
        };
        let generation = generation(meta);
        let policy = match before.remove(&name) {
            Some((of, policy)) if of == generation => policy,
            _ => Arc::new(P::compile(&object)),
        };
        compiled.insert(name.clone(), (generation, policy.clone()));
        let bindings = bindings.into_values().collect();
        hooks.insert(name, Hook { policy, bindings });
    }
    hooks.into_values().collect()
}
