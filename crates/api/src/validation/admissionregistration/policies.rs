//! Admission policies: what they are for, and the expressions they are made of.

use std::collections::BTreeSet;

use k8s_openapi::api::admissionregistration::v1::{
    AuditAnnotation, ExpressionWarning, MatchCondition, MatchResources, MutatingAdmissionPolicy,
    Mutation, ParamKind, ValidatingAdmissionPolicy, ValidatingAdmissionPolicySpec, Validation,
    Variable,
};

use super::rules::{
    REINVOCATION_POLICIES, failure_policy, match_conditions, match_resources, mutating_operations,
};
use crate::field::{ErrorList, FieldError, Path};
use crate::validation::absent::{items, text};
use crate::validation::expressions::{
    ExpressionChecker, ExpressionResult, ExpressionScope, ExpressionUse, expression,
};
use crate::validation::meta::conditions;
use crate::validation::names;
use crate::validation::values::{all_invalid, json, one_of, required_one_of};

const MAX_AUDIT_ANNOTATIONS: usize = 20;
const MAX_AUDIT_EXPRESSION: usize = 5 * 1024;
const REASONS: &[&str] = &["Forbidden", "Invalid", "RequestEntityTooLarge"];
const PATCH_TYPES: &[&str] = &["ApplyConfiguration", "JSONPatch"];
const RESERVED: &[&str] = &[
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// What is wrong with a ValidatingAdmissionPolicy, its metadata aside.
#[must_use]
pub fn validate_validating(
    policy: &ValidatingAdmissionPolicy,
    old: Option<&ValidatingAdmissionPolicy>,
    checker: &dyn ExpressionChecker,
) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec");
    let spec = policy.spec.clone().unwrap_or_default();
    let old = old.and_then(|old| old.spec.as_ref());
    head(
        &mut errors,
        &Head {
            failure_policy: &spec.failure_policy,
            param_kind: spec.param_kind.as_ref(),
            constraints: spec.match_constraints.as_ref(),
            mutating: false,
            conditions: items(&spec.match_conditions),
            conditions_kept: old.is_some_and(|old| {
                old.param_kind == spec.param_kind && old.match_conditions == spec.match_conditions
            }),
        },
        checker,
        &path,
    );
    let variables = items(&spec.variables);
    let mut scope = checker.scope(!variables.is_empty());
    let params = spec.param_kind.is_some();
    self::variables(&mut errors, &mut *scope, variables, params, &path);
    let name = text(&policy.metadata.name);
    checks(&mut errors, &mut *scope, &spec, name, &path);
    errors
}

/// What is wrong with a MutatingAdmissionPolicy, its metadata aside.
#[must_use]
pub fn validate_mutating(
    policy: &MutatingAdmissionPolicy,
    old: Option<&MutatingAdmissionPolicy>,
    checker: &dyn ExpressionChecker,
) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec");
    let spec = policy.spec.clone().unwrap_or_default();
    let old = old.and_then(|old| old.spec.as_ref());
    head(
        &mut errors,
        &Head {
            failure_policy: &spec.failure_policy,
            param_kind: spec.param_kind.as_ref(),
            constraints: spec.match_constraints.as_ref(),
            mutating: true,
            conditions: items(&spec.match_conditions),
            conditions_kept: old.is_some_and(|old| {
                old.param_kind == spec.param_kind && old.match_conditions == spec.match_conditions
            }),
        },
        checker,
        &path,
    );
    let mut scope = checker.scope(true);
    let params = spec.param_kind.is_some();
    let variables = items(&spec.variables);
    self::variables(&mut errors, &mut *scope, variables, params, &path);
    let mutations = items(&spec.mutations);
    if mutations.is_empty() {
        let detail = "mutations must contain at least one item";
        errors.push(FieldError::required(&path.child("mutations"), detail));
    }
    for (index, mutation) in mutations.iter().enumerate() {
        let path = path.child("mutations").index(index);
        self::mutation(&mut errors, &mut *scope, mutation, params, &path);
    }
    required_one_of(
        &mut errors,
        &path.child("reinvocationPolicy"),
        text(&spec.reinvocation_policy),
        REINVOCATION_POLICIES,
    );
    errors
}

