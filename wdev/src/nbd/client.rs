//! A small blocking NBD client over a unix socket: the guest of tests, and a second, independent way to read a device.
//!
//! Each call waits for its answer. For many requests in flight use [`NbdClient::start`] and [`NbdClient::finish`].

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::protocol::{
    FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES, MAGIC, OPTION_MAGIC, OPTION_REPLY_MAGIC, REQUEST_BYTES, Request,
    SIMPLE_REPLY_BYTES, SIMPLE_REPLY_MAGIC, be16, be32, be64, cmd, cmd_flag, flag, info, opt, rep,
};

/// Why a client call failed.
#[derive(Debug, thiserror::Error)]
pub enum NbdClientError {
    /// The socket could not be opened, or the connection broke.
    #[error("NBD client of {}: {act}", socket.display())]
    Io {
        /// The server's socket.
        socket: PathBuf,
        /// What was being done.
        act: &'static str,
        /// What happened.
        #[source]
        source: io::Error,
    },
    /// The server said something that NBD does not allow at this place.
    #[error("NBD client of {}: {what}: found {found:#x}, expected {expected}", socket.display())]
    Protocol {
        /// The server's socket.
        socket: PathBuf,
        /// Which field.
        what: &'static str,
        /// What it held.
        found: u64,
        /// What it should hold.
        expected: &'static str,
    },
    /// The server refused the export.
    #[error("NBD client of {}: export {export:?} refused: {message} (reply {code:#x})", socket.display())]
    Refused {
        /// The server's socket.
        socket: PathBuf,
        /// The export asked for.
        export: String,
        /// The reply's type.
        code: u32,
        /// The server's words.
        message: String,
    },
    /// The server answered a request with an error.
    #[error("NBD {command} of {length} bytes at {offset} failed: {}", io::Error::from_raw_os_error(*errno))]
    Failed {
        /// The command.
        command: &'static str,
        /// Its offset.
        offset: u64,
        /// Its length.
        length: u32,
        /// The error number of the reply.
        errno: i32,
    },
}

/// An answer to a request made with [`NbdClient::start`].
#[derive(Debug)]
pub struct Finished {
    /// The number that `start` returned.
    pub cookie: u64,
    /// The data of a read, or nothing.
    pub result: Result<Vec<u8>, NbdClientError>,
}

/// A request to start.
#[derive(Debug, Clone, Copy)]
pub enum Command<'a> {
    /// Read so many bytes.
    Read {
        /// Where.
        offset: u64,
        /// How many.
        length: u32,
    },
    /// Write these bytes.
    Write {
        /// Where.
        offset: u64,
        /// What.
        data: &'a [u8],
        /// Whether it must be persistent when answered.
        fua: bool,
    },
    /// Make everything answered so far persistent.
    Flush,
    /// These bytes are not needed any more.
    Trim {
        /// Where.
        offset: u64,
        /// How many.
        length: u32,
    },
    /// These bytes become zero.
    WriteZeroes {
        /// Where.
        offset: u64,
        /// How many.
        length: u32,
        /// Whether the room must stay allocated.
        no_hole: bool,
        /// Whether it must be persistent when answered.
        fua: bool,
    },
}

/// One connection to an export.
#[derive(Debug)]
pub struct NbdClient {
    socket: PathBuf,
    stream: UnixStream,
    size: u64,
    flags: u16,
    max_block: u32,
    next_cookie: u64,
    started: HashMap<u64, Request>,
}

/// The longest piece of one request that the simple calls make.
const PIECE: u32 = 1 << 20;
/// The longest option reply believed.
const MAX_REPLY: u32 = 64 << 10;

impl NbdClient {
    /// Connects to `socket` and chooses an export; the empty name is the server's default export.
    pub fn connect(socket: &Path, export: &str) -> Result<Self, NbdClientError> {
        let stream = UnixStream::connect(socket).map_err(|source| NbdClientError::Io {
            socket: socket.to_owned(),
            act: "connect",
            source,
        })?;
        let mut client = Self {
            socket: socket.to_owned(),
            stream,
            size: 0,
            flags: 0,
            max_block: 32 << 20,
            next_cookie: 1,
            started: HashMap::new(),
        };
        client.choose(export)?;
        Ok(client)
    }

    /// The connection, for those who go on with it by themselves.
    pub fn into_stream(mut self) -> io::Result<UnixStream> {
        // The farewell goes to nobody.
        let (nobody, _) = UnixStream::pair()?;
        Ok(std::mem::replace(&mut self.stream, nobody))
    }

    /// Bytes of the export.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Transmission flags of the export (`protocol::flag`).
    pub fn flags(&self) -> u16 {
        self.flags
    }

