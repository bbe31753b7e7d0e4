//! Reviews: what users may do, and who a token or a request belongs to.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use http::Response;
use k8s_openapi::api::authentication::v1::{
    SelfSubjectReview, SelfSubjectReviewStatus, TokenReview, TokenReviewStatus,
    UserInfo as ReviewedUser,
};
use k8s_openapi::api::authorization::v1::{
    LocalSubjectAccessReview, NonResourceAttributes, NonResourceRule, ResourceAttributes,
    ResourceRule, SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview,
    SubjectAccessReviewSpec, SubjectAccessReviewStatus, SubjectRulesReviewStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use skiff_api::{ApiError, ApiResult, ErrorList, FieldError, Object, ObjectExt, Path};

use super::object_answer;
use crate::query::WriteOptions;
use crate::registry::Resource;
use crate::request::{Attributes, UserInfo};
use crate::seam::Decision;
use crate::selector::{LabelSelector, parse_fields};
use crate::server::{ApiServer, Call};
use crate::write::{decode_kind, parse_body};

/// Answers a POST of a review.
pub(crate) async fn review(
    call: &Call,
    resource: &Resource,
    body: Body,
) -> ApiResult<Response<Body>> {
    crate::content::negotiate_whole(call)?;
    let options = WriteOptions::parse(&call.query, "CreateOptions")?;
    let body = ApiServer::read_body(body).await?;
    let value = parse_body(call, &resource.kind, &body, options.field_validation)?;
    let mut object = decode_kind(&resource.kind, value)?;
    fill(call, &mut *object).await?;
    object_answer(call, 201, &*object)
}

async fn fill(call: &Call, object: &mut dyn Object) -> ApiResult<()> {
    if let Some(review) = object.downcast_mut::<SelfSubjectAccessReview>() {
        let spec = &review.spec;
        let asked = Asked::of(&spec.resource_attributes, &spec.non_resource_attributes);
        let errors = asked.check(&review.metadata, None);
        refuse("SelfSubjectAccessReview", &errors)?;
        review.status = Some(asked.decide(call, call.user.clone()).await);
    } else if let Some(review) = object.downcast_mut::<SubjectAccessReview>() {
        let spec = &review.spec;
        let asked = Asked::of(&spec.resource_attributes, &spec.non_resource_attributes);
        refuse(
            "SubjectAccessReview",
            &asked.check(&review.metadata, Some(spec)),
        )?;
        review.status = Some(asked.decide(call, subject(spec)).await);
    } else if let Some(review) = object.downcast_mut::<LocalSubjectAccessReview>() {
        review.metadata.namespace = Some(call.info.namespace.clone());
        let spec = &review.spec;
        let asked = Asked::of(&spec.resource_attributes, &spec.non_resource_attributes);
        let mut meta = review.metadata.clone();
        meta.namespace = None;
        let mut errors = asked.check(&meta, Some(spec));
        let namespace = asked.resource.and_then(|found| found.namespace.as_deref());
        if asked.resource.is_some() && namespace.unwrap_or_default() != call.info.namespace {
            let path = Path::new("spec.resourceAttributes.namespace");
            let why = "must match metadata.namespace";
            errors.push(FieldError::invalid(
                &path,
                namespace.unwrap_or_default(),
                why,
            ));
        }
        if asked.path.is_some() {
            let path = Path::new("spec.nonResourceAttributes");
            let why = "disallowed on this kind of request";
            errors.push(FieldError::invalid(&path, "", why));
        }
        refuse("LocalSubjectAccessReview", &errors)?;
        review.status = Some(asked.decide(call, subject(spec)).await);
    } else if let Some(review) = object.downcast_mut::<SelfSubjectRulesReview>() {
        let namespace = review.spec.namespace.clone().unwrap_or_default();
        if namespace.is_empty() {
            return Err(ApiError::bad_request("no namespace on request"));
        }
        review.status = Some(rules(call, &namespace).await);
    } else if let Some(review) = object.downcast_mut::<SelfSubjectReview>() {
        review.metadata.creation_timestamp = Some(Time(call.server.now()));
        review.status = Some(SelfSubjectReviewStatus {
            user_info: Some(reviewed(&call.user)),
        });
    } else if let Some(review) = object.downcast_mut::<TokenReview>() {
        let token = review.spec.token.clone();
        if token.is_empty() {
            return Err(ApiError::bad_request(
                "token is required for TokenReview in authentication",
            ));
        }
        let audiences = review.spec.audiences.clone().unwrap_or_default();
        review.status = Some(judge(call, &token, &audiences).await);
    } else {
        return Err(ApiError::internal("no such review"));
    }
    Ok(())
}

fn refuse(kind: &str, errors: &ErrorList) -> ApiResult<()> {
    match errors.is_empty() {
        true => Ok(()),
        false => Err(ApiError::invalid("authorization.k8s.io", kind, "", errors)),
    }
}

fn subject(spec: &SubjectAccessReviewSpec) -> Arc<UserInfo> {
    Arc::new(UserInfo {
        name: spec.user.clone().unwrap_or_default(),
        uid: spec.uid.clone().unwrap_or_default(),
        groups: spec.groups.clone().unwrap_or_default(),
        extra: spec.extra.clone().unwrap_or_default().into_iter().collect(),
    })
}

/// What a review asks about.
struct Asked<'a> {
    resource: Option<&'a ResourceAttributes>,
    path: Option<&'a NonResourceAttributes>,
}