/// What policies of both sorts begin with.
struct Head<'a> {
    failure_policy: &'a Option<String>,
    param_kind: Option<&'a ParamKind>,
    constraints: Option<&'a MatchResources>,
    mutating: bool,
    conditions: &'a [MatchCondition],
    /// Nothing changed that could make the conditions wrong.
    conditions_kept: bool,
}

fn head(errors: &mut ErrorList, head: &Head<'_>, checker: &dyn ExpressionChecker, path: &Path) {
    failure_policy(errors, head.failure_policy, &path.child("failurePolicy"));
    if let Some(kind) = head.param_kind {
        param_kind(errors, kind, &path.child("paramKind"));
    }
    let constraints = path.child("matchConstraints");
    match head.constraints {
        None => errors.push(FieldError::required(&constraints, "")),
        Some(resources) => {
            match_resources(errors, resources, &constraints);
            if items(&resources.resource_rules).is_empty() {
                let path = constraints.child("resourceRules");
                errors.push(FieldError::required(&path, ""));
            }
            if head.mutating {
                mutating_operations(errors, resources, &constraints);
            }
        }
    }
    if !head.conditions_kept {
        let params = head.param_kind.is_some();
        let path = path.child("matchConditions");
        match_conditions(errors, head.conditions, params, checker, &path);
    }
}

fn param_kind(errors: &mut ErrorList, param: &ParamKind, path: &Path) {
    let (api_version, kind) = (text(&param.api_version), text(&param.kind));
    let at = path.child("apiVersion");
    let mut invalid = |value: &str, detail: &str| {
        errors.push(FieldError::invalid(&at, value, detail));
    };
    let parts: Vec<&str> = api_version.split('/').collect();
    let parsed = match parts.as_slice() {
        ["", ""] => Some(("", "")),
        [version] => Some(("", *version)),
        [group, version] => Some((*group, *version)),
        _ => None,
    };
    match parsed {
        Some(("", "")) if api_version.is_empty() => errors.push(FieldError::required(&at, "")),
        None => {
            let detail = format!("unexpected GroupVersion string: {api_version}");
            invalid(api_version, &detail);
        }
        Some((group, version)) => {
            let wrong = names::dns_subdomain(group);
            if !group.is_empty() && !wrong.is_empty() {
                invalid(group, &wrong.join(","));
            }
            let wrong = names::dns_1035_label(version);
            if version.is_empty() {
                invalid(api_version, "version must be specified");
            } else if !wrong.is_empty() {
                invalid(version, &wrong.join(","));
            }
        }
    }
    let at = path.child("kind");
    let wrong = names::dns_1035_label(&kind.to_lowercase());
    if kind.is_empty() {
        errors.push(FieldError::required(&at, ""));
    } else if !wrong.is_empty() {
        let detail = format!(
            "may have mixed case, but should otherwise match: {}",
            wrong.join(",")
        );
        errors.push(FieldError::invalid(&at, kind, &detail));
    }
}

fn is_identifier(name: &str) -> bool {
    let mut chars = name.chars();
    chars
        .next()
        .is_some_and(|c| c == '_' || c.is_ascii_alphabetic())
        && chars.all(|c| c == '_' || c.is_ascii_alphanumeric())
        && !RESERVED.contains(&name)
}

