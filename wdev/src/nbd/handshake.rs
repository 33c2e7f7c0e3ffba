//! The first phase of a connection: fixed newstyle haggling, until the client has chosen an export.
//!
//! Everything here comes from a stranger. Each length is checked before anything is read into memory, the number of
//! options is bounded, and the caller's stream carries a deadline, so that a client can neither fill memory nor hold
//! a thread for ever.

use std::io::{self, Read, Write};
use std::sync::Arc;

use walb_common::types::LB_SIZE;

use super::exports::{Export, Exports};
use super::protocol::{
    self, FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES, MAGIC, MAX_PAYLOAD, OPTION_MAGIC, OPTION_REPLY_MAGIC, be16,
    be32, be64, info, opt, rep,
};

/// The protocol's own limit for names and queries.
const MAX_STRING: usize = 4096;
/// The longest option payload that is kept: a name and a few numbers.
const MAX_OPTION_BYTES: usize = 2 * MAX_STRING;
/// The longest payload of an option that is read past (and refused) rather than ending the connection.
const MAX_SKIPPED_BYTES: usize = 64 << 10;
/// Offsets and lengths must be multiples of a logical block.
const MINIMUM_BLOCK: u32 = 512;
const _: () = assert!(MINIMUM_BLOCK as u64 == LB_SIZE);
/// Options a client may send before it must have chosen an export. Real clients send fewer than ten.
const MAX_OPTIONS: usize = 64;

/// Why haggling ended without an export.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The connection failed, ended or was too slow.
    #[error("NBD handshake: {act}")]
    Io {
        /// What was being read or written.
        act: &'static str,
        /// What happened.
        #[source]
        source: io::Error,
    },
    /// The client does not speak fixed newstyle NBD.
    #[error("NBD handshake: client flags {found:#x}, expected a subset of 0x3 with 0x1")]
    ClientFlags {
        /// What the client sent.
        found: u32,
    },
    /// An option did not start with its magic.
    #[error("NBD handshake: option magic {found:#018x}, expected {OPTION_MAGIC:#018x}")]
    OptionMagic {
        /// What the client sent.
        found: u64,
    },
    /// An option's payload is longer than any real one.
    #[error("NBD handshake: option {option} with {found} bytes, expected at most {MAX_SKIPPED_BYTES}")]
    OptionTooLong {
        /// The option's number.
        option: u32,
        /// Its length field.
        found: u32,
    },
    /// The client keeps sending options without choosing an export.
    #[error("NBD handshake: more than {MAX_OPTIONS} options without choosing an export")]
    TooManyOptions,
    /// `NBD_OPT_EXPORT_NAME` cannot be refused but by closing.
    #[error("NBD handshake: no export {name:?}; there are {known:?}")]
    NoSuchExport {
        /// What the client asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
}

/// What haggling settled.
pub struct Agreed {
    /// The chosen export.
    pub export: Arc<Export>,
    /// Whether reads are answered with structured replies.
    pub structured: bool,
}

/// Haggles until the client chose an export; `None` when it left politely.
pub fn negotiate(
    input: &mut impl Read,
    output: &mut impl Write,
    exports: &Exports,
) -> Result<Option<Agreed>, HandshakeError> {
    let mut hello = [0; 18];
    hello[0..8].copy_from_slice(&MAGIC.to_be_bytes());
    hello[8..16].copy_from_slice(&OPTION_MAGIC.to_be_bytes());
    hello[16..18].copy_from_slice(&(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES).to_be_bytes());
    output.write_all(&hello).map_err(|source| HandshakeError::Io {
        act: "send the greeting",
        source,
    })?;

    let flags = match take(input, "read the client's flags") {
        Ok(raw) => u32::from_be_bytes(raw),
        // Somebody only looked whether we are there.
        Err(HandshakeError::Io { source, .. }) if source.kind() == io::ErrorKind::UnexpectedEof => {
            return Ok(None);
        }
        Err(e) => return Err(e),
    };
    let known = u32::from(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES);
    if flags & !known != 0 || flags & u32::from(FLAG_FIXED_NEWSTYLE) == 0 {
        return Err(HandshakeError::ClientFlags { found: flags });
    }
    let mut haggle = Haggle {
        input,
        output,
        exports,
        zeroes: flags & u32::from(FLAG_NO_ZEROES) == 0,
        structured: false,
    };
    for _ in 0..MAX_OPTIONS {
        match haggle.one_option()? {
            Step::Continue => {}
            Step::Left => return Ok(None),
            Step::Chosen(export) => {
                return Ok(Some(Agreed {
                    export,
                    structured: haggle.structured,
                }));
            }
        }
    }
    Err(HandshakeError::TooManyOptions)
}

