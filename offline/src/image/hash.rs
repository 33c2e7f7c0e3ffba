//! The block hash of an image.

use std::fs::File;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::thread;

use anyhow::Context;
use clap::Args;
use serde_json::json;
use walb_common::convert::ImageSource;
use walb_common::convert::block_hash::{BULKS, DEFAULT_BULK, block_hash};
use walb_common::types::{LB_SIZE, ParseError, parse_size};

use crate::progress::Progress;
use crate::{Outcome, Output};

/// Two images with the same block hash, made with the same bulk, are the same.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  walbc offline image hash volume.img\n\nIt is what the existing `walbc bhash` prints for a volume: \
the XOR over all bulks of MurmurHash3_x64_128, seeded by the bulk's number. It finds what went wrong by chance, not what \
somebody forged."
)]
pub struct Hash {
    /// A file or a block device
    image: PathBuf,
    /// Bytes hashed at once, 512 to 4m; the hash depends on it
    #[arg(long, value_name = "BYTES", default_value_t = DEFAULT_BULK, value_parser = bulk)]
    bulk: u32,
}

fn bulk(text: &str) -> Result<u32, ParseError> {
    u32::try_from(parse_size(text)?)
        .ok()
        .filter(|bulk| BULKS.contains(bulk) && u64::from(*bulk).is_multiple_of(LB_SIZE))
        .ok_or_else(|| ParseError::new("bulk", text, "a multiple of 512, at most 4m"))
}

impl Hash {
    pub fn run(self, output: &Output) -> anyhow::Result<Outcome> {
        let name = self.image.display();
        let image = File::open(&self.image).with_context(|| format!("open {name}"))?;
        let size = image.size().with_context(|| format!("size {name}"))?;
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let mut progress = Progress::new(format!("hash {name}"), Some(size));
        let hash = block_hash(&image, self.bulk, threads, &mut |done| {
            progress.at(done);
            ControlFlow::Continue(())
        })
        .with_context(|| format!("hash {name}"))?;
        drop(progress);
        output.answer(
            &json!({ "image": self.image, "size": size, "bulk": self.bulk, "hash": hash.to_string() }),
            &format!("{hash}\n"),
        )?;
        Ok(Outcome::Positive)
    }
}
