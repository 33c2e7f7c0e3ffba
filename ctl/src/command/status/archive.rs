//! Status of an archive.

use walb_common::lineage::{BaseState, Snapshot};
use walb_common::rest::archive::{Global, Status, VolumeStatus};
use walb_common::types::{Gid, format_size};

use super::one_line;
use crate::answer::Text;

/// Every action an archive has, in the order of the output.
pub const ACTIONS: [&str; 5] = ["Merge", "Apply", "Restore", "ReplSyncAsClient", "Resize"];

/// Shown where there is no snapshot yet.
const NO_SNAPSHOT: Snapshot = Snapshot::clean(Gid::MAX);

/// The whole archive.
pub fn all(status: &Status) -> String {
    let Status { global, volumes } = status;
    let mut text = Text::default();
    text.heading("ArchiveGlobal");
    global_lines(&mut text, global);
    text.heading("Volume");
    for volume in volumes {
        text.line(volume_line(volume));
    }
    text.finish()
}

/// Images are files here: there is no volume group, and no thin pool to be left out.
fn global_lines(text: &mut Text, global: &Global) {
    text.pair("nodeId", &global.node_id);
    text.pair("baseDir", &global.base_dir);
    text.pair("volumeGroup", "---");
    text.pair("maxConnections", global.max_connections);
    text.pair("maxForegroundTasks", global.max_foreground_tasks);
    text.pair("socketTimeout", global.socket_timeout);
    text.pair("keepAlive", "OFF");
    text.pair("doAutoResize", 0);
    text.pair("keepOneColdSnapshot", 0);
    text.pair("imageDir", &global.image_dir);
    text.pair("discard", &global.discard);
}

fn volume_line(volume: &VolumeStatus) -> String {
    let head = format!("volume {} state {}", volume.name, volume.state);
    if let Some(reason) = &volume.failed {
        return format!("{head} failed {}", one_line(reason));
    }
    let actions: u32 = volume.actions.iter().map(|a| a.running).sum();
    let middle = format!(
        "{head} totalNumAction {actions} stopState {} lastSyncTime {} lastWdiffReceivedTime {} numDiff {}",
        volume.stop_state, volume.last_sync, volume.last_wdiff_received, volume.num_diff
    );
    match volume.size {
        Some(size) => {
            let latest = volume.latest.unwrap_or(NO_SNAPSHOT);
            format!(
                "{middle} latestSnapshot {latest} size {}",
                format_size(size.bytes())
            )
        }
        None => format!("{middle} baseLv NOT FOUND"),
    }
}

/// One volume.
pub fn one(volume: &VolumeStatus) -> String {
    let mut text = Text::default();
    text.pair("hostType", "archive");
    text.pair("volume", &volume.name);
    text.pair("state", &volume.state);
    if let Some(reason) = &volume.failed {
        text.pair("failed", one_line(reason));
    }
    if volume.state == "Clear" {
        return text.finish();
    }
    let running = |name: &str| {
        volume
            .actions
            .iter()
            .find(|a| a.name == name)
            .map_or(0, |a| a.running)
    };
    text.pair(
        "action",
        ACTIONS.map(|name| format!("{name} {}", running(name))).join(" "),
    );
    text.pair("stopState", &volume.stop_state);
    text.pair("lastSyncTime", volume.last_sync);
    text.pair("lastWdiffReceivedTime", volume.last_wdiff_received);
    text.pair("progressLb", volume.progress);
    let Some(size) = volume.size else {
        text.line("baseLv NOT FOUND");
        return text.finish();
    };
    // Without its time; a text of another form is shown as it is rather than hidden.
    let base = volume
        .base
        .parse::<BaseState>()
        .map_or_else(|_| volume.base.clone(), |b| b.to_string());
    text.pair("sizeLb", size);
    text.pair("size", format_size(size.bytes()));
    text.pair("uuid", volume.uuid);
    text.pair("archiveUuid", volume.archive_uuid);
    text.pair("base", base);
    text.pair("latest", volume.latest.unwrap_or(NO_SNAPSHOT));
    text.pair("numCold", 0);
    text.pair("numRestored", volume.num_restored);
    text.pair("numRestorable", volume.num_restorable);
    text.pair("numRestorableAll", volume.num_restorable_all);
    text.pair("numDiff", volume.num_diff);
    text.pair("wdiffTotalSize", volume.wdiff_total_size);
    text.pair("fullReplState", "None");
    for warning in &volume.warnings {
        text.pair("warning", one_line(warning));
    }
    text.finish()
}
