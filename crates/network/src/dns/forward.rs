//! Asks the host's resolvers what is not the cluster's, packet for packet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use skiff_base::{Random, SharedClock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use super::resolv::Resolvers;

/// How long one resolver has.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often all of them are asked.
const ROUNDS: usize = 2;
/// Questions that may wait for resolvers at once, so that a dead resolver costs little.
const WAITING: usize = 1000;
/// How long the list of resolvers is believed before the file is looked at again.
const BELIEVED: Duration = Duration::from_secs(5);
const LARGEST: usize = 65_535;
const HEADER: usize = 12;

/// Why there is no answer from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForwardError {
    /// The host has no resolver, or only this server itself.
    #[error("this host has no name server to ask")]
    NoServer,
    /// Too many questions wait already.
    #[error("too many questions wait for the host's name servers")]
    Busy,
    /// No resolver answered.
    #[error("none of the host's name servers answered")]
    NoAnswer,
}

/// Asks the host's resolvers.
pub struct Forwarder {
    resolvers: Resolvers,
    own: Vec<IpAddr>,
    clock: SharedClock,
    random: Random,
    known: Mutex<Known>,
    waiting: Semaphore,
}

#[derive(Default)]
struct Known {
    servers: Arc<[SocketAddr]>,
    stamps: Vec<Option<SystemTime>>,
    read: Option<Duration>,
}

impl Forwarder {
    /// Asks `resolvers`, but never an address in `own`.
    #[must_use]
    pub fn new(resolvers: Resolvers, own: Vec<IpAddr>, clock: SharedClock, random: Random) -> Self {
        Self {
            resolvers,
            own,
            clock,
            random,
            known: Mutex::new(Known::default()),
            waiting: Semaphore::new(WAITING),
        }
    }

    /// The answer to a query packet, over TCP if the client used it.
    ///
    /// # Errors
    /// Nobody answers.
    pub async fn ask(&self, query: &[u8], tcp: bool) -> Result<Vec<u8>, ForwardError> {
        let _place = self.waiting.try_acquire().map_err(|_| ForwardError::Busy)?;
        let servers = self.servers();
        if servers.is_empty() {
            return Err(ForwardError::NoServer);
        }
        // A number of our own, so that nobody outside can guess the client's.
        let number = u16::try_from(self.random.below(1 << 16)).unwrap_or_default();
        let mut packet = query.to_vec();
        let Some(id) = packet.first_chunk_mut::<2>() else {
            return Err(ForwardError::NoAnswer);
        };
        let original = std::mem::replace(id, number.to_be_bytes());
        for server in servers.iter().cycle().take(servers.len() * ROUNDS) {
            let answer = async {
                match tcp {
                    true => over_tcp(*server, &packet).await,
                    false => over_udp(*server, &packet).await,
                }
            };
            let outcome = tokio::select! {
                answer = answer => answer,
                () = self.clock.sleep(PATIENCE) => continue,
            };
            match outcome {
                Ok(mut answer) => {
                    if let Some(id) = answer.first_chunk_mut::<2>() {
                        *id = original;
                    }
                    return Ok(answer);
                }
                Err(error) => tracing::debug!(%server, %error, "a name server did not answer"),
            }
        }
        Err(ForwardError::NoAnswer)
    }

    /// The resolvers; the files are read again when they have changed.
    fn servers(&self) -> Arc<[SocketAddr]> {
        let now = self.clock.monotonic();
        let mut known = self.known.lock();
        let fresh = known
            .read
            .is_some_and(|read| now.saturating_sub(read) < BELIEVED);
        if fresh {
            return known.servers.clone();
        }
        let stamps: Vec<_> = self.resolvers.files().iter().map(changed).collect();
        if known.read.is_none() || stamps != known.stamps {
            known.servers = self.resolvers.read(&self.own).into();
            known.stamps = stamps;
        }
        known.read = Some(now);
        known.servers.clone()
    }
}

fn changed(path: &PathBuf) -> Option<SystemTime> {
    std::fs::metadata(path).ok()?.modified().ok()
}

async fn over_udp(server: SocketAddr, packet: &[u8]) -> std::io::Result<Vec<u8>> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(packet).await?;
    let mut buffer = vec![0; LARGEST];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let Some(answer) = buffer.get(..length) else {
            continue;
        };
        if answers(packet, answer) {
            return Ok(answer.to_vec());
        }
    }
}

async fn over_tcp(server: SocketAddr, packet: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(packet.len()).map_err(std::io::Error::other)?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(packet);
    stream.write_all(&framed).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    match answers(packet, &answer) {
        true => Ok(answer),
        false => Err(std::io::Error::other("an answer to another question")),
    }
}

/// Whether `answer` is a response to `query`: same number, same question.
fn answers(query: &[u8], answer: &[u8]) -> bool {
    let is_response = answer.get(2).is_some_and(|flags| flags & 0x80 != 0);
    let same_number = query.get(..2) == answer.get(..2);
    let end = question_end(query);
    // A resolver that cannot read the question may leave it out.
    let no_question = answer.len() >= HEADER && answer.get(4..6) == Some(&[0, 0]);
    let asked = query.get(HEADER..end);
    let same_question = asked.is_some_and(|asked| {
        let echoed = answer.get(HEADER..end);
        echoed.is_some_and(|echoed| echoed.eq_ignore_ascii_case(asked))
    });
    is_response && same_number && (same_question || no_question)
}

/// Where the first question of a packet ends.
fn question_end(packet: &[u8]) -> usize {
    let mut at = HEADER;
    while let Some(length) = packet.get(at) {
        at += 1 + usize::from(*length);
        if *length == 0 {
            break;
        }
    }
    at + 4
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(id: u16, flags: u8, questions: u16, name: &[u8]) -> Vec<u8> {
        let mut out = id.to_be_bytes().to_vec();
        out.extend_from_slice(&[flags, 0]);
        out.extend_from_slice(&questions.to_be_bytes());
        out.extend_from_slice(&[0; 6]);
        out.extend_from_slice(name);
        out.extend_from_slice(&[0, 1, 0, 1]);
        out
    }

    #[test]
    fn only_the_answer_to_the_question_is_taken() {
        let query = packet(7, 1, 1, b"\x03www\x07example\x00");
        assert!(answers(
            &query,
            &packet(7, 0x81, 1, b"\x03WWW\x07example\x00")
        ));
        assert!(!answers(
            &query,
            &packet(8, 0x81, 1, b"\x03www\x07example\x00")
        ));
        assert!(!answers(
            &query,
            &packet(7, 0x81, 1, b"\x03xxx\x07example\x00")
        ));
        assert!(!answers(&query, &query), "a question is no answer");
        assert!(answers(&query, &packet(7, 0x81, 0, b"")));
        assert!(!answers(&query, &[]));
        assert!(!answers(&[], &[]));
    }
}
