//! A whole conversation with a client that is just bytes, without threads or sockets: for fuzzing.

use std::io::{self, BufReader, IoSlice, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use super::Exports;
use super::handshake::{Haggled, Offer, Tls, greet, haggle};
use super::transmission::serve_requests;
use super::transport::{Taken, Transport};
use super::window::{Window, WindowLimits};

/// Takes every answer at once.
#[derive(Default)]
struct Answers(Mutex<Vec<u8>>);

impl Transport for Answers {
    fn reader(&self) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(io::empty()))
    }
    fn writer(&self) -> io::Result<Box<dyn Write + Send>> {
        Ok(Box::new(io::sink()))
    }
    fn shutdown(&self) {}
    fn write_now(&self, parts: &[IoSlice<'_>]) -> io::Result<Taken> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = all.len();
        for part in parts {
            all.extend_from_slice(part);
        }
        Ok(Taken {
            bytes: all.len() - before,
            flush: false,
        })
    }
}

/// The second phase of a conversation.
pub struct Transmission {
    /// Where the requests begin in the input.
    pub from: usize,
    /// Whether reads and block status are answered with structured replies.
    pub structured: bool,
    /// The answers.
    pub answers: Vec<u8>,
}

/// What the server answers to `input`: the bytes of the handshake, then the second phase if it comes to that. The
/// devices answer before `submit` returns.
///
/// Needs answers of at most 64 KiB: larger ones are for the writer thread, which there is none.
pub fn converse(mut input: &[u8], exports: &Exports) -> (Vec<u8>, Option<Transmission>) {
    let whole = input.len();
    let mut greeting = Vec::new();
    let offer = Offer {
        exports,
        tls: Tls::Missing,
        peer: None,
        enter: &|_| Ok(()),
    };
    let Ok(Some(greeted)) = greet(&mut input, &mut greeting) else {
        return (greeting, None);
    };
    let Ok(Haggled::Chosen(agreed)) = haggle(&mut input, &mut greeting, greeted, &offer) else {
        return (greeting, None);
    };
    let from = whole - input.len();
    let taken = Arc::new(Answers::default());
    let limits = WindowLimits {
        requests: 256,
        bytes: 32 << 20,
    };
    let window = Window::new(limits, taken.clone());
    // How it ends is of no interest here.
    let _ = serve_requests(&mut BufReader::new(input), &agreed, &window);
    let answers = std::mem::take(&mut *taken.0.lock().unwrap_or_else(PoisonError::into_inner));
    let structured = agreed.structured;
    (
        greeting,
        Some(Transmission {
            from,
            structured,
            answers,
        }),
    )
}
