//! Calls to one of several etcds, with what their failures mean.
//!
//! A read may be asked again, of another one. A write is sent again only where it surely never left: a second try of
//! one that may have been done would answer with a conflict with itself.

use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use skiff_base::{Backoff, Random, SharedClock};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Response, Status};

use super::tls::{Address, EtcdTls, Unreached, connect};
use crate::StoreError;

/// Another etcd is asked when one has not answered a read within this time.
const READ_TRY: Duration = Duration::from_secs(5);
/// etcd itself gives a write up after seven seconds.
const WRITE_TRY: Duration = Duration::from_secs(10);
/// No new try is made when a call has taken this long.
const PATIENCE: Duration = Duration::from_secs(8);
/// Connecting takes no longer.
const CONNECT: Duration = Duration::from_secs(2);
/// A connection on which a call waits is asked for a sign of life this often. etcd takes offence at less than 5 s.
const PING: Duration = Duration::from_secs(10);
/// How much may be under way in one answer, and in all of a connection.
const WINDOW: u32 = 1 << 20;

/// Why a call did not bring an answer.
#[derive(Clone, Debug)]
pub(super) enum Refusal {
    /// The revision was compacted away.
    Compacted,
    /// The revision lies in the future.
    Future,
    /// Anything else.
    Other(StoreError),
}

impl From<Refusal> for StoreError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Compacted => StoreError::Failed("unexpected: compacted".into()),
            Refusal::Future => StoreError::Failed("unexpected: a future revision".into()),
            Refusal::Other(error) => error,
        }
    }
}

/// What a failure says about the request.
#[derive(Debug)]
enum Fate {
    /// It was looked at and refused.
    Refused(Refusal),
    /// It was not looked at.
    NotSent,
    /// Nobody knows.
    Unclear,
}

fn fate(status: &Status) -> Fate {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<Unreached>() {
            return Fate::NotSent;
        }
        source = error.source();
    }
    let text = status.message();
    let says = |words: &str| text.contains(words);
    let failed = || StoreError::Failed(format!("etcd: {text}"));
    Fate::Refused(match status.code() {
        Code::OutOfRange if says("has been compacted") => Refusal::Compacted,
        Code::OutOfRange if says("future revision") => Refusal::Future,
        Code::ResourceExhausted if says("too many requests") => return Fate::NotSent,
        Code::ResourceExhausted if says("space exceeded") => Refusal::Other(StoreError::NoSpace),
        Code::NotFound if says("lease not found") => Refusal::Other(StoreError::NoLease),
        Code::DataLoss => Refusal::Other(StoreError::Corrupt(text.into())),
        Code::Unavailable
        | Code::DeadlineExceeded
        | Code::Cancelled
        | Code::Unknown
        | Code::Internal
        | Code::Aborted => return Fate::Unclear,
        _ => Refusal::Other(failed()),
    })
}

/// One etcd. The channel connects when it is used, and again after a loss.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub name: String,
    pub channel: Channel,
}

/// The etcds, one of which is asked.
#[derive(Debug)]
pub(super) struct Connection {
    members: Vec<Member>,
    current: AtomicUsize,
    clock: SharedClock,
    random: Random,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
}

impl Connection {
    /// Nothing is connected yet. The error says which address is bad.
    pub fn new(
        urls: &[String],
        tls: &EtcdTls,
        clock: SharedClock,
        random: Random,
    ) -> Result<Self, String> {
        let tls = Arc::new(tls.clone());
        let members = urls
            .iter()
            .map(|url| member(url, &tls))
            .collect::<Result<Vec<_>, _>>()?;
        if members.is_empty() {
            return Err("no server of etcd is named".into());
        }
        Ok(Self {
            members,
            current: AtomicUsize::new(0),
            clock,
            random,
        })
    }

    /// The one that is asked at present.
    pub fn member(&self) -> Member {
        let at = self.current.load(Ordering::Relaxed) % self.members.len();
        self.members[at].clone()
    }

