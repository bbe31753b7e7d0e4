//! The ends of a channel that shares a connection with others: a reader and a writer, both bounded.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc::{Receiver, Sender, UnboundedReceiver, UnboundedSender};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::PollSemaphore;

use crate::spdy::{Headers, MAX_DATA, Reset};

/// Bytes that may wait to be sent on a connection.
const ROOM: usize = 256 * 1024;
/// Pieces of data that may wait to be read from a channel.
const WAITING: usize = 16;

/// Something to be sent.
#[derive(Debug)]
pub(crate) enum Out {
    /// Data of a channel; the permit is its room in the queue.
    Data {
        channel: u32,
        data: Bytes,
        room: Option<OwnedSemaphorePermit>,
    },
    /// The end of a channel.
    Fin(u32),
    /// The rude end of a channel.
    Reset(u32, Reset),
    /// Opens a channel.
    Open(u32, Headers),
    /// Accepts a channel.
    Reply(u32),
    /// Answers a ping.
    Pong(u32),
    /// The end of the connection.
    Close,
}

/// What is to be sent on a connection, in order.
#[derive(Clone, Debug)]
pub(crate) struct Outbox {
    sender: UnboundedSender<Out>,
    room: Arc<Semaphore>,
}

impl Outbox {
    pub(crate) fn new() -> (Self, UnboundedReceiver<Out>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let room = Arc::new(Semaphore::new(ROOM));
        (Self { sender, room }, receiver)
    }

    /// Queues something small. Nobody listens any more when the connection is gone.
    pub(crate) fn send(&self, out: Out) {
        let _ = self.sender.send(out);
    }

    /// Wakes writers that wait for room on a connection that is gone.
    pub(crate) fn close(&self) {
        self.room.close();
    }
}

/// The writing end of a channel. Shutting it down, or dropping it, ends the channel in this direction.
#[derive(Debug)]
pub struct Writer {
    outbox: Outbox,
    room: PollSemaphore,
    channel: u32,
    ended: bool,
    /// The other side has reset the channel.
    reset: Arc<AtomicBool>,
}

impl Writer {
    pub(crate) fn new(outbox: Outbox, channel: u32, reset: Arc<AtomicBool>) -> Self {
        Self {
            room: PollSemaphore::new(outbox.room.clone()),
            outbox,
            channel,
            ended: false,
            reset,
        }
    }

    /// Ends the channel.
    pub(crate) fn end(&mut self) {
        if !std::mem::replace(&mut self.ended, true) {
            self.outbox.send(Out::Fin(self.channel));
        }
    }

    /// Ends the channel rudely: the other side sees an error.
    pub(crate) fn reset(&mut self) {
        self.ended = true;
        self.outbox.send(Out::Reset(self.channel, Reset::Cancel));
    }
}

impl AsyncWrite for Writer {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.ended || self.reset.load(Ordering::SeqCst) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let len = bytes.len().min(MAX_DATA);
        if len == 0 {
            return Poll::Ready(Ok(0));
        }
        let permits = u32::try_from(len).unwrap_or(u32::MAX);
        let Some(room) = ready!(self.room.poll_acquire_many(cx, permits)) else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        let out = Out::Data {
            channel: self.channel,
            data: Bytes::copy_from_slice(&bytes[..len]),
            room: Some(room),
        };
        Poll::Ready(match self.outbox.sender.send(out) {
            Ok(()) => Ok(len),
            Err(_) => Err(io::ErrorKind::BrokenPipe.into()),
        })
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What is queued is sent without being asked.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.end();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.end();
    }
}

/// The reading end of a channel.
#[derive(Debug)]
pub struct Reader {
    receiver: Receiver<Bytes>,
    current: Bytes,
}

impl Reader {
    /// A reader, and what feeds it. It ends when the feed is dropped.
    pub(crate) fn new() -> (Sender<Bytes>, Self) {
        let (sender, receiver) = mpsc::channel(WAITING);
        let current = Bytes::new();
        (sender, Self { receiver, current })
    }
}

impl AsyncRead for Reader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.current.is_empty() {
            match ready!(self.receiver.poll_recv(cx)) {
                Some(bytes) => self.current = bytes,
                None => return Poll::Ready(Ok(())),
            }
        }
        let len = self.current.len().min(buffer.remaining());
        buffer.put_slice(&self.current[..len]);
        self.current.advance(len);
        Poll::Ready(Ok(()))
    }
}

/// Both ends of a channel.
#[derive(Debug)]
pub struct Stream {
    /// The reading end.
    pub reader: Reader,
    /// The writing end.
    pub writer: Writer,
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.reader).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_shutdown(cx)
    }
}
