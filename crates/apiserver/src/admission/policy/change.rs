//! Lets the mutating policies change what a request brings.

use serde_json::json;
use skiff_api::schema::body::Target;
use skiff_api::{ApiError, ApiResult, Object};

use super::mutating::Policy;
use super::table::{FailurePolicy, Hook, Hooks};
use super::{Seen, Turn, turns};
use crate::admission::expressions::Checks;
use crate::admission::matching::{Match, Matching};
use crate::admission::webhooks::Unmade;
use crate::admission::{AdmissionRequest, Operation};
use crate::registry::Resource;

/// Runs the policies that the request is for, each on what the ones before made of the object. `Some`: they made
/// another object of it.
pub(super) async fn run(
    request: &AdmissionRequest<'_>,
    hooks: &Hooks<Policy>,
    object: Option<&dyn Object>,
    old: Option<&dyn Object>,
) -> ApiResult<Option<Box<dyn Object>>> {
    let matching = Matching::new(request, object, old);
    let mut changing = Changing {
        request,
        matching: &matching,
        checks: Checks::new(request),
        object,
        old,
        made: None,
        refusals: Vec::new(),
    };
    // Which policies are for the request is judged on what came, not on what policies make of it.
    let mut invited = Vec::new();
    for hook in hooks {
        let mut unusable = Vec::new();
        let head = &hook.policy.head;
        let found = turns(&matching, head, &hook.bindings, &mut unusable).await;
        for error in unusable {
            let binding = error.binding.map(|binding| binding.name.as_str());
            changing.refuse(&hook.policy, binding, &error.message, "");
        }
        if let Some((matched, turns)) = found {
            invited.push((hook, matched, turns));
        }
    }
    for (hook, matched, turns) in &invited {
        changing.ask(hook, matched, turns).await?;
    }
    if changing.made.is_some() {
        // The last of them, too, may want to see what became of its own change.
        request.reinvocation.changed();
    }
    match refused(request, changing.refusals) {
        Some(error) => Err(error),
        None => Ok(changing.made),
    }
}

/// A policy's refusal: the message, and a reason other than `Forbidden`.
struct Refusal {
    message: String,
    reason: &'static str,
}

/// The object on its way through the policies.
struct Changing<'a> {
    request: &'a AdmissionRequest<'a>,
    matching: &'a Matching<'a>,
    checks: Checks,
    object: Option<&'a dyn Object>,
    old: Option<&'a dyn Object>,
    made: Option<Box<dyn Object>>,
    refusals: Vec<Refusal>,
}

