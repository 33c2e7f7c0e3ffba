//! A new file, written from its start to its end past the page cache.
//!
//! What is made once, synced and not read again soon gains nothing from the page cache: finding, filling and writing out its
//! pages costs several times what handing our own memory to the disk does. Data gather in buffers; a thread writes one
//! while the next is being filled.
//!
//! ```text
//!  write, skip --> buffer --full--> thread --long runs--------> O_DIRECT
//!     ^-------- emptied buffers ------|   \--short runs, tail--> page cache
//! ```
//! Nothing is durable before the caller's sync of the same file, which finds little left to do. Where the file system
//! refuses direct IO, everything goes through the page cache; so does a file that fits one buffer.

#![expect(
    clippy::cast_possible_truncation,
    reason = "hosts are 64-bit (asserted in format); what is narrowed further was bounded first"
)]

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::{self, JoinHandle};

use rustix::fs::{Mode, OFlags};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::fault;

#[cfg(test)]
mod tests;

/// What direct IO may want positions, lengths and addresses to be multiples of. A disk that wants more refuses.
const BLOCK: usize = 4096;
/// Bytes of a buffer: so many that the disk is kept busy by one write at a time.
const BUFFER_BYTES: usize = 1 << 20;
/// Buffers in circulation: one being filled, one being written, the others between.
const BUFFERS: usize = 4;
/// Shorter runs cost more as a direct write, which is waited for, than through the page cache.
const DIRECT_MIN: usize = 64 << 10;

/// Writes a new, empty file. Without [`DirectWriter::finish`] what is in it is not to be used.
#[derive(Debug)]
pub struct DirectWriter {
    way: Way,
    /// Being filled.
    buffer: Buffer,
    /// Where the next byte goes.
    position: u64,
    /// Buffers there are.
    buffers: usize,
}

#[derive(Debug)]
enum Way {
    /// Nothing is written yet.
    Here(File),
    Thread(Thread),
    /// An error was told.
    Failed,
}

#[derive(Debug)]
struct Thread {
    full: SyncSender<Buffer>,
    emptied: Receiver<Buffer>,
    handle: JoinHandle<io::Result<Target>>,
}

impl DirectWriter {
    /// A writer of `file`, which is empty and open for writing. The caller keeps the file, to sync it.
    pub fn new(file: &File) -> io::Result<Self> {
        Ok(Self {
            // The same open file, so that errors of writing out are told to the caller's sync.
            way: Way::Here(file.try_clone()?),
            buffer: Buffer::default(),
            position: 0,
            buffers: 1,
        })
    }

    /// Where the next byte goes.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Goes on `bytes` further: whole blocks become a hole, which reads as zeros.
    pub fn skip(&mut self, bytes: u64) -> io::Result<()> {
        const ZEROS: [u8; BLOCK] = [0; BLOCK];
        let block = BLOCK as u64;
        let to_block = (self.position.next_multiple_of(block) - self.position).min(bytes);
        let rest = (bytes - to_block) % block;
        // Both are less than a block.
        self.write_all(&ZEROS[..to_block as usize])?;
        self.position += bytes - to_block - rest;
        self.write_all(&ZEROS[..rest as usize])
    }

    /// Writes what is left and sees to the file's length. Nothing is synced.
    pub fn finish(mut self) -> io::Result<()> {
        let buffer = std::mem::take(&mut self.buffer);
        let mut target = match std::mem::replace(&mut self.way, Way::Failed) {
            Way::Here(file) => Target { file, direct: None },
            Way::Thread(thread) => thread.end()?,
            Way::Failed => return Err(told()),
        };
        target.write(&buffer)?;
        // A hole at the end is not written.
        if target.file.metadata()?.len() < self.position {
            target.file.set_len(self.position)?;
        }
        Ok(())
    }

    /// Gives the full buffer to the thread and takes an empty one.
    fn hand_over(&mut self) -> io::Result<()> {
        let thread = match std::mem::replace(&mut self.way, Way::Failed) {
            Way::Here(file) => Thread::start(Target::new(file))?,
            Way::Thread(thread) => thread,
            Way::Failed => return Err(told()),
        };
        let empty = if self.buffers < BUFFERS {
            thread.emptied.try_recv().ok().or_else(|| {
                self.buffers += 1;
                Some(Buffer::default())
            })
        } else {
            thread.emptied.recv().ok()
        };
        let full = std::mem::replace(&mut self.buffer, empty.unwrap_or_default());
        if thread.full.send(full).is_err() {
            // It ended, so it failed.
            return thread.end().and(Err(told()));
        }
        self.way = Way::Thread(thread);
        Ok(())
    }
}

