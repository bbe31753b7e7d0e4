//! Our own clients.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use skiff_streaming::client::RemoteClient;
use skiff_streaming::spdy::{Connection, Headers, Role};
use skiff_streaming::{ExitStatus, RemoteOptions, TerminalSize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::server;

/// Upgrades a connection; the response's headers and the connection.
async fn upgrade(
    path: &str,
    headers: &[(&str, &str)],
) -> Result<
    (
        http::HeaderMap,
        impl AsyncRead + AsyncWrite + Unpin + Send + 'static + use<>,
    ),
    http::StatusCode,
> {
    let address = server::start().await;
    let socket = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket))
        .await
        .unwrap();
    tokio::spawn(connection.with_upgrades());
    let mut request = Request::builder()
        .uri(format!("/api/v1/namespaces/default/pods/web/{path}"))
        .header("host", "x")
        .header("connection", "Upgrade");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    let mut response = sender.send_request(request).await.unwrap();
    if response.status() != 101 {
        return Err(response.status());
    }
    let io = hyper::upgrade::on(&mut response).await.unwrap();
    Ok((response.headers().clone(), TokioIo::new(io)))
}

fn websocket(protocol: &str) -> Vec<(&str, &str)> {
    vec![
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-protocol", protocol),
    ]
}

async fn client(path: &str, protocol: &str) -> RemoteClient {
    let (headers, io) = upgrade(path, &websocket(protocol)).await.unwrap();
    assert_eq!(headers["sec-websocket-protocol"], protocol);
    let options = RemoteOptions::from_query(path.split_once('?').map(|(_, query)| query));
    RemoteClient::new(io, protocol, options.unwrap()).await
}

