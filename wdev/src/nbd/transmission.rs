//! The second phase of a connection: requests in, answers out, many at a time and in any order.

use std::io::{self, BufReader, Read};
use std::sync::Arc;

use bytes::Bytes;

use super::contexts::block_status;
use super::exports::Export;
use super::handshake::Agreed;
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
    /// A write with so much more payload than advertised as the maximum that nobody means it.
    #[error("NBD connection: a write of {found} bytes, expected at most {MAX_PAYLOAD}")]
    PayloadTooLong {
        /// The request's length.
        found: u32,
    },
}

/// The longest payload that is read past, and its request refused, rather than ending the connection.
const SKIPPED_MAX: u32 = 2 * MAX_PAYLOAD;
/// Zeroes are logged like data: more of them than this go piece by piece, so that other requests get in between.
const ZEROES_AT_ONCE: u64 = 4 << 20;

/// Reads requests and submits them until the client leaves. Answers go through `window`.
///
/// What has arrived is submitted together, and this thread may do it by itself: until it is back, nothing more is read, and
/// what comes meanwhile is the next batch.
pub fn serve_requests<R: Read>(
    input: &mut BufReader<R>,
    agreed: &Agreed,
    window: &Arc<Window>,
) -> Result<(), TransmissionError> {
    let mut arrived = Arrived {
        requests: Vec::new(),
        export: &agreed.export,
        window,
    };
    let served = take_requests(input, agreed, &mut arrived);
    // Whatever was wrong with the request after them.
    arrived.submit();
    served
}

/// Claimed requests that the device does not have yet.
struct Arrived<'a> {
    requests: Vec<IoRequest>,
    export: &'a Export,
    window: &'a Arc<Window>,
}

impl Arrived<'_> {
    fn submit(&mut self) {
        if !self.requests.is_empty() {
            let requests = std::mem::take(&mut self.requests);
            self.window.gather(|| self.export.device().submit_here(requests));
        }
    }
}

fn take_requests<R: Read>(
    input: &mut BufReader<R>,
    agreed: &Agreed,
    arrived: &mut Arrived<'_>,
) -> Result<(), TransmissionError> {
    let (export, window) = (&agreed.export, arrived.window);
    loop {
        if !next_is_here(input) {
            arrived.submit();
        }
        let Some(request) = next_request(input)? else {
            return Ok(());
        };
        let carried = if request.kind == cmd::WRITE {
            request.length
        } else {
            0
        };
        if carried > SKIPPED_MAX {
            return Err(TransmissionError::PayloadTooLong { found: carried });
        }
        // Claimed before a byte of payload is taken in: a full window stops us from reading the connection.
        let cost = match request.kind {
            cmd::WRITE | cmd::READ => u64::from(request.length.min(MAX_PAYLOAD)),
            _ => 0,
        };
        if !window.has_room(cost) {
            // The room may be that of requests which have to be submitted first.
            arrived.submit();
        }
        if !window.claim(cost) {
            return Ok(()); // the writer has reported why
        }
        let payload = take_payload(input, carried).map_err(|source| {
            window.forfeit(cost);
            TransmissionError::Io {
                act: "read the payload of a write",
                source,
            }
        })?;
        let answer = Answer {
            request,
            structured: agreed.structured,
            cost,
            window: window.clone(),
        };
        let work = to_work(&request, payload, agreed);
        if !matches!(work, Ok(Work::Submit(_))) {
            // Answered at once, and from what the requests before it left: they go first.
            arrived.submit();
        }
        match work {
            Ok(Work::Submit(op)) => {
                let done =
                    Box::new(move |result: Result<Bytes, IoErrno>| answer.send(result.map_err(to_errno)));
                arrived.requests.push(in_pieces(export, IoRequest { op, done }));
            }
            Ok(Work::Nothing) => answer.send(Ok(Bytes::new())),
            Ok(Work::BlockStatus) => {
                let range = (request.offset, request.length);
                let one = request.flags & cmd_flag::REQ_ONE != 0;
                match block_status(export, &agreed.contexts, request.cookie, range, one) {
                    Ok(chunks) => window.answer(Reply::chunks(chunks)),
                    Err(errno) => answer.send(Err(errno)),
                }
            }
            Err(errno) => answer.send(Err(errno)),
        }
    }
}

