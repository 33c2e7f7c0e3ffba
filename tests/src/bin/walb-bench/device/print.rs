//! Tables for people (Markdown) and programs (JSON).

use std::fmt::Write;

use super::fio::Mode;
use super::{Arguments, Row};

/// The table of a mode.
pub fn markdown(mode: &Mode, rows: &[Row]) -> String {
    let mut text = format!("\n### {}\n\n", mode.name);
    text += "| device | IOPS | MB/s | x file | p50 / 99 / 99.9 us | flush p50 / 99 / 99.9 us | CPU us per operation |\n";
    text += "|:--|--:|--:|--:|--:|--:|--:|\n";
    for row in rows {
        let of = &row.median;
        let three = |[a, b, c]: [f64; 3]| {
            if a > 0.0 {
                format!("{a:.0} / {b:.0} / {c:.0}")
            } else {
                String::new()
            }
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {} | {:.0} | {:.0} | {:.2} | {} | {} | {:.0} |",
            row.target.label(),
            of.iops,
            of.mb_per_second,
            row.iops_ratio,
            three(of.latency_us),
            three(of.flush_us),
            of.cpu_us,
        );
    }
    text
}

/// All rows for programs.
pub fn json(rows: &[Row], arguments: &Arguments) -> serde_json::Result<String> {
    serde_json::to_string_pretty(&serde_json::json!({
        "rounds": arguments.rounds,
        "seconds": arguments.seconds,
        "size": arguments.size,
        "rows": rows,
    }))
}
