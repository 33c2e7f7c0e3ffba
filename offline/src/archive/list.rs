//! `walbc offline list`.

use std::fmt::Write;

use clap::Args;
use serde_json::{Value, json};
use walb_common::archive_files::Choice;
use walb_common::lineage::{DiffSet, MetaDiff, Restorable};
use walb_common::types::{VolumeName, format_size};

use super::place::{Archive, Place};
use crate::output::mebibytes;
use crate::{Outcome, Output};

/// Reads names and small files only: `verify` tells whether the contents are sound.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  walbc offline list --archive /var/lib/walb-archive --volume vol0\n\nWith --volume each snapshot \
that can be restored is a line: gid, time, 1 if it was asked for and stays, 0 if it may go by merging (and for the base \
image's own)."
)]
pub struct List {
    #[command(flatten)]
    archive: Archive,
    /// Only this volume, with its snapshots
    #[arg(long, value_name = "VOL")]
    volume: Option<VolumeName>,
}

impl List {
    /// Runs it.
    pub fn run(self, output: &Output) -> anyhow::Result<Outcome> {
        let mut volumes = Vec::new();
        let mut text = String::new();
        for place in self.archive.places(self.volume.as_ref())? {
            let (json, lines) = volume(&place, self.volume.is_some());
            volumes.push(json);
            text += &lines;
        }
        output.answer(&json!({ "kind": "archive", "volumes": volumes }), &text)?;
        Ok(Outcome::Positive)
    }
}

/// One volume; with its snapshots, or as one line.
fn volume(place: &Place, snapshots: bool) -> (Value, String) {
    let mut json = json!({ "volume": place.name, "image": place.image });
    let mut text = place.name.to_string();
    match describe(place, &mut json, &mut text) {
        Ok(list) => {
            json["restorable"] = list.iter().map(as_json).collect();
            if snapshots {
                text.push('\n');
                for r in &list {
                    let _ = writeln!(text, "{} {} {}", r.gid, r.timestamp, u8::from(r.explicit));
                }
                return (json, text);
            }
            if let [oldest, .., newest] | [oldest @ newest] = &list[..] {
                let _ = write!(
                    text,
                    "  {} snapshots, gid {} of {} to gid {} of {}",
                    list.len(),
                    oldest.gid,
                    oldest.timestamp,
                    newest.gid,
                    newest.timestamp
                );
            }
        }
        Err(error) => {
            let problem = walb_common::daemon::chain(error.as_ref());
            let _ = write!(text, "  {problem}");
            json["problem"] = problem.into();
        }
    }
    text.push('\n');
    (json, text)
}

fn describe(place: &Place, json: &mut Value, text: &mut String) -> anyhow::Result<Vec<Restorable>> {
    let state = place.files.read_state()?;
    json["state"] = state.to_string().into();
    let _ = write!(text, "  {state}");
    place.state_with_data()?;
    let base = place.base()?;
    let diffs: DiffSet = place.files.list()?.diffs;
    let bytes: u64 = diffs.iter().map(MetaDiff::size).sum();
    json["base"] = base.with_time().into();
    json["diffs"] = diffs.len().into();
    json["diff_bytes"] = bytes.into();
    let _ = write!(text, "  base {base}  {} diffs, {}", diffs.len(), mebibytes(bytes));
    if let Ok(latest) = diffs.latest(&base) {
        json["latest"] = latest.snapshot().to_string().into();
        let _ = write!(text, " to {}", latest.snapshot());
    }
    let (_, size) = place.open_image()?;
    json["size"] = size.bytes().into();
    let _ = write!(text, "  image {}", format_size(size.bytes()));
    Ok(Choice::list(&base, &diffs)?)
}

fn as_json(r: &Restorable) -> Value {
    json!({ "gid": r.gid, "timestamp": r.timestamp, "time": r.timestamp.to_string(), "explicit": r.explicit })
}
