//! Carries bytes between clients and containers.

use skiff_streaming::{ExitStatus, Forward, RemoteStreams, Stream};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::server::streams::{Output, Process, StreamRuntime};

/// What a process's end means to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndOf {
    /// A command of the client: its exit code counts.
    Exec,
    /// The container itself: its end is the end of the stream, no more.
    Attach,
}

fn status_of(end: EndOf, code: Option<i32>) -> ExitStatus {
    match (end, code) {
        (EndOf::Attach, _) | (EndOf::Exec, Some(0)) => ExitStatus::Success,
        (EndOf::Exec, Some(code)) => ExitStatus::ExitCode(code),
        (EndOf::Exec, None) => ExitStatus::Error("the process was lost".to_owned()),
    }
}

/// Carries bytes between a process and a client until one of them ends.
pub async fn pump(process: Process, streams: RemoteStreams, end: EndOf) {
    let RemoteStreams {
        stdin,
        stdout,
        stderr,
        resize,
        status,
        closed,
    } = streams;
    let Process {
        stdin: input,
        stdout: output,
        stderr: errors,
        resize: set_size,
        exit,
        left,
    } = process;
    let carry_in = async {
        if let (Some(mut from), Some(mut to)) = (stdin, input) {
            // A process that reads no more ends its input: that is not the client's fault.
            let _ = tokio::io::copy(&mut from, &mut to).await;
            let _ = to.shutdown().await;
        }
        std::future::pending::<()>().await;
    };
    let sizes = async {
        if let (Some(mut sizes), Some(set)) = (resize, set_size) {
            while let Some(size) = sizes.recv().await {
                set(size.width, size.height);
            }
        }
        std::future::pending::<()>().await;
    };
    let carry_out = async {
        let ((), (), code) = tokio::join!(carry(output, stdout), carry(errors, stderr), exit);
        code
    };
    let code = tokio::select! {
        code = carry_out => code,
        () = carry_in => None,
        () = sizes => None,
        () = closed.cancelled() => {
            left.await;
            return;
        }
    };
    // The client may have left at the same moment.
    let _ = status.finish(status_of(end, code)).await;
}

/// Carries one output to its end. An output that the client does not take is thrown away, so that it never blocks.
async fn carry<W: AsyncWrite + Unpin>(from: Option<Output>, to: Option<W>) {
    let Some(mut from) = from else {
        return;
    };
    match to {
        Some(mut to) => {
            // A terminal's end reads as an error.
            let _ = tokio::io::copy(&mut from, &mut to).await;
            let _ = to.shutdown().await;
        }
        None => {
            let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
        }
    }
}

/// Carries bytes between a client and a port of a pod.
pub async fn forward(runtime: &dyn StreamRuntime, sandbox: &str, forward: Forward) {
    let Forward { port, data, error } = forward;
    let connection = match runtime.connect(sandbox, port).await {
        Ok(connection) => connection,
        Err(status) => {
            let reason = format!(
                "error forwarding port {port} to pod {sandbox}, uid : {}",
                status.message()
            );
            // The client may be gone.
            let _ = error.fail(data, &reason).await;
            return;
        }
    };
    let (mut from_pod, mut to_pod) = tokio::io::split(connection);
    let Stream {
        mut reader,
        mut writer,
    } = data;
    let there = async {
        let _ = tokio::io::copy(&mut reader, &mut to_pod).await;
        let _ = to_pod.shutdown().await;
    };
    let back = async move {
        let _ = tokio::io::copy(&mut from_pod, &mut writer).await;
        let _ = writer.shutdown().await;
        // All went well. Clients before 1.30 close their connection only when they know that.
        drop(error);
    };
    tokio::join!(there, back);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_end_means() {
        assert_eq!(status_of(EndOf::Exec, Some(0)), ExitStatus::Success);
        assert_eq!(status_of(EndOf::Exec, Some(3)), ExitStatus::ExitCode(3));
        assert_eq!(status_of(EndOf::Attach, Some(3)), ExitStatus::Success);
        assert!(matches!(status_of(EndOf::Exec, None), ExitStatus::Error(_)));
    }
}
