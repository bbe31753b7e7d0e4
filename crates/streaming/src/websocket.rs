//! Several channels over one WebSocket: the first byte of each message tells the channel.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc::{Sender, UnboundedReceiver};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::sync::CancellationToken;

use crate::pipe::{Out, Outbox, Reader, Writer};

/// No message is longer.
const MAX_MESSAGE: usize = 16 * 1024 * 1024;
const BUFFER: usize = 16 * 1024;
/// In v5: the next byte names a channel that ends.
const CLOSE_SIGNAL: u8 = 255;
/// After closing, the other side gets so long to close as well.
const LINGER: Duration = Duration::from_secs(2);
/// A client that does not answer a ping gets its messages after so long.
const WAKE: Duration = Duration::from_secs(1);
/// One that answered may still be making its streams, beside what reads: a thread that lost its processor gets it back by then.
const SETTLE: Duration = Duration::from_millis(10);

/// How messages carry channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Codec {
    /// Text messages: the channel as a digit, the data in base64.
    pub(crate) base64: bool,
    /// Channels can be ended one by one (v5).
    pub(crate) close_signal: bool,
}

impl Codec {
    pub(crate) fn of(protocol: &str) -> Self {
        Self {
            base64: protocol.contains("base64."),
            close_signal: protocol == "v5.channel.k8s.io",
        }
    }

    /// The message for data of a channel.
    fn encode(self, channel: u8, data: &[u8]) -> Message {
        if self.base64 {
            let mut text = String::with_capacity(1 + data.len() * 4 / 3 + 4);
            text.push(char::from(b'0'.wrapping_add(channel)));
            BASE64.encode_string(data, &mut text);
            Message::text(text)
        } else {
            let mut bytes = BytesMut::with_capacity(1 + data.len());
            bytes.put_u8(channel);
            bytes.put_slice(data);
            Message::Binary(bytes.freeze())
        }
    }

