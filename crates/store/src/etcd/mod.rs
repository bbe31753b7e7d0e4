//! The store in an etcd (v3), for several servers on one state.
//!
//! Keys and values lie there as we have them. Every operation is a call of etcd's, a guarded write one transaction. Whoever
//! watches hears from one lasting watch (`pump`), which outlives lost connections, and reads what was before from a
//! short one (`stream`). etcd 3.4 is enough; from 3.4.31 and 3.5.13 on it can be asked how far a watch is. With an
//! older one everything in it is watched, because every revision then brings a change: it should hold nothing else.

mod connection;
mod feed;
mod keys;
mod pump;
mod stream;
mod tls;
mod turns;

/// etcd's messages.
#[allow(missing_docs, clippy::all)]
mod messages {
    tonic::include_proto!("etcdserverpb");
}

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use skiff_base::{Random, SharedClock};
use tokio::task::AbortHandle;
use tonic::transport::Channel;

pub use self::tls::EtcdTls;

use self::connection::{Connection, Refusal};
use self::keys::{KeyRange, Keys, number, revision};
use self::messages::compare::{CompareResult, CompareTarget, TargetUnion};
use self::messages::kv_client::KvClient;
use self::messages::lease_client::LeaseClient;
use self::messages::maintenance_client::MaintenanceClient;
use self::messages::request_op::Request as Op;
use self::messages::response_op::Response as Done;
use self::messages::{
    CompactionRequest, Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseKeepAliveRequest,
    LeaseRevokeRequest, PutRequest, RangeRequest, RangeResponse, RequestOp, StatusRequest,
    TxnRequest, TxnResponse,
};
use self::pump::Shared;
use crate::watch::Hub;
use crate::{
    KeyValue, LeaseId, Range, Result, Revision, Store, StoreError, WatchLimits, WatchStream,
};

/// A range without a limit is read in pages of so many keys.
const PAGE: i64 = 2000;

/// How an etcd is used.
#[derive(Clone, Debug)]
pub struct EtcdOptions {
    /// Where it listens, one URL for each member.
    pub endpoints: Vec<String>,
    /// Whom to trust and what to show, where the URLs say https.
    pub tls: EtcdTls,
    /// What our keys begin with (`/registry`) ...
    pub root: String,
    /// ... and what they begin with in etcd.
    pub prefix: String,
    /// Drives deadlines and progress.
    pub clock: SharedClock,
    /// Spreads retries.
    pub random: Random,
    /// When a watcher is too slow.
    pub watch_limits: WatchLimits,
}

impl EtcdOptions {
    /// What a server uses: keys begin with `/registry`, there and here.
    #[must_use]
    pub fn new(endpoints: Vec<String>, clock: SharedClock) -> Self {
        Self {
            endpoints,
            tls: EtcdTls::default(),
            root: "/registry".into(),
            prefix: "/registry".into(),
            clock,
            random: Random::from_system(),
            watch_limits: WatchLimits::default(),
        }
    }
}

/// A store in an etcd.
#[derive(Clone, Debug)]
pub struct EtcdStore {
    shared: Arc<Shared>,
    /// Watches keep `shared`; when the last store goes, they end.
    _closer: Arc<Closer>,
}

#[derive(Debug)]
struct Closer(Arc<Shared>, AbortHandle);

impl Drop for Closer {
    fn drop(&mut self) {
        self.1.abort();
        self.0.hub.close();
    }
}

impl EtcdStore {
    /// Connects to an etcd. It must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`StoreError::Failed`] when an address or a file is bad, or no etcd answers within some seconds.
    pub async fn connect(options: EtcdOptions) -> Result<Self> {
        if options.endpoints.iter().any(|url| url.starts_with("https")) {
            tls::check(&options.tls).map_err(StoreError::Failed)?;
        }
        let connection = Connection::new(
            &options.endpoints,
            &options.tls,
            options.clock.clone(),
            options.random.clone(),
        )
        .map_err(StoreError::Failed)?;
        let shared = Arc::new(Shared::new(
            connection,
            Keys::new(&options.root, &options.prefix),
            Hub::new(options.watch_limits),
            options.clock,
            options.random,
        ));
        shared.begin(shared.revision().await?);
        let task = tokio::spawn(shared.clone().run());
        let closer = Closer(shared.clone(), task.abort_handle());
        Ok(Self {
            shared,
            _closer: Arc::new(closer),
        })
    }

    async fn ask_range(&self, request: RangeRequest) -> Result<RangeResponse, Refusal> {
        let connection = &self.shared.connection;
        connection
            .read(|channel| {
                let request = request.clone();
                async move { kv(channel).range(request).await }
            })
            .await
    }