enum Step {
    Continue,
    Left,
    Chosen(Arc<Export>),
}

struct Haggle<'a, I, O> {
    input: &'a mut I,
    output: &'a mut O,
    exports: &'a Exports,
    /// Whether the client wants the 124 zero bytes of old after `NBD_OPT_EXPORT_NAME`.
    zeroes: bool,
    structured: bool,
}

impl<I: Read, O: Write> Haggle<'_, I, O> {
    fn one_option(&mut self) -> Result<Step, HandshakeError> {
        let head: [u8; 16] = take(self.input, "read an option")?;
        let magic = be64(&head, 0);
        if magic != OPTION_MAGIC {
            return Err(HandshakeError::OptionMagic { found: magic });
        }
        let (option, found) = (be32(&head, 8), be32(&head, 12));
        let length = found as usize;
        if length > MAX_SKIPPED_BYTES {
            return Err(HandshakeError::OptionTooLong { option, found });
        }
        if length > MAX_OPTION_BYTES {
            self.skip(length)?;
            let text = format!("{length} bytes of data; at most {MAX_OPTION_BYTES} are taken");
            return self.reply(option, rep::ERR_TOO_BIG, text.as_bytes());
        }
        let mut data = vec![0; length];
        self.input
            .read_exact(&mut data)
            .map_err(|source| HandshakeError::Io {
                act: "read an option's data",
                source,
            })?;
        match option {
            opt::EXPORT_NAME => self.export_name(&data),
            opt::ABORT => {
                // The client need not wait for the answer, so failing to send it is no error.
                let _ = self.reply(option, rep::ACK, &[]);
                Ok(Step::Left)
            }
            opt::LIST => self.list(&data),
            opt::INFO | opt::GO => self.info_or_go(option, &data),
            opt::STRUCTURED_REPLY if data.is_empty() => {
                self.structured = true;
                self.reply(option, rep::ACK, &[])
            }
            opt::STRUCTURED_REPLY => self.reply(option, rep::ERR_INVALID, b"this option has no data"),
            opt::LIST_META_CONTEXT | opt::SET_META_CONTEXT => self.meta_context(option, &data),
            _ => self.reply(option, rep::ERR_UNSUP, b"unknown option"),
        }
    }

    fn export_name(&mut self, name: &[u8]) -> Result<Step, HandshakeError> {
        let Some(export) = self.find(name) else {
            return Err(HandshakeError::NoSuchExport {
                name: String::from_utf8_lossy(name).chars().take(100).collect(),
                known: self.exports.names(),
            });
        };
        let mut answer = [0; 10 + 124];
        answer[0..8].copy_from_slice(&export.size().to_be_bytes());
        answer[8..10].copy_from_slice(&export.transmission_flags(self.structured).to_be_bytes());
        let length = if self.zeroes { answer.len() } else { 10 };
        self.send(&answer[..length])?;
        Ok(Step::Chosen(export))
    }

    fn list(&mut self, data: &[u8]) -> Result<Step, HandshakeError> {
        if !data.is_empty() {
            return self.reply(opt::LIST, rep::ERR_INVALID, b"this option has no data");
        }
        for name in self.exports.names() {
            let length = u32::try_from(name.len()).unwrap_or(u32::MAX);
            let mut item = length.to_be_bytes().to_vec();
            item.extend_from_slice(name.as_bytes());
            self.reply(opt::LIST, rep::SERVER, &item)?;
        }
        self.reply(opt::LIST, rep::ACK, &[])
    }

    /// Data: name length, name, number of wanted informations, their kinds. All informations are sent, wanted or not,
    /// as the protocol allows: some clients respect block sizes that they did not ask for.
    fn info_or_go(&mut self, option: u32, data: &[u8]) -> Result<Step, HandshakeError> {
        let Some((name, rest)) = split_name(data) else {
            return self.reply(
                option,
                rep::ERR_INVALID,
                b"the name's length does not fit the data",
            );
        };
        if rest.len() < 2 || rest.len() != 2 + 2 * usize::from(be16(rest, 0)) {
            return self.reply(
                option,
                rep::ERR_INVALID,
                b"the number of infos does not fit the data",
            );
        }
        let Some(export) = self.find(name) else {
            return self.reply(option, rep::ERR_UNKNOWN, b"no such export");
        };
        let mut item = info::EXPORT.to_be_bytes().to_vec();
        item.extend_from_slice(&export.size().to_be_bytes());
        item.extend_from_slice(&export.transmission_flags(self.structured).to_be_bytes());
        self.reply(option, rep::INFO, &item)?;

        let mut item = info::BLOCK_SIZE.to_be_bytes().to_vec();
        for size in [MINIMUM_BLOCK, export.preferred_block(), MAX_PAYLOAD] {
            item.extend_from_slice(&size.to_be_bytes());
        }
        self.reply(option, rep::INFO, &item)?;

        for (kind, text) in [
            (info::NAME, export.name()),
            (info::DESCRIPTION, export.description()),
        ] {
            let mut item = kind.to_be_bytes().to_vec();
            item.extend_from_slice(text.as_bytes());
            self.reply(option, rep::INFO, &item)?;
        }
        self.reply(option, rep::ACK, &[])?;
        Ok(if option == opt::GO {
            Step::Chosen(export)
        } else {
            Step::Continue
        })
    }

    /// This server has no metadata contexts yet, so the list of those that match is always empty.
    fn meta_context(&mut self, option: u32, data: &[u8]) -> Result<Step, HandshakeError> {
        if option == opt::SET_META_CONTEXT && !self.structured {
            return self.reply(
                option,
                rep::ERR_INVALID,
                b"structured replies must be negotiated first",
            );
        }
        match split_name(data) {
            Some((name, rest)) if queries_are_whole(rest) => match self.find(name) {
                Some(_) => self.reply(option, rep::ACK, &[]),
                None => self.reply(option, rep::ERR_UNKNOWN, b"no such export"),
            },
            _ => self.reply(option, rep::ERR_INVALID, b"the lengths do not fit the data"),
        }
    }

    fn find(&self, name: &[u8]) -> Option<Arc<Export>> {
        self.exports.find(std::str::from_utf8(name).ok()?)
    }

    fn reply(&mut self, option: u32, kind: u32, data: &[u8]) -> Result<Step, HandshakeError> {
        let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let mut frame = Vec::with_capacity(20 + data.len());
        frame.extend_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
        for number in [option, kind, length] {
            frame.extend_from_slice(&number.to_be_bytes());
        }
        frame.extend_from_slice(data);
        self.send(&frame)?;
        Ok(Step::Continue)
    }

    fn send(&mut self, frame: &[u8]) -> Result<(), HandshakeError> {
        self.output.write_all(frame).map_err(|source| HandshakeError::Io {
            act: "send an answer",
            source,
        })
    }

    fn skip(&mut self, length: usize) -> Result<(), HandshakeError> {
        io::copy(&mut self.input.take(length as u64), &mut io::sink())
            .and_then(|n| {
                if n == length as u64 {
                    Ok(())
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                }
            })
            .map_err(|source| HandshakeError::Io {
                act: "read an option's data",
                source,
            })
    }
}

fn take<const N: usize>(input: &mut impl Read, act: &'static str) -> Result<[u8; N], HandshakeError> {
    let mut raw = [0; N];
    input
        .read_exact(&mut raw)
        .map_err(|source| HandshakeError::Io { act, source })?;
    Ok(raw)
}

/// Splits a 32-bit length and that many bytes off; `None` if they are not there or longer than a name may be.
fn split_name(data: &[u8]) -> Option<(&[u8], &[u8])> {
    if data.len() < 4 {
        return None;
    }
    let length = protocol::be32(data, 0) as usize;
    (length <= MAX_STRING && length <= data.len() - 4).then(|| data[4..].split_at(length))
}

fn queries_are_whole(data: &[u8]) -> bool {
    if data.len() < 4 {
        return false;
    }
    let mut rest = &data[4..];
    for _ in 0..protocol::be32(data, 0) {
        match split_name(rest) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.is_empty()
}