    /// What a message means.
    fn decode(self, mut message: Bytes) -> Received {
        let Some(&first) = message.first() else {
            return Received::Nothing;
        };
        if self.close_signal && first == CLOSE_SIGNAL {
            return match message.get(1..) {
                Some([channel]) => Received::End(*channel),
                _ => Received::Wrong,
            };
        }
        let data = message.split_off(1);
        if !self.base64 {
            return Received::Data(first, data);
        }
        match BASE64.decode(&data) {
            Ok(data) => Received::Data(first.wrapping_sub(b'0'), data.into()),
            Err(_) => Received::Nothing,
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Received {
    Data(u8, Bytes),
    /// The other side ends a channel.
    End(u8),
    Nothing,
    /// Against the protocol; the connection ends.
    Wrong,
}

/// A WebSocket that carries channels.
#[derive(Debug)]
pub(crate) struct Channels {
    outbox: Outbox,
    readers: Vec<Option<Reader>>,
    closed: CancellationToken,
}

impl Channels {
    /// Serves a WebSocket on which the channels with `true` can be read.
    pub(crate) async fn new(
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        role: Role,
        codec: Codec,
        readable: &[bool],
    ) -> Self {
        let (mut sink, stream) = open(io, role).await.split();
        let (outbox, queue) = Outbox::new();
        let (feeds, readers) = readable
            .iter()
            .map(|readable| match readable {
                true => {
                    let (feed, reader) = Reader::new();
                    (Some(feed), Some(reader))
                }
                false => (None, None),
            })
            .unzip();
        let closed = CancellationToken::new();
        let awake = CancellationToken::new();
        let (ended, finish, heard) = (closed.clone(), outbox.clone(), awake.clone());
        tokio::spawn(async move {
            if let Err(error) = receive(stream, codec, feeds, &heard, &ended).await {
                tracing::debug!(%error, "WebSocket broken");
            }
            ended.cancel();
            finish.close();
            finish.send(Out::Close);
        });
        let (ended, finish) = (closed.clone(), outbox.clone());
        tokio::spawn(async move {
            let sent = async {
                if role == Role::Server {
                    wake(&mut sink, &awake, &ended).await?;
                }
                send(sink, codec, role, queue).await
            };
            if let Err(error) = sent.await {
                tracing::debug!(%error, "WebSocket broken");
            }
            ended.cancel();
            finish.close();
        });
        Self {
            outbox,
            readers,
            closed,
        }
    }

    /// The reading end of a channel; to be taken once.
    pub(crate) fn reader(&mut self, channel: u8) -> Option<Reader> {
        self.readers.get_mut(usize::from(channel))?.take()
    }

    /// A writing end of a channel.
    pub(crate) fn writer(&self, channel: u8) -> Writer {
        let never_reset = Arc::new(AtomicBool::new(false));
        Writer::new(self.outbox.clone(), channel.into(), never_reset)
    }

    /// Sends an empty message, so that the client sees that the channels work.
    pub(crate) fn greet(&self, channel: u8) {
        self.outbox.send(Out::Data {
            channel: channel.into(),
            data: Bytes::new(),
            room: None,
        });
    }

    pub(crate) fn closed(&self) -> CancellationToken {
        self.closed.clone()
    }
}

impl Drop for Channels {
    /// Closes the WebSocket, after what was written is sent.
    fn drop(&mut self) {
        self.outbox.send(Out::Close);
    }
}

async fn open<S: AsyncRead + AsyncWrite + Unpin>(io: S, role: Role) -> WebSocketStream<S> {
    let config = WebSocketConfig::default()
        .read_buffer_size(BUFFER)
        .write_buffer_size(BUFFER)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    WebSocketStream::from_raw_socket(io, role, Some(config)).await
}

/// A message's bytes; `None` for one that only keeps the WebSocket going.
fn payload(message: Message) -> Option<Bytes> {
    match message {
        Message::Binary(bytes) => Some(bytes),
        Message::Text(text) => Some(text.into()),
        _ => None,
    }
}

async fn receive<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: SplitStream<WebSocketStream<S>>,
    codec: Codec,
    mut feeds: Vec<Option<Sender<Bytes>>>,
    heard: &CancellationToken,
    closed: &CancellationToken,
) -> Result<(), Error> {
    loop {
        let message = tokio::select! {
            message = stream.next() => message,
            () = closed.cancelled() => {
                drain(stream).await;
                return Ok(());
            }
        };
        let Some(message) = message.transpose()? else {
            return Ok(());
        };
        heard.cancel();
        let Some(bytes) = payload(message) else {
            continue;
        };
        match codec.decode(bytes) {
            Received::Data(channel, data) if !data.is_empty() => {
                let feed = feeds.get(usize::from(channel)).and_then(Option::as_ref);
                if let Some(feed) = feed {
                    tokio::select! {
                        // A reader that was dropped wants no more data.
                        _ = feed.send(data) => {}
                        () = closed.cancelled() => {}
                    }
                }
            }
            Received::Data(..) | Received::Nothing => {}
            Received::End(channel) => match feeds.get_mut(usize::from(channel)) {
                Some(feed) => *feed = None,
                None => return Ok(()),
            },
            Received::Wrong => return Ok(()),
        }
    }
}

/// Takes what still comes until the other side closes as well, so that it can read our last words.
async fn drain<S: AsyncRead + AsyncWrite + Unpin>(mut stream: SplitStream<WebSocketStream<S>>) {
    let _ = tokio::time::timeout(LINGER, async {
        while let Some(Ok(_)) = stream.next().await {}
    })
    .await;
}

/// Pings the client and waits until it says something, and a moment more, so that nothing is sent to one that does not read yet:
/// kubectl up to 1.33 takes messages as soon as it reads, and drops those for streams that it has not made by then
/// (`Unknown stream id 2, discarding message`). A short command would be over before that; upstream's server is busy with its
/// own connection to the kubelet meanwhile. One who does not answer a ping, as it ought to, only waits.
async fn wake<S: AsyncRead + AsyncWrite + Unpin>(
    sink: &mut SplitSink<WebSocketStream<S>, Message>,
    heard: &CancellationToken,
    closed: &CancellationToken,
) -> Result<(), Error> {
    sink.send(Message::Ping(Bytes::new())).await?;
    tokio::select! {
        () = heard.cancelled() => {}
        () = closed.cancelled() => return Ok(()),
        () = tokio::time::sleep(WAKE) => return Ok(()),
    }
    tokio::time::sleep(SETTLE).await;
    Ok(())
}

async fn send<S: AsyncRead + AsyncWrite + Unpin>(
    mut sink: SplitSink<WebSocketStream<S>, Message>,
    codec: Codec,
    role: Role,
    mut queue: UnboundedReceiver<Out>,
) -> Result<(), Error> {
    let number = |channel: u32| u8::try_from(channel).unwrap_or(u8::MAX);
    while let Some(out) = queue.recv().await {
        let mut next = Some(out);
        while let Some(out) = next {
            match out {
                Out::Data {
                    channel,
                    data,
                    room,
                } => {
                    sink.feed(codec.encode(number(channel), &data)).await?;
                    drop(room);
                }
                // Only clients end channels: kubectl complains about a server that does.
                Out::Fin(channel) if codec.close_signal && role == Role::Client => {
                    let signal = vec![CLOSE_SIGNAL, number(channel)];
                    sink.feed(Message::binary(signal)).await?;
                }
                Out::Close => return close(sink).await,
                // Older protocols have no words for these.
                _ => {}
            }
            next = queue.try_recv().ok();
        }
        sink.flush().await?;
    }
    Ok(())
}

/// Says that all is well: to clients, a close without a code is an error.
async fn close<S: AsyncRead + AsyncWrite + Unpin>(
    mut sink: SplitSink<WebSocketStream<S>, Message>,
) -> Result<(), Error> {
    let frame = CloseFrame {
        code: CloseCode::Normal,
        reason: "".into(),
    };
    sink.send(Message::Close(Some(frame))).await?;
    sink.close().await
}

/// The plain bytes that a WebSocket tunnels in its binary messages.
pub(crate) async fn tunnel(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    role: Role,
) -> DuplexStream {
    let (sink, stream) = open(io, role).await.split();
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (read, write) = tokio::io::split(far);
    tokio::spawn(async move {
        if let Err(error) = from_tunnel(stream, write).await {
            tracing::debug!(%error, "WebSocket tunnel broken");
        }
    });
    tokio::spawn(async move {
        if let Err(error) = into_tunnel(read, sink).await {
            tracing::debug!(%error, "WebSocket tunnel broken");
        }
    });
    near
}

async fn from_tunnel<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: SplitStream<WebSocketStream<S>>,
    mut write: impl AsyncWrite + Unpin,
) -> Result<(), Error> {
    while let Some(message) = stream.next().await {
        let bytes = match message {
            Ok(message) => payload(message),
            Err(error) => {
                let _ = write.shutdown().await;
                return Err(error);
            }
        };
        if let Some(bytes) = bytes
            && write.write_all(&bytes).await.is_err()
        {
            // Nobody reads any more; what still comes is taken, so that our last words arrive.
            drain(stream).await;
            return Ok(());
        }
    }
    Ok(write.shutdown().await?)
}

async fn into_tunnel<S: AsyncRead + AsyncWrite + Unpin>(
    mut read: impl AsyncRead + Unpin,
    mut sink: SplitSink<WebSocketStream<S>, Message>,
) -> Result<(), Error> {
    let mut buffer = BytesMut::with_capacity(BUFFER);
    loop {
        buffer.reserve(BUFFER);
        let got: io::Result<usize> = read.read_buf(&mut buffer).await;
        if got? == 0 {
            return close(sink).await;
        }
        sink.send(Message::Binary(buffer.split().freeze())).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLAIN: Codec = Codec {
        base64: false,
        close_signal: false,
    };

    #[test]
    fn messages_are_read_as_written() {
        for protocol in [
            "",
            "v4.channel.k8s.io",
            "base64.channel.k8s.io",
            "v4.base64.channel.k8s.io",
        ] {
            let codec = Codec::of(protocol);
            let message = codec.encode(3, b"hello");
            assert_eq!(message.is_text(), protocol.contains("base64"));
            let bytes = payload(message).unwrap();
            let data = Bytes::from_static(b"hello");
            assert_eq!(codec.decode(bytes), Received::Data(3, data), "{protocol}");
        }
        let text = payload(Codec::of("base64.channel.k8s.io").encode(1, b"\n")).unwrap();
        assert_eq!(&*text, b"1Cg==");
    }

    #[test]
    fn only_v5_ends_channels() {
        let signal = Bytes::from_static(&[255, 0]);
        let v5 = Codec::of("v5.channel.k8s.io");
        assert_eq!(v5.decode(signal.clone()), Received::End(0));
        assert_eq!(v5.decode(signal.slice(..1)), Received::Wrong);
        let data = signal.slice(1..);
        assert_eq!(PLAIN.decode(signal), Received::Data(255, data));
    }

    proptest! {
        #[test]
        fn arbitrary_messages_do_no_harm(
            message in proptest::collection::vec(any::<u8>(), 0..50),
            base64 in any::<bool>(),
            close_signal in any::<bool>(),
        ) {
            let _ = Codec { base64, close_signal }.decode(message.into());
        }
    }

    #[tokio::test]
    async fn arbitrary_frames_end_the_connection_and_nothing_else() {
        let seed = skiff_base::Random::seeded(3);
        for _ in 0..100 {
            let (mut raw, io) = tokio::io::duplex(4096);
            let channels = Channels::new(io, Role::Server, PLAIN, &[true; 5]).await;
            let bytes: Vec<u8> = (0..200).map(|_| seed.below(256) as u8).collect();
            let _ = raw.write_all(&bytes).await;
            drop(raw);
            channels.closed().cancelled().await;
        }
    }
}
