//! Connections to ports inside of pods, without going over the pod network.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream as StdStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use tokio::net::TcpStream;
use tonic::Status;

use super::EmbeddedRuntime;
use super::sandbox::netns;

/// A connection to a port in a pod.
pub type PortStream = TcpStream;

/// A port on the loopback interface answers at once.
const PATIENCE: Duration = Duration::from_secs(10);

impl EmbeddedRuntime {
    /// Connects to `port` on the loopback interface of a pod.
    pub async fn port_forward(&self, sandbox: &str, port: u16) -> Result<PortStream, Status> {
        let sandbox = self.sandbox(sandbox)?;
        let state = sandbox.state();
        if !state.ready {
            return Err(Status::failed_precondition(format!(
                "sandbox container {:?} is not running",
                sandbox.id
            )));
        }
        let path = netns(state.shim_pid);
        let stream = connect_inside(&path, port).await.map_err(|error| {
            Status::unavailable(format!(
                "failed to connect to localhost:{port} inside namespace {:?}: {error}",
                sandbox.id
            ))
        })?;
        Ok(stream)
    }
}

async fn connect_inside(netns: &Path, port: u16) -> io::Result<TcpStream> {
    let namespace = File::open(netns)?;
    let (tell, answer) = tokio::sync::oneshot::channel();
    // A thread of its own, which ends with its namespace: none of the runtime's threads may change
    // theirs.
    std::thread::Builder::new()
        .name("port-forward".into())
        .spawn(move || {
            let outcome = setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)
                .map_err(io::Error::from)
                .and_then(|()| connect(port));
            // The client may have gone.
            let _ = tell.send(outcome);
        })?;
    let stream = answer.await.map_err(io::Error::other)??;
    stream.set_nonblocking(true)?;
    TcpStream::from_std(stream)
}

fn connect(port: u16) -> io::Result<StdStream> {
    let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
    StdStream::connect_timeout(&v4, PATIENCE)
        .or_else(|error| StdStream::connect_timeout(&v6, PATIENCE).map_err(|_| error))
}
