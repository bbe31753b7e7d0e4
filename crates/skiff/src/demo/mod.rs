//! The demo application: a small web server that tells where it runs and can be told to misbehave.
//!
//! It is this binary, started in the image `skiff.local/demo`, whose root holds nothing else.

mod health;
mod page;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{Response, StatusCode};
use axum::response::Html;
use axum::routing::{get, post};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;

/// The name of the built-in image.
pub const IMAGE: &str = "skiff.local/demo:latest";

/// What the server keeps.
#[derive(Debug, Default)]
struct Demo {
    requests: AtomicU64,
    failing: AtomicBool,
    /// Moves on when what burns is to end.
    burns: AtomicU64,
    /// Memory taken on demand; it is never given back.
    hoard: parking_lot::Mutex<Vec<Vec<u8>>>,
}

/// Arguments of the demo application.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Port to listen on [default: 8080]
    #[arg(long, env = "PORT", value_name = "PORT")]
    port: Option<u16>,
}

/// Serves until TERM or INT, then answers what is under way and ends.
pub async fn run(arguments: Arguments) -> Result<()> {
    let port = arguments.port.unwrap_or(8080);
    let listener = TcpListener::bind(("0.0.0.0", port))
        .await
        .with_context(|| format!("listening on port {port}"))?;
    println!("demo listens on port {port}");
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    let stop = async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        println!("demo stops");
    };
    serve(listener, router(Arc::new(Demo::default())), stop).await;
    Ok(())
}

/// Serves HTTP/1.1 and HTTP/2 (gRPC needs that) until `stop`, then finishes what is under way.
async fn serve(listener: TcpListener, router: axum::Router, stop: impl Future<Output = ()>) {
    let ending = GracefulShutdown::new();
    let builder = Builder::new(TokioExecutor::new());
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        let Ok((stream, _)) = accepted else {
            // Too many open files, most likely: others end meanwhile.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let service = TowerToHyperService::new(router.clone());
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        let connection = ending.watch(connection.into_owned());
        // A client that breaks off is its own affair.
        tokio::spawn(async move { drop(connection.await) });
    }
    drop(listener);
    ending.shutdown().await;
}

fn router(demo: Arc<Demo>) -> axum::Router {
    axum::Router::new()
        .route("/", get(index))
        .route("/text", get(text))
        .route("/hostname", get(|| async { page::hostname() }))
        .route("/healthz", get(health))
        .route(health::PATH, post(grpc_health))
        .route("/fail", post(fail))
        .route("/recover", post(recover))
        .route("/eat/{mebibytes}", post(eat))
        .route("/burn/{seconds}", post(burn))
        .route("/exit/{code}", post(exit))
        .with_state(demo)
}

fn count(demo: &Demo) -> u64 {
    let count = demo.requests.fetch_add(1, Ordering::Relaxed) + 1;
    println!("request {count}");
    count
}

async fn index(State(demo): State<Arc<Demo>>) -> Html<String> {
    Html(page::html(&page::Facts::gather(count(&demo))))
}

async fn text(State(demo): State<Arc<Demo>>) -> String {
    page::text(&page::Facts::gather(count(&demo)))
}

async fn health(State(demo): State<Arc<Demo>>) -> (StatusCode, &'static str) {
    if demo.failing.load(Ordering::Relaxed) {
        (StatusCode::INTERNAL_SERVER_ERROR, "failing\n")
    } else {
        (StatusCode::OK, "ok\n")
    }
}

async fn grpc_health(State(demo): State<Arc<Demo>>, request: Bytes) -> Response<Body> {
    health::answer(&request, demo.failing.load(Ordering::Relaxed))
}

async fn fail(State(demo): State<Arc<Demo>>) -> &'static str {
    demo.failing.store(true, Ordering::Relaxed);
    "health checks fail from now on\n"
}

async fn recover(State(demo): State<Arc<Demo>>) -> &'static str {
    demo.failing.store(false, Ordering::Relaxed);
    demo.burns.fetch_add(1, Ordering::Relaxed);
    "health checks pass again, and nothing burns\n"
}

async fn eat(
    State(demo): State<Arc<Demo>>,
    Path(mebibytes): Path<usize>,
) -> Result<String, StatusCode> {
    let bytes = mebibytes
        .checked_mul(1 << 20)
        .ok_or(StatusCode::BAD_REQUEST)?;
    let mut chunk = Vec::new();
    chunk
        .try_reserve_exact(bytes)
        .map_err(|_| StatusCode::INSUFFICIENT_STORAGE)?;
    // Written to, so that the kernel really gives the pages.
    chunk.resize(bytes, 1);
    demo.hoard.lock().push(chunk);
    Ok(format!("took {mebibytes} MiB\n"))
}

/// Keeps one core busy, or what the container may have of it, for so long or until the recovery.
async fn burn(State(demo): State<Arc<Demo>>, Path(seconds): Path<u32>) -> String {
    let round = demo.burns.load(Ordering::Relaxed);
    let end = Instant::now() + Duration::from_secs(seconds.into());
    std::thread::spawn(move || {
        while Instant::now() < end && demo.burns.load(Ordering::Relaxed) == round {
            (0..10_000).for_each(|_| std::hint::spin_loop());
        }
    });
    format!("burns for {seconds} s\n")
}

async fn exit(Path(code): Path<u8>) -> String {
    // The answer goes out first.
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        std::process::exit(code.into());
    });
    format!("exits with {code}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;
    use tower::ServiceExt as _;

    async fn ask(router: &axum::Router, method: &str, path: &str) -> (StatusCode, String) {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .body(Body::empty())
            .unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20)
            .await
            .unwrap();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn it_counts_fails_and_recovers() {
        let router = router(Arc::new(Demo::default()));
        assert!(ask(&router, "GET", "/text").await.1.contains("requests: 1"));
        assert!(ask(&router, "GET", "/").await.1.contains("<td>2</td>"));
        assert_eq!(ask(&router, "GET", "/healthz").await.0, StatusCode::OK);
        ask(&router, "POST", "/fail").await;
        assert_eq!(
            ask(&router, "GET", "/healthz").await.0,
            StatusCode::INTERNAL_SERVER_ERROR
        );
        ask(&router, "POST", "/recover").await;
        assert_eq!(ask(&router, "GET", "/healthz").await.0, StatusCode::OK);
        assert_eq!(ask(&router, "POST", "/eat/1").await.1, "took 1 MiB\n");
    }
}
