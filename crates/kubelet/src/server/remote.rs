//! `/exec`, `/attach` and `/portForward`: requests that become streams.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::{Router, body::Body, routing::any};
use skiff_streaming::{Rejection, RemoteOptions, port_forward, remote_command};

use crate::pod::spec;
use crate::server::pump::{self, EndOf};
use crate::server::router::Shared;
use crate::server::streams::StreamOptions;
use crate::server::target::{self, Refusal};

type Server = State<Arc<Shared>>;

/// The paths, with and without the pod's uid.
pub fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/exec/{namespace}/{pod}/{container}", any(exec))
        .route("/exec/{namespace}/{pod}/{uid}/{container}", any(exec_uid))
        .route("/attach/{namespace}/{pod}/{container}", any(attach))
        .route(
            "/attach/{namespace}/{pod}/{uid}/{container}",
            any(attach_uid),
        )
        .route("/portForward/{namespace}/{pod}", any(forward))
        .route("/portForward/{namespace}/{pod}/{uid}", any(forward_uid))
}

fn refused(rejection: Rejection) -> Response {
    rejection.into_response().map(Body::from)
}

type Names = Path<(String, String, String)>;
type NamesUid = Path<(String, String, String, String)>;

async fn exec(
    server: Server,
    Path((namespace, pod, container)): Names,
    request: Request,
) -> Response {
    remote(
        &server,
        (&namespace, &pod, &container),
        request,
        EndOf::Exec,
    )
    .await
}

async fn exec_uid(
    server: Server,
    Path((namespace, pod, _, container)): NamesUid,
    request: Request,
) -> Response {
    remote(
        &server,
        (&namespace, &pod, &container),
        request,
        EndOf::Exec,
    )
    .await
}

async fn attach(
    server: Server,
    Path((namespace, pod, container)): Names,
    request: Request,
) -> Response {
    remote(
        &server,
        (&namespace, &pod, &container),
        request,
        EndOf::Attach,
    )
    .await
}

async fn attach_uid(
    server: Server,
    Path((namespace, pod, _, container)): NamesUid,
    request: Request,
) -> Response {
    remote(
        &server,
        (&namespace, &pod, &container),
        request,
        EndOf::Attach,
    )
    .await
}

async fn remote(
    shared: &Shared,
    (namespace, pod, container): (&str, &str, &str),
    mut request: Request,
    end: EndOf,
) -> Response {
    let manager = &shared.manager;
    let id = match target::pod(manager, namespace, pod) {
        Ok(found) => found.running(manager, container).await,
        Err(refusal) => Err(refusal),
    };
    let id = match id {
        Ok(id) => id,
        Err(refusal) => return refusal.into_response(),
    };
    let options = match RemoteOptions::from_query(request.uri().query()) {
        Ok(options) => options,
        Err(rejection) => return refused(rejection),
    };
    let command = command(request.uri().query());
    if end == EndOf::Exec && command.is_empty() {
        return Refusal::bad("you must specify at least 1 command").into_response();
    }
    let (response, streams) = match remote_command(&mut request, options) {
        Ok(accepted) => accepted,
        Err(rejection) => return refused(rejection),
    };
    let runtime = shared.streams.clone();
    let wanted = StreamOptions {
        stdin: options.stdin,
        stdout: options.stdout,
        stderr: options.stderr,
        tty: options.tty,
    };
    tokio::spawn(async move {
        let streams = match streams.await {
            Ok(streams) => streams,
            Err(error) => {
                tracing::debug!(%error, "a client did not open its streams");
                return;
            }
        };
        let process = match end {
            EndOf::Exec => runtime.exec(&id, &command, wanted).await,
            EndOf::Attach => runtime.attach(&id, wanted).await,
        };
        match process {
            Ok(process) => pump::pump(process, streams, end).await,
            Err(status) => {
                let failed = skiff_streaming::ExitStatus::Error(status.message().to_owned());
                drop((streams.stdout, streams.stderr));
                // The client may be gone.
                let _ = streams.status.finish(failed).await;
            }
        }
    });
    response.map(|()| Body::empty())
}

/// The words of a command: every `command` of the query, in order.
fn command(query: Option<&str>) -> Vec<String> {
    let pairs = query.unwrap_or_default().split('&');
    pairs
        .filter_map(|pair| pair.strip_prefix("command="))
        .map(unescape)
        .collect()
}

/// Takes away the escapes of a query.
fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let hex = (byte == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match hex {
            Some(value) => {
                out.push(value);
                at += 3;
            }
            None => {
                out.push(if byte == b'+' { b' ' } else { byte });
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

async fn forward(
    server: Server,
    Path((namespace, pod)): Path<(String, String)>,
    request: Request,
) -> Response {
    port_forwards(&server, &namespace, &pod, request).await
}

async fn forward_uid(
    server: Server,
    Path((namespace, pod, _)): Names,
    request: Request,
) -> Response {
    port_forwards(&server, &namespace, &pod, request).await
}

async fn port_forwards(
    shared: &Shared,
    namespace: &str,
    pod: &str,
    mut request: Request,
) -> Response {
    let found = match target::pod(&shared.manager, namespace, pod) {
        Ok(found) => found,
        Err(refusal) => return refusal.into_response(),
    };
    let context = shared.manager.context();
    let sandboxes = context.runtime.sandboxes(Some(spec::uid(&found.pod))).await;
    let ready = skiff_runtime::cri::PodSandboxState::SandboxReady as i32;
    let sandbox = sandboxes
        .ok()
        .and_then(|list| list.into_iter().find(|s| s.state == ready));
    let Some(sandbox) = sandbox else {
        let message = format!("pod not found (\"{pod}_{namespace}\")");
        return Refusal::not_found(message).into_response();
    };
    let (response, session) = match port_forward(&mut request) {
        Ok(accepted) => accepted,
        Err(rejection) => return refused(rejection),
    };
    let runtime = shared.streams.clone();
    tokio::spawn(async move {
        let mut session = match session.await {
            Ok(session) => session,
            Err(error) => {
                tracing::debug!(%error, "a client did not open its forwards");
                return;
            }
        };
        let mut forwards = tokio::task::JoinSet::new();
        while let Some(one) = session.accept().await {
            let (runtime, id) = (runtime.clone(), sandbox.id.clone());
            forwards.spawn(async move { pump::forward(runtime.as_ref(), &id, one).await });
            while forwards.try_join_next().is_some() {}
        }
        // The client is gone: its connections end with it.
    });
    response.map(|()| Body::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_of_a_query() {
        let query = "input=1&command=sh&command=-c&command=echo+%22a%2Bb%22%26&tty=1";
        assert_eq!(command(Some(query)), ["sh", "-c", "echo \"a+b\"&"]);
        assert!(command(None).is_empty());
    }
}
