//! A SPDY connection: streams over any pair of bytes in and bytes out, as client or server.
//!
//! Flow control is left out, as in the Go library that the rest of the Kubernetes world uses: a stream that
//! nobody reads fills its small buffer and then holds up the connection.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc::{self, Receiver, Sender, UnboundedReceiver};
use tokio_util::sync::CancellationToken;

use super::frame::{Frame, FrameDecoder, FrameEncoder, Headers, ProtocolError, Reset};
use crate::pipe::{Out, Outbox, Reader, Stream, Writer};

/// Streams that may be open at once.
const MAX_STREAMS: usize = 1000;
/// Streams that may wait to be accepted.
const BACKLOG: usize = 64;
/// Bytes that are collected before they are written.
const WRITE_BYTES: usize = 64 * 1024;
/// After closing, what the other side still sends is taken for so long, so that it can read our last words.
const LINGER: Duration = Duration::from_secs(2);

/// Which side of the connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Opens streams with odd numbers.
    Client,
    /// Opens streams with even numbers.
    Server,
}

/// An open connection. Dropping it closes it, after what was written is sent.
#[derive(Debug)]
pub struct Connection {
    outbox: Outbox,
    incoming: Receiver<Incoming>,
    table: Arc<Mutex<Table>>,
    closed: CancellationToken,
}

/// A stream that the other side wants to open.
#[derive(Debug)]
pub struct Incoming {
    /// Its number.
    pub id: u32,
    /// What it is for.
    pub headers: Headers,
    stream: Stream,
    outbox: Outbox,
}

impl Incoming {
    /// Accepts the stream.
    #[must_use]
    pub fn accept(self) -> Stream {
        self.outbox.send(Out::Reply(self.id));
        self.stream
    }

    /// Refuses the stream.
    pub fn refuse(mut self) {
        self.stream.writer.reset();
    }
}

#[derive(Debug)]
struct Table {
    streams: HashMap<u32, Entry>,
    next: u32,
    /// The last number that the other side used.
    last: u32,
    gone: bool,
}

#[derive(Debug)]
struct Entry {
    /// Where data goes; none when the other side has ended the stream.
    feed: Option<Sender<Bytes>>,
    sent_fin: bool,
    reset: Arc<AtomicBool>,
}

impl Connection {
    /// Starts to serve a connection.
    pub fn new(io: impl AsyncRead + AsyncWrite + Send + 'static, role: Role) -> Self {
        let (outbox, queue) = Outbox::new();
        let (incoming_sender, incoming) = mpsc::channel(BACKLOG);
        let table = Arc::new(Mutex::new(Table {
            streams: HashMap::new(),
            next: if role == Role::Client { 1 } else { 2 },
            last: 0,
            gone: false,
        }));
        let closed = CancellationToken::new();
        let (read, write) = tokio::io::split(io);
        let reading = Reading {
            outbox: outbox.clone(),
            incoming: incoming_sender,
            table: table.clone(),
            role,
        };
        let (ended, finish) = (closed.clone(), outbox.clone());
        let reader_table = table.clone();
        tokio::spawn(async move {
            if let Err(error) = reading.run(read, &ended).await {
                tracing::debug!(%error, "connection broken");
            }
            end(&reader_table);
            ended.cancel();
            finish.close();
            finish.send(Out::Close);
        });
        let (ended, finish) = (closed.clone(), outbox.clone());
        let writer_table = table.clone();
        tokio::spawn(async move {
            if let Err(error) = write_all(write, queue, &writer_table).await {
                tracing::debug!(%error, "connection broken");
            }
            end(&writer_table);
            ended.cancel();
            finish.close();
        });
        Self {
            outbox,
            incoming,
            table,
            closed,
        }
    }

    /// The next stream that the other side opens; none when the connection is closed.
    pub async fn accept(&mut self) -> Option<Incoming> {
        self.incoming.recv().await
    }

    /// Opens a stream. It does not wait for the other side to accept it.
    ///
    /// # Errors
    /// The connection is closed.
    pub fn open(&self, headers: Headers) -> Result<Stream, ProtocolError> {
        let mut table = self.table.lock();
        if table.gone {
            return Err(ProtocolError("connection is closed".into()));
        }
        let id = table.next;
        table.next += 2;
        let stream = table.add(id, &self.outbox, false);
        self.outbox.send(Out::Open(id, headers));
        Ok(stream)
    }

