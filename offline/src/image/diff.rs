//! Where two images differ.

#![expect(
    clippy::cast_possible_truncation,
    reason = "nothing here is longer than a chunk"
)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use serde_json::json;
use walb_common::convert::ImageSource;
use walb_common::types::LB_SIZE;

use crate::output::mebibytes;
use crate::progress::Progress;
use crate::{Outcome, Output};

/// Read from each image at once.
const CHUNK: u64 = 1 << 20;

/// Compares byte by byte; tells ranges of blocks of 512 bytes.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  walbc offline image diff a.img b.img\n\nEach range that differs is a line: first block, number of \
blocks. Exit status 0 if the images are equal, else 1."
)]
pub struct Diff {
    /// A file or a block device
    a: PathBuf,
    /// The other
    b: PathBuf,
}

struct Image<'a> {
    path: &'a Path,
    file: File,
    size: u64,
    /// The first data at or behind the last place asked for.
    data: std::ops::Range<u64>,
}

impl<'a> Image<'a> {
    fn open(path: &'a Path) -> anyhow::Result<Self> {
        let name = path.display();
        let file = File::open(path).with_context(|| format!("open {name}"))?;
        let size = file.size().with_context(|| format!("size {name}"))?;
        Ok(Self {
            path,
            file,
            size,
            data: 0..0,
        })
    }

    /// Whether there are only zeros up to `end`.
    fn is_hole(&mut self, at: u64, end: u64) -> anyhow::Result<bool> {
        if self.data.end <= at {
            let found = self
                .file
                .data_from(at)
                .with_context(|| format!("read {}", self.path.display()))?;
            self.data = found.unwrap_or(self.size..u64::MAX);
        }
        Ok(self.data.start >= end)
    }

    fn read(&self, buf: &mut [u8], at: u64) -> anyhow::Result<()> {
        self.file
            .read_exact_at(buf, at)
            .with_context(|| format!("read {} at byte {at}", self.path.display()))
    }
}

impl Diff {
    pub fn run(self, output: &Output) -> anyhow::Result<Outcome> {
        let (mut a, mut b) = (Image::open(&self.a)?, Image::open(&self.b)?);
        let mut progress = Progress::new("compare", Some(a.size.min(b.size)));
        let mut listing = output.listing()?;
        listing.fact("kind", "image-diff", String::new)?;
        for (key, image) in [("a", &a), ("b", &b)] {
            listing.fact(
                key,
                json!({ "path": image.path, "size": image.size }),
                String::new,
            )?;
        }
        listing.list("ranges", String::new)?;
        let mut differing = 0;
        let compared = compare(&mut a, &mut b, &mut progress, &mut |start, blocks| {
            differing += blocks;
            listing.item((start, blocks), || format!("{start} {blocks}\n"))
        });
        drop(progress);
        let equal = differing == 0 && a.size == b.size;
        let compared = compared.and_then(|()| {
            listing.fact("blocks", differing, || match differing {
                0 => String::new(),
                _ => format!("{differing} blocks differ, {}\n", mebibytes(differing * LB_SIZE)),
            })?;
            listing.fact("equal", equal, || match equal {
                true => "equal\n".to_owned(),
                false if a.size == b.size => String::new(),
                false => format!(
                    "{} has {} bytes, {} has {}\n",
                    self.a.display(),
                    a.size,
                    self.b.display(),
                    b.size
                ),
            })
        });
        listing.finish(compared)?;
        Ok(if equal {
            Outcome::Positive
        } else {
            Outcome::Negative
        })
    }
}

/// Tells each range that differs in what both images have, first block and number of blocks, in order.
fn compare(
    a: &mut Image<'_>,
    b: &mut Image<'_>,
    progress: &mut Progress,
    tell: &mut dyn FnMut(u64, u64) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let size = a.size.min(b.size);
    let (mut of_a, mut of_b) = (vec![0; CHUNK as usize], vec![0; CHUNK as usize]);
    // The range being told: it may go on in the next chunk.
    let mut open: Option<(u64, u64)> = None;
    let mut at = 0;
    while at < size {
        let end = (at + CHUNK).min(size);
        if !(a.is_hole(at, end)? && b.is_hole(at, end)?) {
            let (of_a, of_b) = (&mut of_a[..(end - at) as usize], &mut of_b[..(end - at) as usize]);
            a.read(of_a, at)?;
            b.read(of_b, at)?;
            if of_a != of_b {
                let blocks = of_a.chunks(LB_SIZE as usize).zip(of_b.chunks(LB_SIZE as usize));
                for (block, _) in (at / LB_SIZE..).zip(blocks).filter(|(_, (a, b))| a != b) {
                    match &mut open {
                        Some((_, open_end)) if *open_end == block => *open_end += 1,
                        _ => {
                            if let Some((start, end)) = open.replace((block, block + 1)) {
                                tell(start, end - start)?;
                            }
                        }
                    }
                }
            }
        }
        at = end;
        progress.at(at);
    }
    match open {
        Some((start, end)) => tell(start, end - start),
        None => Ok(()),
    }
}
