//! Lifecycle hooks: what a container is told after its start and before its end.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};

use crate::context::Context;
use crate::images::status_text;
use crate::pod::spec;
use crate::probes::http;

/// A command of a hook has no limit of its own.
const EXEC_LIMIT: Duration = Duration::from_secs(0);

/// Runs a hook; the message says what failed, as upstream says it.
pub async fn run(
    context: &Context,
    pod: &Pod,
    container: &Container,
    id: &str,
    handler: &LifecycleHandler,
    pod_ip: &str,
) -> Result<(), String> {
    let name = &container.name;
    let place = format!("for Container \"{name}\" in Pod \"{}\"", spec::display(pod));
    if let Some(exec) = &handler.exec {
        let command = exec.command.clone().unwrap_or_default();
        let failed = |error: String, output: &[u8]| {
            format!(
                "Exec lifecycle hook ([{}]) {place} failed - error: {error}, message: {:?}",
                command.join(" "),
                String::from_utf8_lossy(output)
            )
        };
        return match context.runtime.exec(id, &command, EXEC_LIMIT).await {
            Ok(done) if done.exit_code == 0 => Ok(()),
            Ok(done) => {
                let code = done.exit_code;
                let error = format!("command '{}' exited with {code}: ", command.join(" "));
                Err(failed(error, &done.output))
            }
            Err(status) => Err(failed(status_text(&status), b"")),
        };
    }
    if let Some(get) = &handler.http_get {
        let path = get.path.as_deref().unwrap_or_default();
        let call = http::Call::of(get, container, pod_ip, "lifecycle");
        let answer = match call {
            Ok(call) => http::follow(&call).await.map(drop),
            Err(error) => Err(error),
        };
        return answer.map_err(|error| {
            format!("HTTP lifecycle hook ({path}) {place} failed - error: {error}")
        });
    }
    if let Some(sleep) = &handler.sleep {
        let seconds = u64::try_from(sleep.seconds).unwrap_or(0);
        context.clock.sleep(Duration::from_secs(seconds)).await;
        return Ok(());
    }
    Err("Cannot run handler: invalid handler".to_owned())
}
