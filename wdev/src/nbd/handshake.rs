//! The first phase of a connection: fixed newstyle haggling, until the client has chosen an export.
//!
//! Everything here comes from a stranger. Each length is checked before anything is read into memory, the number of
//! options is bounded, and the server cuts the connection at a deadline, so that a client can neither fill memory nor
//! hold a thread for ever.
//!
//! Nothing is read ahead, so bytes sent in the clear can never pass for bytes sent inside TLS; and what was agreed in
//! the clear is forgotten when TLS begins.

use std::io::{self, Read, Write};
use std::sync::Arc;

use walb_common::types::LB_SIZE;
use walb_common::wire::identity::Identity;

use super::contexts::Context;
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
    /// Neither can this.
    #[error("NBD handshake: NBD_OPT_EXPORT_NAME: {0}")]
    NotNow(#[from] NotNow),
    /// Nor this.
    #[error("NBD handshake: NBD_OPT_EXPORT_NAME without TLS, expected NBD_OPT_STARTTLS first")]
    TlsRequired,
}

/// An export that is there cannot be had now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotNow {
    /// Others use it.
    #[error("the export is in use by {limit} clients, as many as it takes")]
    Full {
        /// How many it takes.
        limit: usize,
    },
    /// It, or the server, is going away.
    #[error("the export is going away")]
    Leaving,
}

/// What haggling settled.
#[derive(Debug)]
pub struct Agreed {
    /// The chosen export.
    pub export: Arc<Export>,
    /// Whether reads are answered with structured replies.
    pub structured: bool,
    /// What block status requests are about; empty: there must be none.
    pub contexts: Vec<Context>,
}

/// How far a connection is with TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    /// There is none here.
    Missing,
    /// The client may have it.
    Offered,
    /// Nothing goes without.
    Required,
    /// Everything is inside it.
    Active,
}

/// What a connection is offered.
pub struct Offer<'a> {
    /// The exports.
    pub exports: &'a Exports,
    /// How far the connection is with TLS.
    pub tls: Tls,
    /// Who the client is, by its certificate.
    pub peer: Option<&'a Identity>,
    /// Takes one of the export's places; they are given back with the connection.
    pub enter: &'a dyn Fn(&Arc<Export>) -> Result<(), NotNow>,
}

/// How haggling ended well.
#[derive(Debug)]
pub enum Haggled {
    /// The client left politely.
    Left,
    /// It chose an export.
    Chosen(Agreed),
    /// It wants TLS, and is told to begin.
    StartTls,
}

/// What a client says first.
#[derive(Debug, Clone, Copy)]
pub struct Greeted {
    /// Whether it wants the 124 zero bytes of old after `NBD_OPT_EXPORT_NAME`.
    zeroes: bool,
}

/// Exchanges greetings; `None`: somebody only looked whether we are there.
pub fn greet(input: &mut dyn Read, output: &mut dyn Write) -> Result<Option<Greeted>, HandshakeError> {
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
        Err(HandshakeError::Io { source, .. }) if source.kind() == io::ErrorKind::UnexpectedEof => {
            return Ok(None);
        }
        Err(e) => return Err(e),
    };
    let known = u32::from(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES);
    if flags & !known != 0 || flags & u32::from(FLAG_FIXED_NEWSTYLE) == 0 {
        return Err(HandshakeError::ClientFlags { found: flags });
    }
    Ok(Some(Greeted {
        zeroes: flags & u32::from(FLAG_NO_ZEROES) == 0,
    }))
}

/// Haggles until the client chose an export, left, or wants TLS. After TLS has begun this is called again.
pub fn haggle(
    input: &mut dyn Read,
    output: &mut dyn Write,
    greeted: Greeted,
    offer: &Offer<'_>,
) -> Result<Haggled, HandshakeError> {
    let mut haggle = Haggle {
        input,
        output,
        greeted,
        offer,
        structured: false,
        contexts: None,
    };
    for _ in 0..MAX_OPTIONS {
        match haggle.one_option()? {
            Step::Continue => {}
            Step::Left => return Ok(Haggled::Left),
            Step::StartTls => return Ok(Haggled::StartTls),
            Step::Chosen(export) => {
                // Contexts of another export say nothing about this one.
                let contexts = haggle
                    .contexts
                    .filter(|(of, _)| Arc::ptr_eq(of, &export))
                    .map_or_else(Vec::new, |(_, contexts)| contexts);
                return Ok(Haggled::Chosen(Agreed {
                    export,
                    structured: haggle.structured,
                    contexts,
                }));
            }
        }
    }
    Err(HandshakeError::TooManyOptions)
}

enum Step {
    Continue,
    Left,
    StartTls,
    Chosen(Arc<Export>),
}

struct Haggle<'a> {
    input: &'a mut dyn Read,
    output: &'a mut dyn Write,
    greeted: Greeted,
    offer: &'a Offer<'a>,
    structured: bool,
    /// Selected contexts, and of which export.
    contexts: Option<(Arc<Export>, Vec<Context>)>,
}

