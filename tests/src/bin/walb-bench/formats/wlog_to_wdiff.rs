//! A wlog becomes a wdiff: every layout, every compression, contents that compress and contents that do not.

use std::path::Path;

use anyhow::Result;

use super::table::{Output, Reference, Table};
use super::walbc::{self, LAYOUTS};
use super::yardstick;
use crate::generate::{self, Data, Io, WlogSpec};

const COMPRESSIONS: [&str; 6] = ["none", "lz4", "snappy", "zstd", "gzip", "lzma"];

/// The slow ones are measured on small logs only, the slowest in one way only, or nobody would wait for the others.
fn is_measured(layout: &str, compression: &str, data: Data, size: u64) -> bool {
    match compression {
        "gzip" => size <= 64 << 20,
        "lzma" => size <= 64 << 20 && layout == "sorted" && data == Data::Half,
        _ => true,
    }
}

/// One table for each kind of contents.
pub fn tables(dir: &Path, size: u64) -> Result<Vec<Table>> {
    [Data::Half, Data::Rand]
        .into_iter()
        .map(|data| table(dir, size, data))
        .collect()
}

fn table(dir: &Path, size: u64, data: Data) -> Result<Table> {
    let wlog = dir.join(format!("{}.wlog", data.name()));
    let spec = WlogSpec {
        seed: 1,
        size,
        range: size,
        io: Io::Blocks,
        data,
    };
    let made = generate::wlog(&wlog, spec)?;
    let mut cases = vec![
        yardstick::lz4(&wlog)?,
        yardstick::synced_copy(&wlog, dir.join("copy"))?,
    ];
    for compression in COMPRESSIONS {
        for layout in LAYOUTS {
            if !is_measured(layout, compression, data, size) {
                continue;
            }
            let arguments = [
                "wlog",
                "to-wdiff",
                "--layout",
                layout,
                "--compression",
                compression,
            ];
            let out = Output::File(dir.join("out.wdiff"));
            let name = format!("{layout}, {compression}");
            let mut case = walbc::case(&name, &arguments, std::slice::from_ref(&wlog), out)?;
            case.reference = reference(layout, compression, data, size, made.ios);
            cases.push(case);
        }
    }
    Ok(Table {
        work: "wlog-to-wdiff",
        title: format!("wlog to wdiff, 4 KiB writes, {}", data.name()),
        size,
        cases,
    })
}

/// The slow compressions have no goal: nobody would choose them for speed.
fn reference(layout: &str, compression: &str, data: Data, size: u64, ios: u64) -> Reference {
    let peak_bytes = Some((64 << 20) + 64 * ios);
    match (layout, compression) {
        (_, "zstd") => Reference {
            existing: "1.8-3.6".into(),
            cpu: Some(1.6),
            peak_bytes,
            ..Reference::default()
        },
        ("sorted", "lz4" | "snappy" | "none") => Reference {
            existing: existing_sorted(data, size).into(),
            wall: Some(0.65),
            cpu: Some(1.2),
            peak_bytes,
        },
        ("indexed", "lz4" | "snappy" | "none") => Reference {
            existing: "1.1-2.0".into(),
            wall: None,
            cpu: Some(1.0),
            peak_bytes,
        },
        _ => Reference {
            peak_bytes,
            ..Reference::default()
        },
    }
}

/// It grows with the log, which is held in memory whole.
fn existing_sorted(data: Data, size: u64) -> &'static str {
    match (data, size >> 20) {
        (Data::Half, 64) => "1.25",
        (Data::Half, 256) => "2.7",
        (Data::Half, 1024) => "3.7",
        (Data::Half, _) => "1.25-3.7",
        (Data::Rand, 64) => "2.0",
        (Data::Rand, 256) => "2.2",
        (Data::Rand, 1024) => "4.7",
        (Data::Rand, _) => "2.0-4.7",
    }
}
