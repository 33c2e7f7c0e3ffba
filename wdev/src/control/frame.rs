//! Frames of the control socket: a length, then so many bytes. A length beyond the limit ends the connection before
//! anything is allocated.

use std::io;

use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest request.
pub const REQUEST_MAX: u32 = 64 << 10;
/// Longest answer without its bulk.
pub const RESPONSE_MAX: u32 = 1 << 20;
/// Longest bulk: a logpack of the kernel driver can be large when a single IO was.
pub const BULK_MAX: u32 = 64 << 20;

/// Writes one message, and `bulk` behind it.
pub async fn send<T: Serialize>(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &T,
    bulk: &[u8],
) -> io::Result<()> {
    let body = rmp_serde::to_vec_named(message).map_err(io::Error::other)?;
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    let mut frame = Vec::with_capacity(4 + body.len());
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(&body);
    stream.write_all(&frame).await?;
    stream.write_all(bulk).await?;
    stream.flush().await
}

/// Reads one message of at most `max` bytes; `None` when the peer closed before the first byte.
pub async fn receive<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
    max: u32,
) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length).await {
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(e),
    }
    let length = u32::from_le_bytes(length);
    if length > max {
        return Err(bad(format!("frame of {length} bytes, expected at most {max}")));
    }
    let mut body = vec![0; length as usize];
    stream.read_exact(&mut body).await?;
    rmp_serde::from_slice(&body)
        .map(Some)
        .map_err(|e| bad(format!("frame is no message: {e}")))
}

/// Reads the bulk that an answer announced.
pub async fn receive_bulk(stream: &mut (impl AsyncRead + Unpin), length: u32) -> io::Result<Vec<u8>> {
    if length > BULK_MAX {
        return Err(bad(format!(
            "bulk of {length} bytes, expected at most {BULK_MAX}"
        )));
    }
    let mut bulk = vec![0; length as usize];
    stream.read_exact(&mut bulk).await?;
    Ok(bulk)
}

fn bad(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
