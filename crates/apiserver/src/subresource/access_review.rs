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
    SubjectAccessReviewStatus, SubjectRulesReviewStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use skiff_api::{ApiError, ApiResult, FieldError, Object, ObjectExt, Path};

use super::object_answer;
use crate::query::WriteOptions;
use crate::registry::Resource;
use crate::request::{Attributes, UserInfo};
use crate::seam::Decision;
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
        let user = call.user.clone();
        let (resource, path) = (
            review.spec.resource_attributes.as_ref(),
            review.spec.non_resource_attributes.as_ref(),
        );
        review.status = Some(decide(call, "SelfSubjectAccessReview", user, resource, path).await?);
    } else if let Some(review) = object.downcast_mut::<SubjectAccessReview>() {
        let user = subject("SubjectAccessReview", &review.spec)?;
        let (resource, path) = (
            review.spec.resource_attributes.as_ref(),
            review.spec.non_resource_attributes.as_ref(),
        );
        review.status = Some(decide(call, "SubjectAccessReview", user, resource, path).await?);
    } else if let Some(review) = object.downcast_mut::<LocalSubjectAccessReview>() {
        let kind = "LocalSubjectAccessReview";
        let user = subject(kind, &review.spec)?;
        let namespace = review
            .spec
            .resource_attributes
            .as_ref()
            .and_then(|attributes| attributes.namespace.clone());
        let namespace = namespace.unwrap_or_default();
        if namespace != call.info.namespace {
            return Err(ApiError::bad_request(format!(
                "spec.resourceAttributes.namespace must match namespace: {}",
                call.info.namespace
            )));
        }
        review.metadata.namespace = Some(namespace);
        review.status = Some(
            decide(
                call,
                kind,
                user,
                review.spec.resource_attributes.as_ref(),
                None,
            )
            .await?,
        );
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

fn invalid(kind: &str, path: &Path, value: &str, why: &str) -> ApiError {
    ApiError::invalid(
        "authorization.k8s.io",
        kind,
        "",
        &[FieldError::invalid(path, value, why)],
    )
}

fn subject(
    kind: &str,
    spec: &k8s_openapi::api::authorization::v1::SubjectAccessReviewSpec,
) -> ApiResult<Arc<UserInfo>> {
    let name = spec.user.clone().unwrap_or_default();
    let groups = spec.groups.clone().unwrap_or_default();
    if name.is_empty() && groups.is_empty() {
        return Err(invalid(
            kind,
            &Path::new("spec").child("user"),
            "",
            "at least one of user or group must be specified",
        ));
    }
    Ok(Arc::new(UserInfo {
        name,
        uid: spec.uid.clone().unwrap_or_default(),
        groups,
        extra: spec
            .extra
            .clone()
            .unwrap_or_default()
            .into_iter()
            .collect::<BTreeMap<_, _>>(),
    }))
}

async fn decide(
    call: &Call,
    kind: &str,
    user: Arc<UserInfo>,
    resource: Option<&ResourceAttributes>,
    path: Option<&NonResourceAttributes>,
) -> ApiResult<SubjectAccessReviewStatus> {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let attributes = match (resource, path) {
        (Some(resource), None) => Attributes {
            user,
            verb: text(&resource.verb),
            namespace: text(&resource.namespace),
            group: text(&resource.group),
            version: text(&resource.version),
            resource: text(&resource.resource),
            subresource: text(&resource.subresource),
            name: text(&resource.name),
            is_resource: true,
            ..Attributes::default()
        },
        (None, Some(path)) => Attributes {
            user,
            verb: text(&path.verb),
            path: text(&path.path),
            ..Attributes::default()
        },
        (both, _) => {
            let why = if both.is_some() {
                "cannot be specified in combination with resourceAttributes"
            } else {
                "exactly one of nonResourceAttributes or resourceAttributes must be specified"
            };
            let field = if both.is_some() {
                "nonResourceAttributes"
            } else {
                "resourceAttributes"
            };
            return Err(invalid(kind, &Path::new("spec").child(field), "", why));
        }
    };
    let decision = call.server.decide(&attributes).await;
    Ok(SubjectAccessReviewStatus {
        allowed: decision.allowed(),
        denied: matches!(decision, Decision::Deny(_)).then_some(true),
        reason: Some(decision.reason().to_owned()).filter(|reason| !reason.is_empty()),
        evaluation_error: None,
    })
}

async fn rules(call: &Call, namespace: &str) -> SubjectRulesReviewStatus {
    let rules = call.server.authorizer().rules(&call.user, namespace).await;
    let some = |list: Vec<String>| Some(list).filter(|list| !list.is_empty());
    let mut resource_rules: Vec<ResourceRule> = rules
        .resources
        .into_iter()
        .map(|rule| ResourceRule {
            api_groups: some(rule.api_groups),
            resource_names: some(rule.resource_names),
            resources: some(rule.resources),
            verbs: rule.verbs,
        })
        .collect();
    let mut non_resource_rules: Vec<NonResourceRule> = rules
        .non_resources
        .into_iter()
        .map(|rule| NonResourceRule {
            non_resource_urls: some(rule.paths),
            verbs: rule.verbs,
        })
        .collect();
    let mut incomplete = rules.incomplete;
    if call.user.in_group("system:masters") {
        let all = || vec!["*".to_owned()];
        resource_rules = vec![ResourceRule {
            api_groups: Some(all()),
            resource_names: None,
            resources: Some(all()),
            verbs: all(),
        }];
        non_resource_rules = vec![NonResourceRule {
            non_resource_urls: Some(all()),
            verbs: all(),
        }];
        incomplete = false;
    }
    SubjectRulesReviewStatus {
        evaluation_error: Some(rules.error).filter(|error| !error.is_empty()),
        incomplete,
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
