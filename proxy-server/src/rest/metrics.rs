//! `/metrics`, Prometheus text format.

use std::fmt::Write;
use std::sync::Arc;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use walb_common::types::Timestamp;

use crate::Shared;

pub(super) async fn metrics(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], render(&shared))
}

fn render(shared: &Shared) -> String {
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, help: &str, samples: Vec<(String, u64)>| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(text, "{name}{labels} {value}");
        }
    };
    for (name, help, value) in shared.totals.values() {
        family(name, "counter", help, vec![(String::new(), value)]);
    }
    let expires = shared.context.info().certificate_expires.0;
    family(
        "walb_certificate_expires_timestamp_seconds",
        "gauge",
        "When our certificate expires.",
        vec![(String::new(), expires)],
    );
    let all: Vec<_> = shared.volumes().iter().map(|v| v.status()).collect();
    let per_volume = |value: &dyn Fn(&walb_common::rest::proxy::VolumeStatus) -> u64| {
        all.iter()
            .map(|v| (format!("{{volume=\"{}\"}}", v.name), value(v)))
            .collect::<Vec<_>>()
    };
    let states = all
        .iter()
        .map(|v| (format!("{{volume=\"{}\",state=\"{}\"}}", v.name, v.state), 1))
        .collect();
    family("walb_volume_state", "gauge", "The state a volume is in.", states);
    family(
        "walb_volume_failed",
        "gauge",
        "Whether a volume cannot be used.",
        per_volume(&|v| v.failed.is_some().into()),
    );
    let last = per_volume(&|v| v.last_wlog_received.0);
    family(
        "walb_proxy_last_wlog_received",
        "gauge",
        "When the last log came in.",
        last,
    );
    let per_archive = |value: &dyn Fn(&walb_common::rest::proxy::ArchiveStatus) -> u64| {
        let line = |v: &str, a: &walb_common::rest::proxy::ArchiveStatus| {
            (format!("{{volume=\"{v}\",archive=\"{}\"}}", a.name), value(a))
        };
        all.iter()
            .flat_map(|v| v.archives.iter().map(|a| line(&v.name, a)))
            .collect::<Vec<_>>()
    };
    family(
        "walb_proxy_backlog_bytes",
        "gauge",
        "Bytes of the diffs that wait.",
        per_archive(&|a| a.total_size),
    );
    family(
        "walb_proxy_backlog_diffs",
        "gauge",
        "Diffs that wait.",
        per_archive(&|a| a.num_diff),
    );
    family(
        "walb_proxy_lag_seconds",
        "gauge",
        "Age of the oldest diff that waits.",
        per_archive(&|a| a.delay_measured),
    );
    family(
        "walb_proxy_send_error",
        "gauge",
        "Whether sending was given up.",
        per_archive(&|a| a.send_error.into()),
    );
    family(
        "walb_proxy_damaged_diffs",
        "gauge",
        "Diffs set aside.",
        per_archive(&|a| a.damaged.len() as u64),
    );
    family(
        "walb_proxy_last_sent",
        "gauge",
        "When something was last delivered.",
        per_archive(&|a| a.last_sent.0),
    );
    family(
        "walb_time",
        "gauge",
        "Our clock.",
        vec![(String::new(), Timestamp::now().0)],
    );
    text
}
