//! Options that several commands share.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use walb_common::convert::{DiscardMode, all_cores};
use walb_common::format::wdiff;
use walb_common::types::{Compression, CompressionSetting, LB_SIZE, Lb, ParseError, parse_size};

/// Where a file that is made goes.
#[derive(Debug, Clone, Args)]
pub struct OutOptions {
    /// File to make; `-` for stdout
    #[arg(short = 'o', long = "output", value_name = "OUT")]
    pub out: PathBuf,
    /// Replace OUT if it exists
    #[arg(long)]
    pub force: bool,
}

/// How a wdiff is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Layout {
    /// Readable as a stream
    Sorted,
    /// Data in the order they came, with an index behind them
    Indexed,
}

impl From<wdiff::Layout> for Layout {
    fn from(layout: wdiff::Layout) -> Self {
        match layout {
            wdiff::Layout::Sorted => Self::Sorted,
            wdiff::Layout::Indexed => Self::Indexed,
        }
    }
}

impl From<Layout> for wdiff::Layout {
    fn from(layout: Layout) -> Self {
        match layout {
            Layout::Sorted => Self::Sorted,
            Layout::Indexed => Self::Indexed,
        }
    }
}

/// How a wdiff is written.
#[derive(Debug, Clone, Args)]
pub struct WdiffOptions {
    /// Layout of OUT
    #[arg(long, value_enum, default_value_t = Layout::Sorted)]
    pub layout: Layout,
    /// Compression of its data: none, snappy, gzip, lzma, lz4 or zstd, and a level from 0 (the default) to 9
    #[arg(long, value_name = "TYPE[:LEVEL]", default_value = "snappy", value_parser = compression)]
    pub compression: CompressionSetting,
}

/// What a discard does to an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Discard {
    /// The range keeps its data
    Ignore,
    /// The range becomes zero
    Zero,
}

impl From<Discard> for DiscardMode {
    fn from(discard: Discard) -> Self {
        match discard {
            Discard::Ignore => Self::Ignore,
            Discard::Zero => Self::Zero,
        }
    }
}

/// A compression of the command line, with all cores for it. Levels above 6 of lzma are refused: the existing tools cannot read the result.
pub fn compression(text: &str) -> Result<CompressionSetting, ParseError> {
    let mut setting: CompressionSetting = text.parse()?;
    setting.cpus = all_cores();
    if setting.kind == Compression::Lzma && setting.level > 6 {
        return Err(ParseError::new(
            "compression",
            text,
            "lzma at a level up to 6: the existing tools cannot read higher ones",
        ));
    }
    Ok(setting)
}

/// A maximum IO size of the command line, in bytes with an optional suffix; 0 for none.
pub fn max_io(text: &str) -> Result<Lb, ParseError> {
    let bytes = parse_size(text)?;
    if !bytes.is_multiple_of(LB_SIZE) {
        return Err(ParseError::new("maximum IO size", text, "a multiple of 512"));
    }
    Ok(Lb(bytes / LB_SIZE))
}
