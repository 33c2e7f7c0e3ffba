//! Where a restored image goes.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rustix::fs::fstatvfs;
use walb_common::convert::ImageTarget;

use crate::options::OutOptions;
use crate::out_file::OutFile;
use crate::output::Output;
use crate::target::Target;

/// Blocks of zeros of this size are left out of a file: what file systems keep as a hole.
const BLOCK: usize = 4096;

/// A file to be, a block device, or stdout.
#[derive(Debug)]
pub enum Out {
    /// A file, not yet under its name; or stdout.
    File(OutFile),
    /// A block device, overwritten.
    Device(Target),
}

impl Out {
    /// Opens it. Nothing is changed yet.
    pub fn open(options: &OutOptions, image: &Path, size: u64, output: &Output) -> anyhow::Result<Self> {
        let name = options.out.display();
        let there = fs::metadata(&options.out);
        if options.out == Path::new("-") || !there.as_ref().is_ok_and(|at| at.file_type().is_block_device()) {
            let inputs = [image.to_owned()];
            return Ok(Self::File(OutFile::create(options, &inputs, output)?));
        }
        if let (Ok(there), Ok(image)) = (&there, fs::metadata(image))
            && image.file_type().is_block_device()
            && image.rdev() == there.rdev()
        {
            bail!("{name} is the base image");
        }
        if !options.force {
            bail!("{name} is a block device: --force overwrites it");
        }
        let target = Target::open(&options.out)?;
        if target.size() < size {
            bail!("{name} has {} bytes, the image needs {size}", target.size());
        }
        Ok(Self::Device(target))
    }

    /// What it is called in messages; None for stdout.
    pub fn path<'a>(&self, options: &'a OutOptions) -> Option<&'a PathBuf> {
        match self {
            Self::File(OutFile::Stream(_)) => None,
            _ => Some(&options.out),
        }
    }

    /// What it is after a failure.
    pub fn state_after_failure(&self, options: &OutOptions) -> String {
        match self {
            Self::File(OutFile::Stream(_)) => "what was written to stdout is not the snapshot".to_owned(),
            Self::File(_) => format!("{} was not made", options.out.display()),
            Self::Device(_) => format!(
                "{} holds neither what it held nor the snapshot",
                options.out.display()
            ),
        }
    }
}

/// Fails early if what `base` holds cannot fit where `file` is: found out the slow way, it would have filled the disk.
pub fn check_room(file: &File, base: &File) -> anyhow::Result<()> {
    let about = base.metadata().context("look at the base image")?;
    // A device does not tell what it holds.
    let needed = (about.blocks() * 512).min(about.len());
    let Ok(found) = fstatvfs(file) else {
        return Ok(());
    };
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    if free < needed {
        return Err(io::Error::new(
            io::ErrorKind::StorageFull,
            format!("{needed} bytes needed, {free} free"),
        )
        .into());
    }
    Ok(())
}

/// A new file, in which nothing is written where there are only zeros.
#[derive(Debug)]
pub struct Sparse<'a>(pub &'a File);

impl ImageTarget for Sparse<'_> {
    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }

    fn write_at(&self, data: &[u8], position: u64) -> io::Result<()> {
        // Runs of blocks that are zero or are not, cut where the file's blocks are.
        let (mut start, mut at) = (0, 0);
        while at < data.len() {
            let in_block = usize::try_from((position + at as u64) % BLOCK as u64).expect("less than a block");
            let end = (at + BLOCK - in_block).min(data.len());
            if is_zero(&data[at..end]) {
                self.write_run(&data[start..at], position + start as u64)?;
                start = end;
            }
            at = end;
        }
        self.write_run(&data[start..], position + start as u64)
    }

    fn write_zeroes(&self, _position: u64, _length: u64) -> io::Result<()> {
        Ok(())
    }

    fn discard(&self, _position: u64, _length: u64) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }
}

impl Sparse<'_> {
    fn write_run(&self, data: &[u8], position: u64) -> io::Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        self.0.write_at(data, position)
    }
}

fn is_zero(block: &[u8]) -> bool {
    static ZEROS: [u8; BLOCK] = [0; BLOCK];
    *block == ZEROS[..block.len()]
}

/// Tells on stderr what went to stdout: the answer has no other place.
pub fn tell(line: &str) {
    // Whoever closed stderr does not want to know.
    let _ = writeln!(io::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_left_out_and_everything_else_is_written() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        let mut image = vec![0; 1 << 20];
        for (at, length) in [(0, 1), (4095, 2), (8192, 4096), (20_000, 512), (300_000, 200_000)] {
            image[at..at + length].fill(7);
        }
        let sparse = Sparse(&file);
        let mut at = 0;
        for length in [512, 3584, 5000, 100_000, 512, 1 << 19].into_iter().cycle() {
            let end = (at + length).min(image.len());
            sparse.write_at(&image[at..end], at as u64).unwrap();
            at = end;
            if at == image.len() {
                break;
            }
        }
        let mut found = vec![1; 1 << 20];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut found, 0).unwrap();
        assert!(found == image);
        assert!(file.metadata().unwrap().blocks() * 512 < 300_000);
    }
}
