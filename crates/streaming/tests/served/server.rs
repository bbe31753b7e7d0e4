//! A server that knows one pod: `web`, whose commands and ports are a few lines here.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use skiff_streaming::{
    ExitStatus, PortForward, RemoteOptions, RemoteStreams, port_forward, remote_command,
};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

type Body = Full<Bytes>;

/// Starts the server on a free port.
pub async fn start() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let service = service_fn(|request| async { Ok::<_, Infallible>(serve(request)) });
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(socket), service)
                    .with_upgrades()
                    .await;
            });
        }
    });
    address
}

fn json(value: serde_json::Value) -> Response<Body> {
    let mut response = Response::new(Body::from(value.to_string()));
    let kind = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert("content-type", kind);
    response
}

fn serve(mut request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let pod = "/api/v1/namespaces/default/pods/web";
    match path.strip_prefix(pod) {
        Some("") => json(serde_json::json!({
            "kind": "Pod", "apiVersion": "v1",
            "metadata": {"name": "web", "namespace": "default", "uid": "1"},
            "spec": {"containers": [{"name": "main", "image": "x"}]},
            "status": {"phase": "Running"},
        })),
        Some("/exec" | "/attach") => exec(&mut request),
        Some("/portforward") => forward(&mut request),
        _ => discovery(&path),
    }
}

fn discovery(path: &str) -> Response<Body> {
    match path {
        "/api" => json(serde_json::json!({"kind": "APIVersions", "versions": ["v1"]})),
        "/apis" => {
            json(serde_json::json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": []}))
        }
        "/api/v1" => json(serde_json::json!({
            "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "v1",
            "resources": [{"name": "pods", "singularName": "pod", "namespaced": true, "kind": "Pod",
                "verbs": ["get"], "shortNames": ["po"]}],
        })),
        _ => {
            let mut response = json(serde_json::json!({
                "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404,
                "reason": "NotFound", "message": "not found",
            }));
            *response.status_mut() = StatusCode::NOT_FOUND;
            response
        }
    }
}

fn exec(request: &mut Request<Incoming>) -> Response<Body> {
    let query = request.uri().query().unwrap_or_default().to_owned();
    let command: Vec<String> = query
        .split('&')
        .filter_map(|pair| pair.strip_prefix("command="))
        .map(str::to_owned)
        .collect();
    let accepted = RemoteOptions::from_query(Some(&query))
        .and_then(|options| remote_command(request, options));
    match accepted {
        Err(rejection) => rejection.into_response().map(Body::from),
        Ok((response, streams)) => {
            tokio::spawn(async move {
                let mut streams = streams.await.unwrap();
                let status = run(&command, &mut streams).await;
                (streams.stdout, streams.stderr) = (None, None);
                let _ = streams.status.finish(status).await;
            });
            response.map(|()| Body::default())
        }
    }
}

/// The commands that the pod knows.
async fn run(command: &[String], streams: &mut RemoteStreams) -> ExitStatus {
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let stdout = streams.stdout.as_mut();
    match command[..] {
        ["hello"] => {
            stdout.unwrap().write_all(b"out\n").await.unwrap();
            if let Some(stderr) = &mut streams.stderr {
                stderr.write_all(b"err\n").await.unwrap();
            }
            ExitStatus::Success
        }
        ["exit", code] => ExitStatus::ExitCode(code.parse().unwrap()),
        ["fail"] => ExitStatus::Error("no such thing".into()),
        ["flood", megabytes] => {
            let stdout = stdout.unwrap();
            let block = vec![b'x'; 1 << 20];
            for _ in 0..megabytes.parse().unwrap() {
                stdout.write_all(&block).await.unwrap();
            }
            ExitStatus::Success
        }
        // Until the end of the input.
        ["cat"] => {
            let (stdin, stdout) = (streams.stdin.as_mut().unwrap(), stdout.unwrap());
            tokio::io::copy(stdin, stdout).await.unwrap();
            ExitStatus::Success
        }
        // A line of input, or the input's end.
        ["line"] => {
            let mut line = String::new();
            let stdin = streams.stdin.as_mut().unwrap();
            BufReader::new(stdin).read_line(&mut line).await.unwrap();
            let line = format!("got {line}");
            stdout.unwrap().write_all(line.as_bytes()).await.unwrap();
            ExitStatus::Success
        }
        ["size"] => {
            let size = streams.resize.as_mut().unwrap().recv().await.unwrap();
            let text = format!("{}x{}", size.width, size.height);
            stdout.unwrap().write_all(text.as_bytes()).await.unwrap();
            ExitStatus::Success
        }
        // Until the client goes away.
        ["wait", file] => {
            stdout.unwrap().write_all(b"waiting\n").await.unwrap();
            streams.closed.cancelled().await;
            std::fs::write(file, "gone").unwrap();
            ExitStatus::Success
        }
        _ => ExitStatus::Error(format!("unknown command {command:?}")),
    }
}

fn forward(request: &mut Request<Incoming>) -> Response<Body> {
    match port_forward(request) {
        Err(rejection) => rejection.into_response().map(Body::from),
        Ok((response, session)) => {
            tokio::spawn(async move { forwards(session.await.unwrap()).await });
            response.map(|()| Body::default())
        }
    }
}

/// Port 7 echoes, port 80 speaks HTTP, at port 81 nobody listens.
async fn forwards(mut session: PortForward) {
    let mut tasks = tokio::task::JoinSet::new();
    while let Some(mut forward) = session.accept().await {
        tasks.spawn(async move {
            match forward.port {
                7 => {
                    let (mut read, mut write) = tokio::io::split(forward.data);
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                    let _ = write.shutdown().await;
                }
                80 => {
                    let mut request = [0; 4096];
                    let _ = forward.data.read(&mut request).await;
                    let body = "x".repeat(300_000);
                    let answer = format!(
                        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                        body.len()
                    );
                    let _ = forward.data.write_all(answer.as_bytes()).await;
                    let _ = forward.data.shutdown().await;
                }
                port => {
                    let reason = format!("connection refused at port {port}");
                    let _ = forward.error.fail(forward.data, &reason).await;
                }
            }
        });
    }
}
