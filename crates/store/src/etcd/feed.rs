//! One watch of etcd's, on one connection: whole revisions come out of it, in order.

use std::sync::Arc;

use futures::channel::mpsc::{UnboundedSender, unbounded};
use tonic::metadata::MetadataValue;
use tonic::{Request, Status, Streaming};

use super::connection::{Connection, Member, Refusal, told};
use super::keys::{KeyRange, Keys, number, revision};
use super::messages::maintenance_client::MaintenanceClient;
use super::messages::watch_client::WatchClient;
use super::messages::watch_request::RequestUnion;
use super::messages::{
    self, StatusRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use crate::{Event, Result, Revision, StoreError};

/// Why a watch of etcd's is over.
#[derive(Debug)]
pub(super) enum End {
    /// It wants history that was compacted away; the oldest revision that can be read.
    Compacted(Revision),
    /// The connection, or that etcd, went away.
    Lost(String),
}

impl From<Status> for End {
    fn from(status: Status) -> Self {
        Self::Lost(told(&status))
    }
}

/// What came.
#[derive(Debug)]
pub(super) enum News {
    /// All changes of some revisions, the last of which is given. Foreign keys' are left out.
    Changes(Vec<(Arc<str>, Result<Event>)>, Revision),
    /// Nothing up to this revision is still to come.
    Progress(Revision),
}

/// Whether an etcd of that version can be asked how far a watch is. Older ones answer too early, before changes that the
/// answer claims were delivered (etcd's issues 15220 and 17507).
pub(super) fn tells_progress(version: &str) -> bool {
    let mut numbers = version
        .split(['.', '-', '+'])
        .map(|part| part.parse::<u32>().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    match (next(), next(), next()) {
        (3, 4, patch) => patch >= 31,
        (3, 5, patch) => patch >= 13,
        version => version >= (3, 6, 0),
    }
}

pub(super) struct Feed {
    requests: UnboundedSender<WatchRequest>,
    responses: Streaming<WatchResponse>,
    keys: Keys,
    after: Revision,
    /// The first part of a large answer.
    begun: Vec<messages::Event>,
    tells_progress: bool,
}

impl Feed {
    /// Begins to watch `range` behind a revision. Where etcd cannot be asked for progress everything is watched instead:
    /// then each revision brings a change, and no question is needed.
    pub async fn open(
        member: &Member,
        keys: &Keys,
        range: KeyRange,
        after: Revision,
    ) -> Result<Self, End> {
        let mut maintenance = MaintenanceClient::new(member.channel.clone());
        let version = maintenance
            .status(StatusRequest {})
            .await?
            .into_inner()
            .version;
        let tells_progress = tells_progress(&version);
        let range = match tells_progress {
            true => range,
            false => KeyRange::everything(),
        };
        let (requests, outgoing) = unbounded();
        // From `after` itself, so that etcd refuses if that was compacted: then it is not known what came next.
        let create = WatchCreateRequest {
            key: range.key,
            range_end: range.end,
            start_revision: number(after),
            prev_kv: true,
            fragment: true,
            ..WatchCreateRequest::default()
        };
        let _ = requests.unbounded_send(request(RequestUnion::CreateRequest(create)));
        let mut call = Request::new(outgoing);
        // An etcd that is cut off from the others ends the watch instead of falling silent.
        let metadata = call.metadata_mut();
        metadata.insert("hasleader", MetadataValue::from_static("true"));
        let responses = WatchClient::new(member.channel.clone())
            .max_decoding_message_size(usize::MAX)
            .watch(call)
            .await?
            .into_inner();
        Ok(Self {
            requests,
            responses,
            keys: keys.clone(),
            after,
            begun: Vec::new(),
            tells_progress,
        })
    }

    /// Asks how far it is, where that can be asked.
    pub fn ask_progress(&self) {
        if self.tells_progress {
            let question = RequestUnion::ProgressRequest(WatchProgressRequest {});
            // A closed channel shows at the other end.
            let _ = self.requests.unbounded_send(request(question));
        }
    }

    /// What comes next. Cancelling it loses nothing.
    pub async fn next(&mut self) -> Result<News, End> {
        loop {
            let response = self.responses.message().await?;
            let Some(response) = response else {
                return Err(End::Lost("etcd ended the watch".into()));
            };
            if let Some(news) = self.take(response)? {
                return Ok(news);
            }
        }
    }

    fn take(&mut self, response: WatchResponse) -> Result<Option<News>, End> {
        if response.compact_revision > 0 {
            return Err(End::Compacted(revision(response.compact_revision)));
        }
        if response.canceled {
            let reason = match response.cancel_reason.is_empty() {
                true => "etcd cancelled the watch",
                false => &response.cancel_reason,
            };
            return Err(End::Lost(reason.to_owned()));
        }
        if response.created {
            return Ok(None);
        }
        if response.events.is_empty() && self.begun.is_empty() {
            // Unasked-for answers of an old etcd are worth nothing.
            let told = response
                .header
                .map_or(0, |header| revision(header.revision));
            let progress = self.tells_progress.then_some(News::Progress(told));
            return Ok(progress);
        }
        self.begun.extend(response.events);
        if response.fragment {
            return Ok(None);
        }
        let events = std::mem::take(&mut self.begun);
        let at = |event: &messages::Event| {
            let kv = event.kv.as_ref();
            kv.map_or(0, |kv| revision(kv.mod_revision))
        };
        let through = events.last().map_or(0, at);
        let after = self.after;
        let changes = events
            .into_iter()
            .filter(|event| at(event) > after)
            .filter_map(|event| self.keys.event(event))
            .collect();
        Ok(Some(News::Changes(changes, through)))
    }
}

fn request(union: RequestUnion) -> WatchRequest {
    WatchRequest {
        request_union: Some(union),
    }
}

/// The oldest revision that can be read: only a watch is told.
pub(super) async fn oldest(connection: &Connection, keys: &Keys) -> Result<Revision> {
    let asked = connection
        .read(|channel| async move {
            let create = WatchCreateRequest {
                key: keys.nowhere(),
                start_revision: 1,
                ..WatchCreateRequest::default()
            };
            let (requests, outgoing) = unbounded();
            let _ = requests.unbounded_send(request(RequestUnion::CreateRequest(create)));
            let mut responses = WatchClient::new(channel)
                .watch(outgoing)
                .await?
                .into_inner();
            while let Some(response) = responses.message().await? {
                if response.compact_revision > 0 {
                    return Ok(tonic::Response::new(response.compact_revision));
                }
            }
            Err(Status::unavailable("etcd did not tell what it can read"))
        })
        .await;
    match asked {
        Ok(oldest) => Ok(revision(oldest)),
        Err(Refusal::Other(error)) => Err(error),
        Err(refusal) => Err(StoreError::from(refusal)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_versions_are_not_asked_for_progress() {
        for (version, told) in [
            ("3.4.23", false),
            ("3.4.30", false),
            ("3.4.31", true),
            ("3.5.0", false),
            ("3.5.12", false),
            ("3.5.13", true),
            ("3.5.13-rc.1", true),
            ("3.6.0", true),
            ("3.3.9", false),
            ("4.0.0", true),
            ("", false),
        ] {
            assert_eq!(tells_progress(version), told, "{version}");
        }
    }
}
