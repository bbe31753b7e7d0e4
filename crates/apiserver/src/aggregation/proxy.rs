//! A request for an aggregated API: passed on to its server with the user in headers, upgrades included.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION,
    TE, TRANSFER_ENCODING, UPGRADE,
};
use http::{Request, Response, StatusCode};
use skiff_api::ApiResult;

use super::Api;
use crate::connect::{Endpoint, forward, service_endpoint};
use crate::request::UserInfo;
use crate::server::Call;

/// Discovery must be quick: clients wait for all of it.
const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(5);

/// Answers a request from the API's server.
pub(crate) async fn answer(mut call: Call, api: Arc<Api>, body: Body) -> ApiResult<Response<Body>> {
    if !api.available {
        return Ok(text(
            StatusCode::SERVICE_UNAVAILABLE,
            "service unavailable\n",
        ));
    }
    let path = call
        .parts
        .uri
        .path_and_query()
        .map_or("/", |path| path.as_str())
        .to_owned();
    let upgrading = call.parts.headers.contains_key(UPGRADE);
    let user = call.user.clone();
    set_identity(&mut call.parts.headers, &user);
    if upgrading {
        return upgrade(call, &api, body, &path).await;
    }
    let client = match &api.client {
        Ok(client) => client,
        Err(why) => return Ok(text(StatusCode::INTERNAL_SERVER_ERROR, format!("{why}\n"))),
    };
    let mut request = Request::builder()
        .method(call.parts.method.clone())
        .uri(format!("{}{path}", client.url()))
        .body(body)
        .map_err(|error| skiff_api::ApiError::bad_request(error.to_string()))?;
    for (name, value) in &call.parts.headers {
        if ![HOST, CONNECTION, TRANSFER_ENCODING, TE].contains(name) && name != "keep-alive" {
            request.headers_mut().append(name, value.clone());
        }
    }
    let discovery = !call.info.is_resource;
    let sending = client.send(request);
    let outcome = if discovery {
        tokio::select! {
            outcome = sending => outcome,
            () = call.server.clock.sleep(DISCOVERY_TIMEOUT) => Err(crate::webhook::CallError::timeout()),
        }
    } else {
        sending.await
    };
    let mut response = match outcome {
        Ok(response) => response.map(Body::new),
        Err(error) => return Ok(unreachable(&error.to_string())),
    };
    if redirects(&response) {
        return Ok(refused_redirect());
    }
    let headers = response.headers_mut();
    headers.remove(CONNECTION);
    headers.remove(TRANSFER_ENCODING);
    Ok(response)
}

async fn upgrade(mut call: Call, api: &Api, body: Body, path: &str) -> ApiResult<Response<Body>> {
    let (namespace, name, port) = &api.service;
    let tls = match &api.tls {
        Ok(tls) => tls.clone(),
        Err(why) => return Ok(text(StatusCode::INTERNAL_SERVER_ERROR, format!("{why}\n"))),
    };
    let Ok((host, port)) = service_endpoint(&call.server, namespace, name, *port).await else {
        return Ok(text(
            StatusCode::SERVICE_UNAVAILABLE,
            "service unavailable\n",
        ));
    };
    let endpoint = Endpoint {
        host,
        port,
        tls: Some(tls),
        server_name: Some(format!("{name}.{namespace}.svc")),
        address: None,
    };
    match forward(&mut call.parts, body, &endpoint, path).await {
        Ok(response) if redirects(&response) => Ok(refused_redirect()),
        Ok(response) => Ok(response),
        Err(error) => Ok(unreachable(&error.message)),
    }
}

/// CVE-2022-3172: a client that followed an aggregated server's redirect would show its credentials there.
fn redirects(response: &Response<Body>) -> bool {
    response.status().is_redirection() && response.headers().contains_key(LOCATION)
}

fn refused_redirect() -> Response<Body> {
    text(
        StatusCode::BAD_GATEWAY,
        "the backend attempted to redirect this request, which is not permitted",
    )
}

fn unreachable(why: &str) -> Response<Body> {
    text(
        StatusCode::SERVICE_UNAVAILABLE,
        format!("error trying to reach service: {why}\n"),
    )
}

fn text(code: StatusCode, text: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(text.into());
    *response.status_mut() = code;
    let media = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, media);
    response
}

/// Puts the user into headers, in the place of the client's own credentials and of whatever it wrote there itself.
pub(super) fn set_identity(headers: &mut HeaderMap, user: &UserInfo) {
    let foreign: Vec<HeaderName> = headers
        .keys()
        .filter(|name| {
            let name = name.as_str();
            name.starts_with("x-remote-")
                || name.starts_with("impersonate-")
                || name == AUTHORIZATION.as_str()
        })
        .cloned()
        .collect();
    for name in foreign {
        headers.remove(name);
    }
    let mut add = |name: &str, value: &str| {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_str(value)) {
            headers.append(name, value);
        }
    };
    add("x-remote-user", &user.name);
    if !user.uid.is_empty() {
        add("x-remote-uid", &user.uid);
    }
    for group in &user.groups {
        add("x-remote-group", group);
    }
    for (key, values) in &user.extra {
        let name = format!("x-remote-extra-{}", escaped(key));
        for value in values {
            add(&name, value);
        }
    }
}

/// A key as a part of a header's name: what may not stand there is percent-encoded, and so is the percent sign.
fn escaped(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    for byte in key.bytes() {
        if byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte) {
            out.push(byte.to_ascii_lowercase() as char);
        } else {
            out.push_str(&format!("%{byte:02x}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_is_in_headers_that_no_client_can_forge() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer secret"),
            ("x-remote-user", "system:admin"),
            ("x-remote-group", "system:masters"),
            ("x-remote-extra-scopes", "all"),
            ("impersonate-user", "x"),
            ("accept", "application/json"),
        ] {
            headers.insert(
                HeaderName::try_from(name).unwrap(),
                HeaderValue::from_static(value),
            );
        }
        let mut user = UserInfo::new("jane", &["a", "b"]);
        user.uid = "7".to_owned();
        user.extra.insert(
            "authentication.kubernetes.io/pod-name".to_owned(),
            vec!["p".to_owned()],
        );
        set_identity(&mut headers, &user);
        let mut lines: Vec<String> = headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        lines.sort();
        assert_eq!(
            lines,
            [
                "accept: application/json",
                "x-remote-extra-authentication.kubernetes.io%2fpod-name: p",
                "x-remote-group: a",
                "x-remote-group: b",
                "x-remote-uid: 7",
                "x-remote-user: jane",
            ]
        );
    }
}
