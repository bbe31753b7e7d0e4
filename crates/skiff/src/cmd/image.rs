//! `skiff image`: the images of the node, through the running server.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use axum::body::Body;
use futures::TryStreamExt as _;
use http::{Method, Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use indicatif::{ProgressBar, ProgressStyle};
use skiff_runtime::image::StoredImage;
use tokio::io::AsyncWriteExt as _;
use tokio_util::io::ReaderStream;

use crate::cli::{DataDir, wait_for};
use crate::say::say;
use crate::wiring::images::{PullLine, Wanted, socket};

/// What to do with images.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    data: DataDir,
    #[command(subcommand)]
    action: Action,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Action {
    /// Take in an OCI or docker archive; `-` is standard input
    Import {
        /// The archive
        file: PathBuf,
        /// Name for an image that the archive gives none [default: none]
        #[arg(long)]
        name: Option<String>,
    },
    /// Fetch an image from a registry
    Pull {
        /// The image's name
        name: String,
        /// The registry's user; the password is read from SKIFF_PASSWORD [default: none]
        #[arg(long)]
        user: Option<String>,
        /// Speak plain HTTP to the registry [default: off]
        #[arg(long)]
        plain_http: bool,
    },
    /// List images
    Ls,
    /// Remove an image
    Rm {
        /// Its name or id
        name: String,
    },
    /// Write an image as an OCI archive
    Export {
        /// Its name or id
        name: String,
        /// Where to; `-` is standard output
        file: PathBuf,
    },
}

/// Does it.
pub fn run(arguments: Arguments) -> Result<()> {
    let path = socket(&arguments.data.data_dir);
    wait_for(async move {
        match arguments.action {
            Action::Import { file, name } => import(&path, &file, name).await,
            Action::Pull {
                name,
                user,
                plain_http,
            } => {
                let password = std::env::var("SKIFF_PASSWORD").unwrap_or_default();
                pull(
                    &path,
                    Wanted {
                        name,
                        user: user.unwrap_or_default(),
                        password,
                        plain_http,
                    },
                )
                .await
            }
            Action::Ls => list(&path).await,
            Action::Rm { name } => {
                call(
                    &path,
                    Method::DELETE,
                    &format!("/images?name={}", escape(&name)),
                    Body::empty(),
                )
                .await?;
                say!("removed {name}");
                Ok(())
            }
            Action::Export { name, file } => export(&path, &name, &file).await,
        }
    })
}

/// For a query.
fn escape(text: &str) -> String {
    text.bytes()
        .map(|byte| {
            if byte.is_ascii_alphanumeric() || b"-._~/:@".contains(&byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

pub(super) async fn call(
    socket: &Path,
    method: Method,
    path: &str,
    body: Body,
) -> Result<Response<Incoming>> {
    let stream = tokio::net::UnixStream::connect(socket).await;
    let stream = stream.with_context(|| {
        format!(
            "no server answers at {} (as root: start one with `skiff up`)",
            socket.display()
        )
    })?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "skiff")
        .header("content-type", "application/json")
        .body(body)?;
    let response = sender.send_request(request).await?;
    if response.status().is_success() {
        return Ok(response);
    }
    let text = response.into_body().collect().await?.to_bytes();
    bail!("{}", String::from_utf8_lossy(&text))
}

async fn import(socket: &Path, file: &Path, name: Option<String>) -> Result<()> {
    let body = if file == Path::new("-") {
        Body::from_stream(ReaderStream::new(tokio::io::stdin()))
    } else {
        let open = tokio::fs::File::open(file)
            .await
            .with_context(|| format!("opening {}", file.display()))?;
        let bar = ProgressBar::new(open.metadata().await?.len()).with_style(style()?);
        Body::from_stream(ReaderStream::new(bar.wrap_async_read(open)))
    };
    let query = name
        .map(|name| format!("?name={}", escape(&name)))
        .unwrap_or_default();
    let response = call(socket, Method::POST, &format!("/import{query}"), body).await?;
    let images: Vec<StoredImage> =
        serde_json::from_slice(&response.into_body().collect().await?.to_bytes())?;
    for name in images.iter().flat_map(|image| {
        if image.tags.is_empty() {
            vec![image.id.clone()]
        } else {
            image.tags.iter().cloned().collect()
        }
    }) {
        say!("imported {name}");
    }
    Ok(())
}

fn style() -> Result<ProgressStyle> {
    Ok(ProgressStyle::with_template(
        "{bar:40} {bytes}/{total_bytes} {bytes_per_sec}",
    )?)
}

async fn pull(socket: &Path, wanted: Wanted) -> Result<()> {
    let response = call(
        socket,
        Method::POST,
        "/pull",
        Body::from(serde_json::to_string(&wanted)?),
    )
    .await?;
    let bar = ProgressBar::new(0).with_style(style()?);
    let mut rest = Vec::new();
    let mut body = response.into_body().into_data_stream();
    while let Some(bytes) = body.try_next().await? {
        rest.extend_from_slice(&bytes);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            match serde_json::from_slice(&line)? {
                PullLine::Progress(done, total) => {
                    bar.set_length(total);
                    bar.set_position(done);
                }
                PullLine::Done(id) => {
                    bar.finish_and_clear();
                    say!("pulled {} ({id})", wanted.name);
                    return Ok(());
                }
                PullLine::Failed(why) => bail!("{why}"),
            }
        }
    }
    bail!("the server ended before the image was here")
}

async fn list(socket: &Path) -> Result<()> {
    let response = call(socket, Method::GET, "/images", Body::empty()).await?;
    let images: Vec<StoredImage> =
        serde_json::from_slice(&response.into_body().collect().await?.to_bytes())?;
    say!("{:<60} {:<15} {:>12}", "NAME", "ID", "SIZE");
    for image in images {
        let id: String = image
            .id
            .trim_start_matches("sha256:")
            .chars()
            .take(12)
            .collect();
        let names = if image.tags.is_empty() {
            vec!["<none>".to_owned()]
        } else {
            image.tags.iter().cloned().collect()
        };
        for name in names {
            say!(
                "{name:<60} {id:<15} {:>8.1} MiB",
                image.size as f64 / f64::from(1 << 20)
            );
        }
    }
    Ok(())
}

async fn export(socket: &Path, name: &str, file: &Path) -> Result<()> {
    let response = call(
        socket,
        Method::GET,
        &format!("/export?name={}", escape(name)),
        Body::empty(),
    )
    .await?;
    let mut out: Box<dyn tokio::io::AsyncWrite + Unpin> = if file == Path::new("-") {
        Box::new(tokio::io::stdout())
    } else {
        Box::new(
            tokio::fs::File::create(file)
                .await
                .with_context(|| format!("making {}", file.display()))?,
        )
    };
    let mut body = response.into_body().into_data_stream();
    while let Some(bytes) = body.try_next().await? {
        out.write_all(&bytes).await?;
    }
    out.flush().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_a_query() {
        assert_eq!(escape("localhost:5000/a/b:v1"), "localhost:5000/a/b:v1");
        assert_eq!(escape("a b&c"), "a%20b%26c");
    }
}
