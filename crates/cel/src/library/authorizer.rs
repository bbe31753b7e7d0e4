//! Questions to the authorizer, which the caller answers.

use std::sync::Arc;

use super::format;
use super::opaque::Opaque;
use crate::declare::Row;
use crate::error::EvalError;
use crate::value::Value;

type Result<'v> = std::result::Result<Value<'v>, EvalError>;

pub(crate) const TABLE: &[Row] = &[
    (
        "path",
        "authorizer_path",
        "kubernetes.authorization.Authorizer.(string) -> kubernetes.authorization.PathCheck",
        path,
    ),
    (
        "group",
        "authorizer_group",
        "kubernetes.authorization.Authorizer.(string) -> kubernetes.authorization.GroupCheck",
        group,
    ),
    (
        "serviceAccount",
        "authorizer_serviceaccount",
        "kubernetes.authorization.Authorizer.(string, string) -> kubernetes.authorization.Authorizer",
        service_account,
    ),
    (
        "resource",
        "groupcheck_resource",
        "kubernetes.authorization.GroupCheck.(string) -> kubernetes.authorization.ResourceCheck",
        resource,
    ),
    (
        "subresource",
        "resourcecheck_subresource",
        "kubernetes.authorization.ResourceCheck.(string) -> kubernetes.authorization.ResourceCheck",
        subresource,
    ),
    (
        "namespace",
        "resourcecheck_namespace",
        "kubernetes.authorization.ResourceCheck.(string) -> kubernetes.authorization.ResourceCheck",
        namespace,
    ),
    (
        "name",
        "resourcecheck_name",
        "kubernetes.authorization.ResourceCheck.(string) -> kubernetes.authorization.ResourceCheck",
        name,
    ),
    (
        "fieldSelector",
        "authorizer_fieldselector",
        "kubernetes.authorization.ResourceCheck.(string) -> kubernetes.authorization.ResourceCheck",
        field_selector,
    ),
    (
        "labelSelector",
        "authorizer_labelselector",
        "kubernetes.authorization.ResourceCheck.(string) -> kubernetes.authorization.ResourceCheck",
        label_selector,
    ),
    (
        "check",
        "pathcheck_check",
        "kubernetes.authorization.PathCheck.(string) -> kubernetes.authorization.Decision",
        check,
    ),
    (
        "check",
        "resourcecheck_check",
        "kubernetes.authorization.ResourceCheck.(string) -> kubernetes.authorization.Decision",
        check,
    ),
    (
        "errored",
        "decision_errored",
        "kubernetes.authorization.Decision.() -> bool",
        errored,
    ),
    (
        "error",
        "decision_error",
        "kubernetes.authorization.Decision.() -> string",
        error,
    ),
    (
        "allowed",
        "decision_allowed",
        "kubernetes.authorization.Decision.() -> bool",
        allowed,
    ),
    (
        "reason",
        "decision_reason",
        "kubernetes.authorization.Decision.() -> string",
        reason,
    ),
];

/// Answers whether somebody may do something. It knows who asked; a service account is named where an expression asks
/// for another one.
pub trait Authorizer: Send + Sync {
    /// Decides. `account` is the service account to decide for; `None` means whoever sent the request.
    fn authorize(
        &self,
        account: Option<&ServiceAccount>,
        verb: &str,
        check: &Check<'_>,
    ) -> Decision;
}

/// A service account by its namespace and name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAccount {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

/// What is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check<'c> {
    /// A path that is no resource.
    Path(&'c str),
    /// A resource.
    Resource(&'c ResourceCheck),
}

/// A resource that is asked about. Empty means not given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResourceCheck {
    /// The service account to decide for, in the place of whoever sent the request.
    pub account: Option<ServiceAccount>,
    /// The API group.
    pub group: String,
    /// The plural name.
    pub resource: String,
    /// The subresource.
    pub subresource: String,
    /// The namespace; empty for the whole cluster.
    pub namespace: String,
    /// The object's name.
    pub name: String,
    /// A field selector as text; one that cannot be parsed counts as none.
    pub field_selector: String,
    /// A label selector as text; one that cannot be parsed counts as none.
    pub label_selector: String,
}

/// The authorizer's answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Whether it is allowed; having no opinion is not.
    pub allowed: bool,
    /// Why.
    pub reason: String,
    /// What went wrong while it was decided.
    pub error: Option<String>,
}

fn none<'v>() -> Result<'v> {
    Err(EvalError::no_such_overload())
}

fn is_blank(text: &str) -> bool {
    text.trim().is_empty()
}

fn asker<'v>(
    value: Option<&Value<'v>>,
) -> Option<(&'v dyn Authorizer, Option<Arc<ServiceAccount>>)> {
    match value {
        Some(Value::Opaque(Opaque::Authorizer(authorizer))) => Some((*authorizer, None)),
        Some(Value::Opaque(Opaque::AccountAuthorizer(authorizer, account))) => {
            Some((*authorizer, Some(account.clone())))
        }
        _ => None,
    }
}