    /// Explains why a revision cannot be read.
    async fn explain(&self, refusal: Refusal) -> StoreError {
        let explained = match refusal {
            Refusal::Other(error) => return error,
            Refusal::Compacted => feed::oldest(&self.shared.connection, &self.shared.keys)
                .await
                .map(StoreError::Compacted),
            Refusal::Future => self.revision().await.map(StoreError::Future),
        };
        explained.unwrap_or_else(|error| error)
    }

    /// Does `done` if the key is as compared, else reads it. `Err` holds what was read.
    async fn guarded(
        &self,
        key: &Bytes,
        compare: Compare,
        done: Op,
    ) -> Result<Result<Revision, Option<KeyValue>>> {
        let read = Op::RequestRange(RangeRequest {
            key: key.clone(),
            ..RangeRequest::default()
        });
        let op = |request| RequestOp {
            request: Some(request),
        };
        let transaction = TxnRequest {
            compare: vec![compare],
            success: vec![op(done)],
            failure: vec![op(read)],
        };
        let connection = &self.shared.connection;
        let answer = connection
            .write(|channel| {
                let transaction = transaction.clone();
                async move { kv(channel).txn(transaction).await }
            })
            .await?;
        Ok(self.outcome(answer))
    }

    fn outcome(&self, answer: TxnResponse) -> Result<Revision, Option<KeyValue>> {
        if answer.succeeded {
            return Ok(answer.header.map_or(0, |header| revision(header.revision)));
        }
        let read = answer.responses.into_iter().next();
        match read.and_then(|read| read.response) {
            Some(Done::ResponseRange(found)) => {
                let found = found.kvs.into_iter().next();
                Err(found.and_then(|kv| self.shared.keys.key_value(kv)))
            }
            _ => Err(None),
        }
    }

    fn put(key: &Bytes, value: Bytes, lease: LeaseId) -> Op {
        Op::RequestPut(PutRequest {
            key: key.clone(),
            value,
            lease: lease.cast_signed(),
        })
    }

    async fn page(
        &self,
        range: &KeyRange,
        limit: i64,
        at: Option<Revision>,
    ) -> Result<RangeResponse, Refusal> {
        self.ask_range(RangeRequest {
            key: range.key.clone(),
            range_end: range.end.clone(),
            limit,
            revision: at.map_or(0, number),
            ..RangeRequest::default()
        })
        .await
    }

    async fn whole_range(
        &self,
        mut range: KeyRange,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Range, Refusal> {
        let wanted = if limit == 0 { usize::MAX } else { limit };
        let mut found = Range {
            items: Vec::new(),
            more: false,
            count: 0,
            revision: 0,
        };
        let mut reading_at = at;
        loop {
            let left = wanted - found.items.len();
            let most = i64::try_from(left).unwrap_or(PAGE).min(PAGE);
            let page = self.page(&range, most, reading_at).await?;
            if found.items.is_empty() {
                let now = page.header.map_or(0, |header| revision(header.revision));
                found.revision = at.unwrap_or(now);
                found.count = u64::try_from(page.count).unwrap_or(0);
                reading_at = Some(found.revision);
            }
            let last = page.kvs.last().map(|kv| kv.key.clone());
            let keys = &self.shared.keys;
            found
                .items
                .extend(page.kvs.into_iter().filter_map(|kv| keys.key_value(kv)));
            found.more = page.more;
            let Some(last) = last.filter(|_| page.more && found.items.len() < wanted) else {
                return Ok(found);
            };
            range.key = [&last[..], b"\0"].concat().into();
        }
    }
}

fn kv(channel: Channel) -> KvClient<Channel> {
    KvClient::new(channel).max_decoding_message_size(usize::MAX)
}

/// The key was last written at a revision; 0: there is none.
fn written_at(key: &Bytes, at: Revision) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Mod.into(),
        key: key.clone(),
        target_union: Some(TargetUnion::ModRevision(i64::try_from(at).unwrap_or(-1))),
    }
}

