//! Asks the validating policies about a request.

use std::collections::BTreeMap;

use serde_json::json;
use skiff_api::{ApiError, ApiResult, Object};

use super::table::{Binding, FailurePolicy, Hook, Hooks};
use super::validating::{
    Annotation, Decision, FAILURE_ANNOTATION, Outcome, Policy, failure_note, reason_of,
};
use super::{Seen, turns};
use crate::admission::AdmissionRequest;
use crate::admission::expressions::Checks;
use crate::admission::matching::Matching;
use crate::registry::Resource;

/// Asks the policies that the request is for. The first that refuses it makes the answer.
pub(super) async fn run(
    request: &AdmissionRequest<'_>,
    hooks: &Hooks<Policy>,
    object: Option<&dyn Object>,
    old: Option<&dyn Object>,
) -> ApiResult<()> {
    let matching = Matching::new(request, object, old);
    let checks = Checks::new(request);
    let mut shown = Shown {
        objects: (object, old),
        seen: Vec::new(),
    };
    let mut refusal: Option<ApiError> = None;
    for hook in hooks {
        let refused = ask(&matching, &checks, hook, &mut shown).await?;
        refusal = refusal.or(refused);
    }
    refusal.map_or(Ok(()), Err)
}

/// What policies see of the request, made once for each version that they see it in.
struct Shown<'a> {
    objects: (Option<&'a dyn Object>, Option<&'a dyn Object>),
    seen: Vec<(String, Seen)>,
}

impl Shown<'_> {
    async fn of(&mut self, matching: &Matching<'_>, resource: &Resource) -> ApiResult<&Seen> {
        let version = resource.kind.api_version();
        let known = self.seen.iter().position(|(of, _)| *of == version);
        let at = match known {
            Some(at) => at,
            None => {
                let (object, old) = self.objects;
                let seen = Seen::new(matching, resource, object, old).await?;
                self.seen.push((version, seen));
                self.seen.len() - 1
            }
        };
        let found = self.seen.get(at).map(|(_, seen)| seen);
        found.ok_or_else(|| ApiError::internal("nothing is seen of the request"))
    }
}

/// Asks one policy with all its bindings, even after one refused: warnings and annotations are for all.
async fn ask(
    matching: &Matching<'_>,
    checks: &Checks,
    hook: &Hook<Policy>,
    shown: &mut Shown<'_>,
) -> ApiResult<Option<ApiError>> {
    let policy = &*hook.policy;
    let mut unusable = Vec::new();
    let found = turns(matching, &policy.head, &hook.bindings, &mut unusable).await;
    let mut asking = Asking {
        request: matching.request,
        policy,
        refusal: None,
        notes: BTreeMap::new(),
    };
    if policy.head.failure == FailurePolicy::Fail {
        for error in unusable {
            asking.refuse(error.binding, &error.message, "");
        }
    }
    let Some((matched, turns)) = found.filter(|(_, turns)| !turns.is_empty()) else {
        return Ok(asking.refusal);
    };
    let resource = matched.resource(matching.request);
    let seen = shown.of(matching, resource).await?;
    for turn in &turns {
        for params in &turn.params {
            let inputs = seen.inputs(params.as_ref(), checks);
            let outcome = checks.settled(|| policy.evaluate(inputs)).await;
            asking.take(turn.binding, outcome);
        }
    }
    asking.publish();
    Ok(asking.refusal)
}

/// One policy's turn.
struct Asking<'a> {
    request: &'a AdmissionRequest<'a>,
    policy: &'a Policy,
    refusal: Option<ApiError>,
    /// The values of the policy's audit annotations, each once.
    notes: BTreeMap<String, Vec<String>>,
}

impl Asking<'_> {
    fn take(&mut self, binding: &Binding, outcome: Outcome) {
        let name = self.policy.head.name.as_str();
        for (index, decision) in outcome.decisions.iter().enumerate() {
            let Decision::Deny(message, reason) = decision else {
                continue;
            };
            for action in &binding.actions {
                match action.as_str() {
                    "Deny" => self.refuse(Some(binding), message, reason),
                    "Warn" => self.request.call.warn(format!(
                        "Validation failed for ValidatingAdmissionPolicy '{name}' with binding '{}': {message}",
                        binding.name
                    )),
                    "Audit" => self
                        .request
                        .call
                        .annotate(FAILURE_ANNOTATION, failure_note(name, binding, index, message)),
                    _ => {}
                }
            }
        }
        for annotation in outcome.annotations {
            match annotation {
                Annotation::Publish(key, value) => {
                    let values = self.notes.entry(key).or_default();
                    if !values.contains(&value) {
                        values.push(value);
                    }
                }
                Annotation::Exclude => {}
                Annotation::Error(error) => self.refuse(Some(binding), &error, ""),
            }
        }
    }

    fn publish(&self) {
        let name = &self.policy.head.name;
        for (key, values) in &self.notes {
            let call = self.request.call;
            call.annotate(format!("{name}/{key}"), values.join(", "));
        }
    }

    /// Keeps the first refusal.
    fn refuse(&mut self, binding: Option<&Binding>, message: &str, reason: &str) {
        if self.refusal.is_some() {
            return;
        }
        let name = &self.policy.head.name;
        let message = match binding {
            Some(binding) => format!(
                "ValidatingAdmissionPolicy '{name}' with binding '{}' denied request: {message}",
                binding.name
            ),
            None => format!("ValidatingAdmissionPolicy '{name}' denied request: {message}"),
        };
        let mut error = self.request.forbidden(&message);
        (error.code, error.reason) = reason_of(reason);
        if let Some(details) = &mut error.details {
            details["causes"] = json!([{"message": message}]);
        }
        self.refusal = Some(error);
    }
}