fn variables(
    errors: &mut ErrorList,
    scope: &mut dyn ExpressionScope,
    variables: &[Variable],
    params: bool,
    path: &Path,
) {
    let purpose = ExpressionUse {
        params,
        authorizer: true,
        patch_types: false,
        result: ExpressionResult::Any,
    };
    for (index, variable) in variables.iter().enumerate() {
        let path = path.child("variables").index(index);
        let at = path.child("name");
        if variable.name.trim().is_empty() {
            errors.push(FieldError::required(&at, "name is not specified"));
        } else if !is_identifier(&variable.name) {
            let detail = "must be a valid CEL identifier";
            errors.push(FieldError::invalid(&at, &variable.name, detail));
        }
        let at = path.child("expression");
        if variable.expression.trim().is_empty() {
            errors.push(FieldError::required(&at, "expression is not specified"));
        } else if let Err(detail) = scope.declare(&variable.name, &variable.expression, purpose) {
            errors.push(FieldError::invalid(&at, &variable.expression, &detail));
        }
    }
}

fn checks(
    errors: &mut ErrorList,
    scope: &mut dyn ExpressionScope,
    spec: &ValidatingAdmissionPolicySpec,
    name: &str,
    path: &Path,
) {
    let (validations, annotations) = (items(&spec.validations), items(&spec.audit_annotations));
    let (at, audit) = (path.child("validations"), path.child("auditAnnotations"));
    if validations.is_empty() && annotations.is_empty() {
        let detail = "validations or auditAnnotations must contain at least one item";
        errors.push(FieldError::required(&at, detail));
        errors.push(FieldError::required(&audit, detail));
        return;
    }
    let params = spec.param_kind.is_some();
    for (index, validation) in validations.iter().enumerate() {
        self::validation(errors, scope, validation, params, &at.index(index));
    }
    if annotations.len() > MAX_AUDIT_ANNOTATIONS {
        let detail = format!("must not have more than {MAX_AUDIT_ANNOTATIONS} auditAnnotations");
        errors.push(FieldError::invalid(&audit, json(annotations), &detail));
    }
    let mut seen = BTreeSet::new();
    for (index, annotation) in annotations.iter().enumerate() {
        let path = audit.index(index);
        audit_annotation(errors, scope, annotation, name, params, &path);
        if !seen.insert(annotation.key.as_str()) {
            errors.push(FieldError::duplicate(&path.child("key"), &annotation.key));
        }
    }
}

fn validation(
    errors: &mut ErrorList,
    scope: &mut dyn ExpressionScope,
    validation: &Validation,
    params: bool,
    path: &Path,
) {
    let purpose = ExpressionUse {
        params,
        authorizer: true,
        patch_types: false,
        result: ExpressionResult::Bool,
    };
    let at = path.child("expression");
    if validation.expression.trim().is_empty() {
        errors.push(FieldError::required(&at, "expression is not specified"));
    } else {
        expression(errors, scope, &validation.expression, purpose, &at);
    }
    const BLANK: &str = "must be non-empty if specified";
    let (message_expression, at) = (
        text(&validation.message_expression),
        path.child("messageExpression"),
    );
    if !message_expression.is_empty() && message_expression.trim().is_empty() {
        errors.push(FieldError::invalid(&at, message_expression, BLANK));
    } else if !message_expression.is_empty() {
        let purpose = ExpressionUse {
            authorizer: false,
            result: ExpressionResult::String,
            ..purpose
        };
        expression(errors, scope, message_expression, purpose, &at);
    }
    let (message, at) = (text(&validation.message), path.child("message"));
    if !message.is_empty() && message.trim().is_empty() {
        errors.push(FieldError::invalid(&at, message, BLANK));
    } else if message.trim().contains(['\n', '\r']) {
        let detail = "must not contain line breaks";
        errors.push(FieldError::invalid(&at, message, detail));
    }
    if let Some(reason) = &validation.reason {
        one_of(errors, &path.child("reason"), reason, REASONS);
    }
}

