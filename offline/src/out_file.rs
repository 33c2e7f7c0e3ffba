//! Files that a command makes: whole and durable under their name, or not there.
//!
//! Order: temporary file in the same directory, write, fsync, rename, fsync of the directory. A process that is killed
//! may leave `OUT.*.tmp` behind, nothing else.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use tempfile::NamedTempFile;
use walb_common::disk::{DirectWriter, TEMPORARY_SUFFIX, fault, sync_dir};

use crate::options::OutOptions;
use crate::output::{Output, Stdout, Usage};

/// The output of a command: a file to be, or stdout.
#[derive(Debug)]
pub enum OutFile {
    /// `-`.
    Stream(Stdout),
    /// A file, under its temporary name.
    File {
        /// Takes the content, unless it is written to the file in another way.
        content: DirectWriter,
        /// The file. Removed unless it gets its name.
        file: NamedTempFile,
        /// Its name to be.
        path: PathBuf,
        /// Whether it may replace what is there.
        force: bool,
    },
}

impl OutFile {
    /// Starts it. Refuses an OUT that exists (unless forced), is no regular file, or is one of `inputs`.
    pub fn create(options: &OutOptions, inputs: &[PathBuf], output: &Output) -> anyhow::Result<Self> {
        let path = &options.out;
        if path == Path::new("-") {
            if output.json() {
                return Err(Usage("--json and `-o -` would both write to stdout".to_owned()).into());
            }
            if output.on_terminal() {
                return Err(Usage(
                    "a terminal is no place for binary data: redirect stdout, or use -o FILE".to_owned(),
                )
                .into());
            }
            return Ok(Self::Stream(Stdout::stream()));
        }
        let name = path.display();
        match fs::metadata(path) {
            Ok(there) => {
                for input in inputs {
                    let same =
                        fs::metadata(input).is_ok_and(|i| (i.dev(), i.ino()) == (there.dev(), there.ino()));
                    if same {
                        bail!("{name} is input and output");
                    }
                }
                if !there.is_file() {
                    bail!("{name} is no regular file: for a device or a pipe use `-o -` and redirect stdout");
                }
                if !options.force {
                    return Err(exists(path));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("look at {name}")),
        }
        let Some(file_name) = path.file_name() else {
            bail!("{name} is no name for a file");
        };
        let mut prefix = file_name.to_owned();
        prefix.push(".");
        let file = tempfile::Builder::new()
            .prefix(&prefix)
            .suffix(TEMPORARY_SUFFIX)
            .tempfile_in(parent(path))
            .with_context(|| format!("make a temporary file beside {name}"))?;
        Ok(Self::File {
            content: DirectWriter::new(file.as_file()).with_context(|| format!("write {name}"))?,
            file,
            path: path.clone(),
            force: options.force,
        })
    }

    /// The directory for further temporary files.
    pub fn scratch_dir(&self) -> PathBuf {
        match self {
            Self::Stream(_) => std::env::temp_dir(),
            Self::File { path, .. } => parent(path).to_owned(),
        }
    }

    /// Writes out what is left and gives the file its name. Durable when this returns.
    pub fn commit(self) -> anyhow::Result<()> {
        let (content, file, path, force) = match self {
            Self::Stream(mut out) => return out.flush().context("write to stdout"),
            Self::File {
                content,
                file,
                path,
                force,
            } => (content, file, path, force),
        };
        let name = path.display().to_string();
        content.finish().with_context(|| format!("write {name}"))?;
        fault::point("offline.out.before_sync")
            .and_then(|()| file.as_file().sync_all())
            .with_context(|| format!("sync {name}"))?;
        // The content is durable before the name, the name before success is told.
        fault::point("offline.out.before_rename").with_context(|| format!("rename to {name}"))?;
        let renamed = if force {
            file.persist(&path)
        } else {
            file.persist_noclobber(&path)
        };
        renamed.map_err(|e| match e.error.kind() {
            io::ErrorKind::AlreadyExists => exists(&path),
            _ => anyhow::Error::new(e.error).context(format!("rename to {name}")),
        })?;
        fault::point("offline.out.before_dirsync")
            .and_then(|()| sync_dir(parent(&path)))
            .with_context(|| format!("sync the directory of {name}"))
    }
}

impl Write for OutFile {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stream(out) => out.write(buf),
            Self::File { content, .. } => content.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Stream(out) => out.flush(),
            Self::File { content, .. } => content.flush(),
        }
    }
}

/// A file without a name, for intermediate results.
pub fn scratch(dir: &Path) -> anyhow::Result<File> {
    tempfile::tempfile_in(dir).with_context(|| format!("make a temporary file in {}", dir.display()))
}

fn exists(path: &Path) -> anyhow::Error {
    anyhow!("{} exists already: --force replaces it", path.display())
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}
