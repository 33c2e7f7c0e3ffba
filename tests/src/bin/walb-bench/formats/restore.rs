//! A snapshot is restored from the files of an archive: a base image and a hundred wdiffs.

use std::path::{Path, PathBuf};

use anyhow::Result;
use walb_common::lineage::{BaseState, MetaDiff, Snapshot};
use walb_common::types::{Gid, Timestamp};

use super::merge::make_wdiffs;
use super::table::{Case, Output, Reference, Table};
use super::{walbc, yardstick};
use crate::generate::{self, Data, Io};

const VOLUME: &str = "vol0";
const WDIFFS: u64 = 100;

/// Bytes written since the base, as a part of the volume: a little in each of the wdiffs.
const CHANGED: u64 = 4;

/// To a file, which is synced, and to a stream that is thrown away.
pub fn tables(dir: &Path, size: u64) -> Result<Vec<Table>> {
    let archive = dir.join("archive");
    let base = make_archive(&archive, size)?;
    let out = dir.join("restored");
    let arguments = [
        "restore",
        "--volume",
        VOLUME,
        "--latest",
        "--base",
        yardstick::text(&base)?,
    ];
    let bytes_in = stored(&archive.join(VOLUME))? + size;
    let case = |name: &str, output: Output, more: &[&str]| -> Result<Case> {
        let arguments = [&arguments[..], &["--archive", yardstick::text(&archive)?], more].concat();
        let mut case = walbc::case(name, &arguments, &[], output)?;
        case.bytes_in = bytes_in;
        case.reference = Reference {
            existing: "4-9".into(),
            wall: Some(1.5),
            cpu: None,
            peak_bytes: Some(64 << 20),
        };
        Ok(case)
    };
    Ok(vec![Table {
        work: "restore",
        title: format!("restore of base and {WDIFFS} wdiffs"),
        size,
        cases: vec![
            yardstick::cp(&base, dir.join("copy"))?,
            yardstick::synced_copy(&base, dir.join("copy"))?,
            case("to a file, synced", Output::File(out), &[])?,
            case("to a stream", Output::None, &["-o", "-"])?,
        ],
    }])
}

/// An archive as its daemon leaves it; returns the base image.
fn make_archive(archive: &Path, size: u64) -> Result<PathBuf> {
    let volume = archive.join(VOLUME);
    let images = archive.join("images");
    std::fs::create_dir_all(&volume)?;
    std::fs::create_dir_all(&images)?;
    let base = images.join(format!("wb_{VOLUME}"));
    generate::image(&base, size, 99, Data::Half)?;
    let wdiffs = make_wdiffs(
        &volume.join("new"),
        size / CHANGED,
        size,
        WDIFFS,
        Io::Blocks,
        walbc::LAYOUTS[0],
    )?;
    let time = Timestamp(1_795_000_000);
    for (path, gid) in wdiffs.iter().zip(0..) {
        let between = (Snapshot::clean(Gid(gid)), Snapshot::clean(Gid(gid + 1)));
        let diff = MetaDiff::new(between.0, between.1)?
            .with_timestamp(time)
            .with_mergeable(true);
        std::fs::rename(path, volume.join(diff.file_name()))?;
    }
    std::fs::remove_dir(volume.join("new"))?;
    let state = BaseState::idle(Snapshot::clean(Gid(0)), time);
    for (name, text) in [
        ("state", "Archived".to_owned()),
        ("base", state.with_time()),
        ("archive_uuid", generate::UUID.to_string()),
        ("uuid", generate::UUID.to_string()),
        ("size", (size / 512).to_string()),
    ] {
        std::fs::write(volume.join(name), format!("{text}\n"))?;
    }
    Ok(base)
}

fn stored(volume: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(volume)? {
        bytes += entry?.metadata()?.len();
    }
    Ok(bytes)
}
