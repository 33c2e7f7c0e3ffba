//! Status of a storage.

use walb_common::rest::storage::{Global, HashBackupReport, LogPoint, Status, VolumeStatus};
use walb_common::types::{Gid, Lsid, Timestamp, format_size};

use super::one_line;
use crate::answer::{Text, bit};

/// Every action a storage has.
const ACTIONS: [&str; 2] = ["WlogSend", "WlogRemove"];

/// Shown where nothing has been delivered yet.
const NO_POINT: LogPoint = LogPoint {
    lsid: Lsid::INVALID,
    gid: Gid::MAX,
    mergeable: false,
    timestamp: Timestamp::NONE,
};

/// The whole storage.
pub fn all(status: &Status) -> String {
    let Status {
        global,
        archive,
        proxies,
        tasks,
        volumes,
    } = status;
    let mut text = Text::default();
    text.heading("StorageGlobal");
    global_lines(&mut text, global);
    text.heading("Archive");
    text.pair("host", archive);
    text.heading("Proxy");
    for proxy in proxies {
        text.line(format_args!(
            "host {} isAvailable {} timeToNextCheck {}",
            proxy.address,
            bit(proxy.available),
            proxy.time_to_next_check
        ));
    }
    text.heading("TaskQueue");
    for task in tasks {
        text.line(format_args!(
            "volume {} timeDiffMs {}",
            task.volume, task.time_diff_ms
        ));
    }
    text.heading("Volume");
    for volume in volumes {
        text.line(volume_line(volume));
    }
    text.finish()
}

fn global_lines(text: &mut Text, global: &Global) {
    text.pair("nodeId", &global.node_id);
    text.pair("baseDir", &global.base_dir);
    text.pair("maxWlogSendMb", global.max_wlog_send_mb);
    text.pair("minDelaySecForRetry", global.min_delay_sec_for_retry);
    text.pair("maxDelaySecForRetry", global.max_delay_sec_for_retry);
    text.pair("maxConnections", global.max_connections);
    text.pair("maxForegroundTasks", global.max_foreground_tasks);
    text.pair("maxBackgroundTasks", global.max_background_tasks);
    text.pair("socketTimeout", global.socket_timeout);
    text.pair("keepAlive", "OFF");
    text.pair("fullScanLbPerSec", global.full_scan_lb_per_sec);
    text.pair("healOverflow", bit(global.heal_overflow));
}

fn volume_line(volume: &VolumeStatus) -> String {
    let head = format!("volume {} state {}", volume.name, volume.state);
    if let Some(reason) = &volume.failed {
        return format!("{head} failed {}", one_line(reason));
    }
    let Some(log) = &volume.log else {
        return format!(
            "{head} failed device cannot be asked: {}",
            volume.device.as_deref().unwrap_or("---")
        );
    };
    let done = volume.done.unwrap_or(NO_POINT);
    let latest = volume.queue.first().unwrap_or(&done);
    format!(
        "{head} logUsagePb {} logCapacityPb {} oldestGid {} latestGid {} oldestLsid {} permanentLsid {}",
        log.usage_pb, log.capacity_pb, done.gid, latest.gid, log.oldest, log.permanent
    )
}

/// One volume.
pub fn one(volume: &VolumeStatus) -> String {
    let mut text = Text::default();
    text.pair("hostType", "storage");
    text.pair("volId", &volume.name);
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
            .find(|(n, _)| n == name)
            .map_or(0, |(_, n)| *n)
    };
    text.pair(
        "action",
        ACTIONS.map(|name| format!("{name} {}", running(name))).join(" "),
    );
    text.pair("stopState", &volume.stop_state);
    text.pair("isUnderMonitoring", bit(volume.monitored));
    text.pair("wdevPath", volume.device.as_deref().unwrap_or("---"));
    if let Some(log) = &volume.log {
        text.pair("sizeLb", log.size);
        text.pair("size", format_size(log.size.bytes()));
        text.pair("isOverflow", bit(log.overflow));
        text.pair("logUsagePb", log.usage_pb);
        text.pair("logCapacityPb", log.capacity_pb);
    }
    text.pair("uuid", volume.uuid);
    if let Some(log) = &volume.log {
        text.pair("pbs", log.pbs);
        text.pair("salt", format_args!("{:08x}", log.salt));
    }
    if let Some(reason) = &volume.last_error {
        text.pair("lastError", one_line(reason));
    }
    if let Some(healing) = &volume.healing {
        text.pair("healing", one_line(healing));
    }
    if let Some(report) = &volume.last_hash_backup {
        text.pair("lastHashBackup", hash_backup_line(report));
    }
    text.heading("DoneFile");
    text.line(point_line(&volume.done.unwrap_or(NO_POINT)));
    text.heading("QueueFile");
    for point in &volume.queue {
        text.line(point_line(point));
    }
    text.finish()
}

/// What a hash backup came to, in one line.
pub fn hash_backup_line(report: &HashBackupReport) -> String {
    let not_bitmap = report.not_bitmap.as_ref().map_or(String::new(), |reason| {
        format!(" (no bitmap: {})", one_line(reason))
    });
    format!(
        "{} from {} to gid {} by {}{not_bitmap}: volume {} read {} changed {} sent {} saved {} bytes, {} cuts, {:.1} s, {}",
        report.ended,
        report.from,
        report.gid,
        report.method,
        report.volume_bytes,
        report.read_bytes,
        report.changed_bytes,
        report.sent_bytes,
        report.saved_bytes,
        report.cuts,
        report.seconds,
        one_line(&report.why)
    )
}

fn point_line(point: &LogPoint) -> String {
    let LogPoint {
        lsid,
        gid,
        mergeable,
        timestamp,
    } = point;
    format!(
        "LsidGid timestamp {timestamp} isMergeable {} lsid {lsid} gid {gid}",
        bit(*mergeable)
    )
}
