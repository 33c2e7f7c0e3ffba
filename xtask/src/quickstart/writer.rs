//! Somebody who keeps writing files.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    pause: bool,
    paused: bool,
    stop: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread that creates, rewrites, renames and removes files.
pub struct Writer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<(u64, u64)>>>,
}

impl Writer {
    /// Starts in a directory that is made.
    pub fn start(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let shared = Arc::<Shared>::default();
        let (dir, theirs) = (dir.to_owned(), shared.clone());
        let thread = std::thread::spawn(move || {
            let result = write(&dir, &theirs);
            // Whoever waits for a pause must not wait for a writer that is gone.
            let mut state = theirs.lock();
            (state.stop, state.paused) = (true, true);
            theirs.changed.notify_all();
            result
        });
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Waits until it is between two writes, and keeps it there until the guard is dropped.
    pub fn pause(&self) -> Pause<'_> {
        let mut state = self.shared.lock();
        state.pause = true;
        while !state.paused {
            state = self
                .shared
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        Pause(self)
    }

    /// Ends it; number of files written and of bytes.
    pub fn stop(mut self) -> Result<(u64, u64)> {
        self.shared.lock().stop = true;
        self.shared.changed.notify_all();
        let thread = self.thread.take().context("stopped twice")?;
        thread
            .join()
            .map_err(|_| anyhow!("the writer panicked"))?
            .context("the writer")
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A pause.
pub struct Pause<'a>(&'a Writer);

impl Drop for Pause<'_> {
    fn drop(&mut self) {
        self.0.shared.lock().pause = false;
        self.0.shared.changed.notify_all();
    }
}

/// Whether to go on; waits while paused.
fn go_on(shared: &Shared) -> bool {
    let mut state = shared.lock();
    while state.pause && !state.stop {
        state.paused = true;
        shared.changed.notify_all();
        state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
    }
    state.paused = false;
    !state.stop
}

fn write(dir: &Path, shared: &Shared) -> Result<(u64, u64)> {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let path = |n: u64| -> PathBuf { dir.join(format!("file-{n:02}")) };
    let (mut files, mut bytes) = (0, 0);
    while go_on(shared) {
        let number = next() % 48;
        let length = usize::try_from(next() % (96 << 10))?;
        let data: Vec<u8> = (0..length)
            .map(|i| if i % 3 == 0 { 0x20 } else { next().to_le_bytes()[3] })
            .collect();
        match next() % 8 {
            0 => drop(fs::remove_file(path(number))),
            1 => drop(fs::rename(path(number), path((number + 1) % 48))),
            2..4 => {
                let mut file = OpenOptions::new()
                    .create(true)
                    .truncate(false)
                    .write(true)
                    .open(path(number))?;
                file.seek(SeekFrom::Start(next() % (256 << 10)))?;
                file.write_all(&data)?;
                file.sync_data()?;
            }
            _ => File::create(path(number))?.write_all(&data)?,
        }
        files += 1;
        bytes += length as u64;
        std::thread::sleep(Duration::from_millis(4));
    }
    Ok((files, bytes))
}
