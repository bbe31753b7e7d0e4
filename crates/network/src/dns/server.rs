//! The DNS server: UDP and TCP on one address.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use skiff_base::{Random, SharedClock, Shutdown};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use super::answer::{Answer, Data, Question, Resource};
use super::forward::Forwarder;
use super::message::{Inquiry, Reading, read};
use super::records::Records;
use super::resolv::Resolvers;

/// How long a TCP client may be silent.
const IDLE: Duration = Duration::from_secs(10);
/// TCP clients at once.
const CLIENTS: usize = 512;
const LARGEST: usize = 65_535;
/// How often an alias inside the cluster may lead to another one.
const ALIASES: usize = 8;

/// What went wrong with the server.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// The address cannot be served.
    #[error("cannot serve DNS on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A socket broke while serving.
    #[error("serving DNS")]
    Socket(#[source] io::Error),
}

/// Where and how to serve.
#[derive(Clone, Debug)]
pub struct DnsServerConfig {
    /// The address and port.
    pub listen: SocketAddr,
    /// The resolvers for names outside the cluster.
    pub resolvers: Resolvers,
}

/// A server with its sockets open.
pub struct DnsServer {
    udp: Arc<UdpSocket>,
    tcp: TcpListener,
    service: Arc<Service>,
    clock: SharedClock,
}

struct Service {
    records: Arc<RwLock<Records>>,
    forwarder: Forwarder,
    random: Random,
}

impl DnsServer {
    /// Opens the sockets, in the network namespace of the calling thread. Clients are answered once
    /// [`run`](Self::run) runs; what arrives before waits.
    ///
    /// # Errors
    /// The address is not this host's, or is in use.
    pub async fn bind(
        config: DnsServerConfig,
        records: Arc<RwLock<Records>>,
        clock: SharedClock,
        random: Random,
    ) -> Result<Self, DnsError> {
        let address = config.listen;
        let failed = |source| DnsError::Bind { address, source };
        let udp = UdpSocket::bind(address).await.map_err(failed)?;
        // Port 0 means any free one: TCP takes the same.
        let address = udp.local_addr().map_err(failed)?;
        let tcp = TcpListener::bind(address).await.map_err(failed)?;
        let own: Vec<IpAddr> = vec![address.ip()];
        Ok(Self {
            udp: Arc::new(udp),
            tcp,
            service: Arc::new(Service {
                records,
                forwarder: Forwarder::new(config.resolvers, own, clock.clone(), random.clone()),
                random,
            }),
            clock,
        })
    }

    /// The address that is served.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn local_addr(&self) -> Result<SocketAddr, DnsError> {
        self.udp.local_addr().map_err(DnsError::Socket)
    }

    /// Serves until `shutdown`.
    ///
    /// # Errors
    /// A socket breaks.
    pub async fn run(&self, shutdown: Shutdown) -> Result<(), DnsError> {
        tokio::select! {
            outcome = self.serve_udp(&shutdown) => outcome,
            outcome = self.serve_tcp(&shutdown) => outcome,
            () = shutdown.triggered() => Ok(()),
        }
    }

    async fn serve_udp(&self, shutdown: &Shutdown) -> Result<(), DnsError> {
        let mut buffer = vec![0; LARGEST];
        loop {
            let (length, client) = match self.udp.recv_from(&mut buffer).await {
                Ok(received) => received,
                // An earlier answer could not be delivered; the socket is fine.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
                Err(error) => return Err(DnsError::Socket(error)),
            };
            let Some(packet) = buffer.get(..length) else {
                continue;
            };
            match self.service.local_answer(packet, false) {
                Next::Send(answer) => send(&self.udp, &answer, client).await,
                Next::Silence => {}
                Next::Ask(errand) => {
                    let (udp, service) = (self.udp.clone(), self.service.clone());
                    let (packet, stop) = (packet.to_vec(), shutdown.child());
                    tokio::spawn(async move {
                        tokio::select! {
                            answer = service.outside_answer(errand, &packet, false) => {
                                send(&udp, &answer, client).await;
                            }
                            () = stop.triggered() => {}
                        }
                    });
                }
            }
        }
    }

    async fn serve_tcp(&self, shutdown: &Shutdown) -> Result<(), DnsError> {
        let places = Arc::new(Semaphore::new(CLIENTS));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else {
                return Ok(());
            };
            let (stream, _) = match self.tcp.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // The client left, or descriptors ran out: the next one may do better.
                    tracing::debug!(%error, "cannot accept a DNS client");
                    self.clock.sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let (service, clock, stop) =
                (self.service.clone(), self.clock.clone(), shutdown.child());
            tokio::spawn(async move {
                tokio::select! {
                    outcome = service.converse(stream, clock) => {
                        if let Err(error) = outcome {
                            tracing::debug!(%error, "a DNS client's connection ended");
                        }
                    }
                    () = stop.triggered() => {}
                }
                drop(place);
            });
        }
    }
}

