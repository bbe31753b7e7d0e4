//! `serviceaccounts/token`: issues a token for a service account, bound to an object when asked.

use std::time::Duration;

use axum::body::Body;
use http::Response;
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{
    BoundObjectReference, TokenRequest, TokenRequestStatus,
};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use skiff_api::{ApiError, ApiResult, FieldError, Path};

use super::{body_as, kind_of, object_answer};
use crate::admission::{self, Operation};
use crate::query::WriteOptions;
use crate::registry::Resource;
use crate::seam::TokenRequestParams;
use crate::server::Call;
use crate::write::Target;

const GROUP: &str = "authentication.k8s.io";
const MIN_SECONDS: i64 = 600;
const MAX_SECONDS: i64 = 1 << 32;

/// Answers a POST.
pub(crate) async fn issue(
    call: &Call,
    accounts: &Resource,
    body: Body,
) -> ApiResult<Response<Body>> {
    let options = WriteOptions::parse(&call.query, "CreateOptions")?;
    let kind = kind_of("authentication.k8s.io/v1", "TokenRequest")?;
    let mut request: TokenRequest = body_as(call, &kind, &options, body).await?;
    let (namespace, name) = (&call.info.namespace, &call.info.name);
    check_place(&request.metadata, namespace, name)?;
    let account: ServiceAccount = call
        .server
        .lookup(accounts, namespace, name)
        .await?
        .and_then(|entry| entry.decode())
        .ok_or_else(|| ApiError::not_found("", "serviceaccounts", name))?;
    let uid = account.metadata.uid.clone().unwrap_or_default();
    if let Some(wanted) = request
        .metadata
        .uid
        .as_ref()
        .filter(|wanted| !wanted.is_empty() && **wanted != uid)
    {
        return Err(ApiError::conflict(
            GROUP,
            "TokenRequest",
            name,
            &format!(
                "the UID in the token request ({wanted}) does not match the UID of the service account ({uid})"
            ),
        ));
    }
    request.metadata.name = Some(name.clone());
    request.metadata.namespace = Some(namespace.clone());
    request.metadata.uid = Some(uid.clone());
    request.metadata.creation_timestamp = Some(Time(call.server.now()));
    let spec = request.spec.get_or_insert_default();
    let seconds = *spec.expiration_seconds.get_or_insert(3600);
    check_seconds(seconds)?;
    let target = Target {
        call,
        resource: accounts,
        namespace,
        name,
        subresource: "token",
        options: &options,
    };
    admission::validate(&target.admission(Operation::Create), Some(&request), None).await?;
    let issuer = call
        .server
        .token_issuer()
        .ok_or_else(|| ApiError::internal("no token issuer is configured"))?;
    let spec = request.spec.get_or_insert_default();
    let longest = issuer.max_expiration().map(|longest| longest.as_secs());
    let longest = longest.and_then(|longest| i64::try_from(longest).ok());
    let seconds = match longest.filter(|longest| seconds > *longest) {
        Some(longest) => {
            call.warn(format!(
                "requested expiration of {seconds} seconds shortened to {longest} seconds"
            ));
            spec.expiration_seconds = Some(longest);
            longest
        }
        None => seconds,
    };
    let mut params = TokenRequestParams {
        namespace: namespace.clone(),
        service_account: name.clone(),
        service_account_uid: uid,
        audiences: spec.audiences.clone().unwrap_or_default(),
        expiration: Duration::from_secs(u64::try_from(seconds).unwrap_or_default()),
        bound_object: None,
        node: None,
    };
    if let Some(reference) = &spec.bound_object_ref {
        bind(call, reference, &mut params).await?;
    }
    let issued = issuer.issue(&params).await?;
    let expires = Timestamp::try_from(issued.expires).map_err(ApiError::internal)?;
    spec.audiences = Some(issued.audiences);
    request.status = Some(TokenRequestStatus {
        token: Some(issued.token),
        expiration_timestamp: Some(Time(expires)),
    });
    object_answer(call, 201, &request)
}

fn check_place(meta: &ObjectMeta, namespace: &str, name: &str) -> ApiResult<()> {
    for (field, have, wanted) in [
        ("name", &meta.name, name),
        ("namespace", &meta.namespace, namespace),
    ] {
        if let Some(have) = have
            .as_ref()
            .filter(|have| !have.is_empty() && *have != wanted)
        {
            let path = Path::new("metadata").child(field);
            let why = format!("must match the service account {field} if specified");
            let error = FieldError::invalid(&path, have, &why);
            return Err(ApiError::invalid(GROUP, "TokenRequest", name, &[error]));
        }
    }
    Ok(())
}

fn check_seconds(seconds: i64) -> ApiResult<()> {
    let why = if seconds < MIN_SECONDS {
        "may not specify a duration less than 10 minutes"
    } else if seconds > MAX_SECONDS {
        "may not specify a duration larger than 2^32 seconds"
    } else {
        return Ok(());
    };
    let path = Path::new("spec").child("expirationSeconds");
    Err(ApiError::invalid(
        GROUP,
        "TokenRequest",
        "",
        &[FieldError::invalid(&path, seconds, why)],
    ))
}

/// Finds the object that the token shall die with.
async fn bind(
    call: &Call,
    reference: &BoundObjectReference,
    params: &mut TokenRequestParams,
) -> ApiResult<()> {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let (version, kind, name) = (
        text(&reference.api_version),
        text(&reference.kind),
        text(&reference.name),
    );
    let registry = call.server.registry.load_full();
    let plural = match (version.as_str(), kind.as_str()) {
        ("v1", "Pod") => "pods",
        ("v1", "Node") => "nodes",
        ("v1", "Secret") => "secrets",
        _ => {
            return Err(ApiError::bad_request(format!(
                "cannot bind token to object of type {version}, Kind={kind}"
            )));
        }
    };
    let resource = registry
        .stored("", plural)
        .ok_or_else(ApiError::no_such_path)?;
    let namespace = if plural == "nodes" {
        ""
    } else {
        params.namespace.as_str()
    };
    let entry = call
        .server
        .lookup(resource, namespace, &name)
        .await?
        .ok_or_else(|| ApiError::not_found("", plural, &name))?;
    let object = resource.decode_stored(&entry.bytes)?;
    let uid = object.metadata().uid.clone().unwrap_or_default();
    if let Some(pod) = skiff_api::ObjectExt::downcast_ref::<Pod>(&*object) {
        let spec = pod.spec.clone().unwrap_or_default();
        if spec.service_account_name.as_ref() != Some(&params.service_account) {
            return Err(ApiError::bad_request(format!(
                "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                params.service_account
            )));
        }
        if let Some(node) = spec.node_name.filter(|node| !node.is_empty()) {
            let nodes = registry
                .stored("", "nodes")
                .ok_or_else(ApiError::no_such_path)?;
            let entry = call.server.lookup(nodes, "", &node).await?;
            let object = entry
                .map(|entry| nodes.decode_stored(&entry.bytes))
                .transpose()?;
            let node_uid = object
                .and_then(|object| object.metadata().uid.clone())
                .unwrap_or_default();
            params.node = Some((node, node_uid));
        }
    }
    if let Some(wanted) = reference
        .uid
        .as_ref()
        .filter(|wanted| !wanted.is_empty() && **wanted != uid)
    {
        return Err(ApiError::conflict(
            "",
            &kind,
            &name,
            &format!(
                "the UID in the bound object reference ({wanted}) does not match the UID in record. The object might have been deleted and then recreated"
            ),
        ));
    }
    params.bound_object = Some((kind, name, uid));
    Ok(())
}
