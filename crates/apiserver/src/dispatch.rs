//! From a resolved request to its handler.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use http::Response;
use skiff_api::{ApiError, ApiResult, Verb};

use crate::registry::{Registry, Resource};
use crate::server::Call;
use crate::write::Part;

/// 405 in upstream's words.
pub(crate) fn method_not_allowed() -> ApiError {
    ApiError {
        details: Some(serde_json::json!({})),
        ..ApiError::new(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
    }
}

/// Answers a request that was allowed.
pub(crate) async fn dispatch(call: Call, body: Body) -> ApiResult<Response<Body>> {
    if let Some(api) = call.server.aggregation.target(&call) {
        return crate::aggregation::proxy::answer(call, api, body).await;
    }
    if !call.info.is_resource {
        return Box::pin(crate::documents::answer(&call)).await;
    }
    let info = &call.info;
    let mut registry = call.server.registry.load_full();
    let find = |registry: &Registry| {
        let found = registry.get(&info.group, &info.version, &info.resource);
        found.cloned()
    };
    let mut found = find(&registry);
    if found.is_none() && !registry.serves(&info.group) {
        // A server that has just started may not have read the definitions of custom resources yet.
        call.server.definitions.synced().await;
        registry = call.server.registry.load_full();
        found = find(&registry);
    }
    let Some(resource) = found else {
        if registry.serves(&info.group) {
            return Err(ApiError::no_such_path());
        }
        // Upstream's router knows no such group, and answers before any API machinery.
        let text = Bytes::from_static(b"404 page not found\n");
        return Ok(crate::content::response(
            404,
            "text/plain; charset=utf-8",
            text,
        ));
    };
    if resource.kind.group.is_empty() && resource.kind.plural == "endpoints" {
        call.warn("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice");
    }
    if let Some(custom) = resource.kind.as_custom() {
        if let Some(warning) = &custom.version().warning {
            call.warn(warning.clone());
        }
        if custom.definition().terminating && info.verb == "create" {
            return Err(ApiError {
                message: "create not allowed while custom resource definition is terminating"
                    .to_owned(),
                ..method_not_allowed()
            });
        }
    }
    check_place(&call, &resource)?;
    if !info.subresource.is_empty() {
        return Box::pin(crate::subresource::answer(call, resource, body)).await;
    }
    let verb = match (info.verb.as_str(), &call.parts.method) {
        ("list", _) => Verb::List,
        ("watch", _) => Verb::Watch,
        ("get", _) => Verb::Get,
        ("create", _) => Verb::Create,
        ("update", _) => Verb::Update,
        ("patch", _) => Verb::Patch,
        ("delete", _) => Verb::Delete,
        ("deletecollection", _) => Verb::DeleteCollection,
        _ => return Err(method_not_allowed()),
    };
    let on_collection = matches!(verb, Verb::List | Verb::Create | Verb::DeleteCollection);
    let misplaced = verb != Verb::Watch && on_collection != info.collection;
    if misplaced || !resource.allows(verb) {
        return Err(method_not_allowed());
    }
    if !resource.kind.is_stored() && matches!(verb, Verb::Get | Verb::List) {
        let name = (verb == Verb::Get).then_some(call.info.name.as_str());
        return Box::pin(crate::component_status::answer(&call, &resource, name)).await;
    }
    if verb == Verb::Get {
        return crate::read::get(&call, &resource).await;
    }
    Box::pin(answer(call, resource, verb, body)).await
}

/// The verbs beside GET, whose futures are large: they are not carried around with every small request.
async fn answer(
    call: Call,
    resource: Arc<Resource>,
    verb: Verb,
    body: Body,
) -> ApiResult<Response<Body>> {
    match verb {
        Verb::Get => crate::read::get(&call, &resource).await,
        Verb::List => crate::read::list(&call, &resource).await,
        Verb::Watch => crate::watch::watch(call, resource).await,
        Verb::Create if !resource.kind.is_stored() => {
            crate::subresource::create(&call, &resource, body).await
        }
        Verb::Create => crate::create::create(&call, &resource, body).await,
        Verb::Update => crate::update::replace(&call, &resource, Part::Main, body).await,
        Verb::Patch => crate::patch::patch(&call, &resource, Part::Main, body).await,
        Verb::Delete => crate::delete::delete(&call, &resource, body).await,
        Verb::DeleteCollection => crate::delete::delete_collection(&call, &resource, body).await,
    }
}

/// Namespaced objects are named with their namespace, others without.
fn check_place(call: &Call, resource: &Resource) -> ApiResult<()> {
    let info = &call.info;
    if !resource.namespaced() {
        let own = info.resource == "namespaces";
        return if info.namespace.is_empty() || own {
            Ok(())
        } else {
            Err(ApiError::no_such_path())
        };
    }
    if info.namespace.is_empty() {
        if !info.collection {
            return Err(ApiError::no_such_path());
        }
        let reading = matches!(info.verb.as_str(), "list" | "watch");
        // Bindings and local reviews, too, are only made in a namespace.
        if !reading {
            return Err(method_not_allowed());
        }
    }
    Ok(())
}
