//! Tables for people (Markdown) and programs (JSON).

use std::fmt::Write;

use super::table::{Measured, Row};

/// A table for people. Sizes in MiB, times in milliseconds.
pub fn markdown(table: &Measured) -> String {
    let mut text = format!("\n### {}, {}\n\n", table.title, mib(table.size));
    text += "| command | in | out | wall ms | CPU ms | peak MiB | x wall | x CPU | existing | goal |\n";
    text += "|:--|--:|--:|--:|--:|--:|--:|--:|--:|:--|\n";
    for row in &table.rows {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} | {} | {:.0} | {:.0} | {} | {:.2} | {:.2} | {} | {} |",
            row.name,
            mib(row.bytes_in),
            row.bytes_out.map(mib).unwrap_or_default(),
            row.median.wall_seconds * 1e3,
            row.median.cpu_seconds * 1e3,
            peak(row.median.peak_bytes, table.peak_floor_bytes),
            row.wall_ratio,
            row.cpu_ratio,
            row.reference.existing,
            goal(row),
        );
    }
    text
}

/// All tables for programs.
pub fn json(tables: &[Measured], rounds: usize) -> serde_json::Result<String> {
    serde_json::to_string_pretty(&serde_json::json!({ "rounds": rounds, "tables": tables }))
}

/// Each limit with whether it is kept, e.g. `wall 0.65 ok, 71 MiB missed`.
fn goal(row: &Row) -> String {
    let verdict = |kept: bool| if kept { "ok" } else { "missed" };
    let mut parts = Vec::new();
    if let Some(limit) = row.reference.wall {
        parts.push(format!("wall {limit} {}", verdict(row.wall_ratio <= limit)));
    }
    if let Some(limit) = row.reference.cpu {
        parts.push(format!("CPU {limit} {}", verdict(row.cpu_ratio <= limit)));
    }
    if let Some(limit) = row.reference.peak_bytes {
        parts.push(format!(
            "{} {}",
            mib(limit),
            verdict(row.median.peak_bytes <= limit)
        ));
    }
    parts.join(", ")
}

/// In MiB; what is not above the floor may be anything up to it.
fn peak(bytes: u64, floor: u64) -> String {
    let sign = if bytes <= floor { "<= " } else { "" };
    format!("{sign}{}", bytes.div_ceil(1 << 20))
}

/// Rounded up, so that nothing looks like free.
fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::super::table::Reference;
    use super::*;
    use crate::child::Sample;

    #[test]
    fn a_row_says_which_limits_it_keeps() {
        let median = Sample {
            wall_seconds: 0.5,
            cpu_seconds: 0.75,
            peak_bytes: 70 << 20,
        };
        let row = Row {
            name: "sorted, lz4".into(),
            bytes_in: 64 << 20,
            bytes_out: Some(1),
            median,
            wall_ratio: 0.6,
            cpu_ratio: 1.5,
            reference: Reference {
                existing: "1.25".into(),
                wall: Some(0.65),
                cpu: Some(1.2),
                peak_bytes: Some(65 << 20),
            },
            samples: vec![median],
        };
        let table = Measured {
            work: "wlog-to-wdiff",
            title: "wlog to wdiff".into(),
            size: 64 << 20,
            peak_floor_bytes: 5 << 20,
            rows: vec![row],
        };
        let line = "| sorted, lz4 | 64 MiB | 1 MiB | 500 | 750 | 70 | 0.60 | 1.50 | 1.25 \
                    | wall 0.65 ok, CPU 1.2 missed, 65 MiB missed |";
        let text = markdown(&table);
        assert!(text.contains(line), "{text}");
        let json: serde_json::Value = serde_json::from_str(&json(&[table], 1).unwrap()).unwrap();
        assert_eq!(json["tables"][0]["rows"][0]["samples"][0]["cpu_seconds"], 0.75);
    }
}
