//! The start's look at the files, the comparison with the index, and the same on demand: `walb-archive fsck`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use walb_common::archive_files::check::{self, WdiffFinding};
use walb_common::daemon::chain;
use walb_common::lineage::MetaDiff;
use walb_common::types::VolumeName;

use crate::config::Config;
use crate::error::{At, FileError};
use crate::images::Images;
use crate::metadata::{Metadata, VolumeRow};
use crate::server::{OpenError, lock_data_dir};
use crate::volume::{CLEAR_SUFFIX, INIT_SUFFIX, Loaded, VolumeDir, load};

/// A volume found in the files.
pub(crate) type Found = (VolumeName, VolumeDir, Loaded);

/// Everything the files tell.
pub(crate) struct Survey {
    images: Images,
    found: Vec<Found>,
}

/// Reads every volume's files, and settles what was interrupted.
pub(crate) async fn survey(config: &Config) -> Result<Survey, OpenError> {
    let config = config.clone();
    Ok(tokio::task::spawn_blocking(move || survey_files(&config)).await??)
}

fn survey_files(config: &Config) -> Result<Survey, FileError> {
    let data = &config.node.data_dir;
    let (images, mut restored) = Images::open(&config.image_dir)?;
    let image_dir = fs::canonicalize(&config.image_dir).at("look at", &config.image_dir)?;
    let mut found = Vec::new();
    for entry in fs::read_dir(data).at("list", data)? {
        let entry = entry.at("list", data)?;
        let path = entry.path();
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if !path.is_dir() || fs::canonicalize(&path).is_ok_and(|p| p == image_dir) {
            continue;
        }
        if name.ends_with(INIT_SUFFIX) {
            stays(&path, VolumeDir::remove_leftover(&path));
        } else if let Some(volume) = name.strip_suffix(CLEAR_SUFFIX) {
            // Its images are still to be removed, unless the name has been given anew (init removes them itself).
            if let Ok(volume) = VolumeName::new(volume)
                && !data.join(volume.as_str()).exists()
            {
                restored.remove(&volume);
                if stays(&path, images.remove_all(&volume)) {
                    continue;
                }
                tracing::info!(%volume, "finished an interrupted clear");
            }
            stays(&path, VolumeDir::remove_leftover(&path));
        } else if let Ok(volume) = VolumeName::new(&name) {
            let dir = VolumeDir::new(path);
            // A directory that cannot even be listed may be anybody's; as a volume it is shown, with the reason.
            if matches!(dir.files().is_a_volume(), Ok(false)) {
                tracing::warn!(path = %dir.path().display(), "not a volume's directory; left alone");
                continue;
            }
            let mut loaded = load(&volume, &dir, &images);
            if loaded.held.lineage.is_some() {
                loaded.held.restored = restored.remove(&volume).unwrap_or_default();
            }
            found.push((volume, dir, loaded));
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(Survey { images, found })
}

/// Whether a leftover could not be removed. The next start tries again; nobody is kept down by it.
fn stays(path: &Path, removed: Result<(), FileError>) -> bool {
    if let Err(error) = &removed {
        tracing::error!(path = %path.display(), error = %chain(error), "a leftover stays until the next start");
    }
    removed.is_err()
}

/// What the index and the files disagree on, as far as it concerns anybody, for one volume.
fn contradictions(
    rows: Option<&VolumeRow>,
    row: &VolumeRow,
    known: &BTreeSet<String>,
    there: &BTreeSet<String>,
) -> Vec<String> {
    let mut told = Vec::new();
    if let Some(rows) = rows {
        for (what, index, file) in [
            ("state", Some(&rows.state), Some(&row.state)),
            ("base", rows.base.as_ref(), row.base.as_ref()),
            (
                "archive uuid",
                rows.archive_uuid.as_ref(),
                row.archive_uuid.as_ref(),
            ),
            ("uuid", rows.uuid.as_ref(), row.uuid.as_ref()),
        ] {
            if index != file {
                let none = String::from("none");
                let (index, file) = (index.unwrap_or(&none), file.unwrap_or(&none));
                told.push(format!(
                    "the index says {what} {index}, the file says {file}; the file counts"
                ));
            }
        }
    }
    for file in there.difference(known) {
        told.push(format!("{file} is not in the index; taken up"));
    }
    for file in known.difference(there) {
        told.push(format!(
            "{file} is in the index, but the file is gone; what it held is lost"
        ));
    }
    told
}

/// Compares with the index, tells what disagrees, and makes the index say what the files say. Rows of a volume that
/// failed stay: they may help whoever repairs it.
pub(crate) async fn reconcile(metadata: &Metadata, survey: &mut Survey) -> Result<Vec<String>, OpenError> {
    let mut rows: BTreeMap<_, _> = metadata.load().await?;
    let mut told = Vec::new();
    let mut tell = |volume: &str, text: String| {
        tracing::warn!(volume, "{text}");
        told.push(format!("{volume}: {text}"));
    };
    for (name, _, loaded) in &mut survey.found {
        for note in &loaded.notes {
            tell(name.as_str(), note.clone());
        }
        let rows = rows.remove(name.as_str()).unwrap_or_default();
        if let Some(reason) = &loaded.held.failed {
            tell(name.as_str(), format!("failed: {reason}"));
            continue;
        }
        if let Some(old) = &rows.volume {
            // Kept nowhere else.
            loaded.held.last_sync = old.last_sync;
            loaded.held.last_wdiff_received = old.last_wdiff_received;
        }
        let row = VolumeRow::of(loaded.state, &loaded.held);
        let there = |diffs: &mut dyn Iterator<Item = String>| diffs.collect::<BTreeSet<_>>();
        let kept = there(&mut loaded.held.diffs.iter().map(MetaDiff::file_name));
        let garbage = there(&mut loaded.garbage.iter().map(MetaDiff::file_name));
        // Garbage is still there; whether the index knows it does not matter.
        let known: BTreeSet<String> = rows.diffs.difference(&garbage).cloned().collect();
        for text in contradictions(rows.volume.as_ref(), &row, &known, &kept) {
            tell(name.as_str(), text);
        }
        if rows.volume.as_ref() != Some(&row) || rows.diffs != kept {
            let replaced = metadata
                .replace(name, &row, loaded.held.diffs.iter().copied())
                .await;
            if let Err(error) = replaced {
                // A full disk above all: restored images must be removable, and diffs of others receivable, all the same.
                tell(
                    name.as_str(),
                    format!("the index could not be brought up to date: {}", chain(&error)),
                );
            }
        }
    }
    for (name, _) in rows {
        tell(
            &name,
            "the index knows the volume, but its directory is gone; its rows are removed".to_owned(),
        );
        if let Err(error) = metadata.remove_named(&name).await {
            tell(&name, format!("the rows could not be removed: {}", chain(&error)));
        }
    }
    Ok(told)
}

/// Removes garbage, whose rows are gone by now, and hands over what stays.
pub(crate) async fn settle(survey: Survey) -> Result<(Images, Vec<Found>), OpenError> {
    let settled = tokio::task::spawn_blocking(move || {
        let Survey { images, mut found } = survey;
        for (name, dir, loaded) in &mut found {
            if loaded.garbage.is_empty() {
                continue;
            }
            for diff in &loaded.garbage {
                tracing::info!(volume = %name, %diff, "removing a diff that no snapshot needs");
            }
            if let Err(error) = dir.remove_diffs(&loaded.garbage) {
                tracing::error!(volume = %name, error = %chain(&error), "garbage stays for now");
            }
            loaded.garbage.clear();
        }
        (images, found)
    });
    Ok(settled.await?)
}

/// `walb-archive fsck`: tells what is wrong or was put right, one line each. `read` also reads every wdiff through.
pub async fn run(config: &Config, read: bool) -> Result<Vec<String>, OpenError> {
    let _lock = lock_data_dir(&config.node.data_dir)?;
    let metadata = Metadata::open(&config.node.data_dir.join("metadata.sqlite")).await?;
    let mut survey = survey(config).await?;
    let mut told = reconcile(&metadata, &mut survey).await?;
    let (_, found) = settle(survey).await?;
    if read {
        let checked = tokio::task::spawn_blocking(move || {
            let mut bad = Vec::new();
            for (name, dir, loaded) in &found {
                let diffs: Vec<MetaDiff> = loaded.held.diffs.iter().copied().collect();
                let findings = check::wdiffs(dir.files(), &diffs, loaded.held.size, &|_| {});
                for (diff, finding) in diffs.iter().zip(findings) {
                    match finding {
                        WdiffFinding::Sound => {}
                        // The daemon does not run, so nobody has replaced it.
                        WdiffFinding::Gone => bad.push(format!("{name}: {} is gone", diff.file_name())),
                        WdiffFinding::Wrong(text) => bad.push(format!("{name}: {text}")),
                    }
                }
            }
            bad
        });
        told.extend(checked.await?);
    }
    Ok(told)
}
