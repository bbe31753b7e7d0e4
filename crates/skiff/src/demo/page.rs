//! What the demo application shows.

use std::fmt::Write as _;

/// What there is to tell.
pub struct Facts {
    requests: u64,
    rows: Vec<(&'static str, String)>,
    environment: Vec<(String, String)>,
}

/// The pod's name: its host name.
#[must_use]
pub fn hostname() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_default()
}

fn addresses() -> String {
    let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let addresses =
        interfaces.filter_map(|interface| Some(interface.address?.as_sockaddr_in()?.ip()));
    addresses
        .filter(|address| !address.is_loopback())
        .map(|address| address.to_string())
        .collect::<Vec<_>>()
        .join(" ")
}

impl Facts {
    /// Reads them of the process and its environment; secrets of the API are files, not variables, so nothing is hidden.
    #[must_use]
    pub fn gather(requests: u64) -> Self {
        let variable = |name| std::env::var(name).unwrap_or_default();
        let mut environment: Vec<(String, String)> = std::env::vars().collect();
        environment.sort();
        Self {
            requests,
            rows: vec![
                ("pod", hostname()),
                ("namespace", variable("POD_NAMESPACE")),
                ("node", variable("NODE_NAME")),
                ("address", addresses()),
                ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ],
            environment,
        }
    }
}

/// As plain text, a fact a line.
#[must_use]
pub fn text(facts: &Facts) -> String {
    let mut out = format!("requests: {}\n", facts.requests);
    for (name, value) in &facts.rows {
        let _ = writeln!(out, "{name}: {value}");
    }
    for (name, value) in &facts.environment {
        let _ = writeln!(out, "env {name}={value}");
    }
    out
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// As a page.
#[must_use]
pub fn html(facts: &Facts) -> String {
    let mut rows = format!("<tr><th>requests</th><td>{}</td></tr>", facts.requests);
    for (name, value) in &facts.rows {
        let _ = write!(rows, "<tr><th>{name}</th><td>{}</td></tr>", escape(value));
    }
    let mut environment = String::new();
    for (name, value) in &facts.environment {
        let _ = write!(
            environment,
            "<tr><th>{}</th><td>{}</td></tr>",
            escape(name),
            escape(value)
        );
    }
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><title>skiff demo</title>\
         <style>body{{font:16px system-ui;max-width:44rem;margin:3rem auto;padding:0 1rem}}th{{text-align:left;padding-right:2rem;\
         vertical-align:top;font-weight:600}}td{{word-break:break-all}}h1{{margin-bottom:.2rem}}</style>\
         <h1>It runs</h1><p>This page comes from a container in your Skiff cluster. Reload it: the pod may change.</p>\
         <table>{rows}</table><h2>Environment</h2><table>{environment}</table></html>"
    )
}
