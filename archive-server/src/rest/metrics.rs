//! `GET /metrics`, for Prometheus. Volume names need no escaping: they are letters, digits and minus.

use std::fmt::Write;

use axum::extract::State;

use super::Server;
use super::lists::restorable_of;
use super::status::volume_status;

pub(super) async fn metrics(State(server): Server) -> String {
    let mut text = String::from(
        "# TYPE walb_volume_state gauge\n\
         # TYPE walb_volume_failed gauge\n\
         # TYPE walb_archive_diffs gauge\n\
         # TYPE walb_archive_diff_bytes gauge\n\
         # TYPE walb_archive_image_bytes gauge\n\
         # TYPE walb_archive_latest_gid gauge\n\
         # TYPE walb_archive_latest_timestamp_seconds gauge\n\
         # TYPE walb_archive_last_received_timestamp_seconds gauge\n\
         # TYPE walb_archive_last_restorable_timestamp_seconds gauge\n",
    );
    for volume in server.volumes() {
        let status = volume_status(&volume);
        let name = &status.name;
        let mut put = |metric: &str, value: u64| {
            let _ = writeln!(text, "{metric}{{volume=\"{name}\"}} {value}");
        };
        put("walb_volume_failed", u64::from(status.failed.is_some()));
        put("walb_archive_diffs", status.num_diff);
        put("walb_archive_diff_bytes", status.wdiff_total_size);
        if let Some(size) = status.size {
            put("walb_archive_image_bytes", size.bytes());
        }
        if let Some(latest) = status.latest {
            put("walb_archive_latest_gid", latest.begin().0);
            put("walb_archive_latest_timestamp_seconds", status.latest_timestamp.0);
        }
        put(
            "walb_archive_last_received_timestamp_seconds",
            status.last_wdiff_received.0,
        );
        if let Some(last) = restorable_of(&volume, true).last() {
            put("walb_archive_last_restorable_timestamp_seconds", last.timestamp.0);
        }
        let _ = writeln!(
            text,
            "walb_volume_state{{volume=\"{name}\",state=\"{}\"}} 1",
            status.state
        );
    }
    text
}