    /// Cancelled when the connection is closed, by whichever side.
    #[must_use]
    pub fn closed(&self) -> CancellationToken {
        self.closed.clone()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.outbox.send(Out::Close);
    }
}

impl Table {
    fn add(&mut self, id: u32, outbox: &Outbox, remote_fin: bool) -> Stream {
        let (feed, reader) = Reader::new();
        let reset = Arc::new(AtomicBool::new(false));
        self.streams.insert(
            id,
            Entry {
                feed: (!remote_fin).then_some(feed),
                sent_fin: false,
                reset: reset.clone(),
            },
        );
        Stream {
            reader,
            writer: Writer::new(outbox.clone(), id, reset),
        }
    }

    fn received_fin(&mut self, id: u32) {
        if let Some(entry) = self.streams.get_mut(&id) {
            entry.feed = None;
            if entry.sent_fin {
                self.streams.remove(&id);
            }
        }
    }

    /// Answers whether the end is to be sent: not when the stream was reset.
    fn sent_fin(&mut self, id: u32) -> bool {
        let Some(entry) = self.streams.get_mut(&id) else {
            return false;
        };
        entry.sent_fin = true;
        if entry.feed.is_none() {
            self.streams.remove(&id);
        }
        true
    }

    fn remove(&mut self, id: u32) -> bool {
        match self.streams.remove(&id) {
            Some(entry) => {
                entry.reset.store(true, Ordering::SeqCst);
                true
            }
            None => false,
        }
    }
}

/// Ends all streams.
fn end(table: &Mutex<Table>) {
    let mut table = table.lock();
    table.gone = true;
    for (_, entry) in table.streams.drain() {
        entry.reset.store(true, Ordering::SeqCst);
    }
}

struct Reading {
    outbox: Outbox,
    incoming: Sender<Incoming>,
    table: Arc<Mutex<Table>>,
    role: Role,
}

impl Reading {
    async fn run(
        self,
        mut read: impl AsyncRead + Unpin,
        closed: &CancellationToken,
    ) -> Result<(), ProtocolError> {
        let mut decoder = FrameDecoder::default();
        let mut buffer = BytesMut::with_capacity(8 * 1024);
        loop {
            while let Some(frame) = decoder.decode(&mut buffer)? {
                let done = tokio::select! {
                    done = self.frame(frame) => done,
                    () = closed.cancelled() => true,
                };
                if done {
                    drain(read).await;
                    return Ok(());
                }
            }
            buffer.reserve(8 * 1024);
            let got = tokio::select! {
                got = read.read_buf(&mut buffer) => got,
                () = closed.cancelled() => {
                    drain(read).await;
                    return Ok(());
                }
            };
            match got {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) => return Err(ProtocolError(error.to_string())),
            }
        }
    }

    /// Handles a frame; answers whether the other side goes away.
    async fn frame(&self, frame: Frame) -> bool {
        match frame {
            Frame::SynStream {
                stream,
                fin,
                headers,
            } => {
                if let Some(incoming) = self.opened(stream, fin, headers) {
                    // Nobody accepts any more: the stream resets itself.
                    if let Err(refused) = self.incoming.send(incoming).await {
                        refused.0.refuse();
                    }
                }
            }
            Frame::Data { stream, fin, data } => {
                let feed = {
                    let table = self.table.lock();
                    table.streams.get(&stream).and_then(|e| e.feed.clone())
                };
                if let Some(feed) = feed
                    && !data.is_empty()
                {
                    // A reader that was dropped wants no more data.
                    let _ = feed.send(data).await;
                }
                if fin {
                    self.table.lock().received_fin(stream);
                }
            }
            Frame::SynReply { stream, fin, .. } | Frame::Headers { stream, fin, .. } => {
                if fin {
                    self.table.lock().received_fin(stream);
                }
            }
            Frame::Rst { stream, .. } => {
                self.table.lock().remove(stream);
            }
            Frame::Ping(id) => {
                let theirs = (id % 2 == 1) == (self.role == Role::Server);
                if theirs {
                    self.outbox.send(Out::Pong(id));
                }
            }
            Frame::GoAway { .. } => return true,
            Frame::Ignored => {}
        }
        false
    }

    fn opened(&self, id: u32, fin: bool, headers: Headers) -> Option<Incoming> {
        let mut table = self.table.lock();
        let theirs = (id % 2 == 1) == (self.role == Role::Server);
        if !theirs || id <= table.last {
            self.outbox.send(Out::Reset(id, Reset::ProtocolError));
            return None;
        }
        table.last = id;
        if table.streams.len() >= MAX_STREAMS {
            self.outbox.send(Out::Reset(id, Reset::Refused));
            return None;
        }
        Some(Incoming {
            id,
            headers,
            stream: table.add(id, &self.outbox, fin),
            outbox: self.outbox.clone(),
        })
    }
}