async fn read_all(reader: &mut (impl AsyncRead + Unpin)) -> String {
    let mut text = String::new();
    reader.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn websocket_exec_gives_outputs_and_exit_codes() {
    for protocol in [
        "v5.channel.k8s.io",
        "v4.channel.k8s.io",
        "v4.base64.channel.k8s.io",
    ] {
        let mut exec = client("exec?command=hello&stdout=true&stderr=true", protocol).await;
        assert_eq!(exec.status().await.unwrap(), ExitStatus::Success);
        assert_eq!(read_all(exec.stdout.as_mut().unwrap()).await, "out\n");
        assert_eq!(read_all(exec.stderr.as_mut().unwrap()).await, "err\n");
        let mut exec = client("exec?command=exit&command=42&stdout=1", protocol).await;
        assert_eq!(exec.status().await.unwrap(), ExitStatus::ExitCode(42));
        let mut exec = client("exec?command=fail&output=1", protocol).await;
        let expected = ExitStatus::Error("Internal error occurred: no such thing".into());
        assert_eq!(exec.status().await.unwrap(), expected);
    }
}

/// kubectl up to 1.33 starts to read before it has made its streams, and drops what comes for them.
#[tokio::test]
async fn nothing_is_sent_to_a_websocket_client_that_does_not_read_yet() {
    let asks = websocket("v5.channel.k8s.io");
    let (_, mut io) = upgrade("exec?stdout=1&command=hello", &asks).await.unwrap();
    let mut ping = [0; 2];
    io.read_exact(&mut ping).await.unwrap();
    assert_eq!(ping, [0x89, 0]);
    let mut first = [0; 2];
    let more = tokio::time::timeout(Duration::from_millis(300), io.read_exact(&mut first)).await;
    assert!(more.is_err(), "{first:?}");
    // A pong, masked as all that clients send.
    io.write_all(&[0x8a, 0x80, 0, 0, 0, 0]).await.unwrap();
    io.read_exact(&mut first).await.unwrap();
    assert_eq!(first[0], 0x82);
    let mut rest = Vec::new();
    let mut piece = [0; 64];
    while !rest.windows(4).any(|part| part == b"out\n") {
        let read = io.read(&mut piece).await.unwrap();
        assert_ne!(read, 0, "{rest:?}");
        rest.extend_from_slice(&piece[..read]);
    }
}

#[tokio::test]
async fn websocket_v5_ends_input_alone() {
    let mut exec = client("exec?command=cat&stdin=1&stdout=1", "v5.channel.k8s.io").await;
    let (mut stdin, mut stdout) = (exec.stdin.take().unwrap(), exec.stdout.take().unwrap());
    let text = "0123456789".repeat(300_000);
    let expected = text.clone();
    let writer = tokio::spawn(async move {
        stdin.write_all(text.as_bytes()).await.unwrap();
        stdin.shutdown().await.unwrap();
    });
    assert!(read_all(&mut stdout).await == expected);
    writer.await.unwrap();
    assert_eq!(exec.status().await.unwrap(), ExitStatus::Success);
    exec.closed().cancelled().await;
}

#[tokio::test]
async fn a_terminal_is_resized() {
    let mut exec = client("exec?command=size&stdout=1&tty=1", "v4.channel.k8s.io").await;
    let (width, height) = (132, 43);
    exec.resize(TerminalSize { width, height }).await.unwrap();
    assert_eq!(read_all(exec.stdout.as_mut().unwrap()).await, "132x43");
}

#[tokio::test]
async fn the_server_learns_when_the_client_goes_away() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("gone");
    let path = format!("exec?command=wait&command={}&stdout=1", file.display());
    let mut exec = client(&path, "v5.channel.k8s.io").await;
    let mut first = [0; 8];
    exec.stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut first)
        .await
        .unwrap();
    drop(exec);
    tokio::time::timeout(Duration::from_secs(10), async {
        while !file.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn what_is_not_spoken_is_refused() {
    let cases = [
        (
            "exec?command=hello&stdout=1",
            websocket("v9.channel.k8s.io"),
            403,
        ),
        ("exec?command=hello", websocket("v4.channel.k8s.io"), 400),
        ("exec?command=hello&stdout=1", vec![("upgrade", "h2c")], 400),
        (
            "exec?command=hello&stdout=1",
            vec![("upgrade", "SPDY/3.1")],
            400,
        ),
        (
            "portforward",
            vec![
                ("upgrade", "SPDY/3.1"),
                ("x-stream-protocol-version", "v4.channel.k8s.io"),
            ],
            403,
        ),
        ("portforward", websocket("v4.channel.k8s.io"), 400),
    ];
    for (path, headers, expected) in cases {
        let status = upgrade(path, &headers).await.err().unwrap();
        assert_eq!(status, expected, "{path} {headers:?}");
    }
}

#[tokio::test]
async fn spdy_exec_of_every_version() {
    for protocol in [
        "v4.channel.k8s.io",
        "v3.channel.k8s.io",
        "v2.channel.k8s.io",
        "channel.k8s.io",
    ] {
        let asks = [
            ("upgrade", "SPDY/3.1"),
            ("x-stream-protocol-version", protocol),
        ];
        let path = "exec?command=cat&stdin=1&stdout=1";
        let (headers, io) = upgrade(path, &asks).await.unwrap();
        assert_eq!(headers["x-stream-protocol-version"], protocol);
        let connection = Connection::new(io, Role::Client);
        let open = |kind| {
            connection
                .open(Headers::new([("streamType", kind)]))
                .unwrap()
        };
        let (mut error, mut stdin, mut stdout) = (open("error"), open("stdin"), open("stdout"));
        stdin.write_all(b"abc").await.unwrap();
        stdin.shutdown().await.unwrap();
        assert_eq!(read_all(&mut stdout).await, "abc");
        let status = read_all(&mut error).await;
        match protocol {
            "v4.channel.k8s.io" => {
                assert_eq!(
                    ExitStatus::from_wire(status.as_bytes()),
                    ExitStatus::Success
                );
                assert!(status.contains(r#""status":"Success""#));
            }
            _ => assert_eq!(status, ""),
        }
    }
}

#[tokio::test]
async fn spdy_port_forward_over_a_socket_and_through_a_websocket() {
    let asks = [
        ("upgrade", "SPDY/3.1"),
        ("x-stream-protocol-version", "portforward.k8s.io"),
    ];
    let (_, io) = upgrade("portforward", &asks).await.unwrap();
    let connection = Connection::new(io, Role::Client);
    let open = |kind, port, request| {
        let headers = [("streamType", kind), ("port", port), ("requestID", request)];
        connection.open(Headers::new(headers)).unwrap()
    };
    let (mut refused, mut nothing) = (open("error", "81", "0"), open("data", "81", "0"));
    assert_eq!(
        read_all(&mut refused).await,
        "connection refused at port 81"
    );
    assert_eq!(read_all(&mut nothing).await, "");
    let (mut error, mut echo) = (open("error", "7", "1"), open("data", "7", "1"));
    error.shutdown().await.unwrap();
    echo.write_all(b"hello").await.unwrap();
    echo.shutdown().await.unwrap();
    assert_eq!(read_all(&mut echo).await, "hello");
    assert_eq!(read_all(&mut error).await, "");
}

#[tokio::test]
async fn old_websocket_port_forward_begins_with_the_port() {
    use futures::{SinkExt, StreamExt};
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::protocol::Role;

    let asks = websocket("v4.channel.k8s.io");
    let (_, io) = upgrade("portforward?ports=7,81", &asks).await.unwrap();
    let mut socket = WebSocketStream::from_raw_socket(io, Role::Client, None).await;
    socket
        .send(Message::binary(vec![0, b'h', b'i']))
        .await
        .unwrap();
    let mut seen = vec![Vec::new(); 4];
    while seen[0].len() < 4 || seen[3].len() < 10 {
        let Message::Binary(message) = socket.next().await.unwrap().unwrap() else {
            continue;
        };
        seen[usize::from(message[0])].extend_from_slice(&message[1..]);
    }
    assert_eq!(seen[0], [&[7, 0][..], b"hi"].concat());
    assert_eq!(seen[1], [7, 0]);
    assert_eq!(seen[2], [81, 0]);
    assert!(seen[3].starts_with(&[81, 0, b'c']));
}
