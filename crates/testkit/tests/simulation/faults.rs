//! The way of a part's requests to the API server, on which things go wrong by draw.
//!
//! A request may be late, refused, or never arrive; its answer may be late or lost after the work was done; a watch may end at any
//! event. Who is killed, and a server that is killed, loses all that is under way at whatever point it was.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use futures::{StreamExt as _, stream};
use http::{Method, Request, Response};
use parking_lot::Mutex;
use serde_json::json;
use skiff_apiserver::{ApiServer, UserInfo};
use skiff_base::{Random, SharedClock, Shutdown};
use tower::Service;

use crate::journal::Journal;

/// The connection broke.
#[derive(Debug, thiserror::Error)]
#[error("connection reset by the simulation")]
pub struct Broken;

/// A server, until it is killed.
#[derive(Clone)]
pub struct Running {
    pub server: Arc<ApiServer>,
    pub killed: Shutdown,
}

/// Everybody's line to the server.
pub struct Line {
    pub clock: SharedClock,
    pub journal: Journal,
    draw: Random,
    /// `None`: nobody listens there.
    server: Mutex<Option<Running>>,
    /// So many of a thousand requests meet with something.
    weather: AtomicU64,
}

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Fine,
    Late,
    Refused(u16, &'static str),
    NeverArrives,
    AnswerLate,
    AnswerLost,
}

impl Line {
    pub fn new(clock: SharedClock, journal: Journal, draw: Random, server: Running) -> Arc<Self> {
        Arc::new(Self {
            clock,
            journal,
            draw,
            server: Mutex::new(Some(server)),
            weather: AtomicU64::new(0),
        })
    }

    /// So many of a thousand requests meet with something from now on.
    pub fn set_weather(&self, weather: u64) {
        self.weather.store(weather, Ordering::Relaxed);
    }

    /// Kills the server with all that is under way.
    pub fn kill_server(&self) {
        let old = self.server.lock().take();
        if let Some(old) = old {
            old.killed.trigger();
            old.server.stop();
        }
    }

    /// Puts a server in the place of the one that was.
    pub fn begin_server(&self, server: Running) {
        *self.server.lock() = Some(server);
    }

    fn fate(&self) -> Fate {
        if self.draw.below(1000) >= self.weather.load(Ordering::Relaxed) {
            return Fate::Fine;
        }
        match self.draw.below(8) {
            0 => Fate::Late,
            1 => Fate::Refused(500, "InternalError"),
            2 => Fate::Refused(503, "ServiceUnavailable"),
            3 => Fate::Refused(429, "TooManyRequests"),
            4 => Fate::NeverArrives,
            5 => Fate::AnswerLate,
            _ => Fate::AnswerLost,
        }
    }

    /// Up to two seconds.
    async fn wait(&self) {
        let delay = Duration::from_secs_f64(2.0 * self.draw.fraction());
        self.clock.sleep(delay).await;
    }

    async fn carry<B>(
        &self,
        who: &str,
        request: Request<B>,
        fate: Fate,
    ) -> Result<Response<Body>, Broken>
    where
        B: HttpBody<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<axum::BoxError>,
    {
        match fate {
            Fate::Late => self.wait().await,
            Fate::Refused(code, reason) => return Ok(refusal(code, reason)),
            Fate::NeverArrives => return Err(Broken),
            Fate::Fine | Fate::AnswerLate | Fate::AnswerLost => {}
        }
        let Some(Running { server, killed }) = self.server.lock().clone() else {
            return Err(Broken);
        };
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let watches = request.uri().query().is_some_and(|query| {
            query
                .split('&')
                .any(|part| part == "watch=1" || part == "watch=true")
        });
        self.note_deletion(who, &method, &path);
        let user = UserInfo::new(who, &["system:masters", "system:authenticated"]);
        let mut service = server.in_process(user);
        let answered = tokio::select! {
            biased;
            () = killed.triggered() => Err(Broken),
            answer = service.call(request) => answer.map_err(|never| match never {}),
        };
        if fate == Fate::AnswerLate {
            self.wait().await;
        }
        let heard = answered.is_ok() && fate != Fate::AnswerLost;
        if !heard && method == Method::POST && path.ends_with("/pods") {
            self.journal
                .change_scene(|scene, now| scene.unheard_creation(who, now));
        }
        match answered {
            Ok(answer) if watches && answer.status() == 200 => Ok(self.watch(answer)),
            _ if !heard => Err(Broken),
            answered => answered,
        }
    }

    fn note_deletion(&self, who: &str, method: &Method, path: &str) {
        let mut parts = path.split('/').skip(1);
        let mut next = || parts.next().unwrap_or_default();
        let [api, v1, namespaces, namespace, pods, pod, then] = std::array::from_fn(|_| next());
        if [api, v1, namespaces, pods] != ["api", "v1", "namespaces", "pods"] {
            return;
        }
        let who = match (method, then) {
            (&Method::DELETE, "") => who,
            (&Method::POST, "eviction") => "an eviction",
            _ => return,
        };
        self.journal
            .change_scene(|scene, _| scene.asked_to_delete(who, namespace, pod));
    }

    /// In bad weather a watch ends after a drawn number of events.
    fn watch(&self, answer: Response<Body>) -> Response<Body> {
        let weather = self.weather.load(Ordering::Relaxed);
        if weather == 0 || self.draw.below(1000) >= weather * 4 {
            return answer;
        }
        let (length, cut) = (self.draw.below(40), self.draw.below(2) == 0);
        let end = stream::iter(cut.then(|| Err(axum::Error::new(Broken))));
        answer.map(|body| {
            let data = body.into_data_stream().take(length as usize);
            Body::from_stream(data.chain(end))
        })
    }
}

fn refusal(code: u16, reason: &str) -> Response<Body> {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "by the simulation", "reason": reason, "code": code});
    let mut answer = Response::new(Body::from(status.to_string()));
    *answer.status_mut() = http::StatusCode::from_u16(code).unwrap();
    let kind = http::HeaderValue::from_static("application/json");
    answer.headers_mut().insert("content-type", kind);
    answer
}

/// One part's end of the line, until the part is killed.
#[derive(Clone)]
pub struct Caller {
    pub line: Arc<Line>,
    pub who: Arc<str>,
    pub killed: Shutdown,
    /// Nothing goes wrong on the way.
    pub spared: bool,
}

impl Caller {
    pub fn client(self) -> kube::Client {
        kube::Client::new(self, "default")
    }
}

impl<B> Service<Request<B>> for Caller
where
    B: HttpBody<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    type Response = Response<Body>;
    type Error = Broken;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Broken>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let caller = self.clone();
        Box::pin(async move {
            let fate = if caller.spared {
                Fate::Fine
            } else {
                caller.line.fate()
            };
            tokio::select! {
                biased;
                () = caller.killed.triggered() => Err(Broken),
                answer = caller.line.carry(&caller.who, request, fate) => answer,
            }
        })
    }
}
