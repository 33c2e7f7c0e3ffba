//! The block hash of an image.

use std::path::Path;

use anyhow::Result;

use super::table::{Output, Reference, Table};
use super::{walbc, yardstick};
use crate::generate::{self, Data};

/// The image is four times the size of the other works', so that the largest of them is 4 GiB.
pub fn tables(dir: &Path, size: u64) -> Result<Vec<Table>> {
    let image = dir.join("image");
    generate::image(&image, 4 * size, 1, Data::Half)?;
    let hash = walbc::case(
        "block hash",
        &["image", "hash"],
        std::slice::from_ref(&image),
        Output::None,
    )?;
    let hash = super::table::Case {
        reference: Reference {
            existing: "3.4".into(),
            wall: Some(1.4),
            cpu: Some(2.2),
            peak_bytes: Some(64 << 20),
        },
        ..hash
    };
    Ok(vec![Table {
        work: "image-hash",
        title: format!("hash of an image of {} MiB", (4 * size) >> 20),
        size,
        cases: vec![yardstick::xxh64(&image)?, hash],
    }])
}
