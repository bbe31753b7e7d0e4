//! Mutating webhooks: asked one after the other, each about what the ones before made of the object.

use std::collections::HashSet;

use parking_lot::Mutex;
use serde_json::{Value, json};
use skiff_api::{ApiError, ApiResult, Object};

use super::Hooks;
use super::call::{self, Failure, ask, call_text};
use super::review::Answer;
use super::table::Hook;
use crate::admission::matching::{Match, Matching};
use crate::admission::{AdmissionRequest, Operation};

/// What is remembered between the two rounds of the mutating plugins.
#[derive(Default)]
pub(crate) struct Reinvocation(Mutex<Rounds>);

#[derive(Default)]
struct Rounds {
    /// 0 or 1.
    round: usize,
    /// Whether somebody changed the object, so that a second round is due.
    due: bool,
    /// Webhooks that were asked and want to be asked again.
    asked: HashSet<String>,
    /// Of these, the ones asked before somebody else changed the object.
    again: HashSet<String>,
    /// What the webhooks left the object as.
    output: Option<Value>,
}

impl Reinvocation {
    /// Says that the object was changed by somebody whose change others may want to see.
    pub fn changed(&self) {
        let mut rounds = self.0.lock();
        rounds.due = true;
        let asked = std::mem::take(&mut rounds.asked);
        rounds.again.extend(asked);
    }

    /// Whether the plugins run a second time; afterwards it is the second round.
    pub fn next_round(&self) -> bool {
        let mut rounds = self.0.lock();
        let due = rounds.due && rounds.round == 0;
        rounds.round += usize::from(due);
        due
    }

    /// 0, or 1 in the second round.
    pub fn round(&self) -> usize {
        self.0.lock().round
    }

    /// Whether the one of that name is asked in this round.
    pub fn is_asked(&self, uid: &str) -> bool {
        let rounds = self.0.lock();
        rounds.round == 0 || rounds.again.contains(uid)
    }

    /// Notes that it was asked, and wants to be asked again after later changes.
    pub fn was_asked(&self, uid: &str) {
        self.0.lock().asked.insert(uid.to_owned());
    }
}

/// Asks the webhooks that the request is for. `Some`: they made another object of it.
pub(super) async fn run(
    request: &AdmissionRequest<'_>,
    hooks: &Hooks,
    object: Option<&dyn Object>,
    old: Option<&dyn Object>,
) -> ApiResult<Option<Box<dyn Object>>> {
    let state = &request.reinvocation;
    let round = state.round();
    if round == 1 && state.0.lock().output != object.map(Object::to_value) {
        // Plugins between the rounds changed the object.
        state.changed();
    }
    let mut replaced: Option<Box<dyn Object>> = None;
    for (index, hook) in hooks.iter().enumerate() {
        let current = replaced.as_deref().or(object);
        let matching = Matching::new(request, current, old);
        let Some(matched) = call::matched(hook, &matching, current, old).await? else {
            continue;
        };
        if !state.is_asked(&hook.uid) {
            continue;
        }
        let place = Place {
            request,
            hook,
            round,
            index,
        };
        let outcome = place.ask(&matched, current, old).await;
        if let Ok(Some(_)) = outcome {
            state.changed();
        }
        if hook.reinvoked {
            state.was_asked(&hook.uid);
        }
        match outcome {
            Ok(Some(new)) => replaced = Some(new),
            Ok(None) => {}
            Err(Failure::Call(reason)) if hook.ignores_failure => {
                tracing::warn!("{}; the request goes on", call_text(&hook.name, &reason));
                place.annotate(
                    "failed-open.mutation.webhook.admission.k8s.io",
                    hook.name.clone(),
                );
            }
            Err(failure) => return Err(failure.into_error(&hook.name)),
        }
    }
    if round == 0 && replaced.is_some() {
        state.0.lock().output = replaced.as_deref().map(Object::to_value);
    }
    Ok(replaced)
}

/// One webhook's turn.
struct Place<'a> {
    request: &'a AdmissionRequest<'a>,
    hook: &'a Hook,
    round: usize,
    index: usize,
}

