//! What a connection is made with, as the object that admission is shown.

use serde_json::{Map, Value, json};

use crate::server::Call;

/// `PodExecOptions` and its like, from the request's query and path.
pub(super) fn of(call: &Call) -> Value {
    let info = &call.info;
    let mut options = Map::new();
    options.insert("apiVersion".to_owned(), "v1".into());
    let kind = match (info.resource.as_str(), info.subresource.as_str()) {
        ("pods", "exec") => "PodExecOptions",
        ("pods", "attach") => "PodAttachOptions",
        ("pods", "portforward") => "PodPortForwardOptions",
        ("pods", _) => "PodProxyOptions",
        ("services", _) => "ServiceProxyOptions",
        _ => "NodeProxyOptions",
    };
    options.insert("kind".to_owned(), kind.into());
    match kind {
        "PodExecOptions" | "PodAttachOptions" => {
            for flag in ["stdin", "tty"] {
                if call.query.flag(flag) {
                    options.insert(flag.to_owned(), true.into());
                }
            }
            for flag in ["stdout", "stderr"] {
                // What is not said is on.
                if !call.query.has(flag) || call.query.flag(flag) {
                    options.insert(flag.to_owned(), true.into());
                }
            }
            let container = call.query.get("container");
            if !container.is_empty() {
                options.insert("container".to_owned(), container.into());
            }
            if kind == "PodExecOptions" {
                let command: Vec<&str> = call.query.all("command").collect();
                options.insert("command".to_owned(), json!(command));
            }
        }
        "PodPortForwardOptions" => {
            let numbers = call.query.all("ports").flat_map(|text| text.split(','));
            let ports: Vec<i32> = numbers
                .filter_map(|text| text.trim().parse().ok())
                .collect();
            if !ports.is_empty() {
                options.insert("ports".to_owned(), json!(ports));
            }
        }
        _ => {
            let path = if info.rest.is_empty() {
                "/"
            } else {
                &info.rest
            };
            options.insert("path".to_owned(), path.into());
        }
    }
    Value::Object(options)
}
