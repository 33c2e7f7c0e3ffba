//! `GET /metrics`: what to alarm on, in the text format of Prometheus.

use std::fmt::Write;

use axum::extract::State;
use futures_util::future::join_all;
use walb_common::rest::storage::VolumeStatus;
use walb_common::types::Timestamp;

use crate::server::StorageServer;

pub(super) async fn metrics(State(server): State<StorageServer>) -> String {
    let volumes = server.volumes();
    let shown = join_all(
        volumes
            .iter()
            .map(|v| async { (v.status().await, v.sent_bytes()) }),
    )
    .await;
    let mut text = render(&shown, Timestamp::now());
    head(
        &mut text,
        "walb_proxy_available",
        "gauge",
        "Whether the proxy can be reached.",
    );
    for proxy in server.shared().proxies.status() {
        let _ = writeln!(
            text,
            "walb_proxy_available{{proxy=\"{}\"}} {}",
            proxy.address,
            u8::from(proxy.available)
        );
    }
    head(
        &mut text,
        "walb_certificate_expires_timestamp_seconds",
        "gauge",
        "End of our certificate's validity, Unix time.",
    );
    let _ = writeln!(
        text,
        "walb_certificate_expires_timestamp_seconds {}",
        server.context().info().certificate_expires.0
    );
    text
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn render(volumes: &[(VolumeStatus, u64)], now: Timestamp) -> String {
    let mut text = String::new();
    head(
        &mut text,
        "walb_volume_state",
        "gauge",
        "1 for the state the volume is in.",
    );
    for (v, _) in volumes {
        let _ = writeln!(
            text,
            "walb_volume_state{{volume=\"{}\",state=\"{}\"}} 1",
            v.name, v.state
        );
    }
    let mut gauge =
        |name: &str, kind: &str, help: &str, value: &dyn Fn(&VolumeStatus, u64) -> Option<u64>| {
            head(&mut text, name, kind, help);
            for (v, sent) in volumes {
                if let Some(value) = value(v, *sent) {
                    let _ = writeln!(text, "{name}{{volume=\"{}\"}} {value}", v.name);
                }
            }
        };
    gauge(
        "walb_log_backlog_bytes",
        "gauge",
        "Log that is permanent and not delivered yet.",
        &|v, _| {
            let (log, done) = (v.log.as_ref()?, v.done?);
            Some(log.permanent.0.saturating_sub(done.lsid.0) * u64::from(log.pbs))
        },
    );
    gauge(
        "walb_log_lag_seconds",
        "gauge",
        "Age of the oldest snapshot that is not delivered yet.",
        &|v, _| {
            Some(
                v.queue
                    .last()
                    .map_or(0, |oldest| now.0.saturating_sub(oldest.timestamp.0)),
            )
        },
    );
    gauge(
        "walb_log_usage_ratio_percent",
        "gauge",
        "How full the ring is.",
        &|v, _| {
            let log = v.log.as_ref()?;
            (log.usage_pb * 100).checked_div(log.capacity_pb)
        },
    );
    gauge(
        "walb_log_overflow",
        "gauge",
        "Whether the log has overflowed.",
        &|v, _| v.log.as_ref().map(|log| u64::from(log.overflow)),
    );
    gauge(
        "walb_volume_error",
        "gauge",
        "Whether the last step failed.",
        &|v, _| Some(u64::from(v.last_error.is_some() || v.failed.is_some())),
    );
    gauge(
        "walb_wlog_sent_bytes_total",
        "counter",
        "Log delivered since the process started.",
        &|_, sent| Some(sent),
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::clear_status;

    #[test]
    fn metrics_name_the_volume_and_its_state() {
        let text = render(&[(clear_status("vol0"), 42)], Timestamp(100));
        assert!(
            text.contains("walb_volume_state{volume=\"vol0\",state=\"Clear\"} 1\n"),
            "{text}"
        );
        assert!(
            text.contains("walb_wlog_sent_bytes_total{volume=\"vol0\"} 42\n"),
            "{text}"
        );
        assert!(
            text.contains("walb_log_lag_seconds{volume=\"vol0\"} 0\n"),
            "{text}"
        );
    }
}