    /// Asks another one from now on, unless someone has turned away from this one already.
    pub fn turn_away(&self, from: &Member) {
        let at = self.current.load(Ordering::Relaxed);
        if self.members[at % self.members.len()].name == from.name {
            let next = (at + 1) % self.members.len();
            let _ = self
                .current
                .compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// A call that changes nothing, or that may be done twice.
    pub async fn read<T, F>(&self, call: impl Fn(Channel) -> F) -> Result<T, Refusal>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.call(Kind::Read, call).await
    }

    /// A call that must not be done twice; [`StoreError::Unknown`] when it may have been done.
    pub async fn write<T, F>(&self, call: impl Fn(Channel) -> F) -> Result<T, Refusal>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.call(Kind::Write, call).await
    }

    async fn call<T, F>(&self, kind: Kind, call: impl Fn(Channel) -> F) -> Result<T, Refusal>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let begun = self.clock.monotonic();
        let most = match kind {
            Kind::Read => READ_TRY,
            Kind::Write => WRITE_TRY,
        };
        let mut backoff =
            Backoff::new(Duration::from_millis(25), Duration::from_secs(1)).with_jitter(0.3);
        loop {
            let member = self.member();
            let status = tokio::select! {
                answer = call(member.channel.clone()) => match answer {
                    Ok(answer) => return Ok(answer.into_inner()),
                    Err(status) => status,
                },
                () = self.clock.sleep(most) => Status::deadline_exceeded("no answer"),
            };
            let fate = fate(&status);
            if let Fate::Refused(refusal) = fate {
                return Err(refusal);
            }
            let why = format!("{}: {}", member.name, told(&status));
            self.turn_away(&member);
            if kind == Kind::Write && matches!(fate, Fate::Unclear) {
                return Err(Refusal::Other(StoreError::Unknown(why)));
            }
            if self.clock.monotonic().saturating_sub(begun) > PATIENCE {
                return Err(Refusal::Other(StoreError::Failed(why)));
            }
            self.clock.sleep(backoff.next(&self.random)).await;
        }
    }
}

/// A failure in words, with its cause.
pub(super) fn told(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = status.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}

fn member(url: &str, tls: &Arc<EtcdTls>) -> Result<Member, String> {
    let address = Address::parse(url)?;
    let authority = address.authority();
    // The scheme is for tonic, which would want to do the TLS itself; the origin is what etcd sees.
    let scheme = if address.encrypted { "https" } else { "http" };
    let uri = |scheme: &str| -> Result<Uri, String> {
        format!("{scheme}://{authority}")
            .parse()
            .map_err(|error| format!("{url}: {error}"))
    };
    let tls = tls.clone();
    let channel = Endpoint::from(uri("http")?)
        .origin(uri(scheme)?)
        .connect_timeout(CONNECT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(4 * WINDOW)
        .connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            connect(address.clone(), tls.clone())
        }));
    Ok(Member {
        name: url.to_owned(),
        channel,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_apart() {
        let fate = |code, text: &str| fate(&Status::new(code, text));
        assert!(matches!(
            fate(
                Code::OutOfRange,
                "etcdserver: mvcc: required revision has been compacted"
            ),
            Fate::Refused(Refusal::Compacted)
        ));
        assert!(matches!(
            fate(
                Code::OutOfRange,
                "etcdserver: mvcc: required revision is a future revision"
            ),
            Fate::Refused(Refusal::Future)
        ));
        assert!(matches!(
            fate(
                Code::ResourceExhausted,
                "etcdserver: mvcc: database space exceeded"
            ),
            Fate::Refused(Refusal::Other(StoreError::NoSpace))
        ));
        assert!(matches!(
            fate(Code::ResourceExhausted, "etcdserver: too many requests"),
            Fate::NotSent
        ));
        assert!(matches!(
            fate(Code::NotFound, "etcdserver: requested lease not found"),
            Fate::Refused(Refusal::Other(StoreError::NoLease))
        ));
        assert!(matches!(
            fate(Code::InvalidArgument, "etcdserver: request is too large"),
            Fate::Refused(Refusal::Other(StoreError::Failed(_)))
        ));
        for text in [
            "etcdserver: request timed out",
            "etcdserver: leader changed",
            "transport error",
        ] {
            assert!(
                matches!(fate(Code::Unavailable, text), Fate::Unclear),
                "{text}"
            );
        }
    }
}
