//! `/containerLogs/{namespace}/{pod}/{container}`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use bytes::Bytes;
use http::{Response, header};
use jiff::Timestamp;
use skiff_runtime::cri::ContainerState;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::logs::read::{self, LogOptions, Writing};
use crate::manager::Manager;
use crate::runtime::Runtime;
use crate::server::target::{self, Refusal};

/// So many pieces wait for a slow client.
const PIECES: usize = 4;

struct Running {
    runtime: Runtime,
    id: String,
}

#[async_trait]
impl Writing for Running {
    async fn running(&self) -> bool {
        let running = ContainerState::ContainerRunning as i32;
        let status = self.runtime.container(&self.id).await;
        status.is_ok_and(|status| status.is_some_and(|s| s.state == running))
    }
}

/// The options of a query, in the words of `PodLogOptions`; and whether the previous container is meant.
pub fn options(
    query: &HashMap<String, String>,
    now: Timestamp,
) -> Result<(LogOptions, bool), Refusal> {
    let text = |name: &str| {
        query
            .get(name)
            .map(String::as_str)
            .filter(|v| !v.is_empty())
    };
    let flag = |name: &str| match text(name) {
        None | Some("false" | "0" | "f") => Ok(false),
        Some("true" | "1" | "t") => Ok(true),
        Some(other) => Err(Refusal::bad(format!("invalid value for {name}: {other:?}"))),
    };
    let number = |name: &str| match text(name) {
        None => Ok(None),
        Some(value) => value
            .parse::<u64>()
            .map(Some)
            .map_err(|_| Refusal::bad(format!("invalid value for {name}: {value:?}"))),
    };
    let since = match (number("sinceSeconds")?, text("sinceTime")) {
        (Some(seconds), _) => now.checked_sub(Duration::from_secs(seconds)).ok(),
        (None, Some(time)) => Some(
            time.parse()
                .map_err(|_| Refusal::bad(format!("invalid value for sinceTime: {time:?}")))?,
        ),
        (None, None) => None,
    };
    let stream = match text("stream") {
        None | Some("All") => None,
        Some(name) => Some(name.to_lowercase()),
    };
    let options = LogOptions {
        follow: flag("follow")?,
        tail_lines: number("tailLines")?,
        since,
        timestamps: flag("timestamps")?,
        limit_bytes: number("limitBytes")?,
        stream,
    };
    Ok((options, flag("previous")?))
}

/// Answers with a log.
pub async fn answer(
    manager: &Arc<Manager>,
    (namespace, pod, container): (&str, &str, &str),
    query: &HashMap<String, String>,
) -> Result<Response<Body>, Refusal> {
    let context = manager.context().clone();
    let (options, previous) = options(query, context.cluster.now())?;
    let target = target::pod(manager, namespace, pod)?;
    let (id, path) = target.log(manager, container, previous).await?;
    if !path.exists() {
        let message = format!(
            "failed to try resolving symlinks in path {:?}: lstat {}: no such file or directory",
            path.display().to_string(),
            path.display()
        );
        return Err(Refusal::internal(message));
    }
    let (sink, pieces) = mpsc::channel::<std::io::Result<Bytes>>(PIECES);
    tokio::spawn(async move {
        let writing = Running {
            runtime: context.runtime.clone(),
            id,
        };
        let failed = sink.clone();
        let sent = read::send(&path, &options, &writing, &context.clock, sink).await;
        if let Err(error) = sent {
            // The client may have gone.
            let _ = failed.send(Err(error)).await;
        }
    });
    Response::builder()
        .header(header::CONTENT_TYPE, "text/plain")
        .body(Body::from_stream(ReceiverStream::new(pieces)))
        .map_err(|error| Refusal::internal(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_query() {
        let now = Timestamp::from_second(1000).unwrap();
        let query = |pairs: &[(&str, &str)]| -> HashMap<String, String> {
            let pairs = pairs.iter();
            pairs
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect()
        };
        let (all, previous) = options(
            &query(&[
                ("follow", "true"),
                ("tailLines", "7"),
                ("sinceSeconds", "10"),
                ("limitBytes", "9"),
                ("timestamps", "1"),
                ("previous", "true"),
            ]),
            now,
        )
        .unwrap();
        assert!(all.follow && all.timestamps && previous);
        assert_eq!((all.tail_lines, all.limit_bytes), (Some(7), Some(9)));
        assert_eq!(all.since, Timestamp::from_second(990).ok());
        for bad in [("follow", "maybe"), ("tailLines", "-1"), ("sinceTime", "x")] {
            assert!(options(&query(&[bad]), now).is_err(), "{bad:?}");
        }
    }
}
