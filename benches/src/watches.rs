//! Watches: how many events reach 100 watchers a second, and how long after the write each comes.

use std::io::BufRead as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::Method;

use crate::api::{MAPS, config_map};
use crate::figures::{Figures, percentile};
use crate::load::Target;

/// What one run delivered.
struct Delivery {
    /// Events a second.
    rate: f64,
    /// From the sending of a write until its event was read by a watcher, sorted.
    latencies: Vec<Duration>,
}

impl Delivery {
    fn text(&self) -> String {
        let millis = |share| percentile(&self.latencies, share).as_secs_f64() * 1e3;
        format!(
            "{:.0} events/s delivered, p50 {:.2} ms, p99 {:.2} ms after the write was sent",
            self.rate,
            millis(0.5),
            millis(0.99)
        )
    }
}

/// Events under load with one writer and with several, and alone.
pub async fn measure(target: &Target, figures: &mut Figures) -> Result<()> {
    let budget = "10x upstream's 31,500-44,700/s";
    for (writers, updates) in [(1, 500), (8, 500)] {
        let run = Run {
            watchers: 100,
            writers,
            updates,
            pause: Duration::ZERO,
        };
        let label = match writers {
            1 => "100 watchers x 500 updates".to_owned(),
            _ => format!("100 watchers x {writers} writers x {updates} updates"),
        };
        figures.add(&label, run.deliver(target).await?.text(), budget);
    }
    for watchers in [1, 100] {
        let run = Run {
            watchers,
            writers: 1,
            updates: 50,
            pause: Duration::from_millis(30),
        };
        let label = format!("a lone event, {watchers} watchers");
        figures.add(&label, run.deliver(target).await?.text(), "");
    }
    Ok(())
}

struct Run {
    watchers: usize,
    writers: usize,
    updates: usize,
    pause: Duration,
}

impl Run {
    /// Every watcher sees every write.
    async fn deliver(&self, target: &Target) -> Result<Delivery> {
        let mut connection = target.connect().await?;
        for writer in 0..self.writers {
            connection
                .exchange(Method::POST, MAPS, config_map(&format!("watched-{writer}")))
                .await?;
        }
        let (_, body) = connection.get(&format!("{MAPS}?limit=1")).await?;
        let list: serde_json::Value = serde_json::from_slice(&body)?;
        let version = list["metadata"]["resourceVersion"]
            .as_str()
            .context("a list without a version")?;
        // Who watches one object says so; else all of a namespace are watched.
        let selector = match self.writers {
            1 => "&fieldSelector=metadata.name%3Dwatched-0",
            _ => "",
        };
        let watch = format!("{MAPS}?watch=1&resourceVersion={version}{selector}");
        let origin = Arc::new(Instant::now());
        let expected = self.writers * self.updates;
        let mut watchers = Vec::new();
        for _ in 0..self.watchers {
            let mut connection = target.connect().await?;
            let response = connection.send(Method::GET, &watch, Bytes::new()).await?;
            let origin = origin.clone();
            watchers.push(tokio::spawn(async move {
                let latencies = read(response.into_body(), expected, &origin).await;
                drop(connection);
                latencies
            }));
        }
        let started = Instant::now();
        let mut writers = Vec::new();
        for writer in 0..self.writers {
            let (target, origin) = (target.clone(), origin.clone());
            let (updates, pause) = (self.updates, self.pause);
            writers.push(tokio::spawn(async move {
                write(&target, writer, updates, pause, &origin).await
            }));
        }
        for writer in writers {
            writer.await??;
        }
        let mut latencies = Vec::new();
        for watcher in watchers {
            latencies.extend(watcher.await??);
        }
        let elapsed = started.elapsed().as_secs_f64();
        latencies.sort_unstable();
        Ok(Delivery {
            rate: latencies.len() as f64 / elapsed,
            latencies,
        })
    }
}

async fn write(
    target: &Target,
    writer: usize,
    updates: usize,
    pause: Duration,
    origin: &Instant,
) -> Result<()> {
    let mut connection = target.connect().await?;
    let name = format!("watched-{writer}");
    let path = format!("{MAPS}/{name}");
    for number in 0..updates {
        let sent = origin.elapsed().as_micros();
        let object = serde_json::json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name},
            "data": {"key": "v".repeat(900), "number": number.to_string(), "sent": format!("{sent:012}")},
        });
        let (code, _) = connection
            .exchange(Method::PUT, &path, object.to_string().into())
            .await?;
        ensure!(code == 200, "update answers {code}");
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }
    Ok(())
}

/// Reads events until all have come; how old each was.
async fn read(
    mut body: hyper::body::Incoming,
    expected: usize,
    origin: &Instant,
) -> Result<Vec<Duration>> {
    const SENT: &[u8] = b"\"sent\":\"";
    let mut latencies = Vec::with_capacity(expected);
    let mut rest: Vec<u8> = Vec::new();
    while latencies.len() < expected {
        let frame = body.frame().await.context("a watch ended")??;
        let data = frame.data_ref().map_or(&[][..], |data| data);
        rest.extend_from_slice(data);
        let now = origin.elapsed();
        let mut at = 0;
        loop {
            let mut tail = &rest[at..];
            let length = tail.skip_until(b'\n')?;
            let Some(line) = rest[at..at + length].strip_suffix(b"\n") else {
                break;
            };
            at += length;
            // The time is near the end; looking for it from there keeps the loader light.
            let place = line.windows(SENT.len()).rposition(|part| part == SENT);
            let digits =
                place.and_then(|place| line.get(place + SENT.len()..place + SENT.len() + 12));
            let sent: u64 = digits
                .and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok())
                .context("an event without its time")?;
            latencies.push(now.saturating_sub(Duration::from_micros(sent)));
        }
        rest.drain(..at);
    }
    Ok(latencies)
}
