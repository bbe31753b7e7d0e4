//! Admission policies: expressions, kept in the cluster, that refuse what is written or change it.
//!
//! `table` keeps them compiled, `validating` and `mutating` evaluate one policy on JSON, and here is what both sorts
//! share: which policies a request is for, with which parameters, and what is answered.

pub(crate) mod access;
mod change;
mod mutating;
mod params;
mod refuse;
mod table;
#[cfg(test)]
mod tests;
mod validating;

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::admissionregistration::v1::Variable;
use serde_json::Value as Json;
use skiff_api::validation::expressions::{ExpressionResult, ExpressionUse};
use skiff_api::{ApiResult, Object};

use super::expressions::{Checks, Expression, Inputs, Scope, namespace_object};
use super::matching::{Match, Matching};
use super::{Admission, AdmissionRequest};
use crate::registry::Resource;
use crate::server::ApiServer;
use table::{Binding, Head};

pub(crate) use table::Policies;

/// Follows the policies of both sorts until the server stops.
pub(crate) async fn keep(server: Arc<ApiServer>) {
    tokio::join!(
        table::follow::<validating::Policy>(server.clone()),
        table::follow::<mutating::Policy>(server),
    );
}

/// Refuses what policies refuse.
pub(crate) struct ValidatingAdmissionPolicy;

#[async_trait]
impl Admission for ValidatingAdmissionPolicy {
    async fn validate(
        &self,
        request: &AdmissionRequest<'_>,
        object: Option<&dyn Object>,
        old: Option<&dyn Object>,
    ) -> ApiResult<()> {
        let server = &request.call.server;
        match server.policies.hooks::<validating::Policy>(server).await? {
            Some(hooks) if !is_exempt(request) => refuse::run(request, &hooks, object, old).await,
            _ => Ok(()),
        }
    }
}

/// Changes what policies change.
pub(crate) struct MutatingAdmissionPolicy;

#[async_trait]
impl Admission for MutatingAdmissionPolicy {
    fn replaces(&self) -> bool {
        true
    }

    async fn replace(
        &self,
        request: &AdmissionRequest<'_>,
        object: Option<&dyn Object>,
        old: Option<&dyn Object>,
    ) -> ApiResult<Option<Box<dyn Object>>> {
        // There is nothing to change in a deletion.
        if request.operation == super::Operation::Delete {
            return Ok(None);
        }
        let server = &request.call.server;
        match server.policies.hooks::<mutating::Policy>(server).await? {
            Some(hooks) if !is_exempt(request) => change::run(request, &hooks, object, old).await,
            _ => Ok(None),
        }
    }
}

/// The policies themselves, which could lock everybody out, and what the server is asked to find out who may do what.
const EXEMPT: &[(&str, &str)] = &[
    (
        "admissionregistration.k8s.io",
        "validatingadmissionpolicies",
    ),
    (
        "admissionregistration.k8s.io",
        "validatingadmissionpolicybindings",
    ),
    ("admissionregistration.k8s.io", "mutatingadmissionpolicies"),
    (
        "admissionregistration.k8s.io",
        "mutatingadmissionpolicybindings",
    ),
    ("authentication.k8s.io", "selfsubjectreviews"),
    ("authentication.k8s.io", "tokenreviews"),
    ("authorization.k8s.io", "localsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews"),
    ("authorization.k8s.io", "subjectaccessreviews"),
];

fn is_exempt(request: &AdmissionRequest<'_>) -> bool {
    let kind = &request.resource.kind;
    EXEMPT
        .iter()
        .any(|(group, plural)| kind.group == *group && kind.plural == *plural)
}

/// Compiles the variables of a policy.
fn variables(
    scope: &mut Scope,
    variables: Option<&[Variable]>,
    params: bool,
) -> Vec<(String, Expression)> {
    let purpose = ExpressionUse {
        params,
        authorizer: true,
        patch_types: false,
        result: ExpressionResult::Any,
    };
    let compile = |variable: &Variable| {
        let (name, source) = (&variable.name, &variable.expression);
        (
            name.clone(),
            Expression::variable(scope, name, source, purpose),
        )
    };
    variables.unwrap_or_default().iter().map(compile).collect()
}