impl<'a> Asked<'a> {
    fn of(
        resource: &'a Option<ResourceAttributes>,
        path: &'a Option<NonResourceAttributes>,
    ) -> Self {
        Self {
            resource: resource.as_ref(),
            path: path.as_ref(),
        }
    }

    /// What is wrong with the review; `of`: whom it asks about, where it is not the one who asks.
    fn check(&self, meta: &ObjectMeta, of: Option<&SubjectAccessReviewSpec>) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = Path::new("spec");
        match (self.resource, self.path) {
            (Some(_), Some(_)) => {
                let path = path.child("nonResourceAttributes");
                let why = "cannot be specified in combination with resourceAttributes";
                errors.push(FieldError::invalid(&path, "", why));
            }
            (None, None) => {
                let path = path.child("resourceAttributes");
                let why =
                    "exactly one of nonResourceAttributes or resourceAttributes must be specified";
                errors.push(FieldError::invalid(&path, "", why));
            }
            _ => {}
        }
        if let Some(spec) = of
            && spec.user.as_ref().is_none_or(String::is_empty)
            && spec.groups.as_ref().is_none_or(Vec::is_empty)
        {
            let why = "at least one of user or group must be specified";
            errors.push(FieldError::invalid(&path.child("user"), "", why));
        }
        let path = Path::new("spec.resourceAttributes");
        if let Some(found) = self
            .resource
            .and_then(|found| found.field_selector.as_ref())
        {
            let given = (&found.raw_selector, found.requirements.is_some());
            errors.extend(check_selector(given, &path.child("fieldSelector")));
        }
        if let Some(found) = self
            .resource
            .and_then(|found| found.label_selector.as_ref())
        {
            let given = (&found.raw_selector, found.requirements.is_some());
            errors.extend(check_selector(given, &path.child("labelSelector")));
        }
        let mut meta = meta.clone();
        meta.managed_fields = None;
        if meta != ObjectMeta::default() {
            let path = Path::new("metadata");
            errors.push(FieldError::invalid(&path, "", "must be empty"));
        }
        errors
    }

    /// The decision, and what could not be understood of the selectors: those narrow a request, so what is left out makes
    /// the question a broader one.
    async fn decide(&self, call: &Call, user: Arc<UserInfo>) -> SubjectAccessReviewStatus {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let mut wrong = Vec::new();
        let attributes = match (self.resource, self.path) {
            (Some(resource), _) => Attributes {
                user,
                verb: text(&resource.verb),
                namespace: text(&resource.namespace),
                group: text(&resource.group),
                version: text(&resource.version),
                resource: text(&resource.resource),
                subresource: text(&resource.subresource),
                name: text(&resource.name),
                is_resource: true,
                field_selector: field_selector(resource, &mut wrong),
                label_selector: label_selector(resource, &mut wrong),
                ..Attributes::default()
            },
            (None, path) => Attributes {
                user,
                verb: path.map(|path| text(&path.verb)).unwrap_or_default(),
                path: path.map(|path| text(&path.path)).unwrap_or_default(),
                ..Attributes::default()
            },
        };
        let decision = call.server.decide(&attributes).await;
        SubjectAccessReviewStatus {
            allowed: decision.allowed(),
            denied: matches!(decision, Decision::Deny(_)).then_some(true),
            reason: Some(decision.reason().to_owned()).filter(|reason| !reason.is_empty()),
            evaluation_error: Some(wrong.join(", ")).filter(|wrong| !wrong.is_empty()),
        }
    }
}

fn check_selector(given: (&Option<String>, bool), path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let raw = given.0.as_deref().unwrap_or_default();
    if !raw.is_empty() && given.1 {
        let why = "may not specified at the same time as requirements";
        errors.push(FieldError::invalid(&path.child("rawSelector"), raw, why));
    }
    if raw.is_empty() && !given.1 {
        let why = format!("when {path} is specified, requirements or rawSelector is required");
        errors.push(FieldError::required(&path.child("requirements"), &why));
    }
    errors
}

