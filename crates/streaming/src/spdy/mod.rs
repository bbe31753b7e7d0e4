//! SPDY/3.1, the old protocol over which kubectl multiplexes streams: frames, headers, connections.

mod connection;
mod frame;
mod header;

pub use connection::{Connection, Incoming, Role};
pub use frame::{Frame, FrameDecoder, FrameEncoder, Headers, MAX_DATA, ProtocolError, Reset};