async fn send(udp: &UdpSocket, answer: &[u8], client: SocketAddr) {
    if let Err(error) = udp.send_to(answer, client).await {
        tracing::debug!(%error, %client, "cannot send a DNS answer");
    }
}

/// What a question needs.
enum Next {
    /// This answer.
    Send(Vec<u8>),
    /// No answer.
    Silence,
    /// The host's resolvers.
    Ask(Errand),
}

/// A question for the host's resolvers.
struct Errand {
    inquiry: Box<Inquiry>,
    /// The name behind the one that was asked for.
    target: Option<String>,
}

impl Service {
    /// The answer from memory.
    fn local_answer(&self, packet: &[u8], tcp: bool) -> Next {
        let inquiry = match read(packet, tcp) {
            Reading::Ask(inquiry) => inquiry,
            Reading::Refuse(answer) => return Next::Send(answer),
            Reading::Ignore => return Next::Silence,
        };
        let records = self.records.read();
        let zone = records.zone_name();
        match records.answer(&inquiry.question) {
            Answer::Found {
                mut answers,
                additionals,
            } => {
                self.shuffle(&mut answers);
                Next::Send(inquiry.found(&answers, &additionals, &zone))
            }
            Answer::NoData => Next::Send(inquiry.nothing(true, &zone)),
            Answer::NoSuchName => Next::Send(inquiry.nothing(false, &zone)),
            Answer::NotOurs => Next::Ask(Errand {
                inquiry,
                target: None,
            }),
            Answer::Elsewhere(target) => match follow(&records, &inquiry.question, &target) {
                Some(answers) => Next::Send(inquiry.found(&answers, &[], &zone)),
                None => Next::Ask(Errand {
                    inquiry,
                    target: Some(target),
                }),
            },
        }
    }

    /// The answer of the host's resolvers.
    async fn outside_answer(&self, errand: Errand, packet: &[u8], tcp: bool) -> Vec<u8> {
        let Errand { inquiry, target } = errand;
        let answer = match &target {
            None => self.forwarder.ask(packet, tcp).await,
            Some(target) => match inquiry.for_target(target) {
                Some(query) => self.forwarder.ask(&query, tcp).await,
                None => return inquiry.failed(),
            },
        };
        match (answer, target) {
            (Ok(answer), None) => answer,
            (Ok(answer), Some(target)) => inquiry.through(&target, Some(&answer)),
            (Err(error), target) => {
                tracing::debug!(%error, "a DNS question could not be forwarded");
                match target {
                    Some(target) => inquiry.through(&target, None),
                    None => inquiry.failed(),
                }
            }
        }
    }

    async fn converse(&self, mut stream: TcpStream, clock: SharedClock) -> io::Result<()> {
        loop {
            let packet = tokio::select! {
                packet = framed(&mut stream) => match packet? {
                    Some(packet) => packet,
                    None => return Ok(()),
                },
                () = clock.sleep(IDLE) => return Ok(()),
            };
            let answer = match self.local_answer(&packet, true) {
                Next::Send(answer) => answer,
                Next::Silence => return Ok(()),
                Next::Ask(errand) => self.outside_answer(errand, &packet, true).await,
            };
            let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
            let mut frame = length.to_be_bytes().to_vec();
            frame.extend_from_slice(&answer);
            tokio::select! {
                sent = stream.write_all(&frame) => sent?,
                () = clock.sleep(IDLE) => return Ok(()),
            }
        }
    }

    /// Clients take the first address: each gets another one.
    fn shuffle(&self, answers: &mut [Resource]) {
        for last in (1..answers.len()).rev() {
            let other = self.random.below(last as u64 + 1) as usize;
            answers.swap(last, other);
        }
    }
}

/// Follows an alias inside the cluster's domain; none if it leads outside.
fn follow(records: &Records, question: &Question, target: &str) -> Option<Vec<Resource>> {
    let mut target = target.to_owned();
    let mut owner: Option<String> = None;
    let mut chain = Vec::new();
    for _ in 0..ALIASES {
        chain.push(Resource {
            name: owner.clone(),
            data: Data::Cname(target.clone()),
        });
        let labels = target.trim_end_matches('.').split('.');
        let next = Question {
            labels: labels.map(str::to_ascii_lowercase).collect(),
            kind: question.kind,
        };
        match records.answer(&next) {
            Answer::Found { answers, .. } => {
                chain.extend(answers.into_iter().map(|resource| Resource {
                    name: Some(target.clone()),
                    data: resource.data,
                }));
                return Some(chain);
            }
            Answer::Elsewhere(further) => {
                owner = Some(std::mem::replace(&mut target, further));
            }
            Answer::NotOurs if chain.len() == 1 => return None,
            _ => return Some(chain),
        }
    }
    Some(chain)
}

/// One packet of a TCP stream; none at its end.
async fn framed(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let length = match stream.read_u16().await {
        Ok(length) => usize::from(length),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut packet = vec![0; length];
    stream.read_exact(&mut packet).await?;
    Ok(Some(packet))
}