/// Takes what still comes. Closing a socket with unread data makes the other side lose what we wrote last.
async fn drain(mut read: impl AsyncRead + Unpin) {
    let mut scrap = [0; 4096];
    let _ = tokio::time::timeout(LINGER, async {
        while read.read(&mut scrap).await.is_ok_and(|len| len > 0) {}
    })
    .await;
}

async fn write_all(
    mut write: impl AsyncWrite + Unpin,
    mut queue: UnboundedReceiver<Out>,
    table: &Mutex<Table>,
) -> std::io::Result<()> {
    let mut encoder = FrameEncoder::default();
    let mut bytes = BytesMut::new();
    let mut rooms = Vec::new();
    while let Some(out) = queue.recv().await {
        let mut next = Some(out);
        let mut close = false;
        while let Some(out) = next {
            let (frame, room) = frame_of(out, table);
            rooms.extend(room);
            if let Some(frame) = frame {
                close = matches!(frame, Frame::GoAway { .. });
                encoder.encode(&frame, &mut bytes);
            }
            if close || bytes.len() >= WRITE_BYTES {
                break;
            }
            next = queue.try_recv().ok();
        }
        write.write_all(&bytes).await?;
        write.flush().await?;
        bytes.clear();
        rooms.clear();
        if close {
            break;
        }
    }
    write.shutdown().await
}

