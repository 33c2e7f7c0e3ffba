//! NBD on the wire: numbers and fixed-size frames. Everything is big-endian. Only this file knows the byte layout.
//!
//! The protocol is specified at <https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md>.

/// The NBD protocol's 32-bit error numbers that a reply carries (they are Linux's).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Errno {
    /// Not permitted: a write to a read-only export.
    Perm = 1,
    /// The device failed.
    Io = 5,
    /// The request itself is wrong.
    Inval = 22,
    /// A write beyond the end of the export.
    NoSpc = 28,
    /// It could be done, but not as quickly as the client insists on.
    NotSup = 95,
    /// The server is going away.
    Shutdown = 108,
}

impl Errno {
    /// The number as sent.
    pub const fn code(self) -> u32 {
        self as u32
    }
}

/// First 8 bytes of a connection, `NBDMAGIC`.
pub const MAGIC: u64 = 0x4e42_444d_4147_4943;
/// `IHAVEOPT`: newstyle, and the magic of each option request.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Magic of an option reply.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Magic of a request in the transmission phase.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Magic of a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Magic of a structured reply chunk.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

/// Handshake flags of the server; the client answers with the same bits as 32-bit flags.
pub const FLAG_FIXED_NEWSTYLE: u16 = 1;
/// No 124 zero bytes after `NBD_OPT_EXPORT_NAME`.
pub const FLAG_NO_ZEROES: u16 = 2;

/// Options a client may ask for while haggling.
pub mod opt {
    #![expect(missing_docs, reason = "the protocol's own names: NBD_OPT_*")]
    pub const EXPORT_NAME: u32 = 1;
    pub const ABORT: u32 = 2;
    pub const LIST: u32 = 3;
    pub const STARTTLS: u32 = 5;
    pub const INFO: u32 = 6;
    pub const GO: u32 = 7;
    pub const STRUCTURED_REPLY: u32 = 8;
    pub const LIST_META_CONTEXT: u32 = 9;
    pub const SET_META_CONTEXT: u32 = 10;
}

/// Types of option replies. The ones with the top bit set are errors.
pub mod rep {
    #![expect(missing_docs, reason = "the protocol's own names: NBD_REP_*")]
    pub const ACK: u32 = 1;
    pub const SERVER: u32 = 2;
    pub const INFO: u32 = 3;
    pub const META_CONTEXT: u32 = 4;
    pub const ERR_UNSUP: u32 = (1 << 31) | 1;
    pub const ERR_POLICY: u32 = (1 << 31) | 2;
    pub const ERR_INVALID: u32 = (1 << 31) | 3;
    pub const ERR_TLS_REQD: u32 = (1 << 31) | 5;
    pub const ERR_UNKNOWN: u32 = (1 << 31) | 6;
    pub const ERR_SHUTDOWN: u32 = (1 << 31) | 7;
    pub const ERR_TOO_BIG: u32 = (1 << 31) | 9;
}

/// Kinds of information in `NBD_REP_INFO`.
pub mod info {
    #![expect(missing_docs, reason = "the protocol's own names: NBD_INFO_*")]
    pub const EXPORT: u16 = 0;
    pub const NAME: u16 = 1;
    pub const DESCRIPTION: u16 = 2;
    pub const BLOCK_SIZE: u16 = 3;
}

/// Transmission flags: what an export can do.
pub mod flag {
    #![expect(missing_docs, reason = "the protocol's own names: NBD_FLAG_*")]
    pub const HAS_FLAGS: u16 = 1;
    pub const READ_ONLY: u16 = 1 << 1;
    pub const SEND_FLUSH: u16 = 1 << 2;
    pub const SEND_FUA: u16 = 1 << 3;
    pub const SEND_TRIM: u16 = 1 << 5;
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    pub const SEND_DF: u16 = 1 << 7;
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    pub const SEND_CACHE: u16 = 1 << 10;
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
}

