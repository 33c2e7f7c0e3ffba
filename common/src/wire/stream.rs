//! A stream of frames between two daemons: handshake, byte-counted credit, deadlines, end and error.
//!
//! One side sends bulk, the other grants credit for what it has consumed, so a receiver that stops reading stalls only
//! its own stream and never more than [`WINDOW`] bytes are under way. Control messages and their answers go both ways.
//! Every wait has a deadline; a side that works long between frames sends pings.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::time::timeout;

use super::STREAM_VERSION;
use super::frame::{Frame, FrameError, Kind, read_frame, write_frame};
use super::message::{Hello, StreamKind, WireError};
use crate::rest::{ApiError, ErrorCode};
use crate::types::{Compression, VolumeName};

/// Bulk bytes a sender may have under way before the receiver has consumed them.
pub const WINDOW: u64 = 16 << 20;

/// How long either side waits for the other before it gives the stream up.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// A peer that is busy between frames says so this often.
pub const PING_INTERVAL: Duration = Duration::from_secs(5);

/// Frames that may be queued while waiting for credit: an answer and an error, no more in any of our protocols.
const QUEUED_MAX: usize = 16;

static TOTAL_SENT: AtomicU64 = AtomicU64::new(0);
static TOTAL_RECEIVED: AtomicU64 = AtomicU64::new(0);

/// Bytes sent and received by all streams of this process (frames, before TLS).
pub fn totals() -> (u64, u64) {
    (
        TOTAL_SENT.load(Ordering::Relaxed),
        TOTAL_RECEIVED.load(Ordering::Relaxed),
    )
}

/// Any full-duplex byte channel.
pub trait Channel: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Channel for T {}

