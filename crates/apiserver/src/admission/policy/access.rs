//! Who may write a policy or a binding with parameters: those who may read the parameters.

use k8s_openapi::api::admissionregistration::v1::{
    MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding, ParamKind, ParamRef,
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use serde::de::DeserializeOwned;
use skiff_api::{ApiResult, FieldError, Object, ObjectExt, Path};

use crate::request::{Attributes, UserInfo};
use crate::write::Target;

const GROUP: &str = "admissionregistration.k8s.io";

/// What a binding says of its parameters.
#[derive(PartialEq)]
struct Bound {
    policy: String,
    reference: ParamRef,
}

/// Refuses the write of a policy or binding whose parameters the user may not read. Other kinds pass.
pub(crate) async fn check(
    target: &Target<'_>,
    new: &dyn Object,
    old: Option<&dyn Object>,
) -> ApiResult<()> {
    if target.resource.kind.group != GROUP || !target.subresource.is_empty() {
        return Ok(());
    }
    // Whoever may do everything may read everything.
    if target.call.user.in_group("system:masters") {
        return Ok(());
    }
    let refusal = if let Some(kind) = param_kind(new) {
        if old.and_then(param_kind) == Some(kind) {
            return Ok(());
        }
        of_policy(target, kind)
            .await
            .map(|detail| ("paramKind", detail))
    } else if let Some(bound) = bound(new) {
        if old.and_then(self::bound).as_ref() == Some(&bound) {
            return Ok(());
        }
        of_binding(target, &bound)
            .await?
            .map(|detail| ("paramRef", detail))
    } else {
        None
    };
    match refusal {
        None => Ok(()),
        Some((field, detail)) => {
            let path = Path::new("spec").child(field);
            Err(target.invalid(&vec![FieldError::forbidden(&path, &detail)]))
        }
    }
}

fn param_kind(object: &dyn Object) -> Option<&ParamKind> {
    if let Some(policy) = object.downcast_ref::<ValidatingAdmissionPolicy>() {
        return policy.spec.as_ref()?.param_kind.as_ref();
    }
    let policy = object.downcast_ref::<MutatingAdmissionPolicy>()?;
    policy.spec.as_ref()?.param_kind.as_ref()
}

fn bound(object: &dyn Object) -> Option<Bound> {
    if let Some(binding) = object.downcast_ref::<ValidatingAdmissionPolicyBinding>() {
        return Some(Bound {
            policy: binding.spec.policy_name.clone(),
            reference: binding.spec.param_ref.clone()?,
        });
    }
    let binding = object.downcast_ref::<MutatingAdmissionPolicyBinding>()?;
    let spec = binding.spec.as_ref()?;
    Some(Bound {
        policy: spec.policy_name.clone().unwrap_or_default(),
        reference: spec.param_ref.clone()?,
    })
}

/// The group, version and resource that must be readable: `*` for what cannot be told.
struct Resolved {
    group: String,
    version: String,
    resource: String,
    /// Whether the kind is served.
    known: bool,
}

fn resolve(target: &Target<'_>, kind: Option<&ParamKind>) -> Resolved {
    let any = || "*".to_owned();
    let Some(kind) = kind else {
        return Resolved {
            group: any(),
            version: any(),
            resource: any(),
            known: true,
        };
    };
    let api_version = kind.api_version.as_deref().unwrap_or_default();
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let registry = target.call.server.registry.load();
    let found = registry.of_kind(api_version, kind.kind.as_deref().unwrap_or_default());
    Resolved {
        group: group.to_owned(),
        version: version.to_owned(),
        resource: found.map_or_else(any, |resource| resource.kind.plural.to_string()),
        known: found.is_some(),
    }
}

async fn may(
    target: &Target<'_>,
    verb: &str,
    resolved: &Resolved,
    namespace: &str,
    name: &str,
) -> bool {
    let attributes = Attributes {
        user: target.call.user.clone(),
        verb: verb.to_owned(),
        namespace: namespace.to_owned(),
        group: resolved.group.clone(),
        version: resolved.version.clone(),
        resource: resolved.resource.clone(),
        subresource: String::new(),
        name: name.to_owned(),
        path: String::new(),
        is_resource: true,
        label_selector: String::new(),
        field_selector: String::new(),
    };
    target.call.server.decide(&attributes).await.allowed()
}

async fn of_policy(target: &Target<'_>, kind: &ParamKind) -> Option<String> {
    let resolved = resolve(target, Some(kind));
    if may(target, "get", &resolved, "*", "*").await {
        return None;
    }
    Some(format!(
        "user {} must have \"get\" permission on all objects of the referenced paramKind (kind={}, apiVersion={})",
        shown(&target.call.user),
        kind.kind.as_deref().unwrap_or_default(),
        kind.api_version.as_deref().unwrap_or_default()
    ))
}

async fn of_binding(target: &Target<'_>, bound: &Bound) -> ApiResult<Option<String>> {
    let policy = policy_kind(target, &bound.policy).await?;
    let kind = policy.as_ref().and_then(Option::as_ref);
    let resolved = resolve(target, kind);
    let name = bound.reference.name.as_deref().unwrap_or_default();
    let namespace = bound.reference.namespace.as_deref().unwrap_or_default();
    let verb = if name.is_empty() { "list" } else { "get" };
    if may(target, verb, &resolved, namespace, name).await {
        return Ok(None);
    }
    let user = shown(&target.call.user);
    let everything = format!(
        "user {user} does not have {verb:?} permission for all groups, versions and resources"
    );
    Ok(Some(match (&policy, kind) {
        (None, _) => format!(
            "unable to get policy {} to determine minimum required permissions and {everything}",
            bound.policy
        ),
        (_, Some(kind)) if !resolved.known => format!(
            "unable to resolve paramKind &ParamKind{{APIVersion:{},Kind:{},}} to determine minimum required permissions and {everything}",
            kind.api_version.as_deref().unwrap_or_default(),
            kind.kind.as_deref().unwrap_or_default()
        ),
        _ => format!(
            "user {user} does not have {verb:?} permission on the object referenced by paramRef"
        ),
    }))
}

/// The kind of a policy's parameters; the outer `None`: there is no such policy.
async fn policy_kind(target: &Target<'_>, name: &str) -> ApiResult<Option<Option<ParamKind>>> {
    let mutating = target.resource.kind.plural == "mutatingadmissionpolicybindings";
    Ok(if mutating {
        let policy: Option<MutatingAdmissionPolicy> =
            find(target, "mutatingadmissionpolicies", name).await?;
        policy.map(|policy| policy.spec.and_then(|spec| spec.param_kind))
    } else {
        let policy: Option<ValidatingAdmissionPolicy> =
            find(target, "validatingadmissionpolicies", name).await?;
        policy.map(|policy| policy.spec.and_then(|spec| spec.param_kind))
    })
}

async fn find<T: DeserializeOwned>(
    target: &Target<'_>,
    plural: &str,
    name: &str,
) -> ApiResult<Option<T>> {
    target
        .admission(crate::admission::Operation::Create)
        .find(GROUP, plural, "", name)
        .await
}

/// A user as upstream's messages show one.
fn shown(user: &UserInfo) -> String {
    let extra: Vec<String> = user
        .extra
        .iter()
        .map(|(key, values)| format!("{key}:[{}]", values.join(" ")))
        .collect();
    format!(
        "&{{{} {} [{}] map[{}]}}",
        user.name,
        user.uid,
        user.groups.join(" "),
        extra.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_shown_as_upstream_shows_them() {
        let mut user = UserInfo::new("jane", &["a", "b"]);
        assert_eq!(shown(&user), "&{jane  [a b] map[]}");
        user.uid = "7".to_owned();
        user.extra
            .insert("k".to_owned(), vec!["x".to_owned(), "y".to_owned()]);
        assert_eq!(shown(&user), "&{jane 7 [a b] map[k:[x y]]}");
    }
}