impl Haggle<'_> {
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
            opt::STARTTLS => self.start_tls(&data),
            opt::EXPORT_NAME if self.offer.tls == Tls::Required => Err(HandshakeError::TlsRequired),
            opt::EXPORT_NAME => self.export_name(&data),
            opt::ABORT => {
                // The client need not wait for the answer, so failing to send it is no error.
                let _ = self.reply(option, rep::ACK, &[]);
                Ok(Step::Left)
            }
            _ if self.offer.tls == Tls::Required => {
                self.reply(option, rep::ERR_TLS_REQD, b"this server speaks only inside TLS")
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

    fn start_tls(&mut self, data: &[u8]) -> Result<Step, HandshakeError> {
        let refusal: (u32, &[u8]) = match self.offer.tls {
            _ if !data.is_empty() => (rep::ERR_INVALID, b"this option has no data"),
            Tls::Active => (rep::ERR_INVALID, b"TLS has begun already"),
            Tls::Missing => (rep::ERR_POLICY, b"this server has no certificate"),
            Tls::Offered | Tls::Required => {
                self.reply(opt::STARTTLS, rep::ACK, &[])?;
                return Ok(Step::StartTls);
            }
        };
        self.reply(opt::STARTTLS, refusal.0, refusal.1)
    }

    /// The old way to choose has no answer for a refusal but the end of the connection.
    fn export_name(&mut self, name: &[u8]) -> Result<Step, HandshakeError> {
        let Some(export) = self.find(name) else {
            return Err(HandshakeError::NoSuchExport {
                name: String::from_utf8_lossy(name).chars().take(100).collect(),
                known: self.offer.exports.names(self.offer.peer),
            });
        };
        (self.offer.enter)(&export)?;
        let mut answer = [0; 10 + 124];
        answer[0..8].copy_from_slice(&export.size().to_be_bytes());
        answer[8..10].copy_from_slice(&export.transmission_flags(self.structured).to_be_bytes());
        let length = if self.greeted.zeroes { answer.len() } else { 10 };
        self.send(&answer[..length])?;
        Ok(Step::Chosen(export))
    }

    fn list(&mut self, data: &[u8]) -> Result<Step, HandshakeError> {
        if !data.is_empty() {
            return self.reply(opt::LIST, rep::ERR_INVALID, b"this option has no data");
        }
        for name in self.offer.exports.names(self.offer.peer) {
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
        if option == opt::GO
            && let Err(refusal) = (self.offer.enter)(&export)
        {
            let kind = match refusal {
                NotNow::Full { .. } => rep::ERR_POLICY,
                NotNow::Leaving => rep::ERR_SHUTDOWN,
            };
            tracing::warn!(export = export.name(), "NBD client refused: {refusal}");
            return self.reply(option, kind, refusal.to_string().as_bytes());
        }
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

    /// Data: name length, name, number of queries, their lengths and texts.
    fn meta_context(&mut self, option: u32, data: &[u8]) -> Result<Step, HandshakeError> {
        let listing = option == opt::LIST_META_CONTEXT;
        if !listing {
            // Also when it fails, as the protocol wants it.
            self.contexts = None;
        }
        if !self.structured {
            return self.reply(
                option,
                rep::ERR_INVALID,
                b"structured replies must be negotiated first",
            );
        }
        let Some((name, queries)) = split_name(data).and_then(|(name, rest)| Some((name, queries(rest)?)))
        else {
            return self.reply(option, rep::ERR_INVALID, b"the lengths do not fit the data");
        };
        let Some(export) = self.find(name) else {
            return self.reply(option, rep::ERR_UNKNOWN, b"no such export");
        };
        let wanted = |context: &Context| {
            listing && queries.is_empty() || queries.iter().any(|q| context.matches(q, listing))
        };
        let contexts: Vec<_> = export.contexts().filter(wanted).collect();
        for context in &contexts {
            // When only listed they have no number.
            let id = if listing { 0 } else { context.id() };
            let item = [&id.to_be_bytes()[..], context.name().as_bytes()].concat();
            self.reply(option, rep::META_CONTEXT, &item)?;
        }
        if !listing {
            self.contexts = Some((export, contexts));
        }
        self.reply(option, rep::ACK, &[])
    }

    fn find(&self, name: &[u8]) -> Option<Arc<Export>> {
        self.offer
            .exports
            .find(std::str::from_utf8(name).ok()?, self.offer.peer)
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
        io::copy(&mut Read::take(&mut *self.input, length as u64), &mut io::sink())
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

fn take<const N: usize>(input: &mut dyn Read, act: &'static str) -> Result<[u8; N], HandshakeError> {
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

/// The queries after an export's name; `None` if they do not fill the data exactly.
fn queries(data: &[u8]) -> Option<Vec<&[u8]>> {
    if data.len() < 4 {
        return None;
    }
    let mut rest = &data[4..];
    let mut queries = Vec::new();
    // A query takes four bytes at least, so the data bound the number.
    for _ in 0..protocol::be32(data, 0) {
        let (query, after) = split_name(rest)?;
        queries.push(query);
        rest = after;
    }
    rest.is_empty().then_some(queries)
}
