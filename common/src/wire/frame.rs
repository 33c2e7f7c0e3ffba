//! One frame: a 32-byte header, then at most a bounded number of payload bytes. Byte table: docs/formats/wire.md.
//!
//! ```text
//!  0 u8  kind          1 u8 codec (bulk)     2 u16 zero
//!  4 u32 length of the payload               8 u32 raw length (bulk: after decompression)    12 u32 zero
//! 16 u64 tag (bulk: what the payload is of, e.g. an address; credit: bytes granted)
//! 24 u64 XXH3-64 of header bytes 0..24 followed by the payload
//! ```

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use xxhash_rust::xxh3::Xxh3Default;

use bytes::Bytes;

/// Bytes of a frame header.
pub const HEADER_LEN: usize = 32;
/// Most payload bytes of a control, error or end frame.
pub const CONTROL_MAX: usize = 64 << 10;
/// Most payload bytes of a bulk frame, and most bytes it may decompress to.
pub const BULK_MAX: usize = 4 << 20;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A MessagePack message.
    Control = 1,
    /// Raw bytes of the stream.
    Bulk = 2,
    /// The receiver lets the sender send more.
    Credit = 3,
    /// No more bulk frames follow.
    End = 4,
    /// The sender gives up; MessagePack with the reason.
    Error = 5,
    /// "Still alive, still working": restarts the peer's deadline.
    Ping = 6,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Control,
            2 => Self::Bulk,
            3 => Self::Credit,
            4 => Self::End,
            5 => Self::Error,
            6 => Self::Ping,
            _ => return None,
        })
    }

    fn payload_max(self) -> usize {
        match self {
            Self::Control | Self::Error => CONTROL_MAX,
            Self::Bulk => BULK_MAX,
            Self::Credit | Self::End | Self::Ping => 0,
        }
    }
}

/// A frame as sent or received; the checksum has been verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: Kind,
    /// Bulk: the compression id of the payload (types::Compression).
    pub codec: u8,
    /// Bulk: length after decompression.
    pub raw_len: u32,
    /// Bulk: the stream's own meaning. Credit: bytes granted.
    pub tag: u64,
    /// The payload.
    pub payload: Bytes,
}

impl Frame {
    /// A frame that carries only its kind and a number.
    pub fn bare(kind: Kind, tag: u64) -> Self {
        Self {
            kind,
            codec: 0,
            raw_len: 0,
            tag,
            payload: Bytes::new(),
        }
    }
}

/// What arrived is no frame we accept.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The connection broke.
    #[error("connection to the peer")]
    Io(#[from] std::io::Error),
    /// The peer closed the connection between two frames.
    #[error("the peer closed the connection before the stream was complete")]
    Closed,
    /// An unknown kind: not our protocol, or damaged.
    #[error("unknown kind of frame: expected 1 to 6, found {found}")]
    Kind {
        /// The byte.
        found: u8,
    },
    /// A length above the bound; nothing was allocated for it.
    #[error("{kind:?} frame too long: at most {max} bytes allowed, {found} announced")]
    TooLong {
        /// Kind of frame.
        kind: Kind,
        /// The bound.
        max: usize,
        /// The announced length.
        found: usize,
    },
    /// Damaged on the way.
    #[error("frame checksum mismatch: expected {expected:016x}, found {found:016x}")]
    Checksum {
        /// As sent.
        expected: u64,
        /// As computed over what arrived.
        found: u64,
    },
}

fn checksum(head: &[u8], payload: &[u8]) -> u64 {
    let mut hash = Xxh3Default::new();
    hash.update(head);
    hash.update(payload);
    hash.digest()
}

/// Writes one frame; the caller flushes.
pub async fn write_frame<W: AsyncWrite + Unpin>(out: &mut W, frame: &Frame) -> Result<(), FrameError> {
    let max = frame.kind.payload_max();
    if frame.payload.len() > max {
        return Err(FrameError::TooLong {
            kind: frame.kind,
            max,
            found: frame.payload.len(),
        });
    }
    let mut header = [0; HEADER_LEN];
    header[0] = frame.kind as u8;
    header[1] = frame.codec;
    let length = u32::try_from(frame.payload.len()).expect("bounded by payload_max");
    header[4..8].copy_from_slice(&length.to_le_bytes());
    header[8..12].copy_from_slice(&frame.raw_len.to_le_bytes());
    header[16..24].copy_from_slice(&frame.tag.to_le_bytes());
    let sum = checksum(&header[..24], &frame.payload);
    header[24..].copy_from_slice(&sum.to_le_bytes());
    out.write_all(&header).await?;
    out.write_all(&frame.payload).await?;
    Ok(())
}

/// Reads one frame. Its length is checked before anything is allocated.
pub async fn read_frame<R: AsyncRead + Unpin>(input: &mut R) -> Result<Frame, FrameError> {
    let mut header = [0; HEADER_LEN];
    let mut got = 0;
    while got < HEADER_LEN {
        match input.read(&mut header[got..]).await? {
            0 if got == 0 => return Err(FrameError::Closed),
            0 => return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()),
            n => got += n,
        }
    }
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let double = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
    let kind = Kind::from_byte(header[0]).ok_or(FrameError::Kind { found: header[0] })?;
    let (length, raw_len) = (word(4) as usize, word(8));
    for (found, max) in [(length, kind.payload_max()), (raw_len as usize, BULK_MAX)] {
        if found > max {
            return Err(FrameError::TooLong { kind, max, found });
        }
    }
    let mut payload = vec![0; length];
    input.read_exact(&mut payload).await?;
    let (expected, found) = (double(24), checksum(&header[..24], &payload));
    if expected != found {
        return Err(FrameError::Checksum { expected, found });
    }
    Ok(Frame {
        kind,
        codec: header[1],
        raw_len,
        tag: double(16),
        payload: payload.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn encoded(frame: &Frame) -> Vec<u8> {
        let mut out = Vec::new();
        write_frame(&mut out, frame).await.unwrap();
        out
    }

    fn bulk() -> Frame {
        Frame {
            kind: Kind::Bulk,
            codec: 4,
            raw_len: 1024,
            tag: 7,
            payload: Bytes::from_static(b"some bytes"),
        }
    }

    #[tokio::test]
    async fn a_frame_comes_back_as_it_was_sent() {
        let frame = bulk();
        assert_eq!(
            read_frame(&mut encoded(&frame).await.as_slice()).await.unwrap(),
            frame
        );
    }

    #[tokio::test]
    async fn every_flipped_bit_of_a_frame_is_noticed() {
        let good = encoded(&bulk()).await;
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(read_frame(&mut bad.as_slice()).await.is_err(), "bit {bit}");
        }
    }

    #[tokio::test]
    async fn a_frame_longer_than_allowed_is_refused_before_it_is_read() {
        let mut bad = encoded(&bulk()).await;
        bad[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        let error = read_frame(&mut bad.as_slice()).await.unwrap_err();
        assert!(
            matches!(
                error,
                FrameError::TooLong {
                    found: 0xffff_ffff,
                    ..
                }
            ),
            "{error}"
        );
    }

    #[tokio::test]
    async fn garbage_and_truncation_are_told_apart() {
        let error = read_frame(&mut &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n and more"[..])
            .await
            .unwrap_err();
        assert!(matches!(error, FrameError::Kind { found: b'G' }), "{error}");
        assert!(matches!(
            read_frame(&mut &b""[..]).await.unwrap_err(),
            FrameError::Closed
        ));
        let good = encoded(&bulk()).await;
        assert!(matches!(
            read_frame(&mut &good[..20]).await.unwrap_err(),
            FrameError::Io(_)
        ));
    }
}