impl Write for DirectWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.room() == 0 {
            self.hand_over()?;
        }
        let taken = bytes.len().min(self.buffer.room());
        self.buffer.push(&bytes[..taken], self.position);
        self.position += taken as u64;
        Ok(taken)
    }

    /// Does nothing: only [`DirectWriter::finish`] writes what does not fill a buffer.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for DirectWriter {
    fn drop(&mut self) {
        if let Way::Thread(thread) = std::mem::replace(&mut self.way, Way::Failed) {
            // Given up. Nothing writes to the file any more once this returns.
            let _ = thread.end();
        }
    }
}

fn told() -> io::Error {
    io::Error::other("an earlier write of this file failed")
}

impl Thread {
    fn start(target: Target) -> io::Result<Self> {
        let (full, to_write) = sync_channel::<Buffer>(BUFFERS);
        let (give_back, emptied) = channel();
        let handle = thread::Builder::new()
            .name("file-writer".to_owned())
            .spawn(move || write_buffers(target, &to_write, &give_back))?;
        Ok(Self {
            full,
            emptied,
            handle,
        })
    }

    /// Waits until all that was handed over is written.
    fn end(self) -> io::Result<Target> {
        drop((self.full, self.emptied));
        self.handle
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread that writes the file panicked")))
    }
}

fn write_buffers(
    mut target: Target,
    to_write: &Receiver<Buffer>,
    give_back: &Sender<Buffer>,
) -> io::Result<Target> {
    for mut buffer in to_write {
        target.write(&buffer)?;
        buffer.clear();
        // Nobody takes it after the last.
        let _ = give_back.send(buffer);
    }
    Ok(target)
}

#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
struct Block([u8; BLOCK]);

/// Data for one or several places of the file. All runs but the file's last are whole blocks.
#[derive(Debug, Default)]
struct Buffer {
    blocks: Vec<Block>,
    held: usize,
    runs: Vec<Run>,
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Block")
    }
}

/// The next bytes of a buffer, and where in the file they go.
#[derive(Debug)]
struct Run {
    position: u64,
    bytes: usize,
}

impl Buffer {
    fn room(&self) -> usize {
        BUFFER_BYTES - self.held
    }

    fn clear(&mut self) {
        self.held = 0;
        self.runs.clear();
    }

    fn push(&mut self, bytes: &[u8], position: u64) {
        if bytes.is_empty() {
            return;
        }
        if self.blocks.is_empty() {
            self.blocks = vec![Block([0; BLOCK]); BUFFER_BYTES / BLOCK];
        }
        match self.runs.last_mut() {
            Some(last) if last.position + last.bytes as u64 == position => last.bytes += bytes.len(),
            _ => self.runs.push(Run {
                position,
                bytes: bytes.len(),
            }),
        }
        let end = self.held + bytes.len();
        self.blocks.as_mut_bytes()[self.held..end].copy_from_slice(bytes);
        self.held = end;
    }
}

/// The file, both ways.
#[derive(Debug)]
struct Target {
    file: File,
    /// None where it is not wanted, or refused.
    direct: Option<File>,
}

impl Target {
    /// Goes past the page cache if the file system lets it.
    fn new(file: File) -> Self {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let flags = OFlags::WRONLY | OFlags::DIRECT | OFlags::CLOEXEC;
        let direct = rustix::fs::open(path, flags, Mode::empty()).ok();
        Self {
            file,
            direct: direct.map(File::from),
        }
    }

    fn write(&mut self, buffer: &Buffer) -> io::Result<()> {
        let mut rest = buffer.blocks.as_bytes();
        for run in &buffer.runs {
            let (bytes, behind) = rest.split_at(run.bytes);
            rest = behind;
            fault::point("disk.direct_writer.write")?;
            let done = self.write_direct(bytes, run.position)?;
            self.file
                .write_all_at(&bytes[done..], run.position + done as u64)?;
        }
        Ok(())
    }

    /// Writes the whole blocks of a run, or nothing of a short one; tells how many bytes.
    fn write_direct(&mut self, bytes: &[u8], position: u64) -> io::Result<usize> {
        let whole = bytes.len() / BLOCK * BLOCK;
        let mut done = 0;
        while whole >= DIRECT_MIN && done < whole {
            let Some(direct) = &self.direct else { break };
            match direct.write_at(&bytes[done..whole], position + done as u64) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => done += written,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // Some file systems find out only now, as does what follows half a block written.
                Err(e) if e.kind() == io::ErrorKind::InvalidInput => self.direct = None,
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }
}
