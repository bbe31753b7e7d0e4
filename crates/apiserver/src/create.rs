//! POST: makes an object.

use axum::body::Body;
use bytes::Bytes;
use http::Response;
use skiff_api::{ApiError, ApiResult, Object};
use skiff_store::StoreError;

use crate::admission::{self, Operation};
use crate::content;
use crate::query::WriteOptions;
use crate::read::store_error;
use crate::registry::Resource;
use crate::server::Call;
use crate::write::{
    Target, Written, before_create, check_namespace, decode, encode, entry, fill_system_fields,
    parse_body, written_response,
};

/// How often another random name is tried.
const NAME_ATTEMPTS: usize = 8;
/// A generated name's prefix is cut to this length, then five letters follow.
const MAX_PREFIX: usize = 58;

/// Answers a POST to a collection.
pub(crate) async fn create(
    call: &Call,
    resource: &Resource,
    body: Body,
) -> ApiResult<Response<Body>> {
    content::negotiate(call, false)?;
    let options = WriteOptions::parse(&call.query, "CreateOptions")?;
    let body: Bytes = crate::server::ApiServer::read_body(body).await?;
    let value = parse_body(call, &resource.kind, &body, options.field_validation)?;
    let object = decode(resource, value)?;
    let written = create_object(call, resource, &call.info.namespace, object, &options).await?;
    written_response(call, resource, &written)
}

/// Makes an object, decoded and defaulted.
pub(crate) async fn create_object(
    call: &Call,
    resource: &Resource,
    namespace: &str,
    mut object: Box<dyn Object>,
    options: &WriteOptions,
) -> ApiResult<Written> {
    let server = &call.server;
    let namespace = if resource.namespaced() { namespace } else { "" };
    let meta = object.metadata_mut();
    if meta
        .resource_version
        .as_deref()
        .is_some_and(|version| !version.is_empty() && version != "0")
    {
        // Upstream's store refuses it, which is no API error there: 500 without a reason.
        return Err(ApiError::new(
            500,
            "",
            "resourceVersion should not be set on objects to be created",
        ));
    }
    meta.resource_version = None;
    // Whoever makes an object can watch from its version, though nobody asked for its kind before. Events come in crowds
    // and are seldom read; theirs waits.
    if resource.kind.plural != "events" {
        server.hub_cache(resource).await?;
    }
    check_namespace(resource, namespace, meta)?;
    fill_system_fields(server, meta);
    let prefix = meta
        .generate_name
        .clone()
        .filter(|prefix| !prefix.is_empty());
    let generated = prefix.filter(|_| meta.name.as_deref().unwrap_or_default().is_empty());
    let attempts = if generated.is_some() {
        NAME_ATTEMPTS
    } else {
        1
    };
    for attempt in 1..=attempts {
        let mut object = if attempt == attempts {
            std::mem::replace(&mut object, Box::new(Empty::default()))
        } else {
            object.clone_box()
        };
        if let Some(prefix) = &generated {
            object.metadata_mut().name = Some(generate_name(prefix, &server.random.name_suffix(5)));
        }
        let name = object.metadata().name.clone().unwrap_or_default();
        let target = Target {
            call,
            resource,
            namespace,
            name: &name,
            subresource: "",
            options,
        };
        match create_named(&target, object).await {
            Err(error) if error.reason == "AlreadyExists" && attempt < attempts => {}
            outcome => return outcome,
        }
    }
    Err(ApiError::internal("no free name was found"))
}

type Empty = k8s_openapi::api::core::v1::ConfigMap;

fn generate_name(prefix: &str, suffix: &str) -> String {
    let mut end = prefix.len().min(MAX_PREFIX);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{suffix}", &prefix[..end])
}

async fn create_named(target: &Target<'_>, mut object: Box<dyn Object>) -> ApiResult<Written> {
    let request = target.admission(Operation::Create);
    crate::fields::record(target, None, &mut *object)?;
    admission::mutate(&request, &mut object, None).await?;
    crate::authz::escalation::check(target, &*object, None).await?;
    let allocation = crate::services::allocate(target, &mut *object, None).await?;
    before_create(target, &mut *object)?;
    crate::authz::devices::check(target, &*object, None).await?;
    crate::admission::policy::access::check(target, &*object, None).await?;
    admission::judge(&request, &mut *object, None).await?;
    let Some(allocation) = allocation else {
        return store_new(target, object).await;
    };
    if !target.options.dry_run {
        allocation.record(target).await?;
    }
    let outcome = store_new(target, object).await;
    if !target.options.dry_run {
        allocation.settle(target.call, outcome.is_ok()).await;
    }
    outcome
}

async fn store_new(target: &Target<'_>, mut object: Box<dyn Object>) -> ApiResult<Written> {
    let shown = encode(&mut *object);
    let bytes = target.stored_form(&shown).await?;
    let exists = || {
        ApiError::already_exists(
            &target.resource.kind.group,
            &target.resource.kind.plural,
            target.name,
        )
    };
    let store = &target.call.server.store;
    if target.options.dry_run {
        return match store.get(&target.key(), None).await {
            Ok(None) => Ok(Written {
                entry: entry(target, &shown, 0)?,
                created: true,
            }),
            Ok(Some(_)) => Err(exists()),
            Err(error) => Err(store_error(&error)),
        };
    }
    match store.create(&target.key(), bytes.clone(), 0).await {
        Ok(revision) => Ok(Written {
            entry: entry(target, &shown, revision)?,
            created: true,
        }),
        Err(StoreError::Exists(_)) => Err(exists()),
        Err(error) => Err(store_error(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_fit_a_label() {
        assert_eq!(generate_name("web-", "abcde"), "web-abcde");
        assert_eq!(generate_name(&"x".repeat(70), "abcde").len(), 63);
        assert_eq!(generate_name(&"é".repeat(40), "abcde").len(), 63);
    }
}