fn audit_annotation(
    errors: &mut ErrorList,
    scope: &mut dyn ExpressionScope,
    annotation: &AuditAnnotation,
    name: &str,
    params: bool,
    path: &Path,
) {
    let (key, at) = (&annotation.key, path.child("key"));
    if name.is_empty() {
        let detail = "requires metadata.name be non-empty";
        errors.push(FieldError::invalid(&at, key, detail));
    } else {
        let key = format!("{name}/{key}");
        all_invalid(errors, &at, &key, names::qualified_name(&key));
    }
    let (trimmed, at) = (
        annotation.value_expression.trim(),
        path.child("valueExpression"),
    );
    if trimmed.is_empty() {
        let detail = "valueExpression is not specified";
        errors.push(FieldError::required(&at, detail));
    } else if trimmed.len() > MAX_AUDIT_EXPRESSION {
        let detail = format!("must not exceed {MAX_AUDIT_EXPRESSION} bytes in length");
        errors.push(FieldError::required(&at, &detail));
    } else {
        let purpose = ExpressionUse {
            params,
            authorizer: true,
            patch_types: false,
            result: ExpressionResult::StringOrNull,
        };
        if let Err(detail) = scope.check(trimmed, purpose) {
            let whole = &annotation.value_expression;
            errors.push(FieldError::invalid(&at, whole, &detail));
        }
    }
}

fn mutation(
    errors: &mut ErrorList,
    scope: &mut dyn ExpressionScope,
    mutation: &Mutation,
    params: bool,
    path: &Path,
) {
    let apply = mutation.apply_configuration.as_ref().map(|apply| {
        (
            text(&apply.expression),
            ExpressionResult::ApplyConfiguration,
        )
    });
    let patch = mutation
        .json_patch
        .as_ref()
        .map(|patch| (text(&patch.expression), ExpressionResult::JsonPatch));
    let (wanted, wanted_name, other, other_name) = match mutation.patch_type.as_str() {
        "" => {
            errors.push(FieldError::required(&path.child("patchType"), ""));
            return;
        }
        "JSONPatch" => (patch, "jsonPatch", apply, "applyConfiguration"),
        "ApplyConfiguration" => (apply, "applyConfiguration", patch, "jsonPatch"),
        unknown => {
            one_of(errors, &path.child("patchType"), unknown, PATCH_TYPES);
            return;
        }
    };
    let kind = &mutation.patch_type;
    match wanted {
        None => {
            let detail = format!("must be specified when patchType is {kind}");
            errors.push(FieldError::required(&path.child(wanted_name), &detail));
        }
        Some((source, result)) => {
            let at = path.child(wanted_name).child("expression");
            let purpose = ExpressionUse {
                params,
                authorizer: true,
                patch_types: true,
                result,
            };
            match source.trim() {
                "" => errors.push(FieldError::required(&at, "")),
                trimmed => expression(errors, scope, trimmed, purpose, &at),
            }
        }
    }
    if other.is_some() {
        let detail = format!("must not be specified when patchType is {kind}");
        let shown = format!("{{{other_name}}}");
        errors.push(FieldError::invalid(&path.child(other_name), shown, &detail));
    }
}

/// What is wrong with the status of a ValidatingAdmissionPolicy.
#[must_use]
pub fn validate_status(policy: &ValidatingAdmissionPolicy) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("status");
    let Some(status) = &policy.status else {
        return errors;
    };
    let checking = status.type_checking.as_ref();
    let warnings = checking.map_or(&[][..], |checking| items(&checking.expression_warnings));
    for (index, warning) in warnings.iter().enumerate() {
        let path = path.child("typeChecking").child("expressionWarnings");
        expression_warning(&mut errors, warning, &path.index(index));
    }
    conditions(
        &mut errors,
        items(&status.conditions),
        &path.child("conditions"),
    );
    errors
}

fn expression_warning(errors: &mut ErrorList, warning: &ExpressionWarning, path: &Path) {
    if warning.warning.is_empty() {
        errors.push(FieldError::required(&path.child("warning"), ""));
    }
    let (field, path) = (warning.field_ref.trim(), path.child("fieldRef"));
    if field.is_empty() {
        errors.push(FieldError::required(&path, ""));
    } else if field.matches('[').count() != field.matches(']').count() {
        let detail = "invalid JSONPath: unterminated array";
        errors.push(FieldError::invalid(&path, field, detail));
    }
}
