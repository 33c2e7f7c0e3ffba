//! The second phase of a connection: requests in, answers out, many at a time and in any order.

use std::io::{self, Read};
use std::sync::Arc;

use bytes::Bytes;

use super::exports::Export;
use super::protocol::{Errno, MAX_PAYLOAD, REQUEST_BYTES, Request, cmd, cmd_flag};
use super::window::{Reply, Window};
use crate::block::{IoErrno, IoOp, IoRequest};

/// Why a connection was closed by us.
#[derive(Debug, thiserror::Error)]
pub enum TransmissionError {
    /// The client went away in the middle of something, or the connection broke.
    #[error("NBD connection: {act}")]
    Io {
        /// What was being read.
        act: &'static str,
        /// What happened.
        #[source]
        source: io::Error,
    },
    /// A request did not start with its magic: from here on nothing can be understood.
    #[error("NBD connection: request magic {found:#010x}, expected 0x25609513")]
    Magic {
        /// What the client sent.
        found: u32,
    },
    /// A write with more payload than advertised as the maximum.
    #[error("NBD connection: a write of {found} bytes, expected at most {MAX_PAYLOAD}")]
    PayloadTooLong {
        /// The request's length.
        found: u32,
    },
}

/// Reads requests and submits them until the client leaves. Answers go through `window`.
pub fn serve_requests(
    input: &mut impl Read,
    export: &Arc<Export>,
    structured: bool,
    window: &Arc<Window>,
) -> Result<(), TransmissionError> {
    while let Some(request) = next_request(input)? {
        let carried = if request.kind == cmd::WRITE {
            request.length
        } else {
            0
        };
        if carried > MAX_PAYLOAD {
            return Err(TransmissionError::PayloadTooLong { found: carried });
        }
        // Claimed before a byte of payload is taken in: a full window stops us from reading the connection.
        let cost = match request.kind {
            cmd::WRITE | cmd::READ => u64::from(request.length.min(MAX_PAYLOAD)),
            _ => 0,
        };
        if !window.claim(cost) {
            return Ok(()); // the writer has reported why
        }
        let mut payload = vec![0; carried as usize];
        if let Err(source) = input.read_exact(&mut payload) {
            window.forfeit(cost);
            return Err(TransmissionError::Io {
                act: "read the payload of a write",
                source,
            });
        }
        let answer = Answer {
            request,
            structured,
            cost,
            window: window.clone(),
        };
        match to_operation(&request, payload.into(), structured, export) {
            Ok(Some(op)) => {
                let done =
                    Box::new(move |result: Result<Bytes, IoErrno>| answer.send(result.map_err(to_errno)));
                export.device().submit(IoRequest { op, done });
            }
            Ok(None) => answer.send(Ok(Bytes::new())),
            Err(errno) => answer.send(Err(errno)),
        }
    }
    Ok(())
}

/// What is needed to answer a request; travels with it through the device.
struct Answer {
    request: Request,
    structured: bool,
    cost: u64,
    window: Arc<Window>,
}

impl Answer {
    fn send(self, mut result: Result<Bytes, Errno>) {
        let Request {
            cookie,
            kind,
            offset,
            length,
            ..
        } = self.request;
        let expected = if kind == cmd::READ { length as usize } else { 0 };
        if let Ok(data) = &result
            && data.len() != expected
        {
            // Sent as it is, the client would take the next answer for data.
            tracing::error!(
                found = data.len(),
                expected,
                "a device answered with the wrong amount of data"
            );
            result = Err(Errno::Io);
        }
        let reply = if self.structured && kind == cmd::READ {
            Reply::structured(cookie, offset, result, self.cost)
        } else {
            Reply::simple(cookie, result, self.cost)
        };
        self.window.answer(reply);
    }
}

/// The next request; `None` when the client has left, with or without saying so, between two requests.
fn next_request(input: &mut impl Read) -> Result<Option<Request>, TransmissionError> {
    let mut raw = [0; REQUEST_BYTES];
    let mut filled = 0;
    while filled < raw.len() {
        match input.read(&mut raw[filled..]) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => {
                let source = io::ErrorKind::UnexpectedEof.into();
                return Err(TransmissionError::Io {
                    act: "read a request header",
                    source,
                });
            }
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if filled == 0 && e.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            Err(source) => {
                return Err(TransmissionError::Io {
                    act: "read a request",
                    source,
                });
            }
        }
    }
    let request = Request::decode(&raw).map_err(|found| TransmissionError::Magic { found })?;
    Ok((request.kind != cmd::DISC).then_some(request))
}

/// What a request asks of the device; `None` when there is nothing to do.
fn to_operation(
    request: &Request,
    payload: Bytes,
    structured: bool,
    export: &Export,
) -> Result<Option<IoOp>, Errno> {
    let Request {
        flags,
        kind,
        offset,
        length,
        ..
    } = *request;
    let fua = flags & cmd_flag::FUA != 0;
    // FUA is allowed on every command; where nothing is written it means nothing.
    let allowed = cmd_flag::FUA
        | match kind {
            cmd::READ if structured => cmd_flag::DF,
            cmd::WRITE_ZEROES => cmd_flag::NO_HOLE,
            _ => 0,
        };
    if flags & !allowed != 0 {
        return Err(Errno::Inval);
    }
    if matches!(kind, cmd::WRITE | cmd::TRIM | cmd::WRITE_ZEROES) && export.refuses_writes() {
        return Err(Errno::Perm);
    }
    if kind != cmd::FLUSH && length == 0 || kind == cmd::READ && length > MAX_PAYLOAD {
        return Err(Errno::Inval);
    }
    let len = u64::from(length);
    let op = match kind {
        cmd::READ | cmd::CACHE => IoOp::Read { offset, len: length },
        cmd::WRITE => IoOp::Write {
            offset,
            data: payload,
            fua,
        },
        cmd::FLUSH => IoOp::Flush,
        cmd::TRIM => IoOp::Discard { offset, len, fua },
        cmd::WRITE_ZEROES => IoOp::WriteZeroes {
            offset,
            len,
            fua,
            no_hole: flags & cmd_flag::NO_HOLE != 0,
        },
        _ => return Err(Errno::Inval),
    };
    op.check(export.size()).map_err(to_errno)?;
    // Caching ahead is only advice, and the device's page cache does as well without.
    Ok((kind != cmd::CACHE).then_some(op))
}

fn to_errno(errno: IoErrno) -> Errno {
    match errno {
        IoErrno::EINVAL => Errno::Inval,
        IoErrno::ENOSPC => Errno::NoSpc,
        IoErrno::EROFS => Errno::Perm,
        IoErrno::ESHUTDOWN => Errno::Shutdown,
        _ => Errno::Io,
    }
}
