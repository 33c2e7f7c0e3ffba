//! TLS over a socket, for one thread that reads and others that write.
//!
//! ```text
//!  reader thread:  socket read (no lock) --> [tls] decrypt one record --> request
//!  answers:        [send] { [tls] encrypt --> socket write }
//! ```
//!
//! The session is one object behind one lock (`tls`), held only while bytes are encrypted or decrypted, never while a
//! socket may wait. `send` keeps the order of encrypting and the order on the socket the same; it is taken before `tls`.
//! So a client that does not read holds up its own writer, and neither its reader nor the device.
//!
//! What the session wants to send of its own accord (the answer to a key update) leaves with the next answer.

use std::io::{self, IoSlice, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use rustls::{ServerConfig, ServerConnection};
use walb_common::wire::identity::{Identity, IdentityError};

use super::transport::{Taken, Transport};

/// Encrypted bytes taken from the socket at once.
const READ_BYTES: usize = 32 << 10;

/// Why a client that asked for TLS did not get it.
#[derive(Debug, thiserror::Error)]
pub enum TlsHandshakeError {
    /// It broke off, was too slow, or has no certificate of an authority we trust.
    #[error("TLS handshake")]
    Handshake(#[source] io::Error),
    /// Its certificate says nothing about who it is.
    #[error("TLS handshake")]
    Identity(#[from] IdentityError),
}

/// A connection inside TLS.
pub(super) struct TlsTransport {
    socket: Arc<dyn Transport>,
    session: Arc<Session>,
}

struct Session {
    tls: Mutex<ServerConnection>,
    send: Mutex<Outgoing>,
}

/// Encrypted bytes on their way to the socket.
#[derive(Default)]
struct Outgoing {
    bytes: Vec<u8>,
    /// How many of them have left.
    sent: usize,
}

impl TlsTransport {
    /// Does the handshake; the client's certificate is verified by `config`. Returns who the client is.
    pub fn accept(
        socket: Arc<dyn Transport>,
        config: Arc<ServerConfig>,
    ) -> Result<(Self, Identity), TlsHandshakeError> {
        use TlsHandshakeError::Handshake;
        let mut tls = ServerConnection::new(config).map_err(|e| Handshake(io::Error::other(e)))?;
        let mut both = Both {
            input: socket.reader().map_err(Handshake)?,
            output: socket.writer().map_err(Handshake)?,
        };
        tls.complete_io(&mut both).map_err(Handshake)?;
        if tls.is_handshaking() {
            return Err(Handshake(io::ErrorKind::UnexpectedEof.into()));
        }
        let certificate = tls.peer_certificates().and_then(<[_]>::first);
        let identity = Identity::from_certificate(certificate.ok_or(IdentityError::NoIdentity)?)?;
        let session = Arc::new(Session {
            tls: Mutex::new(tls),
            send: Mutex::default(),
        });
        Ok((Self { socket, session }, identity))
    }
}

impl Transport for TlsTransport {
    fn reader(&self) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(TlsReader {
            socket: self.socket.reader()?,
            session: self.session.clone(),
            encrypted: vec![0; READ_BYTES].into(),
            start: 0,
            end: 0,
        }))
    }

    fn writer(&self) -> io::Result<Box<dyn Write + Send>> {
        Ok(Box::new(TlsWriter {
            socket: self.socket.writer()?,
            session: self.session.clone(),
        }))
    }

    fn shutdown(&self) {
        // A polite end if that takes no waiting; requests carry their lengths, so nothing depends on it.
        if let (Some(mut send), Some(mut tls)) = (try_lock(&self.session.send), try_lock(&self.session.tls)) {
            tls.send_close_notify();
            let _ = send.take_from(&mut tls);
            let _ = send.leave_now(self.socket.as_ref());
        }
        self.socket.shutdown();
    }

    fn write_now(&self, parts: &[IoSlice<'_>]) -> io::Result<Taken> {
        let busy = || io::Error::from(io::ErrorKind::WouldBlock);
        let mut send = try_lock(&self.session.send).ok_or_else(busy)?;
        if !send.is_empty() {
            return Err(busy());
        }
        let bytes = {
            let mut tls = try_lock(&self.session.tls).ok_or_else(busy)?;
            send.encrypt(&mut tls, parts)?
        };
        let flush = match send.leave_now(self.socket.as_ref()) {
            Ok(()) => !send.is_empty(),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => true,
            Err(e) => return Err(e),
        };
        Ok(Taken { bytes, flush })
    }
}

impl Outgoing {
    fn is_empty(&self) -> bool {
        self.sent == self.bytes.len()
    }

    /// Encrypts as much of `parts` as the session buffers (64 KiB).
    fn encrypt(&mut self, tls: &mut ServerConnection, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let taken = tls.writer().write_vectored(parts)?;
        self.take_from(tls)?;
        Ok(taken)
    }

    fn take_from(&mut self, tls: &mut ServerConnection) -> io::Result<()> {
        while tls.wants_write() {
            tls.write_tls(&mut self.bytes)?;
        }
        Ok(())
    }

    fn leave_now(&mut self, socket: &dyn Transport) -> io::Result<()> {
        self.sent += socket.write_now(&[IoSlice::new(&self.bytes[self.sent..])])?.bytes;
        if self.is_empty() {
            self.clear();
        }
        Ok(())
    }

    fn leave(&mut self, socket: &mut dyn Write) -> io::Result<()> {
        // After an error nothing is sent again: half a record would be garbage to the client.
        let left = socket.write_all(&self.bytes[self.sent..]);
        self.clear();
        left
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.sent = 0;
    }
}

struct TlsReader {
    socket: Box<dyn Read + Send>,
    session: Arc<Session>,
    encrypted: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Read for TlsReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(read) = self.decrypt(buffer)? {
                return Ok(read);
            }
            self.start = 0;
            self.end = self.socket.read(&mut self.encrypted)?;
            if self.end == 0 {
                // Most clients close without saying so to TLS.
                return Ok(0);
            }
        }
    }
}

impl TlsReader {
    /// Takes what is decrypted, or decrypts until there is something; `None` when that needs more from the socket.
    fn decrypt(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let mut tls = lock(&self.session.tls);
        loop {
            match tls.reader().read(buffer) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                result => return result.map(Some),
            }
            if self.start == self.end {
                return Ok(None);
            }
            let mut rest = &self.encrypted[self.start..self.end];
            if tls.read_tls(&mut rest)? == 0 {
                return Err(io::Error::other("the TLS session takes no more bytes"));
            }
            self.start = self.end - rest.len();
            tls.process_new_packets()
                .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        }
    }
}

struct TlsWriter {
    socket: Box<dyn Write + Send>,
    session: Arc<Session>,
}

impl Write for TlsWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut send = lock(&self.session.send);
        let taken = send.encrypt(&mut lock(&self.session.tls), parts)?;
        send.leave(&mut self.socket)?;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        lock(&self.session.send).leave(&mut self.socket)
    }
}

/// The two directions of a socket as one value, for the handshake.
struct Both {
    input: Box<dyn Read + Send>,
    output: Box<dyn Write + Send>,
}

impl Read for Both {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.input.read(buffer)
    }
}

impl Write for Both {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn try_lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}
