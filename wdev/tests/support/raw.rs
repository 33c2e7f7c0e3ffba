//! A connection that can say anything, and what it hears.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use walb_wdev::nbd::protocol::{self, Request, opt, rep};

/// A connection that can say anything.
pub struct Raw<S = UnixStream>(pub S);

impl Raw {
    pub fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
        Self(stream)
    }
}

impl<S: Read + Write> Raw<S> {
    pub fn say(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.write_all(bytes).unwrap();
        self
    }

    pub fn take(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    pub fn greet(&mut self) -> &mut Self {
        assert_eq!(&self.take(18)[..16], b"NBDMAGICIHAVEOPT");
        self.say(&3_u32.to_be_bytes())
    }

    pub fn option(&mut self, option: u32, data: &[u8]) -> &mut Self {
        let length = u32::try_from(data.len()).unwrap();
        let frame = [
            b"IHAVEOPT".as_slice(),
            &option.to_be_bytes(),
            &length.to_be_bytes(),
            data,
        ]
        .concat();
        self.say(&frame)
    }

    /// Type and data of an option reply.
    pub fn option_reply(&mut self) -> (u32, Vec<u8>) {
        let head = self.take(20);
        let data = self.take(protocol::be32(&head, 16) as usize);
        (protocol::be32(&head, 12), data)
    }

    pub fn go(&mut self, structured: bool) -> &mut Self {
        self.greet();
        if structured {
            self.option(opt::STRUCTURED_REPLY, &[]);
            assert_eq!(self.option_reply().0, rep::ACK);
        }
        self.choose("vol")
    }

    pub fn choose(&mut self, export: &str) -> &mut Self {
        let length = u32::try_from(export.len()).unwrap();
        self.option(
            opt::GO,
            &[&length.to_be_bytes()[..], export.as_bytes(), &[0, 0]].concat(),
        );
        loop {
            match self.option_reply() {
                (rep::ACK, _) => return self,
                (rep::INFO, _) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    pub fn request(&mut self, kind: u16, flags: u16, cookie: u64, offset: u64, length: u32) -> &mut Self {
        self.say(
            &Request {
                flags,
                kind,
                cookie,
                offset,
                length,
            }
            .encode(),
        )
    }

    pub fn simple_reply(&mut self) -> (u32, u64) {
        let head = self.take(16);
        assert_eq!(protocol::be32(&head, 0), protocol::SIMPLE_REPLY_MAGIC);
        (protocol::be32(&head, 4), protocol::be64(&head, 8))
    }

    pub fn assert_closed(&mut self) {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::ConnectionReset, "{e}"),
        }
    }
}

/// Waits for a condition; fails when it does not come true.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