impl Place<'_> {
    fn annotate(&self, prefix: &str, value: String) {
        let key = format!("{prefix}/round_{}_index_{}", self.round, self.index);
        self.request.call.annotate(key, value);
    }

    async fn ask(
        &self,
        matched: &Match,
        object: Option<&dyn Object>,
        old: Option<&dyn Object>,
    ) -> Result<Option<Box<dyn Object>>, Failure> {
        let outcome = self.ask_and_apply(matched, object, old).await;
        let note = json!({
            "configuration": self.hook.configuration, "webhook": self.hook.name, "mutated": matches!(outcome, Ok(Some(_))),
        });
        self.annotate("mutation.webhook.admission.k8s.io", note.to_string());
        outcome
    }

    async fn ask_and_apply(
        &self,
        matched: &Match,
        object: Option<&dyn Object>,
        old: Option<&dyn Object>,
    ) -> Result<Option<Box<dyn Object>>, Failure> {
        let Self { request, hook, .. } = *self;
        let resource = matched.resource(request);
        let (mut shown, old) = request
            .shown_objects(resource, object, old)
            .map_err(Failure::Refused)?;
        let hidden = (request.operation == Operation::Create).then(|| Unmade::hide(&mut shown));
        let answer = ask(hook, request, matched, (shown.clone(), old), true).await?;
        let Some(patch) = operations(&answer)? else {
            return Ok(None);
        };
        let Some(object) = object else {
            return Err(Failure::Refused(ApiError::internal(format!(
                "admission webhook {:?} attempted to modify the object, which is not supported for this operation",
                hook.name
            ))));
        };
        if answer.patch_type != "JSONPatch" {
            return Err(Failure::Call(format!(
                "unsupported patch type {:?}",
                answer.patch_type
            )));
        }
        let before = shown.clone();
        skiff_api::patch::apply_json_patch(&mut shown, &patch)
            .map_err(|why| Failure::Refused(ApiError::internal(why)))?;
        let note = json!({
            "configuration": hook.configuration, "webhook": hook.name, "patch": patch, "patchType": "JSONPatch",
        });
        self.annotate("patch.webhook.admission.k8s.io", note.to_string());
        if shown == before {
            return Ok(None);
        }
        if let Some(hidden) = hidden {
            hidden.show(&mut shown);
        }
        let taken = request.taken(resource, shown, object);
        taken
            .map(Some)
            .map_err(|error| Failure::Refused(ApiError::internal(error.message)))
    }
}

/// The operations of an answer's patch; `None`: it changes nothing.
fn operations(answer: &Answer) -> Result<Option<Value>, Failure> {
    if answer.patch.is_empty() {
        return Ok(None);
    }
    match serde_json::from_slice::<Value>(&answer.patch) {
        Ok(Value::Array(operations)) if operations.is_empty() => Ok(None),
        Ok(patch @ Value::Array(_)) => Ok(Some(patch)),
        Ok(Value::Null) => Ok(None),
        Ok(_) => Err(Failure::Call(
            "received undecodable patch in webhook response: a patch is a list of operations"
                .to_owned(),
        )),
        Err(error) => Err(Failure::Call(format!(
            "received undecodable patch in webhook response: {error}"
        ))),
    }
}

/// What the server has already settled of a new object, and webhooks are not to see or change: its uid, its time, and its
/// name where the client gave only the beginning of one.
#[derive(Default)]
pub(crate) struct Unmade(Vec<(&'static str, Value)>);

impl Unmade {
    /// Takes the fields out of what is shown.
    pub fn hide(shown: &mut Value) -> Self {
        let Some(meta) = shown.get_mut("metadata").and_then(Value::as_object_mut) else {
            return Self::default();
        };
        let text = |name: &str| meta.get(name).and_then(Value::as_str).unwrap_or_default();
        let generated = !text("generateName").is_empty()
            && text("name").len() == text("generateName").len().min(58) + 5
            && text("name").starts_with(
                text("generateName")
                    .get(..58)
                    .unwrap_or(text("generateName")),
            );
        let mut fields = vec!["uid", "creationTimestamp"];
        if generated {
            fields.push("name");
        }
        Self(
            fields
                .into_iter()
                .filter_map(|field| Some((field, meta.remove(field)?)))
                .collect(),
        )
    }

    /// Puts them back.
    pub fn show(self, shown: &mut Value) {
        if let Some(meta) = shown.get_mut("metadata").and_then(Value::as_object_mut) {
            for (field, value) in self.0 {
                if field != "name"
                    || meta
                        .get("name")
                        .and_then(Value::as_str)
                        .unwrap_or_default()
                        .is_empty()
                {
                    meta.insert(field.to_owned(), value);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_objects_own_fields_come_back() {
        let original = json!({"metadata": {"name": "web-abcde", "generateName": "web-", "uid": "u", "creationTimestamp": "t"}});
        let mut shown = original.clone();
        let hidden = Unmade::hide(&mut shown);
        assert_eq!(shown, json!({"metadata": {"generateName": "web-"}}));
        hidden.show(&mut shown);
        assert_eq!(shown, original);
        let mut named = json!({"metadata": {"name": "web", "generateName": "web-", "uid": "u"}});
        let hidden = Unmade::hide(&mut named);
        assert_eq!(named["metadata"]["name"], "web");
        named["metadata"]["uid"] = "forged".into();
        hidden.show(&mut named);
        assert_eq!(named["metadata"]["uid"], "u");
    }

    #[test]
    fn a_second_round_asks_those_again_that_were_asked_before_a_change() {
        let state = Reinvocation::default();
        state.0.lock().asked.insert("first".to_owned());
        assert!(!state.next_round());
        state.changed();
        state.0.lock().asked.insert("second".to_owned());
        assert!(state.next_round());
        assert_eq!(state.0.lock().again, HashSet::from(["first".to_owned()]));
        state.changed();
        assert!(!state.next_round(), "two rounds at most");
    }
}
