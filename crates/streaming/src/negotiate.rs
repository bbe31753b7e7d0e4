//! The HTTP side of an upgrade: which protocol both ends speak, and what is answered when there is none.

use http::header::{CONNECTION, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// In requests: what the client speaks, best first. In responses: what was chosen.
pub const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// In refusals: what the server speaks.
pub const ACCEPTED_PROTOCOLS: HeaderName =
    HeaderName::from_static("x-accepted-stream-protocol-versions");
const WEBSOCKET_PROTOCOL: HeaderName = http::header::SEC_WEBSOCKET_PROTOCOL;
const SPDY: &str = "SPDY/3.1";

/// A request that cannot be served, with the answer that upstream gives.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Rejection {
    /// The HTTP status.
    pub status: StatusCode,
    /// The reason.
    pub message: String,
    /// What the server speaks, if that was the trouble.
    pub accepted: Vec<&'static str>,
}

impl Rejection {
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            message: message.into(),
            accepted: Vec::new(),
        }
    }

    /// The answer to the client: plain text.
    #[must_use]
    pub fn into_response(self) -> Response<String> {
        let mut response = Response::new(self.message + "\n");
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        let text = HeaderValue::from_static("text/plain; charset=utf-8");
        headers.insert(http::header::CONTENT_TYPE, text);
        for protocol in self.accepted {
            headers.append(ACCEPTED_PROTOCOLS, HeaderValue::from_static(protocol));
        }
        response
    }
}

/// How a client wants to upgrade its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Upgrade {
    WebSocket,
    Spdy,
}

/// How a request wants to be upgraded.
pub(crate) fn upgrade_of(headers: &HeaderMap) -> Result<Upgrade, Rejection> {
    let wants = values(headers, &CONNECTION).any(|value| value.eq_ignore_ascii_case("upgrade"));
    let to = |name: &str| {
        values(headers, &UPGRADE).any(|value| {
            value
                .to_ascii_lowercase()
                .contains(&name.to_ascii_lowercase())
        })
    };
    if wants && to("websocket") {
        Ok(Upgrade::WebSocket)
    } else if wants && to(SPDY) {
        Ok(Upgrade::Spdy)
    } else {
        Err(Rejection::bad_request(
            "unable to upgrade: missing upgrade headers in request",
        ))
    }
}

/// The comma-separated values of a header in all its lines.
fn values<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|value| !value.is_empty())
}