fn exists(key: &Bytes) -> Compare {
    Compare {
        result: CompareResult::Greater.into(),
        target: CompareTarget::Version.into(),
        key: key.clone(),
        target_union: Some(TargetUnion::Version(0)),
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn revision(&self) -> Result<Revision> {
        self.shared.revision().await
    }

    async fn get(&self, key: &str, at: Option<Revision>) -> Result<Option<KeyValue>> {
        let keys = &self.shared.keys;
        let request = RangeRequest {
            key: match key {
                "" => keys.nowhere(),
                key => keys.there(key)?,
            },
            revision: at.map_or(0, number),
            ..RangeRequest::default()
        };
        match self.ask_range(request).await {
            Ok(found) => {
                let found = found.kvs.into_iter().next();
                Ok(found.and_then(|kv| keys.key_value(kv)))
            }
            Err(refusal) => Err(self.explain(refusal).await),
        }
    }

    async fn range(
        &self,
        prefix: &str,
        from: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Range> {
        let keys = &self.shared.keys;
        let range = keys.range(prefix).and_then(|range| match from {
            Some(from) => keys.not_below(range, from),
            None => Some(range),
        });
        // A range that holds nothing is still refused where its revision cannot be read.
        let range = range.unwrap_or_else(|| KeyRange {
            key: keys.nowhere(),
            end: Bytes::new(),
        });
        loop {
            match self.whole_range(range.clone(), limit, at).await {
                Ok(found) => return Ok(found),
                // What was current was compacted away while its pages were read.
                Err(Refusal::Compacted) if at.is_none() => {}
                Err(refusal) => return Err(self.explain(refusal).await),
            }
        }
    }

    async fn create(&self, key: &str, value: Bytes, lease: LeaseId) -> Result<Revision> {
        let key = self.shared.keys.there(key)?;
        let put = Self::put(&key, value, lease);
        match self.guarded(&key, written_at(&key, 0), put).await? {
            Ok(revision) => Ok(revision),
            Err(Some(found)) => Err(StoreError::Exists(found)),
            Err(None) => Err(StoreError::Failed(
                "etcd answered a transaction without what was asked".into(),
            )),
        }
    }

    async fn update(
        &self,
        key: &str,
        value: Bytes,
        expected: Revision,
        lease: LeaseId,
    ) -> Result<Revision> {
        // To etcd a key that is not there is at revision 0.
        if expected == 0 {
            return Err(StoreError::Conflict(self.get(key, None).await?));
        }
        let key = self.shared.keys.there(key)?;
        let put = Self::put(&key, value, lease);
        let done = self.guarded(&key, written_at(&key, expected), put).await?;
        done.map_err(StoreError::Conflict)
    }

    async fn delete(&self, key: &str, expected: Option<Revision>) -> Result<Revision> {
        if expected == Some(0) {
            return Err(StoreError::Conflict(self.get(key, None).await?));
        }
        let key = self.shared.keys.there(key)?;
        let guard = expected.map_or_else(|| exists(&key), |expected| written_at(&key, expected));
        let delete = Op::RequestDeleteRange(DeleteRangeRequest {
            key: key.clone(),
            ..DeleteRangeRequest::default()
        });
        let done = self.guarded(&key, guard, delete).await?;
        done.map_err(StoreError::Conflict)
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream> {
        let prefix: Arc<str> = prefix.into();
        // First the line, then the check: what the check sees as past is in the history or on the line.
        let line = self.shared.subscribe(&prefix)?;
        match self.shared.check(after).await {
            Ok(()) => Ok(stream::watch(self.shared.clone(), prefix, after, line)),
            Err(refusal) => Err(self.explain(refusal).await),
        }
    }

    async fn request_progress(&self) -> Result<()> {
        let now = self.revision().await?;
        self.shared.progress(now).await;
        Ok(())
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        if revision == 0 {
            return Ok(());
        }
        let request = CompactionRequest {
            revision: number(revision),
            physical: false,
        };
        let connection = &self.shared.connection;
        let compacted = connection
            .read(|channel| async move { kv(channel).compact(request).await })
            .await;
        match compacted {
            Ok(_) | Err(Refusal::Compacted) => Ok(()),
            Err(refusal) => Err(self.explain(refusal).await),
        }
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId> {
        let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        let request = LeaseGrantRequest {
            ttl: i64::try_from(seconds.max(1)).unwrap_or(i64::MAX),
            id: 0,
        };
        // A lease that was granted unseen ends by itself.
        let granted = self
            .shared
            .connection
            .read(|channel| async move { LeaseClient::new(channel).lease_grant(request).await })
            .await?;
        Ok(granted.id.cast_unsigned())
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<()> {
        let request = LeaseKeepAliveRequest {
            id: lease.cast_signed(),
        };
        let left = self
            .shared
            .connection
            .read(|channel| async move {
                // etcd answers one question after the other, for as long as it may expect more.
                let questions = futures::stream::iter([request]).chain(futures::stream::pending());
                let mut answers = LeaseClient::new(channel)
                    .lease_keep_alive(questions)
                    .await?
                    .into_inner();
                let answer = answers.message().await?;
                let answer = answer.ok_or_else(|| tonic::Status::unavailable("no answer"))?;
                Ok(tonic::Response::new(answer.ttl))
            })
            .await?;
        match left {
            0 => Err(StoreError::NoLease),
            _ => Ok(()),
        }
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<()> {
        let request = LeaseRevokeRequest {
            id: lease.cast_signed(),
        };
        let revoked = self
            .shared
            .connection
            .write(|channel| async move { LeaseClient::new(channel).lease_revoke(request).await })
            .await;
        Ok(revoked.map(drop)?)
    }

    async fn size(&self) -> Result<u64> {
        let connection = &self.shared.connection;
        let status = connection
            .read(|channel| async move {
                MaintenanceClient::new(channel)
                    .status(StatusRequest {})
                    .await
            })
            .await?;
        Ok(u64::try_from(status.db_size).unwrap_or(0))
    }
}
