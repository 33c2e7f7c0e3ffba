//! Status of a proxy.

use walb_common::rest::proxy::{ArchiveStatus, Global, Status, VolumeStatus};
use walb_common::types::{Gid, format_size};

use super::one_line;
use crate::answer::{Text, bit};

/// The whole proxy.
pub fn all(status: &Status) -> String {
    let Status {
        global,
        tasks,
        volumes,
    } = status;
    let mut text = Text::default();
    text.heading("ProxyGlobal");
    global_lines(&mut text, global);
    text.heading(format_args!("TaskQueue {}", tasks.len()));
    for task in tasks {
        text.line(format_args!(
            "volume {} archive {} timeDiffMs {}",
            task.volume, task.archive, task.time_diff_ms
        ));
    }
    text.heading("Volume");
    for volume in volumes {
        let head = format!("volume {} state {}", volume.name, volume.state);
        if let Some(reason) = &volume.failed {
            text.line(format_args!("{head} failed {}", one_line(reason)));
            continue;
        }
        text.line(format_args!(
            "{head} numDiff {} totalSize {} timestamp {}",
            volume.num_diff, volume.total_size, volume.last_wlog_received
        ));
        for archive in &volume.archives {
            text.line(archive_line(archive));
        }
    }
    text.finish()
}

fn global_lines(text: &mut Text, global: &Global) {
    text.pair("nodeId", &global.node_id);
    text.pair("baseDir", &global.base_dir);
    text.pair("maxWdiffSendMb", global.max_wdiff_send_mb);
    text.pair("minDelaySecForRetry", global.min_delay_sec_for_retry);
    text.pair("maxDelaySecForRetry", global.max_delay_sec_for_retry);
    text.pair("retryTimeout", global.retry_timeout);
    text.pair("maxConnections", global.max_connections);
    text.pair("maxForegroundTasks", global.max_foreground_tasks);
    text.pair("maxBackgroundTasks", global.max_background_tasks);
    text.pair("socketTimeout", global.socket_timeout);
    text.pair("keepAlive", "OFF");
}

fn action(archive: &ArchiveStatus) -> &'static str {
    if archive.sending { "WdiffSend" } else { "None" }
}

fn archive_line(archive: &ArchiveStatus) -> String {
    // The largest gid stands for "none", as elsewhere.
    let (min, max) = (
        archive.min_gid.unwrap_or(Gid::MAX),
        archive.max_gid.unwrap_or(Gid::MAX),
    );
    format!(
        "  archive {} action {} numDiff {} totalSize {} minGid {min} maxGid {max} {}",
        archive.name,
        action(archive),
        archive.num_diff,
        archive.total_size,
        archive.last_sent
    )
}

/// One volume.
pub fn one(volume: &VolumeStatus) -> String {
    let mut text = Text::default();
    text.pair("hostType", "proxy");
    text.pair("volume", &volume.name);
    text.pair("state", &volume.state);
    if let Some(reason) = &volume.failed {
        text.pair("failed", one_line(reason));
    }
    if volume.state == "Clear" {
        return text.finish();
    }
    text.pair("sizeLb", volume.size);
    text.pair("size", format_size(volume.size.bytes()));
    text.pair("numDiff", volume.num_diff);
    text.pair("totalSize", volume.total_size);
    text.pair("lastWlogReceivedTime", volume.last_wlog_received);
    text.pair(
        "totalNumAction",
        volume.archives.iter().filter(|a| a.sending).count(),
    );
    for warning in &volume.warnings {
        text.pair("warning", one_line(warning));
    }
    text.heading("Archive");
    for archive in &volume.archives {
        text.pair("  archive", &archive.name);
        text.pair("  host", &archive.info.address);
        text.pair("  compression", archive.info.compression);
        text.pair("  wdiffSendDelay", archive.info.delay_seconds);
        text.pair("  action", action(archive));
        text.pair("  numDiff", archive.num_diff);
        text.pair("  lastWdiffSentTime", archive.last_sent);
        text.pair("  isWdiffSendError", bit(archive.send_error));
        text.pair("  wdiffTotalSize", archive.total_size);
        text.pair("  wdiffSendDelayMeasured", archive.delay_measured);
        if let Some(reason) = &archive.last_error {
            text.pair("  lastError", one_line(reason));
        }
        for file in &archive.damaged {
            text.pair("  damaged", file);
        }
    }
    text.finish()
}