/// Whether all of the next request has been read from the connection, or so much that it is refused: taking it does not wait.
fn next_is_here<R: Read>(input: &BufReader<R>) -> bool {
    let Some((head, rest)) = input.buffer().split_first_chunk::<REQUEST_BYTES>() else {
        return false;
    };
    match Request::decode(head) {
        Ok(request) if request.kind == cmd::WRITE => rest.len() >= request.length as usize,
        Ok(_) | Err(_) => true,
    }
}

/// The payload of a write. More than is allowed is read past, and comes back empty.
fn take_payload(input: &mut impl Read, length: u32) -> io::Result<Bytes> {
    if length > MAX_PAYLOAD {
        let skipped = io::copy(&mut Read::take(input, length.into()), &mut io::sink())?;
        return if skipped == u64::from(length) {
            Ok(Bytes::new())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        };
    }
    let mut payload = vec![0; length as usize];
    input.read_exact(&mut payload)?;
    Ok(payload.into())
}

/// The request itself, or the first piece of a long one of zeroes, which submits the others one after the other. The last
/// piece alone needs to be durable for all to be: the log is in order.
fn in_pieces(export: &Arc<Export>, request: IoRequest) -> IoRequest {
    let IoRequest { op, done } = request;
    match op {
        IoOp::WriteZeroes {
            offset,
            len,
            fua,
            no_hole,
        } if len > ZEROES_AT_ONCE => {
            let piece = |offset, len, fua| IoOp::WriteZeroes {
                offset,
                len,
                fua,
                no_hole,
            };
            let rest = piece(offset + ZEROES_AT_ONCE, len - ZEROES_AT_ONCE, fua);
            let export_of_rest = export.clone();
            let next = Box::new(move |result: Result<Bytes, IoErrno>| match result {
                Ok(_) => {
                    let rest = in_pieces(&export_of_rest, IoRequest { op: rest, done });
                    export_of_rest.device().submit(rest);
                }
                Err(errno) => done(Err(errno)),
            });
            IoRequest {
                op: piece(offset, ZEROES_AT_ONCE, false),
                done: next,
            }
        }
        op => IoRequest { op, done },
    }
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
        // Block status has structured replies only, so its errors come as such too.
        let reply = if self.structured && matches!(kind, cmd::READ | cmd::BLOCK_STATUS) {
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

/// What a request comes to.
enum Work {
    Submit(IoOp),
    BlockStatus,
    /// Only advice, or done by being asked.
    Nothing,
}

fn to_work(request: &Request, payload: Bytes, agreed: &Agreed) -> Result<Work, Errno> {
    let export = &agreed.export;
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
            cmd::READ if agreed.structured => cmd_flag::DF,
            cmd::WRITE_ZEROES => cmd_flag::NO_HOLE | cmd_flag::FAST_ZERO,
            cmd::BLOCK_STATUS => cmd_flag::REQ_ONE,
            _ => 0,
        };
    if flags & !allowed != 0 {
        return Err(Errno::Inval);
    }
    if matches!(kind, cmd::WRITE | cmd::TRIM | cmd::WRITE_ZEROES)
        && let Some(errno) = export.refuses_writes()
    {
        return Err(errno);
    }
    let too_long = matches!(kind, cmd::READ | cmd::WRITE) && length > MAX_PAYLOAD;
    if kind != cmd::FLUSH && length == 0 || too_long {
        return Err(Errno::Inval);
    }
    let len = u64::from(length);
    let op = match kind {
        // The last two are checked like a read of the range.
        cmd::READ | cmd::CACHE | cmd::BLOCK_STATUS => IoOp::Read { offset, len: length },
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
    match kind {
        cmd::BLOCK_STATUS if agreed.contexts.is_empty() => Err(Errno::Inval),
        cmd::BLOCK_STATUS => Ok(Work::BlockStatus),
        // Caching ahead is only advice, and the device's page cache does as well without.
        cmd::CACHE => Ok(Work::Nothing),
        // Never quicker than writing zeros: they are logged like data.
        cmd::WRITE_ZEROES if flags & cmd_flag::FAST_ZERO != 0 => Err(Errno::NotSup),
        _ => Ok(Work::Submit(op)),
    }
}

pub(super) fn to_errno(errno: IoErrno) -> Errno {
    match errno {
        IoErrno::EINVAL => Errno::Inval,
        IoErrno::ENOSPC => Errno::NoSpc,
        IoErrno::ESHUTDOWN => Errno::Shutdown,
        _ => Errno::Io,
    }
}