/// A stream failed.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// Bytes or connection.
    #[error("stream {what}")]
    Frame {
        /// What we were doing.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: FrameError,
    },
    /// The peer was silent for too long.
    #[error("stream {what}: the peer did not answer within {} s", after.as_secs())]
    Deadline {
        /// What we were waiting for.
        what: &'static str,
        /// How long.
        after: Duration,
    },
    /// The peer gave up and said why.
    #[error("the peer refused: {0}")]
    Peer(WireError),
    /// A frame of another kind than the protocol has here.
    #[error("stream {what}: expected {expected}, found {found}")]
    Unexpected {
        /// What we were doing.
        what: &'static str,
        /// What may come here.
        expected: &'static str,
        /// What came.
        found: String,
    },
    /// A message that cannot be decoded or encoded.
    #[error("stream {what}: bad message")]
    Message {
        /// What we were doing.
        what: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl StreamError {
    /// The peer's own words, when it was the peer that gave up.
    pub fn peer(&self) -> Option<&WireError> {
        match self {
            Self::Peer(error) => Some(error),
            _ => None,
        }
    }
}

impl From<StreamError> for ApiError {
    fn from(error: StreamError) -> Self {
        match &error {
            StreamError::Peer(peer) => ApiError::new(ErrorCode::PeerRefused, peer.to_string()),
            _ => ApiError::new(ErrorCode::Unavailable, crate::daemon::chain(&error)),
        }
    }
}

/// What the receiving side of bulk gets.
#[derive(Debug)]
pub enum Received {
    /// Bytes, with the stream's own meaning of `tag`. Give their credit back with [`Stream::consumed`].
    Bulk(Bulk),
    /// No more bulk.
    End,
}

/// A bulk frame.
#[derive(Debug, Clone)]
pub struct Bulk {
    /// The stream's own meaning, e.g. an address.
    pub tag: u64,
    /// How `payload` is compressed.
    pub codec: Compression,
    /// Bytes it stands for. With an empty payload and codec none: that many zeros.
    pub raw_len: u32,
    /// As sent.
    pub payload: Bytes,
}

impl Bulk {
    /// Uncompressed bytes.
    pub fn raw(tag: u64, payload: Bytes) -> Self {
        let raw_len = u32::try_from(payload.len()).expect("bulk payloads are bounded by BULK_MAX");
        Self {
            tag,
            codec: Compression::None,
            raw_len,
            payload,
        }
    }

    /// A run of zeros, which crosses the wire as a header only.
    pub fn zeros(tag: u64, raw_len: u32) -> Self {
        Self {
            tag,
            codec: Compression::None,
            raw_len,
            payload: Bytes::new(),
        }
    }

    /// Whether it is a run of zeros.
    pub fn is_zeros(&self) -> bool {
        self.payload.is_empty() && self.raw_len > 0
    }

    /// What a frame costs in credit: never nothing, so that empty frames are bounded as well.
    fn cost(&self) -> u64 {
        self.payload.len() as u64 + super::frame::HEADER_LEN as u64
    }
}

/// One end of a stream.
pub struct Stream {
    io: BufReader<Box<dyn Channel>>,
    peer: String,
    credit: u64,
    consumed: u64,
    queued: VecDeque<Frame>,
    deadline: Duration,
    sent: u64,
    received: u64,
}

impl Stream {
    fn new(io: Box<dyn Channel>) -> Self {
        Self {
            io: BufReader::with_capacity(64 << 10, io),
            peer: String::new(),
            credit: WINDOW,
            consumed: 0,
            queued: VecDeque::new(),
            deadline: DEADLINE,
            sent: 0,
            received: 0,
        }
    }

    /// The connecting side's handshake: says what it wants, learns who answers.
    pub async fn connect(
        io: Box<dyn Channel>,
        kind: StreamKind,
        node: &str,
        volume: &VolumeName,
    ) -> Result<Self, StreamError> {
        let mut stream = Self::new(io);
        let hello = Hello {
            version: STREAM_VERSION,
            kind,
            node: node.to_owned(),
            volume: volume.clone(),
        };
        stream.send(&hello).await?;
        let answer: Hello = stream.recv().await?;
        stream.settle(&answer, kind, volume).await?;
        Ok(stream)
    }

    /// The accepting side's handshake. `kind` and `volume` are those of the HTTP request that was authorised.
    pub async fn accept(
        io: Box<dyn Channel>,
        kind: StreamKind,
        node: &str,
        volume: &VolumeName,
    ) -> Result<Self, StreamError> {
        let mut stream = Self::new(io);
        let hello: Hello = match stream.recv().await {
            Ok(hello) => hello,
            Err(error) => {
                // Whatever follows the upgrade is not our protocol; the peer is told, then left.
                stream
                    .fail(&ApiError::new(
                        ErrorCode::BadRequest,
                        crate::daemon::chain(&error),
                    ))
                    .await;
                return Err(error);
            }
        };
        stream.settle(&hello, kind, volume).await?;
        let answer = Hello {
            version: STREAM_VERSION,
            kind,
            node: node.to_owned(),
            volume: volume.clone(),
        };
        stream.send(&answer).await?;
        Ok(stream)
    }

    async fn settle(
        &mut self,
        theirs: &Hello,
        kind: StreamKind,
        volume: &VolumeName,
    ) -> Result<(), StreamError> {
        let wrong = if theirs.version != STREAM_VERSION {
            Some(format!(
                "stream version: {STREAM_VERSION} spoken here, {} found",
                theirs.version
            ))
        } else if theirs.kind != kind || theirs.volume != *volume {
            Some(format!(
                "stream of {kind:?} for {volume} expected, {:?} for {} found",
                theirs.kind, theirs.volume
            ))
        } else {
            None
        };
        if let Some(message) = wrong {
            self.fail(&ApiError::new(ErrorCode::BadRequest, message.clone()))
                .await;
            let expected = "a handshake of the same version, kind and volume";
            return Err(StreamError::Unexpected {
                what: "handshake",
                expected,
                found: message,
            });
        }
        self.peer.clone_from(&theirs.node);
        Ok(())
    }

    /// The peer's node id, as it announced it.
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// Payload and header bytes sent so far (before TLS).
    pub fn bytes_sent(&self) -> u64 {
        self.sent
    }

    /// Payload and header bytes received so far (before TLS).
    pub fn bytes_received(&self) -> u64 {
        self.received
    }

    async fn write(&mut self, what: &'static str, frame: &Frame) -> Result<(), StreamError> {
        let after = self.deadline;
        let io = self.io.get_mut();
        let work = async {
            write_frame(io, frame).await?;
            io.flush().await.map_err(FrameError::Io)
        };
        let result = match timeout(after, work).await {
            Ok(result) => result.map_err(|source| StreamError::Frame { what, source }),
            Err(_) => Err(StreamError::Deadline { what, after }),
        };
        if let Err(StreamError::Frame {
            source: FrameError::Io(_),
            ..
        }) = &result
        {
            // The peer closed on us; what it said last is the better reason.
            while let Ok(Ok(frame)) = timeout(Duration::from_secs(1), read_frame(&mut self.io)).await {
                if frame.kind == Kind::Error {
                    return Err(decode_error(&frame));
                }
            }
        }
        let bytes = (super::frame::HEADER_LEN + frame.payload.len()) as u64;
        self.sent += bytes;
        TOTAL_SENT.fetch_add(bytes, Ordering::Relaxed);
        result
    }

    /// Reads a frame; credit and pings are dealt with here and never returned, an error frame becomes an error.
    async fn read(&mut self, what: &'static str) -> Result<Frame, StreamError> {
        loop {
            let frame = self.read_any(what).await?;
            if frame.kind != Kind::Credit {
                return Ok(frame);
            }
        }
    }

    async fn read_any(&mut self, what: &'static str) -> Result<Frame, StreamError> {
        let after = self.deadline;
        loop {
            let frame = match timeout(after, read_frame(&mut self.io)).await {
                Ok(result) => result.map_err(|source| StreamError::Frame { what, source })?,
                Err(_) => return Err(StreamError::Deadline { what, after }),
            };
            let bytes = (super::frame::HEADER_LEN + frame.payload.len()) as u64;
            self.received += bytes;
            TOTAL_RECEIVED.fetch_add(bytes, Ordering::Relaxed);
            match frame.kind {
                Kind::Ping => {}
                Kind::Credit => {
                    // More than a window at once cannot be honest; saturating keeps arithmetic out of the peer's hands.
                    self.credit = self.credit.saturating_add(frame.tag).min(WINDOW);
                    return Ok(frame);
                }
                Kind::Error => return Err(decode_error(&frame)),
                Kind::Control | Kind::Bulk | Kind::End => return Ok(frame),
            }
        }
    }

    /// Sends a control message.
    pub async fn send<T: Serialize>(&mut self, message: &T) -> Result<(), StreamError> {
        let what = "send message";
        let payload = rmp_serde::to_vec_named(message).map_err(|source| StreamError::Message {
            what,
            source: source.into(),
        })?;
        self.write(
            what,
            &Frame {
                payload: payload.into(),
                ..Frame::bare(Kind::Control, 0)
            },
        )
        .await
    }

    /// Receives a control message.
    pub async fn recv<T: DeserializeOwned>(&mut self) -> Result<T, StreamError> {
        let what = "receive message";
        let frame = match self.queued.pop_front() {
            Some(frame) => frame,
            None => self.read(what).await?,
        };
        if frame.kind != Kind::Control {
            return Err(StreamError::Unexpected {
                what,
                expected: "a message",
                found: format!("{:?}", frame.kind),
            });
        }
        rmp_serde::from_slice(&frame.payload).map_err(|source| StreamError::Message {
            what,
            source: source.into(),
        })
    }

    /// Sends bulk; waits while the peer has not granted enough credit.
    pub async fn send_bulk(&mut self, bulk: Bulk) -> Result<(), StreamError> {
        let what = "send bulk";
        let cost = bulk.cost();
        while self.credit < cost {
            let frame = self.read_any("wait for credit").await?;
            if frame.kind != Kind::Credit {
                self.queued.push_back(frame);
                if self.queued.len() > QUEUED_MAX {
                    let found = format!("{} other frames", self.queued.len());
                    return Err(StreamError::Unexpected {
                        what,
                        expected: "credit",
                        found,
                    });
                }
            }
        }
        self.credit -= cost;
        let Bulk {
            tag,
            codec,
            raw_len,
            payload,
        } = bulk;
        self.write(
            what,
            &Frame {
                kind: Kind::Bulk,
                codec: codec.id(),
                raw_len,
                tag,
                payload,
            },
        )
        .await
    }

    /// Says that no more bulk follows.
    pub async fn send_end(&mut self) -> Result<(), StreamError> {
        self.write("send end", &Frame::bare(Kind::End, 0)).await
    }

    /// Receives bulk or its end.
    pub async fn recv_bulk(&mut self) -> Result<Received, StreamError> {
        let what = "receive bulk";
        let frame = match self.queued.pop_front() {
            Some(frame) => frame,
            None => self.read(what).await?,
        };
        match frame.kind {
            Kind::End => Ok(Received::End),
            Kind::Bulk => {
                let codec = Compression::from_id(frame.codec).ok_or_else(|| StreamError::Unexpected {
                    what,
                    expected: "a compression id of 0 to 5",
                    found: frame.codec.to_string(),
                })?;
                Ok(Received::Bulk(Bulk {
                    tag: frame.tag,
                    codec,
                    raw_len: frame.raw_len,
                    payload: frame.payload,
                }))
            }
            kind => Err(StreamError::Unexpected {
                what,
                expected: "bulk or end",
                found: format!("{kind:?}"),
            }),
        }
    }

    /// Gives back the credit of bulk that has been consumed; told to the peer in larger portions.
    pub async fn consumed(&mut self, bulk: &Bulk) -> Result<(), StreamError> {
        self.consumed += bulk.cost();
        if self.consumed >= WINDOW / 4 {
            let grant = std::mem::take(&mut self.consumed);
            self.write("grant credit", &Frame::bare(Kind::Credit, grant))
                .await?;
        }
        Ok(())
    }

    /// Tells the peer that we are still working.
    pub async fn ping(&mut self) -> Result<(), StreamError> {
        self.write("ping", &Frame::bare(Kind::Ping, 0)).await
    }

    /// Runs `work` and keeps the peer patient meanwhile.
    pub async fn working<T>(&mut self, work: impl Future<Output = T>) -> Result<T, StreamError> {
        let mut work = std::pin::pin!(work);
        loop {
            match timeout(PING_INTERVAL, &mut work).await {
                Ok(result) => return Ok(result),
                Err(_) => self.ping().await?,
            }
        }
    }

    /// Gives the stream up and tells the peer why. Never fails: the stream is over either way.
    pub async fn fail(&mut self, error: &ApiError) {
        let wire = WireError {
            code: error.code,
            message: error.message.chars().take(4000).collect(),
        };
        if let Ok(payload) = rmp_serde::to_vec_named(&wire) {
            let frame = Frame {
                payload: payload.into(),
                ..Frame::bare(Kind::Error, 0)
            };
            let _ = self.write("send error", &frame).await;
            let _ = timeout(Duration::from_secs(1), self.io.get_mut().shutdown()).await;
        }
    }

    /// Closes our direction in an orderly way.
    pub async fn close(mut self) {
        let _ = timeout(Duration::from_secs(1), self.io.get_mut().shutdown()).await;
    }
}

fn decode_error(frame: &Frame) -> StreamError {
    match rmp_serde::from_slice(&frame.payload) {
        Ok(error) => StreamError::Peer(error),
        Err(source) => StreamError::Message {
            what: "receive error",
            source: source.into(),
        },
    }
}
