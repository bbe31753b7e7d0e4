//! The kubelet's server over real TLS, with certificates made here.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use serde_json::json;
use skiff_base::{Shutdown, SystemClock};
use skiff_streaming::client::RemoteClient;
use skiff_streaming::{ExitStatus, RemoteOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tonic::Status;

use crate::server::authorize::Authorizer;
use crate::server::router::{Shared, router};
use crate::server::serve;
use crate::server::streams::{Duplex, Process, StreamOptions, StreamRuntime};
use crate::simulation::api_server::ApiServer;
use crate::simulation::world::World;

/// A command that sends its input back and exits with the number that it was given.
struct Echo;

#[async_trait]
impl StreamRuntime for Echo {
    async fn exec(&self, _: &str, command: &[String], _: StreamOptions) -> Result<Process, Status> {
        let (input, output) = tokio::io::duplex(64);
        let (read, _) = tokio::io::split(output);
        let (_, write) = tokio::io::split(input);
        let code: i32 = command.last().unwrap().parse().unwrap();
        Ok(Process {
            stdin: Some(Box::new(write)),
            stdout: Some(Box::new(read)),
            stderr: None,
            resize: None,
            exit: Box::pin(async move { Some(code) }),
            left: Box::pin(async {}),
        })
    }

    async fn attach(&self, _: &str, _: StreamOptions) -> Result<Process, Status> {
        Err(Status::unimplemented("attach"))
    }

    async fn connect(&self, _: &str, _: u16) -> Result<Box<dyn Duplex>, Status> {
        Err(Status::unimplemented("connect"))
    }
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    roots: Arc<RootCertStore>,
}

type Credentials = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone()).unwrap();
        Self {
            issuer: Issuer::new(params, key),
            roots: Arc::new(roots),
        }
    }

    fn issue(&self, user: &str, group: &str) -> Credentials {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, user);
        params
            .distinguished_name
            .push(DnType::OrganizationName, group);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        (vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key))
    }
}

struct Server {
    port: u16,
    authority: Authority,
    world: World,
}

async fn start() -> Server {
    let world = World::new();
    world.create_simple("p", json!({}), json!({}));
    world.until_running("p").await;
    let authority = Authority::new();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(authority.roots.clone(), provider.clone())
            .allow_unauthenticated()
            .build()
            .unwrap();
    let (chain, key) = authority.issue("system:node:node", "system:nodes");
    let tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let client = ApiServer::new().client();
    let clock = SystemClock::shared();
    let trusted = vec!["apiserver".to_owned()];
    let router = router(Arc::new(Shared {
        manager: world.manager.clone(),
        authorizer: Authorizer::new(client.clone(), clock.clone(), "node", trusted),
        client,
        streams: Arc::new(Echo),
    }));
    tokio::spawn(serve(
        listener,
        Arc::new(tls),
        router,
        clock,
        Shutdown::new(),
    ));
    Server {
        port,
        authority,
        world,
    }
}

impl Server {
    async fn send(
        &self,
        who: Option<(&str, &str)>,
        request: Request<Empty<Bytes>>,
    ) -> Response<Incoming> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.authority.roots.clone());
        let config = match who {
            Some((user, group)) => {
                let (chain, key) = self.authority.issue(user, group);
                builder.with_client_auth_cert(chain, key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
            .unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection.with_upgrades());
        sender.send_request(request).await.unwrap()
    }

    async fn get(&self, who: Option<(&str, &str)>, path: &str) -> (StatusCode, String) {
        let request = Request::get(path)
            .header("host", "localhost")
            .body(Empty::new());
        let answer = self.send(who, request.unwrap()).await;
        let code = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (code, String::from_utf8_lossy(&body).into_owned())
    }
}

const API_SERVER: Option<(&str, &str)> = Some(("apiserver", "x"));

#[tokio::test]
async fn who_may_see_what() {
    let server = start().await;
    let (code, _) = server.get(None, "/pods").await;
    assert_eq!(code, StatusCode::UNAUTHORIZED);
    let (code, text) = server.get(Some(("mallory", "x")), "/pods").await;
    assert_eq!(code, StatusCode::FORBIDDEN);
    assert_eq!(
        text,
        "Forbidden (user=mallory, verb=get, resource=nodes, subresource(s)=[pods])\n"
    );
    let (code, text) = server.get(API_SERVER, "/pods").await;
    assert_eq!(code, StatusCode::OK);
    assert!(text.contains("\"phase\":\"Running\""));
    let (code, _) = server
        .get(Some(("root", "system:masters")), "/healthz")
        .await;
    assert_eq!(code, StatusCode::OK);
}

#[tokio::test]
async fn logs_of_containers() {
    let server = start().await;
    let get = |path: &'static str| server.get(API_SERVER, path);
    let log = "/containerLogs/ns/p/c";
    assert_eq!(get(log).await, (StatusCode::OK, "hello\n".to_owned()));
    let (code, text) = get("/containerLogs/ns/p/c?previous=true").await;
    assert_eq!(code, StatusCode::BAD_REQUEST);
    assert_eq!(
        text,
        "previous terminated container \"c\" in pod \"p\" not found"
    );
    let (code, _) = get("/containerLogs/ns/p/none").await;
    assert_eq!(code, StatusCode::NOT_FOUND);
    let (code, _) = get("/containerLogs/ns/none/c").await;
    assert_eq!(code, StatusCode::NOT_FOUND);
    server
        .world
        .create_simple("q", json!({"image": "nowhere/x:1"}), json!({}));
    server
        .world
        .until("waits", |w| w.waiting("q", "c") == "ErrImagePull")
        .await;
    let (code, text) = get("/containerLogs/ns/q/c").await;
    assert_eq!(code, StatusCode::BAD_REQUEST);
    assert_eq!(
        text,
        "container \"c\" in pod \"q\" is waiting to start: image can't be pulled"
    );
}

#[tokio::test]
async fn a_command_in_a_container() {
    let server = start().await;
    let request = Request::get("/exec/ns/p/c?command=echo&command=7&input=1&output=1")
        .header("host", "localhost")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("sec-websocket-protocol", "v5.channel.k8s.io")
        .body(Empty::new())
        .unwrap();
    let answer = server.send(API_SERVER, request).await;
    assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
    let io = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
    let options = RemoteOptions {
        stdin: true,
        stdout: true,
        ..RemoteOptions::default()
    };
    let mut client = RemoteClient::new(io, "v5.channel.k8s.io", options).await;
    let mut stdin = client.stdin.take().unwrap();
    stdin.write_all(b"over and back").await.unwrap();
    stdin.shutdown().await.unwrap();
    let mut text = String::new();
    client
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut text)
        .await
        .unwrap();
    assert_eq!(text, "over and back");
    assert_eq!(client.status().await.unwrap(), ExitStatus::ExitCode(7));
}
