//! Absolute URLs and absolute paths, as Go's parser of request URIs takes them.

use std::sync::Arc;

use super::opaque::Opaque;
use crate::declare::Row;
use crate::error::EvalError;
use crate::value::{Text, Value};

type Result<'v> = std::result::Result<Value<'v>, EvalError>;

pub(crate) const TABLE: &[Row] = &[
    ("url", "string_to_url", "(string) -> kubernetes.URL", url),
    (
        "getScheme",
        "url_get_scheme",
        "kubernetes.URL.() -> string",
        scheme,
    ),
    (
        "getHost",
        "url_get_host",
        "kubernetes.URL.() -> string",
        host,
    ),
    (
        "getHostname",
        "url_get_hostname",
        "kubernetes.URL.() -> string",
        hostname,
    ),
    (
        "getPort",
        "url_get_port",
        "kubernetes.URL.() -> string",
        port,
    ),
    (
        "getEscapedPath",
        "url_get_escaped_path",
        "kubernetes.URL.() -> string",
        escaped_path,
    ),
    (
        "getQuery",
        "url_get_query",
        "kubernetes.URL.() -> map(string, list(string))",
        query,
    ),
    ("isURL", "is_url_string", "(string) -> bool", is_url),
];

/// A URL in its parts.
#[derive(Debug)]
pub struct Url {
    /// The URL as it was written.
    pub text: Arc<str>,
    scheme: String,
    host: String,
    path: String,
    query: String,
}

fn failed(text: &str, why: &str) -> String {
    format!("parse {text:?}: {why}")
}

/// Splits a URL; says what is wrong in Go's words.
pub(crate) fn parse(text: &str) -> std::result::Result<Url, String> {
    if text.is_empty() {
        return Err(failed(text, "empty url"));
    }
    if text.bytes().any(|b| b < 0x20 || b == 0x7f) {
        return Err(failed(text, "net/url: invalid control character in URL"));
    }
    let (scheme, rest) = split_scheme(text)?;
    let rest = rest.split('#').next().unwrap_or_default();
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    if !rest.starts_with('/') {
        if scheme.is_empty() {
            return Err(failed(text, "invalid URI for request"));
        }
        return Err(failed(text, "invalid URI for request")).or_else(|error: String| {
            // `mailto:x` is opaque, and good enough.
            if rest.is_empty() {
                Err(error)
            } else {
                Ok(parts(text, &scheme, "", "", query))
            }
        });
    }
    let (host, path) = match rest.strip_prefix("//") {
        Some(authority) if !scheme.is_empty() || !rest.starts_with("///") => {
            let at = authority.find('/').unwrap_or(authority.len());
            (authority_host(text, &authority[..at])?, &authority[at..])
        }
        _ => (String::new(), rest),
    };
    check_escapes(text, path)?;
    Ok(parts(text, &scheme, &host, &escaped(path), query))
}

fn parts(text: &str, scheme: &str, host: &str, path: &str, query: &str) -> Url {
    Url {
        text: Arc::from(text),
        scheme: scheme.to_owned(),
        host: host.to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
    }
}

fn split_scheme(text: &str) -> std::result::Result<(String, &str), String> {
    for (at, c) in text.char_indices() {
        match c {
            'a'..='z' | 'A'..='Z' => {}
            '0'..='9' | '+' | '-' | '.' if at > 0 => {}
            ':' if at == 0 => return Err(failed(text, "missing protocol scheme")),
            ':' => return Ok((text[..at].to_ascii_lowercase(), &text[at + 1..])),
            _ => break,
        }
    }
    if let Some(colon) = text.find(':')
        && text.find('/').is_none_or(|slash| colon < slash)
    {
        return Err(failed(
            text,
            "first path segment in URL cannot contain colon",
        ));
    }
    Ok((String::new(), text))
}

