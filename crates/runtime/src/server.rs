//! Serves a runtime on a unix socket, for `crictl` and other tools.

use std::io;
use std::path::Path;

use futures::FutureExt;
use skiff_base::Shutdown;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use crate::EmbeddedRuntime;
use crate::cri::{ImageServiceServer, RuntimeServiceServer};

/// Serves CRI on `socket` until `shutdown`.
pub async fn serve_cri(
    runtime: EmbeddedRuntime,
    socket: &Path,
    shutdown: Shutdown,
) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    // Whoever may talk to it is root on this node.
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
    Server::builder()
        .add_service(RuntimeServiceServer::new(runtime.clone()))
        .add_service(ImageServiceServer::new(runtime))
        .serve_with_incoming_shutdown(
            UnixListenerStream::new(listener),
            shutdown.triggered().map(drop),
        )
        .await
        .map_err(io::Error::other)
}