fn first_common(offered: &[&str], accepted: &[&'static str]) -> Option<&'static str> {
    offered
        .iter()
        .find_map(|offer| accepted.iter().find(|accepted| *accepted == offer))
        .copied()
}

/// Chooses the stream protocol of a SPDY connection, and answers the request.
pub(crate) fn spdy<B>(
    request: &Request<B>,
    accepted: &[&'static str],
) -> Result<(&'static str, Response<()>), Rejection> {
    let headers = request.headers();
    let offered: Vec<&str> = values(headers, &STREAM_PROTOCOL).collect();
    if offered.is_empty() {
        return Err(Rejection::bad_request(format!(
            "unable to upgrade: header X-Stream-Protocol-Version does not exist in request with {} headers",
            headers.len()
        )));
    }
    let Some(chosen) = first_common(&offered, accepted) else {
        return Err(Rejection {
            status: StatusCode::FORBIDDEN,
            message: format!(
                "unable to upgrade: unable to negotiate protocol: client supports [{}], server accepts [{}]",
                offered.join(" "),
                accepted.join(" ")
            ),
            accepted: accepted.to_vec(),
        });
    };
    let mut response = switching(SPDY);
    let protocol = HeaderValue::from_static(chosen);
    response.headers_mut().insert(STREAM_PROTOCOL, protocol);
    Ok((chosen, response))
}

/// Chooses the subprotocol of a WebSocket, and answers the request. A client that names none gets `""`, if
/// that is accepted.
pub(crate) fn websocket<B>(
    request: &Request<B>,
    accepted: &[&'static str],
) -> Result<(&'static str, Response<()>), Rejection> {
    let headers = request.headers();
    if request.method() != http::Method::GET {
        return Err(Rejection {
            status: StatusCode::METHOD_NOT_ALLOWED,
            message: "a WebSocket begins with GET".into(),
            accepted: Vec::new(),
        });
    }
    if headers
        .get(http::header::SEC_WEBSOCKET_VERSION)
        .is_none_or(|version| version != "13")
    {
        return Err(Rejection::bad_request("missing or bad WebSocket version"));
    }
    let Some(key) = headers.get(SEC_WEBSOCKET_KEY) else {
        return Err(Rejection::bad_request("missing Sec-WebSocket-Key"));
    };
    let mut offered: Vec<&str> = values(headers, &WEBSOCKET_PROTOCOL).collect();
    if offered.is_empty() {
        offered.push("");
    }
    let Some(chosen) = first_common(&offered, accepted) else {
        return Err(Rejection {
            status: StatusCode::FORBIDDEN,
            message: format!(
                "requested protocol(s) are not supported: [{}]; supports [{}]",
                offered.join(" "),
                accepted.join(" ")
            ),
            accepted: Vec::new(),
        });
    };
    let mut response = switching("websocket");
    let headers = response.headers_mut();
    if let Ok(accept) = HeaderValue::try_from(derive_accept_key(key.as_bytes())) {
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    if !chosen.is_empty() {
        headers.insert(WEBSOCKET_PROTOCOL, HeaderValue::from_static(chosen));
    }
    Ok((chosen, response))
}

fn switching(to: &'static str) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(to));
    response
}

/// The decoded pairs of a query string.
pub(crate) fn query(query: Option<&str>) -> Vec<(String, String)> {
    query
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        })
        .collect()
}

fn decode(text: &str) -> String {
    let digit = |c: u8| char::from(c).to_digit(16).map(|digit| digit as u8);
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        let escaped = match (byte, after) {
            (b'%', [high, low, ..]) => digit(*high).zip(digit(*low)),
            _ => None,
        };
        match (byte, escaped) {
            (_, Some((high, low))) => {
                bytes.push(high * 16 + low);
                rest = after.get(2..).unwrap_or_default();
            }
            (b'+', None) => bytes.push(b' '),
            (byte, None) => bytes.push(*byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().uri("/exec");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn the_clients_first_choice_wins() {
        let accepted = ["v4.channel.k8s.io", "v3.channel.k8s.io"];
        let asks = request(&[
            ("x-stream-protocol-version", "v9.channel.k8s.io"),
            (
                "x-stream-protocol-version",
                "v3.channel.k8s.io, v4.channel.k8s.io",
            ),
        ]);
        let (chosen, response) = spdy(&asks, &accepted).unwrap();
        assert_eq!(chosen, "v3.channel.k8s.io");
        assert_eq!(response.status(), 101);
        assert_eq!(response.headers()[STREAM_PROTOCOL], chosen);
        assert_eq!(response.headers()["upgrade"], "SPDY/3.1");
    }

    #[test]
    fn without_a_common_protocol_the_answer_names_ours() {
        let accepted = ["v4.channel.k8s.io", "v3.channel.k8s.io"];
        let asks = request(&[("x-stream-protocol-version", "v9.channel.k8s.io")]);
        let response = spdy(&asks, &accepted).unwrap_err().into_response();
        assert_eq!(response.status(), 403);
        let named: Vec<_> = response
            .headers()
            .get_all(ACCEPTED_PROTOCOLS)
            .iter()
            .collect();
        assert_eq!(named, accepted);
        assert_eq!(spdy(&request(&[]), &accepted).unwrap_err().status, 400);
    }

    #[test]
    fn a_websocket_client_may_name_no_protocol() {
        let key = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        let version = ("sec-websocket-version", "13");
        let asks = request(&[key, version]);
        let (chosen, response) = websocket(&asks, &["v4.channel.k8s.io", ""]).unwrap();
        assert_eq!(chosen, "");
        assert!(!response.headers().contains_key(WEBSOCKET_PROTOCOL));
        let accept = &response.headers()["sec-websocket-accept"];
        assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let refused = websocket(&asks, &["v4.channel.k8s.io"]).unwrap_err();
        assert_eq!(refused.status, 403);
    }

    #[test]
    fn upgrades_are_told_apart() {
        let cases = [
            (
                vec![("connection", "Upgrade"), ("upgrade", "websocket")],
                Some(Upgrade::WebSocket),
            ),
            (
                vec![
                    ("connection", "keep-alive, Upgrade"),
                    ("upgrade", "spdy/3.1"),
                ],
                Some(Upgrade::Spdy),
            ),
            (vec![("upgrade", "websocket")], None),
            (vec![("connection", "Upgrade"), ("upgrade", "h2c")], None),
        ];
        for (headers, expected) in cases {
            let found = upgrade_of(request(&headers).headers()).ok();
            assert_eq!(found, expected, "{headers:?}");
        }
    }

    #[test]
    fn queries_are_decoded() {
        let pairs = query(Some("command=a%20b+c&tty&x=%zz&y=%4"));
        let expected = [("command", "a b c"), ("tty", ""), ("x", "%zz"), ("y", "%4")];
        let expected = expected.map(|(n, v)| (n.to_owned(), v.to_owned()));
        assert_eq!(pairs, expected);
    }
}
