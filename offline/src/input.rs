//! What a command reads: a file by its name, or stdin.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use walb_common::format::wdiff::WdiffReader;

use crate::output::Usage;
use crate::progress::Progress;

/// An input that is read from its start to its end, showing progress.
#[derive(Debug)]
pub struct Input {
    name: String,
    file: File,
    /// None for what has no size: a pipe, a terminal.
    size: Option<u64>,
    position: u64,
    progress: Progress,
}

impl Input {
    /// Opens a file, or stdin for `-`. `verb` is for the progress.
    pub fn open(path: &Path, verb: &str) -> anyhow::Result<Self> {
        let is_stdin = path == Path::new("-");
        let name = if is_stdin {
            "stdin".to_owned()
        } else {
            path.display().to_string()
        };
        let file = if is_stdin {
            File::from(io::stdin().as_fd().try_clone_to_owned().context("open stdin")?)
        } else {
            File::open(path).with_context(|| format!("open {name}"))?
        };
        let kind = file.metadata().with_context(|| format!("look at {name}"))?;
        if kind.is_dir() {
            bail!("{name} is a directory, expected a file");
        }
        // Where stdin is a file, it may have been read from by others before us: then it goes on from there.
        let (size, position) = if kind.is_file() {
            let position = (&file)
                .stream_position()
                .with_context(|| format!("look at {name}"))?;
            (Some(kind.len()), position)
        } else {
            (None, 0)
        };
        let progress = Progress::new(format!("{verb} {name}"), size);
        Ok(Self {
            name,
            file,
            size,
            position,
            progress,
        })
    }

    /// Its name for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Shows no progress.
    #[must_use]
    pub fn silently(mut self) -> Self {
        self.progress = Progress::silent();
        self
    }

    /// The file itself, if it is one that nobody has read from yet: it can be read at any place. Else gives it back.
    pub fn into_unread_file(self) -> Result<File, Self> {
        if self.size.is_some() && self.position == 0 {
            Ok(self.file)
        } else {
            Err(self)
        }
    }

    /// The file itself, for reads at any place; None for what has none, as a pipe.
    pub fn into_file(self) -> Option<File> {
        let Self { file, size, .. } = self;
        size.and_then(|_| {
            (&file).rewind().ok()?;
            Some(file)
        })
    }

    /// Bytes read or skipped so far, from the start of the file.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Moves on by `count` bytes without looking at them; tells how many there were.
    pub fn skip(&mut self, count: u64) -> io::Result<u64> {
        let Some(size) = self.size else {
            return io::copy(&mut self.by_ref().take(count), &mut io::sink());
        };
        let there = size.saturating_sub(self.position).min(count);
        let to = self.position + there;
        self.file.seek(SeekFrom::Start(to))?;
        self.position = to;
        self.progress.at(to);
        Ok(there)
    }
}

impl Read for Input {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buf)?;
        self.position += count as u64;
        self.progress.at(self.position);
        Ok(count)
    }
}

/// The inputs of a command that reads several; `-` may be among them once.
pub fn check_stdin_once(paths: &[PathBuf]) -> anyhow::Result<()> {
    if paths.iter().filter(|p| *p == Path::new("-")).count() > 1 {
        return Err(Usage("stdin (`-`) can be read only once".to_owned()).into());
    }
    Ok(())
}

/// Opens a wdiff; `-` is stdin, which must be a file where its layout is indexed.
pub fn open_wdiff(path: &Path) -> anyhow::Result<WdiffReader> {
    if path != Path::new("-") {
        return Ok(WdiffReader::open(path)?);
    }
    crate::wdiff::from_stdin()
}

/// Reads until `buf` is full or the input ends; tells how much came.
pub fn fill(input: &mut impl Read, buf: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match input.read(&mut buf[done..]) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}