/// Why a policy cannot be asked, and which binding is to blame.
struct Unusable<'h> {
    binding: Option<&'h Binding>,
    message: String,
}

impl<'h> Unusable<'h> {
    fn policy(error: impl std::fmt::Display) -> Self {
        Self {
            binding: None,
            message: format!("failed to configure policy: {error}"),
        }
    }

    fn binding(binding: &'h Binding, error: impl std::fmt::Display) -> Self {
        Self {
            binding: Some(binding),
            message: format!("failed to configure binding: {error}"),
        }
    }
}

/// What a policy is asked about: with one binding, and the parameters.
struct Turn<'h> {
    binding: &'h Binding,
    params: Vec<Option<Arc<Json>>>,
}

/// The bindings by which a policy is for a request; `None`: it is not for the request. Errors leave the others alone.
async fn turns<'h>(
    matching: &Matching<'_>,
    head: &Head,
    bindings: &'h [Binding],
    unusable: &mut Vec<Unusable<'h>>,
) -> Option<(Match, Vec<Turn<'h>>)> {
    let Some(criteria) = &head.criteria else {
        unusable.push(Unusable::policy(
            "policy contained no match constraints, a required field",
        ));
        return None;
    };
    let matched = match matching.matches(criteria).await {
        Ok(matched) => matched?,
        Err(error) => {
            unusable.push(Unusable::policy(error));
            return None;
        }
    };
    let server = &matching.request.call.server;
    let resource = match params::resource(server, head) {
        Ok(resource) => resource,
        Err(error) => {
            unusable.push(Unusable::policy(error));
            return None;
        }
    };
    let mut turns = Vec::new();
    for binding in bindings {
        if let Some(criteria) = &binding.criteria {
            match matching.matches(criteria).await {
                Ok(Some(_)) => {}
                Ok(None) => continue,
                Err(error) => {
                    unusable.push(Unusable::binding(binding, error));
                    continue;
                }
            }
        }
        let namespace = matching.asked().namespace;
        let reference = binding.param_ref.as_ref();
        let found = params::collect(server, head, resource.as_ref(), reference, namespace).await;
        match found {
            Ok(params) if params.is_empty() => {}
            Ok(params) => turns.push(Turn { binding, params }),
            Err(error) => unusable.push(Unusable::binding(binding, error)),
        }
    }
    Some((matched, turns))
}

/// What expressions see of a request, in the version that a policy takes it for.
struct Seen {
    object: Json,
    old: Json,
    request: Json,
    namespace: Arc<Json>,
}

impl Seen {
    /// Fails where the request's namespace is not there.
    async fn new(
        matching: &Matching<'_>,
        resource: &Resource,
        object: Option<&dyn Object>,
        old: Option<&dyn Object>,
    ) -> ApiResult<Self> {
        let request = matching.request;
        let (object, old) = request.shown_objects(resource, object, old)?;
        let namespace = match matching.namespace().await? {
            None => Arc::new(Json::Null),
            Some(entry) => request.call.server.policies.namespaces.get(entry, || {
                let namespace = serde_json::from_slice(&entry.bytes).unwrap_or_default();
                namespace_object(&namespace)
            }),
        };
        Ok(Self {
            object,
            old,
            request: request.shown_request("", resource, Json::Null, Json::Null),
            namespace,
        })
    }

    fn inputs<'a>(&'a self, params: Option<&'a Arc<Json>>, checks: &'a Checks) -> Inputs<'a> {
        Inputs {
            object: &self.object,
            old_object: &self.old,
            request: &self.request,
            params: params.map_or(&Json::Null, |params| &**params),
            namespace: &self.namespace,
            authorizer: Some(checks),
        }
    }
}
