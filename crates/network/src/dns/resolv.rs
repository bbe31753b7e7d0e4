//! The host's own resolvers, from `/etc/resolv.conf`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// Where systemd-resolved lists the resolvers that it uses itself.
const SYSTEMD: &str = "/run/systemd/resolve/resolv.conf";
const PORT: u16 = 53;
/// More are not asked, as in the C library.
const MOST: usize = 3;

/// Where to find the resolvers that other names are forwarded to.
#[derive(Clone, Debug)]
pub enum Resolvers {
    /// A file in the format of `/etc/resolv.conf`; it is read again when it changes.
    File(PathBuf),
    /// These.
    Fixed(Vec<SocketAddr>),
}

impl Default for Resolvers {
    fn default() -> Self {
        Self::File("/etc/resolv.conf".into())
    }
}

impl Resolvers {
    /// The files to read, the better one last.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        match self {
            Self::Fixed(_) => Vec::new(),
            Self::File(path) => vec![path.clone()],
        }
    }

    /// The resolvers to ask, in order. Those in `own` are left out: they are this server.
    pub(super) fn read(&self, own: &[IpAddr]) -> Vec<SocketAddr> {
        match self {
            Self::Fixed(servers) => servers.clone(),
            Self::File(path) => {
                let read = |path: &std::path::Path| {
                    let text = std::fs::read_to_string(path).unwrap_or_default();
                    usable(&text, own)
                };
                let servers = read(path);
                // A local stub may have been told to ask us; its own resolvers were not.
                match servers.iter().all(|server| server.ip().is_loopback()) {
                    true => Some(read(std::path::Path::new(SYSTEMD)))
                        .filter(|better| !better.is_empty())
                        .unwrap_or(servers),
                    false => servers,
                }
            }
        }
    }
}

/// The resolvers that a resolv.conf names, without our own addresses.
fn usable(text: &str, own: &[IpAddr]) -> Vec<SocketAddr> {
    let mut servers: Vec<SocketAddr> = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        let address = words.next().and_then(|word| word.parse::<IpAddr>().ok());
        match address {
            Some(ip) if !own.contains(&ip) => servers.push(SocketAddr::new(ip, PORT)),
            _ => {}
        }
    }
    servers.truncate(MOST);
    servers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_name_servers_and_leaves_itself_out() {
        let own = [IpAddr::from([10, 96, 0, 10])];
        let text = "# comment\nsearch example.org\nnameserver 10.96.0.10\nnameserver 192.0.2.53 \n\
                    nameserver fe80::1%eth0\nnameserver\nnameserver 2001:db8::53\noptions ndots:2\n";
        let servers: Vec<String> = usable(text, &own).iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["192.0.2.53:53", "[2001:db8::53]:53"]);
        assert!(usable("", &own).is_empty());
    }
}
