//! Streams of the embedded runtime's containers.

use async_trait::async_trait;
use skiff_runtime::{EmbeddedRuntime, ExecStreams};
use tonic::Status;

use crate::server::streams::{Duplex, Input, Later, Output, Process, StreamOptions, StreamRuntime};

fn process(streams: ExecStreams, left: Later<()>) -> Process {
    let ExecStreams {
        stdin,
        stdout,
        stderr,
        resize,
        exit,
        ..
    } = streams;
    Process {
        stdin: stdin.map(|stdin| Box::new(stdin) as Input),
        stdout: Some(Box::new(stdout)),
        stderr: stderr.map(|stderr| Box::new(stderr) as Output),
        resize: resize.map(|terminal| {
            let set = move |width, height| {
                if let Err(error) = terminal.set(width, height) {
                    tracing::debug!(%error, "cannot change the size of a terminal");
                }
            };
            Box::new(set) as Box<dyn Fn(u16, u16) + Send + Sync>
        }),
        exit: Box::pin(async move { exit.await.ok() }),
        left,
    }
}

#[async_trait]
impl StreamRuntime for EmbeddedRuntime {
    async fn exec(
        &self,
        container: &str,
        command: &[String],
        options: StreamOptions,
    ) -> Result<Process, Status> {
        let streams = self
            .exec_streams(container, command, options.tty, options.stdin)
            .await?;
        let (runtime, container, pid) = (self.clone(), container.to_owned(), streams.pid);
        let left = Box::pin(async move {
            if let Err(status) = runtime.kill_exec(&container, pid).await {
                tracing::debug!(%status, "cannot end a command whose client left");
            }
        });
        Ok(process(streams, left))
    }

    async fn attach(&self, container: &str, options: StreamOptions) -> Result<Process, Status> {
        let StreamOptions {
            stdin,
            stdout,
            stderr,
            ..
        } = options;
        let streams = self
            .attach_streams(container, stdin, stdout, stderr)
            .await?;
        let once = stdin && self.stdin_once(container)?;
        let (runtime, container) = (self.clone(), container.to_owned());
        let left = Box::pin(async move {
            if once && let Err(status) = runtime.close_stdin(&container).await {
                tracing::debug!(%status, "cannot end the input of a container");
            }
        });
        Ok(process(streams, left))
    }

    async fn connect(&self, sandbox: &str, port: u16) -> Result<Box<dyn Duplex>, Status> {
        Ok(Box::new(self.port_forward(sandbox, port).await?))
    }
}