    /// Bounds the wait for any answer; `None` waits for ever.
    pub fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.stream.set_read_timeout(timeout)?;
        self.stream.set_write_timeout(timeout)
    }

    /// Reads `length` bytes at `offset`.
    pub fn read(&mut self, offset: u64, length: usize) -> Result<Vec<u8>, NbdClientError> {
        let mut all = Vec::with_capacity(length);
        while all.len() < length {
            let piece = u32::try_from(length - all.len())
                .unwrap_or(u32::MAX)
                .min(PIECE.min(self.max_block));
            self.start(Command::Read {
                offset: offset + all.len() as u64,
                length: piece,
            })?;
            all.extend(self.finish()?.result?);
        }
        Ok(all)
    }

    /// Writes `data` at `offset`; it is persistent only after a later [`NbdClient::flush`].
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), NbdClientError> {
        self.write_pieces(offset, data, false)
    }

    /// Writes `data` at `offset`, persistent when this returns.
    pub fn write_fua(&mut self, offset: u64, data: &[u8]) -> Result<(), NbdClientError> {
        self.write_pieces(offset, data, true)
    }

    fn write_pieces(&mut self, offset: u64, data: &[u8], fua: bool) -> Result<(), NbdClientError> {
        let mut at = offset;
        for piece in data.chunks(PIECE.min(self.max_block) as usize) {
            self.start(Command::Write {
                offset: at,
                data: piece,
                fua,
            })?;
            self.finish()?.result?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// Makes every write answered before persistent.
    pub fn flush(&mut self) -> Result<(), NbdClientError> {
        self.call(Command::Flush)
    }

    /// Tells the device that `length` bytes are not needed any more.
    pub fn trim(&mut self, offset: u64, length: u32) -> Result<(), NbdClientError> {
        self.call(Command::Trim { offset, length })
    }

    /// Makes `length` bytes zero. With `no_hole` the room for them stays allocated.
    pub fn write_zeroes(&mut self, offset: u64, length: u32, no_hole: bool) -> Result<(), NbdClientError> {
        self.call(Command::WriteZeroes {
            offset,
            length,
            no_hole,
            fua: false,
        })
    }

    /// Copies the whole export to `out`, piece by piece; returns the bytes copied.
    pub fn copy_to(&mut self, out: &mut impl Write) -> Result<u64, NbdClientError> {
        let mut at = 0;
        while at < self.size {
            let piece = usize::try_from(self.size - at)
                .unwrap_or(usize::MAX)
                .min(PIECE as usize);
            let data = self.read(at, piece)?;
            out.write_all(&data)
                .map_err(|source| self.io("write the copy", source))?;
            at += data.len() as u64;
        }
        Ok(at)
    }

    /// Leaves politely. Dropping the client does the same without waiting.
    pub fn disconnect(mut self) -> Result<(), NbdClientError> {
        self.send(cmd::DISC, 0, 0, 0, &[])?;
        let mut rest = [0; 1];
        match self.stream.read(&mut rest) {
            Ok(0) => Ok(()),
            Ok(_) => Err(self.protocol(
                "byte after disconnect",
                rest[0].into(),
                "the end of the connection",
            )),
            Err(source) => Err(self.io("wait for the end", source)),
        }
    }

    /// Sends a request without waiting for its answer; returns the cookie that its [`Finished`] will carry.
    ///
    /// Every `start` needs one `finish`. Whoever starts more than the server takes at once (a few hundred requests or
    /// tens of MiB) without finishing any blocks here for ever.
    pub fn start(&mut self, command: Command<'_>) -> Result<u64, NbdClientError> {
        let fua_flag = |fua| if fua { cmd_flag::FUA } else { 0 };
        match command {
            Command::Read { offset, length } => self.send(cmd::READ, 0, offset, length, &[]),
            Command::Write { offset, data, fua } => {
                let length = u32::try_from(data.len())
                    .map_err(|_| self.protocol("length of a write", data.len() as u64, "below 4 GiB"))?;
                self.send(cmd::WRITE, fua_flag(fua), offset, length, data)
            }
            Command::Flush => self.send(cmd::FLUSH, 0, 0, 0, &[]),
            Command::Trim { offset, length } => self.send(cmd::TRIM, 0, offset, length, &[]),
            Command::WriteZeroes {
                offset,
                length,
                no_hole,
                fua,
            } => {
                let no_hole = if no_hole { cmd_flag::NO_HOLE } else { 0 };
                self.send(cmd::WRITE_ZEROES, fua_flag(fua) | no_hole, offset, length, &[])
            }
        }
    }

    /// Waits for the next answer, of whichever request.
    pub fn finish(&mut self) -> Result<Finished, NbdClientError> {
        let head: [u8; SIMPLE_REPLY_BYTES] = self.take("read a reply")?;
        if be32(&head, 0) != SIMPLE_REPLY_MAGIC {
            return Err(self.protocol("reply magic", be32(&head, 0).into(), "a simple reply"));
        }
        let (errno, cookie) = (be32(&head, 4), be64(&head, 8));
        let Some(request) = self.started.remove(&cookie) else {
            return Err(self.protocol("cookie of a reply", cookie, "one of a request in flight"));
        };
        if errno != 0 {
            return Ok(Finished {
                cookie,
                result: Err(NbdClientError::Failed {
                    command: command_name(request.kind),
                    offset: request.offset,
                    length: request.length,
                    errno: i32::try_from(errno).unwrap_or(i32::MAX),
                }),
            });
        }
        let mut data = vec![
            0;
            if request.kind == cmd::READ {
                request.length as usize
            } else {
                0
            }
        ];
        self.stream
            .read_exact(&mut data)
            .map_err(|source| self.io("read data", source))?;
        Ok(Finished {
            cookie,
            result: Ok(data),
        })
    }

    fn call(&mut self, command: Command<'_>) -> Result<(), NbdClientError> {
        self.start(command)?;
        self.finish()?.result.map(drop)
    }

    fn send(
        &mut self,
        kind: u16,
        flags: u16,
        offset: u64,
        length: u32,
        data: &[u8],
    ) -> Result<u64, NbdClientError> {
        let request = Request {
            flags,
            kind,
            cookie: self.next_cookie,
            offset,
            length,
        };
        self.next_cookie += 1;
        let mut frame = Vec::with_capacity(REQUEST_BYTES + data.len());
        frame.extend_from_slice(&request.encode());
        frame.extend_from_slice(data);
        self.stream
            .write_all(&frame)
            .map_err(|source| self.io("send a request", source))?;
        if kind != cmd::DISC {
            self.started.insert(request.cookie, request);
        }
        Ok(request.cookie)
    }

    fn choose(&mut self, export: &str) -> Result<(), NbdClientError> {
        let hello: [u8; 18] = self.take("read the greeting")?;
        if be64(&hello, 0) != MAGIC || be64(&hello, 8) != OPTION_MAGIC {
            return Err(self.protocol("greeting", be64(&hello, 8), "a newstyle NBD server"));
        }
        let offered = be16(&hello, 16);
        if offered & FLAG_FIXED_NEWSTYLE == 0 {
            return Err(self.protocol("handshake flags", offered.into(), "fixed newstyle"));
        }
        let flags = u32::from(offered & (FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES));
        let name_length = u32::try_from(export.len()).unwrap_or(u32::MAX);
        let mut frame = flags.to_be_bytes().to_vec();
        frame.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
        for number in [opt::GO, name_length.saturating_add(8), name_length] {
            frame.extend_from_slice(&number.to_be_bytes());
        }
        frame.extend_from_slice(export.as_bytes());
        frame.extend_from_slice(&1_u16.to_be_bytes());
        frame.extend_from_slice(&info::BLOCK_SIZE.to_be_bytes());
        self.stream
            .write_all(&frame)
            .map_err(|source| self.io("ask for the export", source))?;
        loop {
            let head: [u8; 20] = self.take("read an option reply")?;
            let (magic, kind, length) = (be64(&head, 0), be32(&head, 12), be32(&head, 16));
            if magic != OPTION_REPLY_MAGIC {
                return Err(self.protocol("option reply magic", magic, "an option reply"));
            }
            if length > MAX_REPLY {
                return Err(self.protocol("length of an option reply", length.into(), "at most 64 KiB"));
            }
            let mut data = vec![0; length as usize];
            self.stream
                .read_exact(&mut data)
                .map_err(|source| self.io("read an option reply", source))?;
            match kind {
                rep::ACK => return Ok(()),
                rep::INFO => self.note_info(&data),
                code => {
                    return Err(NbdClientError::Refused {
                        socket: self.socket.clone(),
                        export: export.to_owned(),
                        code,
                        message: String::from_utf8_lossy(&data).chars().take(200).collect(),
                    });
                }
            }
        }
    }

    fn note_info(&mut self, data: &[u8]) {
        match (data.len(), data.get(..2).map(|d| be16(d, 0))) {
            (12, Some(info::EXPORT)) => {
                self.size = be64(data, 2);
                self.flags = be16(data, 10);
            }
            (14, Some(info::BLOCK_SIZE)) => self.max_block = be32(data, 10).max(512),
            _ => {}
        }
    }

    /// Whether the export promises `flag` (one of `protocol::flag`).
    pub fn can(&self, flag: u16) -> bool {
        self.flags & (flag | flag::HAS_FLAGS) == flag | flag::HAS_FLAGS
    }

    fn take<const N: usize>(&mut self, act: &'static str) -> Result<[u8; N], NbdClientError> {
        let mut raw = [0; N];
        self.stream
            .read_exact(&mut raw)
            .map_err(|source| self.io(act, source))?;
        Ok(raw)
    }

    fn io(&self, act: &'static str, source: io::Error) -> NbdClientError {
        NbdClientError::Io {
            socket: self.socket.clone(),
            act,
            source,
        }
    }

    fn protocol(&self, what: &'static str, found: u64, expected: &'static str) -> NbdClientError {
        NbdClientError::Protocol {
            socket: self.socket.clone(),
            what,
            found,
            expected,
        }
    }
}

impl Drop for NbdClient {
    fn drop(&mut self) {
        // A farewell; the server would also accept the connection just ending.
        let _ = self.send(cmd::DISC, 0, 0, 0, &[]);
    }
}

fn command_name(kind: u16) -> &'static str {
    match kind {
        cmd::READ => "read",
        cmd::WRITE => "write",
        cmd::FLUSH => "flush",
        cmd::TRIM => "trim",
        cmd::WRITE_ZEROES => "write zeroes",
        _ => "request",
    }
}
