//! Port-forward: many connections to ports of a pod over one connection.

use std::collections::HashMap;

use http::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::protocol::Role as WebSocketRole;
use tokio_util::sync::CancellationToken;

use crate::negotiate::{Rejection, Upgrade, query, spdy, upgrade_of, websocket};
use crate::pipe::{Stream, Writer};
use crate::spdy::{Connection, Headers, Incoming, Role};
use crate::websocket::{Channels, Codec, tunnel};
use crate::{StreamError, upgraded};

const SPDY_PROTOCOL: &str = "portforward.k8s.io";
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
const WEBSOCKET: [&str; 4] = [TUNNEL, "v4.channel.k8s.io", "v4.base64.channel.k8s.io", ""];
/// Half-opened forwards (one stream of two) that may wait for their other half.
const MAX_HALVES: usize = 256;
/// The old WebSocket protocol names its ports at the start; two channels each.
const MAX_PORTS: usize = 100;

/// One connection to be made to a port.
#[derive(Debug)]
pub struct Forward {
    /// The port in the pod.
    pub port: u16,
    /// What the client sends and receives.
    pub data: Stream,
    /// Where it is said why a connection failed. Dropping it says that all went well.
    pub error: ForwardError,
}

/// Tells the client why a forward failed.
#[derive(Debug)]
pub struct ForwardError(Writer);

impl ForwardError {
    /// Says why, and ends the forward.
    ///
    /// # Errors
    /// The client is gone.
    pub async fn fail(mut self, mut data: Stream, reason: &str) -> Result<(), StreamError> {
        self.0.write_all(reason.as_bytes()).await?;
        self.0.shutdown().await?;
        data.writer.reset();
        Ok(())
    }
}

/// The forwards that a client asks for. Dropping it closes the connection.
#[derive(Debug)]
pub struct PortForward {
    forwards: mpsc::Receiver<Forward>,
    closed: CancellationToken,
}

impl PortForward {
    /// The next forward; none when the client is gone.
    pub async fn accept(&mut self) -> Option<Forward> {
        self.forwards.recv().await
    }

    /// Cancelled when the client goes away.
    #[must_use]
    pub fn closed(&self) -> CancellationToken {
        self.closed.clone()
    }
}

/// Accepts a port-forward request, which must come from hyper. The old WebSocket protocol takes its ports from
/// the query (`ports` or `port`).
///
/// # Errors
/// The request is no upgrade that we speak, or names no valid ports where it must.
pub fn port_forward<B>(
    request: &mut Request<B>,
) -> Result<
    (
        Response<()>,
        impl Future<Output = Result<PortForward, StreamError>> + Send + 'static,
    ),
    Rejection,
> {
    let upgrade = upgrade_of(request.headers())?;
    let (protocol, response) = match upgrade {
        Upgrade::WebSocket => websocket(request, &WEBSOCKET)?,
        Upgrade::Spdy => spdy(request, &[SPDY_PROTOCOL])?,
    };
    let ports = match protocol {
        SPDY_PROTOCOL | TUNNEL => Vec::new(),
        _ => ports(request.uri().query())?,
    };
    let on_upgrade = hyper::upgrade::on(request);
    let session = async move {
        let io = upgraded(on_upgrade).await?;
        Ok(match protocol {
            SPDY_PROTOCOL => over_spdy(Connection::new(io, Role::Server)),
            TUNNEL => {
                let io = tunnel(io, WebSocketRole::Server).await;
                over_spdy(Connection::new(io, Role::Server))
            }
            _ => over_channels(io, Codec::of(protocol), ports).await,
        })
    };
    Ok((response, session))
}

/// The ports in a query.
fn ports(text: Option<&str>) -> Result<Vec<u16>, Rejection> {
    let pairs = query(text);
    let named: Vec<&str> = pairs
        .iter()
        .filter(|(name, _)| name == "port" || name == "ports")
        .flat_map(|(_, value)| value.split(','))
        .collect();
    if named.is_empty() {
        return Err(Rejection::bad_request(
            r#"query parameter "port" is required"#,
        ));
    }
    if named.len() > MAX_PORTS {
        return Err(Rejection::bad_request("too many ports"));
    }
    named.into_iter().map(port).collect()
}

fn port(text: &str) -> Result<u16, Rejection> {
    match text.parse::<u16>() {
        Ok(0) => Err(Rejection::bad_request(format!("port {text:?} must be > 0"))),
        Ok(port) => Ok(port),
        Err(_) => Err(Rejection::bad_request(format!(
            "unable to parse {text:?} as a port"
        ))),
    }
}

fn over_spdy(connection: Connection) -> PortForward {
    let (sender, forwards) = mpsc::channel(16);
    let closed = connection.closed();
    tokio::spawn(pair_streams(connection, sender));
    PortForward { forwards, closed }
}

/// Half a forward: the stream that came first.
enum Half {
    Data(Stream),
    Error(Stream),
}

