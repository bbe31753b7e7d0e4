//! Services that this process stands in for as long as the cluster has none of that name.
//!
//! An aggregated API that is built in is reached as any other: an `APIService` names a service, and requests go
//! there with the user in headers. Only the connection is different, it does not leave the process. Whoever creates
//! the service takes over.

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;

use axum::body::Body;
use http::{Request, Response};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::DuplexStream;

use crate::server::ApiServer;

/// So many bytes wait between the two ends of a connection.
const BUFFER: usize = 64 << 10;

type Answering = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;
/// Answers the requests of a service.
pub type Answer = Arc<dyn Fn(Request<hyper::body::Incoming>) -> Answering + Send + Sync>;

/// By namespace and name.
#[derive(Default)]
pub(crate) struct OwnServices(Mutex<HashMap<(String, String), Answer>>);

impl OwnServices {
    fn find(&self, namespace: &str, name: &str) -> Option<Answer> {
        let services = self.0.lock();
        services
            .get(&(namespace.to_owned(), name.to_owned()))
            .cloned()
    }

    /// Whether this process answers for the service.
    pub async fn stands_in(&self, server: &ApiServer, namespace: &str, name: &str) -> bool {
        self.find(namespace, name).is_some() && !exists(server, namespace, name).await
    }

    /// A connection to the service, where this process answers for it.
    pub async fn connect(
        &self,
        server: &ApiServer,
        namespace: &str,
        name: &str,
    ) -> Option<DuplexStream> {
        let answer = self.find(namespace, name)?;
        if exists(server, namespace, name).await {
            return None;
        }
        let (near, far) = tokio::io::duplex(BUFFER);
        let service = service_fn(move |request| {
            let answering = answer(request);
            async move { Ok::<_, Infallible>(answering.await) }
        });
        let shutdown = server.shutdown.clone();
        tokio::spawn(async move {
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(far), service);
            tokio::select! {
                ended = connection => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "connection within the process ended");
                    }
                }
                () = shutdown.triggered() => {}
            }
        });
        Some(near)
    }
}

async fn exists(server: &ApiServer, namespace: &str, name: &str) -> bool {
    let registry = server.registry.load_full();
    let Some(services) = registry.stored("", "services") else {
        return false;
    };
    let found = server.lookup(services, namespace, name).await;
    !matches!(found, Ok(None))
}

impl ApiServer {
    /// Answers for the service `name` in `namespace` as long as the cluster has none of that name.
    pub fn stand_in_for(&self, namespace: &str, name: &str, answer: Answer) {
        let key = (namespace.to_owned(), name.to_owned());
        self.own_services.0.lock().insert(key, answer);
    }
}
