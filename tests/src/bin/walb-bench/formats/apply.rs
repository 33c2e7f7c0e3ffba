//! Wdiffs are applied to an image in place, and the image is synced.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::table::{Output, Reference, Table};
use super::walbc::{self, LAYOUTS};
use super::yardstick;
use crate::generate::{self, Data, Io, WlogSpec};

/// Writes all over an image as large as the log, and thinly over one eight times as large.
pub fn tables(dir: &Path, size: u64) -> Result<Vec<Table>> {
    [1, 8].into_iter().map(|times| table(dir, size, times)).collect()
}

fn table(dir: &Path, size: u64, times: u64) -> Result<Table> {
    let range = size * times;
    let image = dir.join(format!("image-{times}"));
    generate::image(&image, range, 99, Data::Half)?;
    let spec = WlogSpec {
        seed: 1,
        size,
        range,
        io: Io::Blocks,
        data: Data::Half,
    };
    // What is applied, raw: of a block that was written twice, only one is.
    let applied = dir.join(format!("applied-{times}"));
    let mut cases = Vec::new();
    for (layout, compression) in [(LAYOUTS[0], "lz4"), (LAYOUTS[0], "none"), (LAYOUTS[1], "lz4")] {
        let wdiff = dir.join(format!("{times}-{layout}-{compression}.wdiff"));
        let made = walbc::make_wdiff(spec, layout, compression, &wdiff)?;
        if cases.is_empty() {
            yardstick::prefix(&image, made.distinct_bytes, &applied)?;
            cases.push(yardstick::lz4(&applied)?);
            cases.push(yardstick::synced_copy(&applied, dir.join("copy"))?);
        }
        let mut case = in_place(&format!("{layout}, {compression}"), wdiff, &image)?;
        case.output = Output::InPlace(made.distinct_bytes);
        case.reference = Reference {
            existing: "1.5-2.7".into(),
            wall: Some(0.9),
            ..Reference::default()
        };
        cases.push(case);
    }
    // Forget the logs' pages that are still to be written; the rounds write the same blocks again and again.
    File::open(&image)?.sync_all()?;
    Ok(Table {
        work: "apply",
        title: format!(
            "apply to an image of {} MiB, beside lz4 of the bytes applied",
            range >> 20
        ),
        size,
        cases,
    })
}

fn in_place(name: &str, wdiff: PathBuf, image: &Path) -> Result<super::table::Case> {
    let bytes_in = yardstick::bytes(&wdiff)?;
    let paths = [wdiff, image.to_owned()];
    let mut case = walbc::case(name, &["wdiff", "apply"], &paths, Output::None)?;
    // Of the image nothing is read but the blocks a page has beside the record.
    case.bytes_in = bytes_in;
    Ok(case)
}