fn field_selector(resource: &ResourceAttributes, wrong: &mut Vec<String>) -> String {
    let Some(selector) = &resource.field_selector else {
        return String::new();
    };
    if let Some(raw) = selector.raw_selector.as_ref().filter(|raw| !raw.is_empty()) {
        return match parse_fields(raw) {
            Ok(_) => raw.clone(),
            Err(error) => {
                wrong.push(error.message);
                String::new()
            }
        };
    }
    let escaped = |value: &str| {
        let value = value.replace('\\', "\\\\").replace(',', "\\,");
        value.replace('=', "\\=")
    };
    let mut terms = Vec::new();
    for term in selector.requirements.iter().flatten() {
        let values = term.values.as_deref().unwrap_or_default();
        match (term.operator.as_str(), values) {
            ("In", [value]) => terms.push(format!("{}={}", term.key, escaped(value))),
            ("NotIn", [value]) => terms.push(format!("{}!={}", term.key, escaped(value))),
            ("In", []) => wrong.push("fieldSelectors in must have one value".to_owned()),
            ("NotIn", []) => wrong.push("fieldSelectors not in must have one value".to_owned()),
            ("In" | "NotIn", _) => {
                wrong.push("fieldSelectors do not yet support multiple values".to_owned());
            }
            (operator @ ("Exists" | "DoesNotExist"), _) => {
                wrong.push(format!("fieldSelectors do not yet support {operator}"));
            }
            (other, _) => wrong.push(format!("{other:?} is not a valid field selector operator")),
        }
    }
    terms.join(",")
}

fn label_selector(resource: &ResourceAttributes, wrong: &mut Vec<String>) -> String {
    let Some(selector) = &resource.label_selector else {
        return String::new();
    };
    if let Some(raw) = selector.raw_selector.as_ref().filter(|raw| !raw.is_empty()) {
        return match LabelSelector::parse(raw) {
            Ok(_) => raw.clone(),
            Err(error) => {
                wrong.push(error.message);
                String::new()
            }
        };
    }
    let mut terms = Vec::new();
    for term in selector.requirements.iter().flatten() {
        let values = term.values.clone().unwrap_or_default().join(",");
        let text = match term.operator.as_str() {
            "In" => format!("{} in ({values})", term.key),
            "NotIn" => format!("{} notin ({values})", term.key),
            "Exists" => term.key.clone(),
            "DoesNotExist" => format!("!{}", term.key),
            other => {
                wrong.push(format!("{other:?} is not a valid label selector operator"));
                continue;
            }
        };
        match LabelSelector::parse(&text) {
            Ok(_) => terms.push(text),
            Err(error) => wrong.push(error.message),
        }
    }
    terms.join(",")
}

async fn rules(call: &Call, namespace: &str) -> SubjectRulesReviewStatus {
    let rules = call.server.authorizer().rules(&call.user, namespace).await;
    let some = |list: Vec<String>| Some(list).filter(|list| !list.is_empty());
    let resource_rules: Vec<ResourceRule> = rules
        .resources
        .into_iter()
        .map(|rule| ResourceRule {
            api_groups: some(rule.api_groups),
            resource_names: some(rule.resource_names),
            resources: some(rule.resources),
            verbs: rule.verbs,
        })
        .collect();
    let non_resource_rules: Vec<NonResourceRule> = rules
        .non_resources
        .into_iter()
        .map(|rule| NonResourceRule {
            non_resource_urls: some(rule.paths),
            verbs: rule.verbs,
        })
        .collect();
    SubjectRulesReviewStatus {
        evaluation_error: Some(rules.error).filter(|error| !error.is_empty()),
        incomplete: rules.incomplete,
        non_resource_rules,
        resource_rules,
    }
}

fn reviewed(user: &UserInfo) -> ReviewedUser {
    ReviewedUser {
        username: Some(user.name.clone()),
        uid: Some(user.uid.clone()).filter(|uid| !uid.is_empty()),
        groups: Some(user.groups.clone()).filter(|groups| !groups.is_empty()),
        extra: Some(user.extra.clone().into_iter().collect())
            .filter(|extra: &BTreeMap<_, _>| !extra.is_empty()),
    }
}

async fn judge(call: &Call, token: &str, audiences: &[String]) -> TokenReviewStatus {
    let failed = |error: String| TokenReviewStatus {
        error: Some(error),
        ..TokenReviewStatus::default()
    };
    let Some(authenticator) = call.server.authenticator() else {
        return TokenReviewStatus::default();
    };
    match authenticator.review_token(token, audiences).await {
        Ok(Some((user, audiences))) => TokenReviewStatus {
            authenticated: Some(true),
            user: Some(reviewed(&user)),
            audiences: Some(audiences).filter(|list| !list.is_empty()),
            error: None,
        },
        Ok(None) => TokenReviewStatus::default(),
        Err(error) => failed(error.to_string()),
    }
}