fn path<'v>(args: &[Value<'v>]) -> Result<'v> {
    let (Some((authorizer, account)), Some(Value::String(path))) =
        (asker(args.first()), args.get(1))
    else {
        return none();
    };
    if is_blank(path) {
        return Err(EvalError::fault("path must not be empty"));
    }
    Ok(Value::Opaque(Opaque::PathCheck(
        authorizer,
        account,
        Arc::from(path.as_str()),
    )))
}

fn group<'v>(args: &[Value<'v>]) -> Result<'v> {
    let (Some((authorizer, account)), Some(Value::String(group))) =
        (asker(args.first()), args.get(1))
    else {
        return none();
    };
    Ok(Value::Opaque(Opaque::GroupCheck(
        authorizer,
        account,
        Arc::from(group.as_str()),
    )))
}

fn service_account<'v>(args: &[Value<'v>]) -> Result<'v> {
    let (Some((authorizer, _)), [_, Value::String(namespace), Value::String(name)]) =
        (asker(args.first()), args)
    else {
        return none();
    };
    if !format::is_subdomain(name) {
        return Err(EvalError::fault("Invalid service account name"));
    }
    if !format::is_label(namespace) {
        return Err(EvalError::fault("Invalid service account namespace"));
    }
    let account = ServiceAccount {
        namespace: namespace.to_string(),
        name: name.to_string(),
    };
    Ok(Value::Opaque(Opaque::AccountAuthorizer(
        authorizer,
        Arc::new(account),
    )))
}

fn resource<'v>(args: &[Value<'v>]) -> Result<'v> {
    let [
        Value::Opaque(Opaque::GroupCheck(authorizer, account, group)),
        Value::String(resource),
    ] = args
    else {
        return none();
    };
    if is_blank(resource) {
        return Err(EvalError::fault("resource must not be empty"));
    }
    let check = ResourceCheck {
        account: account.as_deref().cloned(),
        group: group.to_string(),
        resource: resource.to_string(),
        ..ResourceCheck::default()
    };
    Ok(Value::Opaque(Opaque::ResourceCheck(
        *authorizer,
        Arc::new(check),
    )))
}

fn changed<'v>(args: &[Value<'v>], change: impl Fn(&mut ResourceCheck, String)) -> Result<'v> {
    let [
        Value::Opaque(Opaque::ResourceCheck(authorizer, check)),
        Value::String(text),
    ] = args
    else {
        return none();
    };
    let mut check = ResourceCheck::clone(check);
    change(&mut check, text.to_string());
    Ok(Value::Opaque(Opaque::ResourceCheck(
        *authorizer,
        Arc::new(check),
    )))
}

fn subresource<'v>(args: &[Value<'v>]) -> Result<'v> {
    changed(args, |check, text| check.subresource = text)
}

fn namespace<'v>(args: &[Value<'v>]) -> Result<'v> {
    changed(args, |check, text| check.namespace = text)
}

fn name<'v>(args: &[Value<'v>]) -> Result<'v> {
    changed(args, |check, text| check.name = text)
}

fn field_selector<'v>(args: &[Value<'v>]) -> Result<'v> {
    changed(args, |check, text| check.field_selector = text)
}

fn label_selector<'v>(args: &[Value<'v>]) -> Result<'v> {
    changed(args, |check, text| check.label_selector = text)
}

fn check<'v>(args: &[Value<'v>]) -> Result<'v> {
    let decision = match args {
        [
            Value::Opaque(Opaque::PathCheck(authorizer, account, path)),
            Value::String(verb),
        ] => authorizer.authorize(account.as_deref(), verb, &Check::Path(path)),
        [
            Value::Opaque(Opaque::ResourceCheck(authorizer, check)),
            Value::String(verb),
        ] => authorizer.authorize(check.account.as_ref(), verb, &Check::Resource(check)),
        _ => return none(),
    };
    Ok(Value::Opaque(Opaque::Decision(Arc::new(decision))))
}

fn decision<'a>(args: &'a [Value<'_>]) -> std::result::Result<&'a Decision, EvalError> {
    match args {
        [Value::Opaque(Opaque::Decision(decision))] => Ok(decision),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn errored<'v>(args: &[Value<'v>]) -> Result<'v> {
    Ok(decision(args)?.error.is_some().into())
}

fn error<'v>(args: &[Value<'v>]) -> Result<'v> {
    Ok(decision(args)?.error.clone().unwrap_or_default().into())
}

fn allowed<'v>(args: &[Value<'v>]) -> Result<'v> {
    Ok(decision(args)?.allowed.into())
}

fn reason<'v>(args: &[Value<'v>]) -> Result<'v> {
    Ok(decision(args)?.reason.clone().into())
}
