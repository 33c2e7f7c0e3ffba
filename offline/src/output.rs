//! What a command tells: text for people and scripts, one JSON object for programs; and how it ends.

use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};
use std::process::ExitCode;

use anyhow::Context;
use serde::Serialize;
use serde_json::{Value, json};

/// How a command ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Exit status 0.
    Positive,
    /// A negative answer, already printed: exit status 1, no error.
    Negative,
}

/// The words on the command line are wrong together; clap could not know.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// Whoever read our stdout closed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClosedPipe {
    /// It has seen enough of an answer.
    #[error("the reader of the answer closed it")]
    Answer,
    /// It does not have the whole stream.
    #[error("the reader of the stream closed it")]
    Stream,
}

impl ClosedPipe {
    /// Quiet in both cases, but half a stream is no success.
    pub fn exit_code(self) -> ExitCode {
        match self {
            Self::Answer => ExitCode::SUCCESS,
            Self::Stream => ExitCode::FAILURE,
        }
    }

    fn mark(self, error: io::Error) -> io::Error {
        match error.kind() {
            io::ErrorKind::BrokenPipe => io::Error::new(io::ErrorKind::BrokenPipe, self),
            _ => error,
        }
    }
}

/// The closed pipe among the causes of an error, if that is what it is.
pub fn closed_pipe(error: &anyhow::Error) -> Option<ClosedPipe> {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .find_map(|io| io.get_ref()?.downcast_ref::<ClosedPipe>().copied())
}

/// A writer to stdout whose end of reading is told apart from other errors.
#[derive(Debug)]
pub struct Stdout {
    inner: BufWriter<StdoutLock<'static>>,
    closed: ClosedPipe,
}

impl Stdout {
    fn new(closed: ClosedPipe) -> Self {
        let inner = BufWriter::with_capacity(64 << 10, io::stdout().lock());
        Self { inner, closed }
    }

    /// For a stream of data.
    pub fn stream() -> Self {
        Self::new(ClosedPipe::Stream)
    }
}

impl Write for Stdout {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.inner.write(buf).map_err(|e| self.closed.mark(e))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush().map_err(|e| self.closed.mark(e))
    }
}

/// Where the answer goes, and in which form.
#[derive(Debug)]
pub struct Output {
    json: bool,
}

impl Output {
    /// Text, or JSON.
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether JSON is wanted.
    pub fn json(&self) -> bool {
        self.json
    }

    /// Whether the answer appears on a terminal, where progress would get in between.
    pub fn on_terminal(&self) -> bool {
        io::stdout().is_terminal()
    }

    /// Prints a short answer: `text` is whole lines.
    pub fn answer(&self, json: &Value, text: &str) -> anyhow::Result<()> {
        let mut out = Stdout::new(ClosedPipe::Answer);
        let done = if self.json {
            writeln!(out, "{json}").and_then(|()| out.flush())
        } else {
            out.write_all(text.as_bytes()).and_then(|()| out.flush())
        };
        done.context("write to stdout")
    }

    /// The answer of a verification of a thing of this `kind`: its facts and text if it is sound. If not, JSON says so
    /// on stdout too, and the error is passed on.
    pub fn verdict(&self, kind: &str, checked: anyhow::Result<(Value, String)>) -> anyhow::Result<Outcome> {
        match checked {
            Ok((facts, text)) => {
                let mut json = json!({ "kind": kind, "ok": true });
                if let (Value::Object(json), Value::Object(facts)) = (&mut json, facts) {
                    json.extend(facts);
                }
                self.answer(&json, &text)?;
                Ok(Outcome::Positive)
            }
            Err(error) => {
                let text = walb_common::daemon::chain(error.as_ref());
                // A reader that is gone does not make the thing sound: the error stays.
                let _ = self.answer(&json!({ "kind": kind, "ok": false, "error": text }), "");
                Err(error)
            }
        }
    }

    /// Starts a long answer, which is not held in memory.
    pub fn listing(&self) -> anyhow::Result<Listing> {
        let mut listing = Listing {
            json: self.json,
            out: Stdout::new(ClosedPipe::Answer),
            open: Vec::new(),
        };
        if self.json {
            listing.open(Open::Object)?;
        }
        Ok(listing)
    }
}

