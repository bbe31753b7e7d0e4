//! TCP probes: a connection can be made.

use std::time::Duration;

use tokio::net::TcpStream;

use crate::probes::{Attempt, dial_error, join_host_port};

/// Tries to connect.
pub async fn attempt(host: &str, port: u16, timeout: Duration) -> Attempt {
    let address = join_host_port(host, port);
    match tokio::time::timeout(timeout, TcpStream::connect(&address)).await {
        Ok(Ok(_)) => Attempt::Success,
        Ok(Err(error)) => Attempt::Failure(dial_error(&address, &error)),
        Err(_) => Attempt::Failure(format!("dial tcp {address}: i/o timeout")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn open_and_closed() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let wait = Duration::from_secs(5);
        assert_eq!(attempt("127.0.0.1", port, wait).await, Attempt::Success);
        drop(listener);
        let refused = format!("dial tcp 127.0.0.1:{port}: connect: connection refused");
        assert_eq!(
            attempt("127.0.0.1", port, wait).await,
            Attempt::Failure(refused)
        );
    }
}
