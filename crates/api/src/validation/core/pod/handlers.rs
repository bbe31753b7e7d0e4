//! Probes and lifecycle hooks of containers.

use k8s_openapi::api::core::v1::{
    ExecAction, GRPCAction, HTTPGetAction, Lifecycle, LifecycleHandler, PodOS, Probe, SleepAction,
    TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::field::{ErrorList, FieldError, Path};
use crate::validation::absent::{items, text};
use crate::validation::names;
use crate::validation::values::{all_invalid, non_negative};

/// The one of a probe's or a hook's actions that is set, or more than one by mistake.
#[derive(Default)]
struct Handler<'a> {
    exec: Option<&'a ExecAction>,
    http_get: Option<&'a HTTPGetAction>,
    tcp_socket: Option<&'a TCPSocketAction>,
    grpc: Option<&'a GRPCAction>,
    sleep: Option<&'a SleepAction>,
}

impl<'a> From<&'a Probe> for Handler<'a> {
    fn from(probe: &'a Probe) -> Self {
        Self {
            exec: probe.exec.as_ref(),
            http_get: probe.http_get.as_ref(),
            tcp_socket: probe.tcp_socket.as_ref(),
            grpc: probe.grpc.as_ref(),
            sleep: None,
        }
    }
}

impl<'a> From<&'a LifecycleHandler> for Handler<'a> {
    fn from(handler: &'a LifecycleHandler) -> Self {
        Self {
            exec: handler.exec.as_ref(),
            http_get: handler.http_get.as_ref(),
            tcp_socket: handler.tcp_socket.as_ref(),
            grpc: None,
            sleep: handler.sleep.as_ref(),
        }
    }
}

/// Which of a container's probes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Liveness,
    Readiness,
    Startup,
}

/// One probe, where there is one.
pub(super) fn probe(errors: &mut ErrorList, probe: Option<&Probe>, role: Role, path: &Path) {
    let Some(probe) = probe else { return };
    handler(errors, &Handler::from(probe), None, path);
    let success = probe.success_threshold.unwrap_or(0);
    for (name, value) in [
        (
            "initialDelaySeconds",
            probe.initial_delay_seconds.unwrap_or(0),
        ),
        ("timeoutSeconds", probe.timeout_seconds.unwrap_or(0)),
        ("periodSeconds", probe.period_seconds.unwrap_or(0)),
        ("successThreshold", success),
        ("failureThreshold", probe.failure_threshold.unwrap_or(0)),
    ] {
        non_negative(errors, &path.child(name), value);
    }
    let (grace, grace_path) = (
        probe.termination_grace_period_seconds,
        path.child("terminationGracePeriodSeconds"),
    );
    if let Some(seconds) = grace.filter(|seconds| *seconds <= 0) {
        errors.push(FieldError::invalid(
            &grace_path,
            seconds,
            "must be greater than 0",
        ));
    }
    match (role, grace) {
        (Role::Readiness, Some(seconds)) => errors.push(FieldError::invalid(
            &grace_path,
            seconds,
            "must not be set for readinessProbes",
        )),
        (Role::Liveness | Role::Startup, _) if success != 1 => errors.push(FieldError::invalid(
            &path.child("successThreshold"),
            success,
            "must be 1",
        )),
        _ => {}
    }
}

/// The hooks of a container, where there are any.
pub(super) fn lifecycle(
    errors: &mut ErrorList,
    lifecycle: Option<&Lifecycle>,
    grace_period: Option<i64>,
    os: Option<&PodOS>,
    path: &Path,
) {
    let Some(lifecycle) = lifecycle else { return };
    for (name, hook) in [
        ("postStart", &lifecycle.post_start),
        ("preStop", &lifecycle.pre_stop),
    ] {
        if let Some(hook) = hook {
            handler(
                errors,
                &Handler::from(hook),
                grace_period,
                &path.child(name),
            );
        }
    }
    if let Some(signal) = &lifecycle.stop_signal {
        stop_signal(errors, signal, os, &path.child("stopSignal"));
    }
}

