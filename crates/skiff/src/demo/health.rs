//! The gRPC health protocol, as far as a probe asks: `grpc.health.v1.Health/Check` of the whole server or of `demo`.

use axum::body::{Body, Bytes};
use http::{HeaderMap, HeaderValue, Response};
use http_body_util::{BodyExt as _, Full};

/// Where gRPC calls it.
pub const PATH: &str = "/grpc.health.v1.Health/Check";

/// The service that may be asked after by name.
const SERVICE: &[u8] = b"demo";

/// Numbers of the health protocol.
const SERVING: u8 = 1;
const NOT_SERVING: u8 = 2;

/// gRPC's codes.
const OK: &str = "0";
const INVALID_ARGUMENT: &str = "3";
const NOT_FOUND: &str = "5";

/// The name in a framed request with one text field; `None` when it is something else.
fn asked_for(request: &[u8]) -> Option<&[u8]> {
    let (&[compressed, a, b, c, d], message) = request.split_first_chunk::<5>()?;
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()?;
    if compressed != 0 || length != message.len() {
        return None;
    }
    match message {
        [] => Some(&[]),
        // Field 1, a text shorter than 128 bytes.
        [0x0a, length, name @ ..] if usize::from(*length) == name.len() && *length < 128 => {
            Some(name)
        }
        _ => None,
    }
}

/// The answer to a request: how the server is.
pub fn answer(request: &[u8], failing: bool) -> Response<Body> {
    let status = if failing { NOT_SERVING } else { SERVING };
    let (code, message): (&'static str, Vec<u8>) = match asked_for(request) {
        Some(name) if name.is_empty() || name == SERVICE => (OK, vec![0, 0, 0, 0, 2, 0x08, status]),
        Some(_) => (NOT_FOUND, Vec::new()),
        None => (INVALID_ARGUMENT, Vec::new()),
    };
    let trailers = async move {
        let code = HeaderValue::from_static(code);
        Some(Ok(HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-status"),
            code,
        )])))
    };
    let body = Full::new(Bytes::from(message)).with_trailers(trailers);
    let mut response = Response::new(Body::new(body));
    let kind = HeaderValue::from_static("application/grpc");
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(request: &[u8], failing: bool) -> (Vec<u8>, String) {
        let whole = answer(request, failing)
            .into_body()
            .collect()
            .await
            .unwrap();
        let code = whole.trailers().unwrap()["grpc-status"].to_str().unwrap();
        let code = code.to_owned();
        (whole.to_bytes().to_vec(), code)
    }

    #[tokio::test]
    async fn it_answers_for_itself_and_no_other() {
        let whole = [0, 0, 0, 0, 0];
        assert_eq!(
            ask(&whole, false).await,
            (vec![0, 0, 0, 0, 2, 8, 1], OK.into())
        );
        assert_eq!(
            ask(&whole, true).await,
            (vec![0, 0, 0, 0, 2, 8, 2], OK.into())
        );
        let named = |name: &str| {
            let length = u8::try_from(name.len()).unwrap();
            let mut request = vec![0, 0, 0, 0, length + 2, 0x0a, length];
            request.extend_from_slice(name.as_bytes());
            request
        };
        assert_eq!(ask(&named("demo"), false).await.1, OK);
        assert_eq!(
            ask(&named("other"), false).await,
            (Vec::new(), NOT_FOUND.into())
        );
        for nonsense in [
            &b""[..],
            &[0, 0, 0, 0, 9],
            &[1, 0, 0, 0, 0],
            &[0, 0, 0, 0, 2, 0x0a, 7],
        ] {
            assert_eq!(ask(nonsense, false).await.1, INVALID_ARGUMENT);
        }
    }
}