/// The frame for something to be sent, if it is still to be sent, and its room in the queue.
fn frame_of(out: Out, table: &Mutex<Table>) -> (Option<Frame>, Option<impl Sized>) {
    let mut room = None;
    let frame = match out {
        Out::Data {
            channel,
            data,
            room: taken,
        } => {
            room = taken;
            let known = table.lock().streams.contains_key(&channel);
            known.then_some(Frame::Data {
                stream: channel,
                fin: false,
                data,
            })
        }
        Out::Fin(stream) => table.lock().sent_fin(stream).then_some(Frame::Data {
            stream,
            fin: true,
            data: Bytes::new(),
        }),
        Out::Reset(stream, status) => {
            table.lock().remove(stream);
            Some(Frame::Rst { stream, status })
        }
        Out::Open(stream, headers) => Some(Frame::SynStream {
            stream,
            fin: false,
            headers,
        }),
        Out::Reply(stream) => Some(Frame::SynReply {
            stream,
            fin: false,
            headers: Headers::default(),
        }),
        Out::Pong(id) => Some(Frame::Ping(id)),
        Out::Close => Some(Frame::GoAway {
            last: table.lock().last,
        }),
    };
    (frame, room)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn pair() -> (Connection, Connection) {
        let (a, b) = tokio::io::duplex(10_000);
        (
            Connection::new(a, Role::Client),
            Connection::new(b, Role::Server),
        )
    }

    async fn read_all(reader: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
        let mut all = Vec::new();
        reader.read_to_end(&mut all).await.unwrap();
        all
    }

    #[tokio::test]
    async fn streams_carry_data_both_ways_and_half_close() {
        let (client, mut server) = pair().await;
        let mut a = client
            .open(Headers::new([("streamType", "data"), ("port", "80")]))
            .unwrap();
        let mut b = client
            .open(Headers::new([("streamType", "error")]))
            .unwrap();
        let incoming = server.accept().await.unwrap();
        assert_eq!(incoming.id, 1);
        assert_eq!(incoming.headers.get("streamtype"), Some("data"));
        assert_eq!(incoming.headers.get("Port"), Some("80"));
        let mut served = incoming.accept();
        let mut other = server.accept().await.unwrap().accept();

        let large: Vec<u8> = (0..1_000_000u32).map(|i| i as u8).collect();
        let sent = large.clone();
        let sender = tokio::spawn(async move {
            a.write_all(&sent).await.unwrap();
            a.shutdown().await.unwrap();
            read_all(&mut a).await
        });
        assert_eq!(read_all(&mut served).await, large);
        served.write_all(b"after the end").await.unwrap();
        drop(served);
        assert_eq!(sender.await.unwrap(), b"after the end");

        other.write_all(b"x").await.unwrap();
        other.shutdown().await.unwrap();
        assert_eq!(read_all(&mut b).await, b"x");
        b.write_all(b"late").await.unwrap();
        drop(b);
        assert_eq!(read_all(&mut other).await, b"late");
    }

    #[tokio::test]
    async fn last_words_arrive_before_the_end() {
        let (client, mut server) = pair().await;
        let mut a = client.open(Headers::default()).unwrap();
        let mut served = server.accept().await.unwrap().accept();
        served.write_all(&[7; 100_000]).await.unwrap();
        drop(served);
        drop(server);
        assert_eq!(read_all(&mut a).await.len(), 100_000);
        client.closed().cancelled().await;
        assert!(client.open(Headers::default()).is_err());
    }

    #[tokio::test]
    async fn a_refused_stream_is_reset() {
        let (client, mut server) = pair().await;
        let mut a = client.open(Headers::default()).unwrap();
        server.accept().await.unwrap().refuse();
        assert!(read_all(&mut a).await.is_empty());
        assert!(a.write_all(b"x").await.is_err());
        // The connection goes on.
        let mut b = client.open(Headers::default()).unwrap();
        let mut served = server.accept().await.unwrap().accept();
        served.write_all(b"y").await.unwrap();
        drop(served);
        assert_eq!(read_all(&mut b).await, b"y");
    }

    #[tokio::test]
    async fn when_the_connection_breaks_everyone_learns_of_it() {
        let (a, b) = tokio::io::duplex(1000);
        let mut server = Connection::new(b, Role::Server);
        let client = Connection::new(a, Role::Client);
        let mut stream = client.open(Headers::default()).unwrap();
        let mut served = server.accept().await.unwrap().accept();
        let blocked = tokio::spawn(async move { served.write_all(&[0; 10_000_000]).await });
        stream.write_all(b"x").await.unwrap();
        drop(client);
        assert!(blocked.await.unwrap().is_err());
        server.closed().cancelled().await;
        assert!(server.accept().await.is_none());
    }

    #[tokio::test]
    async fn wrong_numbers_and_pings() {
        let (mut raw, b) = tokio::io::duplex(10_000);
        let mut server = Connection::new(b, Role::Server);
        let mut encoder = FrameEncoder::default();
        let mut bytes = BytesMut::new();
        for stream in [2, 5, 5, 3] {
            let headers = Headers::default();
            let fin = false;
            encoder.encode(
                &Frame::SynStream {
                    stream,
                    fin,
                    headers,
                },
                &mut bytes,
            );
        }
        encoder.encode(&Frame::Ping(9), &mut bytes);
        encoder.encode(&Frame::Ping(8), &mut bytes);
        raw.write_all(&bytes).await.unwrap();
        let mut decoder = FrameDecoder::default();
        let mut buffer = BytesMut::new();
        let mut seen = Vec::new();
        while seen.len() < 4 {
            raw.read_buf(&mut buffer).await.unwrap();
            while let Some(frame) = decoder.decode(&mut buffer).unwrap() {
                seen.push(frame);
            }
        }
        let status = Reset::ProtocolError;
        let reset = |stream| Frame::Rst { stream, status };
        assert_eq!(seen, [reset(2), reset(5), reset(3), Frame::Ping(9)]);
        assert_eq!(server.accept().await.unwrap().id, 5);
    }
}
