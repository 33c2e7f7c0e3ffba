//! How latencies are distributed, as a picture: one panel for each mode, one line for each device.
//!
//! Across: the latency, in steps of a tenth of a power of ten. Up: the share of the operations in each step, as a square root, so
//! that the few slow ones are seen beside the many quick ones.

use std::fmt::Write;

use super::Row;
use super::fio::Histogram;
use super::targets::Target;

/// Of a panel, with its title and its axis.
const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 190.0;
/// Of the part of it that holds the lines.
const LEFT: f64 = 20.0;
const TOP: f64 = 30.0;
const INNER: (f64, f64) = (WIDTH - 40.0, HEIGHT - 60.0);
/// Powers of ten of the nanoseconds at the left and at the right.
const DECADES: (u32, u32) = (3, 9);
const STEPS: usize = 10 * (DECADES.1 - DECADES.0) as usize;
const LABELS: [&str; 7] = ["1 us", "10 us", "100 us", "1 ms", "10 ms", "100 ms", "1 s"];

const fn colour(target: Target) -> &'static str {
    match target {
        Target::File => "#888888",
        Target::Nbdkit => "#2a9d4a",
        Target::QemuNbd => "#1f6fd0",
        Target::QemuFuse => "#8fb8ea",
        Target::WalbNbd => "#d62828",
        Target::WalbFuse => "#f4a0a0",
    }
}

/// All rows, whose modes follow each other.
pub fn svg(rows: &[Row]) -> String {
    let panels: Vec<&[Row]> = rows.chunk_by(|a, b| a.mode == b.mode).collect();
    let height = HEIGHT * float(panels.len().div_ceil(2)) + 45.0;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{height}\" viewBox=\"0 0 {0} {height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        2.0 * WIDTH
    );
    for (at, panel) in panels.iter().enumerate() {
        let (x, y) = (WIDTH * float(at % 2), HEIGHT * float(at / 2));
        // Writing to a string cannot fail.
        let _ = writeln!(text, "<g transform=\"translate({x} {y})\">\n{}</g>", draw(panel));
    }
    // The legend: three to a line.
    for (at, row) in panels.first().copied().unwrap_or_default().iter().enumerate() {
        let label = row.target.label().replace("**", "");
        let _ = writeln!(
            text,
            "<text x=\"{}\" y=\"{}\" fill=\"{}\">{label}</text>",
            LEFT + WIDTH * 2.0 / 3.0 * float(at % 3),
            height - 25.0 + 15.0 * float(at / 3),
            colour(row.target)
        );
    }
    text + "</svg>\n"
}

fn draw(panel: &[Row]) -> String {
    let mut text = String::new();
    let title = panel.first().map_or("", |row| row.mode);
    let _ = writeln!(
        text,
        "<text x=\"{LEFT}\" y=\"18\" font-weight=\"bold\">{title}</text>"
    );
    let bottom = TOP + INNER.1;
    for (at, label) in LABELS.iter().enumerate() {
        let x = LEFT + INNER.0 * float(at) / float(LABELS.len() - 1);
        let _ = writeln!(
            text,
            "<line x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{bottom}\" stroke=\"#dddddd\"/>\
             <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>",
            bottom + 14.0
        );
    }
    let shares: Vec<_> = panel
        .iter()
        .map(|row| (row.target, shares(&row.histogram)))
        .collect();
    let most = shares
        .iter()
        .flat_map(|(_, s)| s)
        .fold(0.0, |most: f64, &s| most.max(s));
    for (target, shares) in shares {
        let points: Vec<_> = shares
            .iter()
            .enumerate()
            .map(|(at, share)| {
                let x = LEFT + INNER.0 * (float(at) + 0.5) / float(STEPS);
                let y = bottom - INNER.1 * (share / most.max(f64::MIN_POSITIVE)).sqrt();
                format!("{x:.1},{y:.1}")
            })
            .collect();
        let _ = writeln!(
            text,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.5\"/>",
            points.join(" "),
            colour(target)
        );
    }
    text
}

/// The share of the operations in each step; what lies outside counts in the first or the last.
fn shares(histogram: &Histogram) -> [f64; STEPS] {
    let mut counts = [0; STEPS];
    for (&ns, &count) in histogram {
        counts[step(ns)] += count;
    }
    let all: u64 = counts.iter().sum();
    counts.map(|count| ratio(count, all.max(1)))
}

fn step(ns: u64) -> usize {
    let within = ratio(ns.max(1), 1).log10() - f64::from(DECADES.0);
    // The first whose upper end is above it.
    (0..STEPS - 1)
        .find(|&at| within * 10.0 < float(at + 1))
        .unwrap_or(STEPS - 1)
}

#[expect(clippy::cast_precision_loss, reason = "a place in a picture")]
fn ratio(a: u64, b: u64) -> f64 {
    a as f64 / b as f64
}

fn float(n: usize) -> f64 {
    ratio(n as u64, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_is_in_the_step_of_its_latency() {
        for (ns, at) in [
            (0, 0),
            (1_000, 0),
            (1_300, 1),
            (9_999, 9),
            (10_000, 10),
            (1 << 40, STEPS - 1),
        ] {
            assert_eq!(step(ns), at, "{ns} ns");
        }
        let shares = shares(&Histogram::from([(1_100, 1), (1_200, 2), (12_000, 1)]));
        assert_eq!((shares[0], shares[10]), (0.75, 0.25));
        assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-9);
    }
}