impl Changing<'_> {
    fn current(&self) -> Option<&dyn Object> {
        self.made.as_deref().or(self.object)
    }

    /// Notes that a policy cannot do its work, unless it is content with that.
    fn refuse(
        &mut self,
        policy: &Policy,
        binding: Option<&str>,
        message: &str,
        reason: &'static str,
    ) {
        let head = &policy.head;
        if head.failure == FailurePolicy::Ignore {
            return;
        }
        let message = match binding {
            Some(binding) => format!(
                "policy '{}' with binding '{binding}' denied request: {message}",
                head.name
            ),
            None => format!("policy {:?} denied request: {message}", head.name),
        };
        self.refusals.push(Refusal { message, reason });
    }

    async fn ask(
        &mut self,
        hook: &Hook<Policy>,
        matched: &Match,
        turns: &[Turn<'_>],
    ) -> ApiResult<()> {
        for turn in turns {
            for params in &turn.params {
                let name = |pointer: &str| {
                    let params = params.as_ref()?;
                    params.pointer(pointer)?.as_str().map(str::to_owned)
                };
                let key = format!(
                    "policy/{}/{}/{}/{}",
                    hook.policy.head.name,
                    turn.binding.name,
                    name("/metadata/namespace").unwrap_or_default(),
                    name("/metadata/name").unwrap_or_default()
                );
                let resource = matched.resource(self.request);
                let mut seen = Seen::new(self.matching, resource, self.current(), self.old).await?;
                let hidden = (self.request.operation == Operation::Create)
                    .then(|| Unmade::hide(&mut seen.object));
                let inputs = seen.inputs(params.as_ref(), &self.checks);
                let met = self.checks.settled(|| hook.policy.is_met(inputs)).await;
                let binding = turn.binding.name.as_str();
                match met {
                    Ok(true) => {}
                    Ok(false) => continue,
                    Err(error) => {
                        self.refuse(&hook.policy, Some(binding), &error, "Invalid");
                        continue;
                    }
                }
                let state = &self.request.reinvocation;
                if !state.is_asked(&key) {
                    continue;
                }
                let turn = OneTurn {
                    policy: &hook.policy,
                    binding,
                    matched,
                    params: params.as_ref(),
                };
                let changed = self.change(&turn, seen, hidden).await?;
                if changed {
                    state.changed();
                }
                if hook.policy.reinvoked {
                    state.was_asked(&key);
                }
            }
        }
        Ok(())
    }

    /// Applies the mutations of a policy, in order. Whether the object is another one then.
    async fn change(
        &mut self,
        turn: &OneTurn<'_>,
        mut seen: Seen,
        mut hidden: Option<Unmade>,
    ) -> ApiResult<bool> {
        let Some(mut object) = self.current().map(Object::clone_box) else {
            return Ok(false);
        };
        let request = self.request;
        let resource = turn.matched.resource(request);
        let before = seen.object.clone();
        for mutation in &turn.policy.mutations {
            let target = target(request, resource)?;
            let inputs = seen.inputs(turn.params, &self.checks);
            let outcome = self
                .checks
                .settled(|| turn.policy.mutate(mutation, inputs, &target))
                .await;
            match outcome {
                Err(error) => self.refuse(turn.policy, Some(turn.binding), &error, "Invalid"),
                Ok(patched) if patched == seen.object => {}
                Ok(mut patched) => {
                    if let Some(hidden) = hidden.take() {
                        hidden.show(&mut patched);
                    }
                    object = request
                        .taken(resource, patched, &*object)
                        .map_err(|error| ApiError::internal(error.message))?;
                    seen.object = request.shown(resource, &*object)?;
                    if request.operation == Operation::Create {
                        hidden = Some(Unmade::hide(&mut seen.object));
                    }
                }
            }
        }
        if seen.object == before {
            return Ok(false);
        }
        self.made = Some(object);
        Ok(true)
    }
}

/// The type of what is shown of a resource.
fn target<'a>(request: &AdmissionRequest<'_>, resource: &'a Resource) -> ApiResult<Target<'a>> {
    let part = resource.subresource(request.subresource);
    let Some(part) = part.filter(|part| *part.kind.2 != *resource.kind.kind) else {
        return resource.kind.target();
    };
    let (group, version, kind) = part.kind;
    let mut all = skiff_api::kinds()
        .iter()
        .chain(skiff_api::subresource_kinds());
    let entry =
        all.find(|entry| (entry.group, entry.version, entry.kind) == (group, version, kind));
    Target::of(entry.ok_or_else(ApiError::no_such_path)?)
}

/// A policy with one binding and parameter.
struct OneTurn<'a> {
    policy: &'a Policy,
    binding: &'a str,
    matched: &'a Match,
    params: Option<&'a std::sync::Arc<serde_json::Value>>,
}

/// The answer where policies could not do their work.
fn refused(request: &AdmissionRequest<'_>, refusals: Vec<Refusal>) -> Option<ApiError> {
    let first = refusals.first()?;
    let mut error = request.forbidden("admission request denied by policy");
    error.message.clone_from(&first.message);
    if !first.reason.is_empty() {
        error.reason = first.reason;
    }
    if let Some(details) = &mut error.details {
        let causes = refusals
            .iter()
            .map(|refusal| json!({"message": refusal.message}));
        details["causes"] = causes.collect();
    }
    Some(error)
}
