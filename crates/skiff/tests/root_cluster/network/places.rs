//! Where a test can stand in the network: in a pod, on the host, on a machine outside.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};
use nlink::netlink::addr::Ipv4Address;
use nlink::netlink::link::VethLink;
use nlink::{Connection, Route};

use crate::cluster::Cluster;

const PATIENCE: Duration = Duration::from_secs(2);

/// A network namespace.
pub struct Place(File);

impl Place {
    /// The machine itself.
    pub fn host() -> Self {
        Self(File::open("/proc/self/ns/net").unwrap())
    }

    /// A new one with nothing in it.
    pub fn alone() -> Self {
        let namespace = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        Self(namespace.join().unwrap())
    }

    /// That of a running pod.
    pub fn of_pod(cluster: &Cluster, pod: &str) -> Self {
        let uid = cluster.ask(&["get", "pod", pod, "-o", "jsonpath={.metadata.uid}"]);
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let folder = processes.map(|entry| entry.path()).find(|folder| {
            std::fs::read_to_string(folder.join("cgroup")).is_ok_and(|text| text.contains(&uid))
        });
        let folder = folder.unwrap_or_else(|| panic!("no process of pod {pod}"));
        Self(File::open(folder.join("ns/net")).unwrap())
    }

    /// Runs a job there.
    pub fn run<T: Send>(&self, job: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
                job()
            });
            inside.join().expect("the job ends well")
        })
    }

    /// The same for what waits.
    pub fn run_async<T: Send>(&self, job: impl Future<Output = T> + Send) -> T {
        self.run(|| {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            runtime.enable_all().build().unwrap().block_on(job)
        })
    }

    /// Answers TCP clients with `name` and the address that it sees.
    pub fn serve_tcp(&self, port: u16, name: &'static str) {
        let listener = self.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap());
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let Ok(peer) = stream.peer_addr() else {
                    continue;
                };
                let _ = write!(stream, "{name} {}", peer.ip());
            }
        });
    }

    /// The same over UDP: every datagram is answered.
    pub fn serve_udp(&self, port: u16, name: &'static str) {
        let socket = self.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap());
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(format!("{name} {}", peer.ip()).as_bytes(), peer);
            }
        });
    }

    /// Connects and tells what the server says.
    pub fn tcp(&self, address: &str) -> Result<String, ErrorKind> {
        let address: SocketAddr = address.parse().unwrap();
        self.run(|| {
            let ask = || {
                let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                let mut text = String::new();
                stream.read_to_string(&mut text)?;
                Ok(text)
            };
            ask().map_err(|error: std::io::Error| error.kind())
        })
    }

    /// Sends a datagram from a port (0: any) and tells the answer.
    pub fn udp_from(&self, port: u16, address: &str) -> Result<String, ErrorKind> {
        let address: SocketAddr = address.parse().unwrap();
        self.run(|| {
            let ask = || {
                let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
                socket.set_read_timeout(Some(PATIENCE))?;
                socket.connect(address)?;
                socket.send(b"?")?;
                let mut buffer = [0; 64];
                let length = socket.recv(&mut buffer)?;
                Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
            };
            ask().map_err(|error: std::io::Error| error.kind())
        })
    }

    pub fn udp(&self, address: &str) -> Result<String, ErrorKind> {
        self.udp_from(0, address)
    }
}

/// A machine next to the node that knows no way to pods and services. Its cable goes with it.
pub struct Outside {
    pub place: Place,
    /// Its address.
    pub address: Ipv4Addr,
    /// The node's address on that cable.
    pub node: Ipv4Addr,
    cable: String,
}

impl Drop for Outside {
    fn drop(&mut self) {
        Place::host().run_async(async {
            let route = Connection::<Route>::new().unwrap();
            route.del_link_if_exists(&*self.cable).await.unwrap();
        });
    }
}

impl Outside {
    pub fn beside(cluster: &Cluster) -> Self {
        let number = cluster.number();
        let (node, address) = (
            Ipv4Addr::new(198, 18, number, 1),
            Ipv4Addr::new(198, 18, number, 2),
        );
        let place = Place::alone();
        let cable = format!("out{number}");
        Place::host().run_async(async {
            let route = Connection::<Route>::new().unwrap();
            // Of a test that was killed.
            route.del_link_if_exists(&*cable).await.unwrap();
            let link = VethLink::new(&cable, "eth0").peer_netns_fd(&place.0);
            route.add_link(link).await.unwrap();
            give(&route, &cable, node).await;
        });
        place.run_async(async {
            let route = Connection::<Route>::new().unwrap();
            route.set_link_up("lo").await.unwrap();
            give(&route, "eth0", address).await;
        });
        Self {
            place,
            address,
            node,
            cable,
        }
    }

    /// Gives it one more way: `address` is behind the node.
    pub fn route(&self, address: Ipv4Addr) {
        let node = self.node;
        self.place.run_async(async move {
            let route = Connection::<Route>::new().unwrap();
            let way = nlink::netlink::route::Ipv4Route::new(address, 32).gateway(node);
            route.add_route(way).await.unwrap();
        });
    }
}

async fn give(route: &Connection<Route>, interface: &str, address: Ipv4Addr) {
    let link = route.get_link_by_name(interface).await.unwrap().unwrap();
    let address = Ipv4Address::with_index(link.ifindex(), address, 24);
    route.add_address(address).await.unwrap();
    route.set_link_up(interface).await.unwrap();
}