/// Request types.
pub mod cmd {
    #![expect(missing_docs, reason = "the protocol's own names: NBD_CMD_*")]
    pub const READ: u16 = 0;
    pub const WRITE: u16 = 1;
    pub const DISC: u16 = 2;
    pub const FLUSH: u16 = 3;
    pub const TRIM: u16 = 4;
    pub const CACHE: u16 = 5;
    pub const WRITE_ZEROES: u16 = 6;
    pub const BLOCK_STATUS: u16 = 7;
}

/// Flags of a request.
pub mod cmd_flag {
    #![expect(missing_docs, reason = "the protocol's own names: NBD_CMD_FLAG_*")]
    pub const FUA: u16 = 1;
    pub const NO_HOLE: u16 = 1 << 1;
    pub const DF: u16 = 1 << 2;
    pub const REQ_ONE: u16 = 1 << 3;
    pub const FAST_ZERO: u16 = 1 << 4;
}

/// Flags of an extent, per metadata context.
pub mod state {
    #![expect(missing_docs, reason = "the protocol's own names: NBD_STATE_*")]
    pub const HOLE: u32 = 1;
    pub const ZERO: u32 = 1 << 1;
    /// Of `walb:dirty`.
    pub const DIRTY: u32 = 1;
}

/// Structured reply: the last chunk of its reply.
pub const CHUNK_DONE: u16 = 1;
/// Structured reply chunk with an offset and data.
pub const CHUNK_OFFSET_DATA: u16 = 1;
/// Structured reply chunk with a metadata context's id and extents.
pub const CHUNK_BLOCK_STATUS: u16 = 5;
/// Structured reply chunk with an error number and a message.
pub const CHUNK_ERROR: u16 = (1 << 15) | 1;

/// Bytes of a request header.
pub const REQUEST_BYTES: usize = 28;
/// Bytes of a simple reply header.
pub const SIMPLE_REPLY_BYTES: usize = 16;
/// Bytes of a structured reply chunk's header.
pub const CHUNK_BYTES: usize = 20;

/// The largest payload of one request, either way; advertised as the maximum block size.
pub const MAX_PAYLOAD: u32 = 32 << 20;

/// A request of the transmission phase. Nothing in it is believed yet but its magic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// `cmd_flag` bits.
    pub flags: u16,
    /// One of `cmd`.
    pub kind: u16,
    /// The client's name for the request, given back in the reply.
    pub cookie: u64,
    /// Byte offset in the export.
    pub offset: u64,
    /// Bytes asked for.
    pub length: u32,
}

impl Request {
    /// Reads a request header; `Err` has the magic found instead.
    pub fn decode(raw: &[u8; REQUEST_BYTES]) -> Result<Self, u32> {
        let magic = be32(raw, 0);
        if magic != REQUEST_MAGIC {
            return Err(magic);
        }
        Ok(Self {
            flags: be16(raw, 4),
            kind: be16(raw, 6),
            cookie: be64(raw, 8),
            offset: be64(raw, 16),
            length: be32(raw, 24),
        })
    }

    /// The header as sent.
    pub fn encode(&self) -> [u8; REQUEST_BYTES] {
        let mut raw = [0; REQUEST_BYTES];
        raw[0..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        raw[4..6].copy_from_slice(&self.flags.to_be_bytes());
        raw[6..8].copy_from_slice(&self.kind.to_be_bytes());
        raw[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        raw[16..24].copy_from_slice(&self.offset.to_be_bytes());
        raw[24..28].copy_from_slice(&self.length.to_be_bytes());
        raw
    }
}

/// The big-endian number at `at`; the caller has made sure that it is inside.
pub fn be16(raw: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([raw[at], raw[at + 1]])
}

/// The big-endian number at `at`; the caller has made sure that it is inside.
pub fn be32(raw: &[u8], at: usize) -> u32 {
    (u32::from(be16(raw, at)) << 16) | u32::from(be16(raw, at + 2))
}

/// The big-endian number at `at`; the caller has made sure that it is inside.
pub fn be64(raw: &[u8], at: usize) -> u64 {
    (u64::from(be32(raw, at)) << 32) | u64::from(be32(raw, at + 4))
}