fn authority_host(text: &str, authority: &str) -> std::result::Result<String, String> {
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    let port = match host.strip_prefix('[') {
        Some(inner) => {
            let end = inner
                .find(']')
                .ok_or_else(|| failed(text, "missing ']' in host"))?;
            &inner[end + 1..]
        }
        None => host.find(':').map_or("", |at| &host[at..]),
    };
    let digits = port.strip_prefix(':').unwrap_or(port);
    if !digits.bytes().all(|b| b.is_ascii_digit()) || (!port.is_empty() && !port.starts_with(':')) {
        return Err(failed(text, &format!("invalid port {port:?} after host")));
    }
    if let Some(bad) = host.chars().find(|c| {
        matches!(
            c,
            ' ' | '"' | '<' | '>' | '\\' | '^' | '`' | '{' | '|' | '}'
        )
    }) {
        return Err(failed(
            text,
            &format!("invalid character {:?} in host name", bad.to_string()),
        ));
    }
    check_escapes(text, host)?;
    Ok(host.to_owned())
}

fn check_escapes(text: &str, part: &str) -> std::result::Result<(), String> {
    let bytes = part.as_bytes();
    for (at, b) in bytes.iter().enumerate() {
        let hex = |i: usize| bytes.get(i).is_some_and(u8::is_ascii_hexdigit);
        if *b == b'%' && !(hex(at + 1) && hex(at + 2)) {
            let shown: String = part[at..].chars().take(3).collect();
            return Err(failed(text, &format!("invalid URL escape {shown:?}")));
        }
    }
    Ok(())
}

/// The path with what may not stand in one escaped.
fn escaped(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for b in path.bytes() {
        if b.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@!'()*%[]".contains(&b) {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}

fn url<'v>(args: &[Value<'v>]) -> Result<'v> {
    match args {
        [Value::String(text)] => parse(text)
            .map(|url| Value::Opaque(Opaque::Url(Arc::new(url))))
            .map_err(|error| {
                EvalError::fault(format!(
                    "URL parse error during conversion from string: {error}"
                ))
            }),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn is_url<'v>(args: &[Value<'v>]) -> Result<'v> {
    match args {
        [Value::String(text)] => Ok(parse(text).is_ok().into()),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn part<'v>(args: &[Value<'v>], of: impl Fn(&Url) -> &str) -> Result<'v> {
    match args {
        [Value::Opaque(Opaque::Url(url))] => Ok(of(url).to_owned().into()),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn scheme<'v>(args: &[Value<'v>]) -> Result<'v> {
    part(args, |url| &url.scheme)
}

fn host<'v>(args: &[Value<'v>]) -> Result<'v> {
    part(args, |url| &url.host)
}

fn split_host(host: &str) -> (&str, &str) {
    if let Some(inner) = host.strip_prefix('[')
        && let Some((name, port)) = inner.split_once(']')
    {
        return (name, port.strip_prefix(':').unwrap_or_default());
    }
    host.split_once(':').unwrap_or((host, ""))
}

fn hostname<'v>(args: &[Value<'v>]) -> Result<'v> {
    part(args, |url| split_host(&url.host).0)
}

fn port<'v>(args: &[Value<'v>]) -> Result<'v> {
    part(args, |url| split_host(&url.host).1)
}

fn escaped_path<'v>(args: &[Value<'v>]) -> Result<'v> {
    part(args, |url| &url.path)
}

fn unescaped(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(b) = bytes.get(at) {
        match b {
            b'+' => out.push(b' '),
            b'%' => {
                let hex = text.get(at + 1..at + 3)?;
                out.push(u8::from_str_radix(hex, 16).ok()?);
                at += 2;
            }
            b => out.push(*b),
        }
        at += 1;
    }
    Some(String::from_utf8_lossy(&out).into_owned())
}

fn query<'v>(args: &[Value<'v>]) -> Result<'v> {
    let [Value::Opaque(Opaque::Url(url))] = args else {
        return Err(EvalError::no_such_overload());
    };
    let mut entries: Vec<(String, Vec<Value<'v>>)> = Vec::new();
    for pair in url
        .query
        .split('&')
        .filter(|pair| !pair.is_empty() && !pair.contains(';'))
    {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (Some(key), Some(value)) = (unescaped(key), unescaped(value)) else {
            continue;
        };
        let value = Value::String(Text::Shared(Arc::from(value)));
        match entries.iter_mut().find(|(known, _)| *known == key) {
            Some((_, values)) => values.push(value),
            None => entries.push((key, vec![value])),
        }
    }
    Ok(Value::map(
        entries
            .into_iter()
            .map(|(key, values)| (key.into(), Value::list(values))),
    ))
}