fn handler(errors: &mut ErrorList, handler: &Handler<'_>, grace_period: Option<i64>, path: &Path) {
    let mut first = true;
    let mut take = |errors: &mut ErrorList, name: &str| {
        let path = path.child(name);
        if !first {
            errors.push(FieldError::forbidden(
                &path,
                "may not specify more than 1 handler type",
            ));
            return None;
        }
        first = false;
        Some(path)
    };
    if let Some(exec) = handler.exec
        && let Some(path) = take(errors, "exec")
        && items(&exec.command).is_empty()
    {
        errors.push(FieldError::required(&path.child("command"), ""));
    }
    if let Some(get) = handler.http_get
        && let Some(path) = take(errors, "httpGet")
    {
        http_get(errors, get, &path);
    }
    if let Some(socket) = handler.tcp_socket
        && let Some(path) = take(errors, "tcpSocket")
    {
        port(errors, &socket.port, &path.child("port"));
    }
    if let Some(grpc) = handler.grpc
        && let Some(path) = take(errors, "grpc")
    {
        port(errors, &IntOrString::Int(grpc.port), &path.child("port"));
    }
    if let Some(sleep) = handler.sleep
        && let Some(path) = take(errors, "sleep")
        && let Some(grace) = grace_period
        && !(0..=grace).contains(&sleep.seconds)
    {
        let detail =
            format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        errors.push(FieldError::invalid(&path, sleep.seconds, &detail));
    }
    if first {
        errors.push(FieldError::required(path, "must specify a handler type"));
    }
}

fn http_get(errors: &mut ErrorList, get: &HTTPGetAction, path: &Path) {
    if text(&get.path).is_empty() {
        errors.push(FieldError::required(&path.child("path"), ""));
    }
    port(errors, &get.port, &path.child("port"));
    crate::validation::values::one_of(
        errors,
        &path.child("scheme"),
        text(&get.scheme),
        &["HTTP", "HTTPS"],
    );
    for header in items(&get.http_headers) {
        let path = path.child("httpHeaders");
        all_invalid(
            errors,
            &path,
            &header.name,
            names::http_header_name(&header.name),
        );
    }
}

/// A port's number or name.
pub(crate) fn port(errors: &mut ErrorList, port: &IntOrString, path: &Path) {
    match port {
        IntOrString::Int(number) => {
            for message in names::port_number(*number) {
                errors.push(FieldError::invalid(path, *number, &message));
            }
        }
        IntOrString::String(name) => all_invalid(errors, path, name, names::port_name(name)),
    }
}

/// The signals that Linux containers can be stopped with, in the order of messages.
fn linux_signals() -> Vec<String> {
    const NAMED: [&str; 34] = [
        "SIGABRT",
        "SIGALRM",
        "SIGBUS",
        "SIGCHLD",
        "SIGCLD",
        "SIGCONT",
        "SIGFPE",
        "SIGHUP",
        "SIGILL",
        "SIGINT",
        "SIGIO",
        "SIGIOT",
        "SIGKILL",
        "SIGPIPE",
        "SIGPOLL",
        "SIGPROF",
        "SIGPWR",
        "SIGQUIT",
        "SIGSEGV",
        "SIGSTKFLT",
        "SIGSTOP",
        "SIGSYS",
        "SIGTERM",
        "SIGTRAP",
        "SIGTSTP",
        "SIGTTIN",
        "SIGTTOU",
        "SIGURG",
        "SIGUSR1",
        "SIGUSR2",
        "SIGVTALRM",
        "SIGWINCH",
        "SIGXCPU",
        "SIGXFSZ",
    ];
    let mut signals: Vec<String> = NAMED.iter().map(ToString::to_string).collect();
    signals.extend(["SIGRTMIN".to_owned(), "SIGRTMAX".to_owned()]);
    signals.extend((1..=15).map(|n| format!("SIGRTMIN+{n}")));
    signals.extend((1..=14).map(|n| format!("SIGRTMAX-{n}")));
    signals.sort();
    signals
}

fn stop_signal(errors: &mut ErrorList, signal: &str, os: Option<&PodOS>, path: &Path) {
    let supported = match os.map(|os| os.name.as_str()) {
        None => {
            let detail = "may not be set for containers with empty `spec.os.name`";
            errors.push(FieldError::forbidden(path, detail));
            return;
        }
        Some("windows") => vec!["SIGKILL".to_owned(), "SIGTERM".to_owned()],
        Some("linux") => linux_signals(),
        Some(_) => return,
    };
    let supported: Vec<&str> = supported.iter().map(String::as_str).collect();
    crate::validation::values::one_of(errors, path, signal, &supported);
}
