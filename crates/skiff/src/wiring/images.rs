//! The node over a unix socket that only root can open: `skiff image` finds its images there, `skiff down` stops its pods.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures::TryStreamExt as _;
use serde::{Deserialize, Serialize};
use skiff_base::Shutdown;
use skiff_kubelet::Drain;
use skiff_runtime::EmbeddedRuntime;
use skiff_runtime::image::{Credentials, ImageError, ImageReference, Registries, StoredImage};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_util::io::{ReaderStream, StreamReader, SyncIoBridge};

/// Where the socket is.
#[must_use]
pub fn socket(data_dir: &Path) -> PathBuf {
    data_dir.join("run/images.sock")
}

/// Which image, and how it is to be had.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Wanted {
    /// The image's name.
    pub name: String,
    /// The registry's user; empty for none.
    pub user: String,
    /// The user's password.
    pub password: String,
    /// Whether the registry speaks plain HTTP.
    pub plain_http: bool,
}

/// A line of a pull's answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum PullLine {
    /// Bytes that came, of how many.
    Progress(u64, u64),
    /// It is here: its id.
    Done(String),
    /// It failed, and why.
    Failed(String),
}

/// Serves until `shutdown`.
pub async fn serve(
    runtime: Arc<EmbeddedRuntime>,
    drain: Drain,
    data_dir: &Path,
    shutdown: Shutdown,
) -> Result<impl Future<Output = ()> + Send + 'static> {
    let path = socket(data_dir);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("removing {}", path.display()));
        }
        _ => {}
    }
    let listener =
        UnixListener::bind(&path).with_context(|| format!("listening on {}", path.display()))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    let router = Router::new()
        .route("/images", get(list).delete(remove))
        .route("/import", post(import))
        .route("/pull", post(pull))
        .route("/export", get(export))
        .route(
            "/stop-pods",
            post(move |Query(wanted): Query<StopPods>| stop_pods(drain, wanted)),
        )
        .with_state(runtime);
    Ok(async move {
        if let Err(error) = axum::serve(listener, router)
            .with_graceful_shutdown(async move { shutdown.triggered().await })
            .await
        {
            tracing::error!(%error, "the image socket failed");
        }
    })
}

/// How long pods get to end by themselves.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StopPods {
    /// The longest time, in seconds.
    pub seconds: u64,
}

/// Stops the pods; answers how many there were.
async fn stop_pods(drain: Drain, wanted: StopPods) -> String {
    let limit = Duration::from_secs(wanted.seconds);
    drain.stop_pods(limit).await.to_string()
}

type Runtime = State<Arc<EmbeddedRuntime>>;

fn refuse(error: &ImageError) -> Response {
    let code = if matches!(error, ImageError::NotFound(_)) {
        StatusCode::NOT_FOUND
    } else {
        StatusCode::BAD_REQUEST
    };
    (code, error.to_string()).into_response()
}

/// Runs what blocks on a thread of its own.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, Response> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome.map_err(|error| refuse(&error)),
        Err(error) => Err((StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response()),
    }
}

async fn list(State(runtime): Runtime) -> Json<Vec<StoredImage>> {
    runtime.built_in_images().await;
    Json(runtime.images().list())
}

async fn remove(
    State(runtime): Runtime,
    Query(wanted): Query<Wanted>,
) -> Result<StatusCode, Response> {
    runtime.built_in_images().await;
    blocking(move || {
        runtime
            .images()
            .untag(&wanted.name, &runtime.layers_in_use())
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// How long the rest of an archive that was refused may come in.
const PATIENCE: Duration = Duration::from_secs(30);

async fn import(
    State(runtime): Runtime,
    Query(wanted): Query<Wanted>,
    body: Body,
) -> Result<Json<Vec<StoredImage>>, Response> {
    let name = if wanted.name.is_empty() {
        None
    } else {
        let parsed: Result<ImageReference, _> = wanted.name.parse();
        Some(parsed.map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()).into_response())?)
    };
    let reader = StreamReader::new(body.into_data_stream().map_err(std::io::Error::other));
    let mut reader = SyncIoBridge::new(Box::pin(reader));
    blocking(move || {
        let outcome = runtime
            .images()
            .import(&mut reader, name.as_ref(), &runtime.layers_in_use());
        if outcome.is_err() {
            // A connection that is closed on a sender tells it "broken pipe" and not why: the answer goes out while the
            // rest still comes in. The sender that has read it stops.
            let mut rest = reader.into_inner();
            tokio::spawn(tokio::time::timeout(PATIENCE, async move {
                tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
            }));
        }
        outcome
    })
    .await
    .map(Json)
}

async fn export(State(runtime): Runtime, Query(wanted): Query<Wanted>) -> Result<Body, Response> {
    runtime.built_in_images().await;
    if runtime.images().find(&wanted.name).is_none() {
        return Err(refuse(&ImageError::NotFound(wanted.name)));
    }
    let (reader, writer) = tokio::io::duplex(1 << 16);
    let writer = SyncIoBridge::new(writer);
    tokio::task::spawn_blocking(move || {
        // A failure cuts the answer short, which the client sees as a broken archive.
        if let Err(error) = runtime.images().export(&wanted.name, writer) {
            tracing::warn!(image = wanted.name, %error, "export failed");
        }
    });
    Ok(Body::from_stream(ReaderStream::new(reader)))
}

async fn pull(State(runtime): Runtime, Json(wanted): Json<Wanted>) -> Result<Body, Response> {
    let name: ImageReference = wanted
        .name
        .parse()
        .map_err(|error| (StatusCode::BAD_REQUEST, format!("{error}")).into_response())?;
    let credentials = if wanted.user.is_empty() {
        Credentials::Anonymous
    } else {
        Credentials::Password {
            user: wanted.user,
            password: wanted.password,
        }
    };
    let mut registries = Registries::default();
    if wanted.plain_http {
        registries.insecure.insert(name.registry.clone());
    }
    let (sender, receiver) = mpsc::unbounded_channel::<PullLine>();
    tokio::spawn(async move {
        let lines = sender.clone();
        let progress: skiff_runtime::image::ProgressFn = Arc::new(move |at| {
            let _ = lines.send(PullLine::Progress(at.received, at.total));
        });
        let last = match runtime
            .images()
            .pull(&name, &credentials, &registries, Some(progress))
            .await
        {
            Ok(image) => PullLine::Done(image.id),
            Err(error) => PullLine::Failed(error.to_string()),
        };
        // The client may have left.
        let _ = sender.send(last);
    });
    let lines = futures::stream::unfold(receiver, |mut receiver| async move {
        let line = receiver.recv().await?;
        let mut text = serde_json::to_string(&line).unwrap_or_default();
        text.push('\n');
        Some((
            Ok::<_, std::convert::Infallible>(Bytes::from(text)),
            receiver,
        ))
    });
    Ok(Body::from_stream(lines))
}
