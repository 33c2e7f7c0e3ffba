//! `GET /metrics`, for Prometheus. Volume names need no escaping: they are letters, digits and minus.

use std::collections::BTreeMap;
use std::fmt::Write;

use axum::extract::State;

use super::Server;
use super::lists::restorable_of;
use super::status::volume_status;

pub(super) async fn metrics(State(server): Server) -> String {
    // All samples of one metric belong together.
    let mut samples: BTreeMap<&str, String> = BTreeMap::new();
    let mut put = |metric: &'static str, labels: String, value: u64| {
        let _ = writeln!(samples.entry(metric).or_default(), "{metric}{{{labels}}} {value}");
    };
    let info = server.context().info();
    put(
        "walb_certificate_expires_timestamp_seconds",
        String::new(),
        info.certificate_expires.0,
    );
    for volume in server.volumes() {
        let status = volume_status(&volume);
        let label = format!("volume=\"{}\"", status.name);
        put(
            "walb_volume_state",
            format!("{label},state=\"{}\"", status.state),
            1,
        );
        let mut put = |metric, value| put(metric, label.clone(), value);
        put("walb_volume_failed", u64::from(status.failed.is_some()));
        put("walb_archive_diffs", status.num_diff);
        put("walb_archive_diff_bytes", status.wdiff_total_size);
        put(
            "walb_archive_last_received_timestamp_seconds",
            status.last_wdiff_received.0,
        );
        if let Some(size) = status.size {
            put("walb_archive_image_bytes", size.bytes());
        }
        if let Some(latest) = status.latest {
            put("walb_archive_latest_gid", latest.begin().0);
            put("walb_archive_latest_timestamp_seconds", status.latest_timestamp.0);
        }
        if let Some(last) = restorable_of(&volume, true).last() {
            put("walb_archive_last_restorable_timestamp_seconds", last.timestamp.0);
        }
    }
    samples
        .into_iter()
        .fold(String::new(), |mut text, (metric, lines)| {
            let _ = write!(text, "# TYPE {metric} gauge\n{lines}");
            text
        })
}
