//! `/statusz` and `/flagz`: what runs since when, and with which settings, for people who look for a fault.

use std::time::SystemTime;

use axum::body::Body;
use http::Response;
use http::header::ACCEPT;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};
use skiff_api::{ApiError, ApiResult};

use crate::content;
use crate::server::Call;

const WARNING: &str = "Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees and is for debugging purposes only.";
const PATHS: [&str; 5] = ["/healthz", "/livez", "/metrics", "/readyz", "/version"];

/// Answers a request for one of the pages; `None`: it is for none.
pub(crate) fn answer(call: &Call, segments: &[&str]) -> Option<ApiResult<Response<Body>>> {
    match segments {
        ["statusz"] => Some(page(call, "Statusz", &status(call))),
        ["flagz"] => Some(page(call, "Flagz", &flags(call))),
        _ => None,
    }
}

/// The settings that the server knows, under upstream's names.
fn flags(call: &Call) -> Value {
    let config = &call.server.config;
    let (first, last) = config.node_ports;
    let advertise = config.advertise.map(|address| address.ip().to_string());
    json!({"flags": {
        "advertise-address": advertise.unwrap_or_default(),
        "service-cluster-ip-range": config.service_cidr,
        "service-node-port-range": format!("{first}-{last}"),
    }})
}

fn status(call: &Call) -> Value {
    let server = &call.server;
    let up = server.clock.monotonic().saturating_sub(server.started);
    let start = server
        .clock
        .now()
        .checked_sub(up)
        .unwrap_or(SystemTime::UNIX_EPOCH);
    let start = jiff::Timestamp::try_from(start).unwrap_or_default();
    let version = server.config.version.trim_start_matches('v');
    let emulated = version.splitn(3, '.').take(2).collect::<Vec<_>>().join(".");
    json!({
        "startTime": Time(start), "uptimeSeconds": up.as_secs(), "binaryVersion": version,
        "emulationVersion": emulated, "paths": PATHS,
    })
}

/// A page as text, or as the object that the client names.
fn page(call: &Call, kind: &str, content: &Value) -> ApiResult<Response<Body>> {
    let accept = call.header(ACCEPT);
    let wanted = accept.split(',').map(str::trim).find_map(|media| {
        let plain = matches!(
            media.split(';').next(),
            Some("text/plain" | "*/*" | "text/*" | "")
        );
        let named = media.contains(&format!("as={kind}")) && media.contains("g=config.k8s.io");
        let version = ["v1beta1", "v1alpha1"];
        let version = version
            .into_iter()
            .find(|version| media.contains(&format!("v={version}")));
        match version.filter(|_| named) {
            Some(version) => Some(Some(version)),
            None => plain.then_some(None),
        }
    });
    match wanted {
        None => Err(ApiError::new(
            406,
            "NotAcceptable",
            "only the following media types are accepted: text/plain, application/json",
        )),
        Some(None) => Ok(content::response(
            200,
            "text/plain; charset=utf-8",
            text(kind, content).into(),
        )),
        Some(Some(version)) => {
            let mut object = json!({"kind": kind, "apiVersion": format!("config.k8s.io/{version}"),
                "metadata": {"name": "kube-apiserver"}});
            if let (Value::Object(object), Value::Object(content)) = (&mut object, content) {
                object.extend(content.clone());
            }
            let bytes = object.to_string().into_bytes();
            Ok(content::response(200, "application/json", bytes.into()))
        }
    }
}

fn text(kind: &str, content: &Value) -> String {
    let mut text = format!("\nkube-apiserver {}\n{WARNING}\n", kind.to_lowercase());
    if let Some(flags) = content["flags"].as_object() {
        for (name, value) in flags {
            let value = value.as_str().unwrap_or_default();
            text.push_str(&format!("{name}={value}\n"));
        }
        return text;
    }
    let seconds = content["uptimeSeconds"].as_u64().unwrap_or(0);
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let word = |name: &str| content[name].as_str().unwrap_or_default().to_owned();
    let paths: Vec<&str> = content["paths"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    text.push_str(&format!(
        "\nStarted: {}\nUp: {hours} hr {minutes:02} min {:02} sec\nBinary version: {}\nEmulation version: {}\nPaths: {}\n",
        word("startTime"),
        seconds % 60,
        word("binaryVersion"),
        word("emulationVersion"),
        paths.join(" ")
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_lines_of_names_and_values() {
        let flags = json!({"flags": {"a": "1", "b": "2"}});
        assert!(text("Flagz", &flags).ends_with("only.\na=1\nb=2\n"));
        let status = json!({"startTime": "t", "uptimeSeconds": 3723, "binaryVersion": "1.36.2", "emulationVersion": "1.36", "paths": ["/x"]});
        assert!(
            text("Statusz", &status).contains("\nUp: 1 hr 02 min 03 sec\nBinary version: 1.36.2\n")
        );
    }
}