/// Which forward a stream belongs to, its port, and whether it carries data.
fn classify(id: u32, headers: &Headers) -> Option<(String, u16, bool)> {
    let port = port(headers.get("port")?).ok()?;
    let data = match headers.get("streamType")? {
        "data" => true,
        "error" => false,
        _ => return None,
    };
    let request = match headers.get("requestID") {
        Some(request) if !request.is_empty() => request.to_owned(),
        // Clients before 1.2 open the error stream and, with the next number, the data stream.
        _ if data => id.saturating_sub(2).to_string(),
        _ => id.to_string(),
    };
    Some((request, port, data))
}

/// Waits for streams and joins the two of each forward. The connection lives as long as someone waits for
/// forwards.
async fn pair_streams(mut connection: Connection, sender: mpsc::Sender<Forward>) {
    let mut halves: HashMap<String, Half> = HashMap::new();
    loop {
        let incoming: Incoming = tokio::select! {
            incoming = connection.accept() => match incoming {
                Some(incoming) => incoming,
                None => return,
            },
            () = sender.closed() => return,
        };
        let Some((request, port, is_data)) = classify(incoming.id, &incoming.headers) else {
            incoming.refuse();
            continue;
        };
        let (data, error) = match (halves.remove(&request), is_data) {
            (None, _) if halves.len() >= MAX_HALVES => {
                incoming.refuse();
                continue;
            }
            (None, true) => {
                halves.insert(request, Half::Data(incoming.accept()));
                continue;
            }
            (None, false) => {
                halves.insert(request, Half::Error(incoming.accept()));
                continue;
            }
            (Some(Half::Data(data)), false) => (data, incoming.accept()),
            (Some(Half::Error(error)), true) => (incoming.accept(), error),
            (Some(half), _) => {
                // A second stream of the same kind.
                halves.insert(request, half);
                incoming.refuse();
                continue;
            }
        };
        let forward = Forward {
            port,
            data,
            error: ForwardError(error.writer),
        };
        if sender.send(forward).await.is_err() {
            return;
        }
    }
}

/// The old protocol: a pair of channels for each port, each of which begins with the port's number.
async fn over_channels(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    codec: Codec,
    ports: Vec<u16>,
) -> PortForward {
    let readable: Vec<bool> = ports.iter().flat_map(|_| [true, false]).collect();
    let mut channels = Channels::new(io, WebSocketRole::Server, codec, &readable).await;
    let (sender, forwards) = mpsc::channel(ports.len().max(1));
    let closed = channels.closed();
    for (channel, port) in (0u8..).step_by(2).zip(ports) {
        let Some(reader) = channels.reader(channel) else {
            continue;
        };
        let (mut writer, mut error) = (channels.writer(channel), channels.writer(channel + 1));
        // The queue is empty still: this does not wait.
        let _ = writer.write_all(&port.to_le_bytes()).await;
        let _ = error.write_all(&port.to_le_bytes()).await;
        let forward = Forward {
            port,
            data: Stream { reader, writer },
            error: ForwardError(error),
        };
        let _ = sender.send(forward).await;
    }
    let ended = closed.clone();
    tokio::spawn(async move {
        // Closes the WebSocket when nobody waits for forwards any more.
        tokio::select! {
            () = sender.closed() => {}
            () = ended.cancelled() => {}
        }
        drop(channels);
    });
    PortForward { forwards, closed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_and_checked() {
        assert_eq!(
            ports(Some("ports=80,443&port=8080")).unwrap(),
            [80, 443, 8080]
        );
        for wrong in [
            "",
            "ports=",
            "ports=0",
            "ports=65536",
            "port=http",
            "ports=80,",
        ] {
            assert!(ports(Some(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn streams_find_their_forward() {
        let data = Headers::new([("streamType", "data"), ("port", "80"), ("requestID", "7")]);
        assert_eq!(classify(3, &data), Some(("7".into(), 80, true)));
        let old = |kind| Headers::new([("streamType", kind), ("port", "80")]);
        assert_eq!(classify(1, &old("error")), Some(("1".into(), 80, false)));
        assert_eq!(classify(3, &old("data")), Some(("1".into(), 80, true)));
        assert_eq!(classify(3, &old("other")), None);
        let wrong = Headers::new([("streamType", "data"), ("port", "0")]);
        assert_eq!(classify(3, &wrong), None);
    }

    #[tokio::test]
    async fn streams_are_joined_in_any_order() {
        let (a, b) = tokio::io::duplex(1 << 16);
        let client = Connection::new(a, Role::Client);
        let mut served = over_spdy(Connection::new(b, Role::Server));
        let open = |kind, port, request| {
            let headers = [("streamType", kind), ("port", port), ("requestID", request)];
            client.open(Headers::new(headers)).unwrap()
        };
        let _one = open("error", "80", "0");
        let _two = open("data", "81", "1");
        let _twice = open("data", "81", "1");
        let _nonsense = open("strange", "81", "1");
        let _three = open("error", "81", "1");
        let _four = open("data", "80", "0");
        assert_eq!(served.accept().await.unwrap().port, 81);
        assert_eq!(served.accept().await.unwrap().port, 80);
        drop(client);
        assert!(served.accept().await.is_none());
    }
}