#[derive(Debug)]
enum Open {
    Object,
    List,
}

/// An answer given piece by piece: facts, and lists of items. As JSON it is one object; as text, whatever lines come
/// with each piece.
#[derive(Debug)]
pub struct Listing {
    json: bool,
    out: Stdout,
    /// What is open, outermost first, and whether anything is in it yet.
    open: Vec<(Open, bool)>,
}

impl Listing {
    /// Whether it is given as JSON.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Adds lines that only the text form has.
    pub fn text(&mut self, lines: &str) -> anyhow::Result<()> {
        if self.json { Ok(()) } else { self.put(lines) }
    }

    /// Adds a key with its value; as text, the whole lines of `text`.
    pub fn fact(
        &mut self,
        key: &str,
        value: impl Serialize,
        text: impl FnOnce() -> String,
    ) -> anyhow::Result<()> {
        if !self.json {
            return self.put(&text());
        }
        self.key(key)?;
        self.value(&value)
    }

    /// Starts a list under a key; as text, its heading. The next fact ends it.
    pub fn list(&mut self, key: &str, text: impl FnOnce() -> String) -> anyhow::Result<()> {
        if !self.json {
            return self.put(&text());
        }
        self.key(key)?;
        self.open(Open::List)
    }

    /// Adds an item to the list.
    pub fn item(&mut self, value: impl Serialize, text: impl FnOnce() -> String) -> anyhow::Result<()> {
        if !self.json {
            return self.put(&text());
        }
        self.comma()?;
        self.value(&value)
    }

    /// Starts an item that is an object with facts of its own.
    pub fn begin_item(&mut self) -> anyhow::Result<()> {
        if !self.json {
            return Ok(());
        }
        self.comma()?;
        self.open(Open::Object)
    }

    /// Ends that item.
    pub fn end_item(&mut self) -> anyhow::Result<()> {
        if !self.json {
            return Ok(());
        }
        self.end_list()?;
        self.close()
    }

    /// Ends the answer. If it could not be given whole, JSON says why in `error`; the error is passed on either way.
    pub fn finish<T>(mut self, result: anyhow::Result<T>) -> anyhow::Result<T> {
        match &result {
            Err(error) if closed_pipe(error).is_some() => return result,
            Err(error) if self.json => {
                while self.open.len() > 1 {
                    self.close()?;
                }
                self.fact("error", walb_common::daemon::chain(error.as_ref()), String::new)?;
            }
            _ => {}
        }
        if self.json {
            while !self.open.is_empty() {
                self.close()?;
            }
            self.put("\n")?;
        }
        self.out.flush().context("write to stdout")?;
        result
    }

    fn key(&mut self, key: &str) -> anyhow::Result<()> {
        self.end_list()?;
        self.comma()?;
        self.value(&key)?;
        self.put(":")
    }

    fn end_list(&mut self) -> anyhow::Result<()> {
        match self.open.last() {
            Some((Open::List, _)) => self.close(),
            _ => Ok(()),
        }
    }

    fn open(&mut self, what: Open) -> anyhow::Result<()> {
        let bracket = match what {
            Open::Object => "{",
            Open::List => "[",
        };
        self.open.push((what, false));
        self.put(bracket)
    }

    fn close(&mut self) -> anyhow::Result<()> {
        match self.open.pop() {
            Some((Open::Object, _)) => self.put("}"),
            Some((Open::List, _)) => self.put("]"),
            None => Ok(()),
        }
    }

    fn comma(&mut self) -> anyhow::Result<()> {
        match self.open.last_mut() {
            Some((_, any)) if *any => self.put(","),
            Some((_, any)) => {
                *any = true;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn value(&mut self, value: &impl Serialize) -> anyhow::Result<()> {
        self.put(&serde_json::to_string(value)?)
    }

    fn put(&mut self, text: &str) -> anyhow::Result<()> {
        self.out.write_all(text.as_bytes()).context("write to stdout")
    }
}

/// A number of bytes for people: `3.5 MiB`.
pub fn mebibytes(bytes: u64) -> String {
    let tenths = (u128::from(bytes) * 10) >> 20;
    if tenths == 0 {
        return format!("{bytes} bytes");
    }
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}
