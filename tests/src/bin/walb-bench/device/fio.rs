//! One run of fio and what it says.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde_json::Value;

use super::targets::{Setup, Target};
use crate::child;

/// What fio does with a device.
#[derive(Debug)]
pub struct Mode {
    /// Its name in tables.
    pub name: &'static str,
    /// fio's own name for it.
    rw: &'static str,
    block: &'static str,
    depth: &'static str,
    /// A flush after so many writes; `0` for none.
    flush_every: &'static str,
}

/// Small writes and reads one by one and many at once, and large ones in order.
pub const MODES: &[Mode] = &[
    mode("4 KiB random write, qd 1", "randwrite", "4k", "1", "0"),
    mode(
        "4 KiB random write, qd 1, flush after each",
        "randwrite",
        "4k",
        "1",
        "1",
    ),
    mode("4 KiB random write, qd 32", "randwrite", "4k", "32", "0"),
    mode(
        "4 KiB random write, qd 32, flush after 32",
        "randwrite",
        "4k",
        "32",
        "32",
    ),
    mode("4 KiB random read, qd 1", "randread", "4k", "1", "0"),
    mode("4 KiB random read, qd 32", "randread", "4k", "32", "0"),
    mode("1 MiB sequential write, qd 4", "write", "1m", "4", "0"),
    mode("1 MiB sequential read, qd 4", "read", "1m", "4", "0"),
];

pub const fn mode(
    name: &'static str,
    rw: &'static str,
    block: &'static str,
    depth: &'static str,
    flush_every: &'static str,
) -> Mode {
    Mode {
        name,
        rw,
        block,
        depth,
        flush_every,
    }
}

/// What one run showed.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub struct Sample {
    /// Operations per second.
    pub iops: f64,
    /// MB (10^6 bytes) per second.
    pub mb_per_second: f64,
    /// From submission to completion, microseconds: half, 99 % and 99.9 % were at most this.
    pub latency_us: [f64; 3],
    /// The same of flushes.
    pub flush_us: [f64; 3],
    /// CPU of fio and of the device's process per operation, microseconds. The kernel's own threads are not in it.
    pub cpu_us: f64,
}

/// How many operations took so many nanoseconds, in fio's own steps.
pub type Histogram = BTreeMap<u64, u64>;

const PERCENTILES: [&str; 3] = ["50.000000", "99.000000", "99.900000"];

impl Sample {
    /// The median of each figure by itself.
    pub fn median(samples: &[Self]) -> Self {
        let of = |figure: &dyn Fn(&Self) -> f64| median(samples.iter().map(figure));
        Self {
            iops: of(&|s| s.iops),
            mb_per_second: of(&|s| s.mb_per_second),
            latency_us: std::array::from_fn(|at| of(&|s| s.latency_us[at])),
            flush_us: std::array::from_fn(|at| of(&|s| s.flush_us[at])),
            cpu_us: of(&|s| s.cpu_us),
        }
    }
}

/// The middle one.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// When fio ends.
#[derive(Debug, Clone, Copy)]
pub enum Span {
    /// After so long.
    Seconds(f64),
    /// After so many bytes.
    Bytes(u64),
}

/// What fio is to do with which device.
#[derive(Debug, Clone, Copy)]
pub struct Job<'a> {
    pub mode: &'a Mode,
    pub span: Span,
    /// Bytes of the device that it uses.
    pub size: u64,
    /// Operations per second at most.
    pub iops: Option<u64>,
    /// What fio must be told to use the device.
    pub device: &'a [String],
}

/// Runs fio on a device for some seconds.
pub fn run(
    setup: &Setup,
    target: Target,
    mode: &Mode,
    seconds: f64,
    size: u64,
) -> Result<(Sample, Histogram)> {
    let before = setup.cpu_seconds(target)?;
    let job = Job {
        mode,
        span: Span::Seconds(seconds),
        size,
        iops: None,
        device: setup.fio_arguments(target)?,
    };
    let (mut sample, histogram, operations) = measure(setup.dir(), &job)?;
    sample.cpu_us += (setup.cpu_seconds(target)? - before) * 1e6 / operations;
    Ok((sample, histogram))
}

/// Runs fio; its answer goes through a file in `dir`. Of CPU only its own is counted. And how many operations there were.
pub fn measure(dir: &Path, job: &Job<'_>) -> Result<(Sample, Histogram, f64)> {
    let answer = dir.join("fio.json");
    let mode = job.mode;
    let mut command = Command::new("fio");
    match job.span {
        Span::Seconds(seconds) => {
            let limit = format!("--runtime={}ms", (seconds * 1e3).round());
            command.args(["--time_based", &limit])
        }
        Span::Bytes(bytes) => command.arg(format!("--io_size={bytes}")),
    };
    if let Some(iops) = job.iops {
        command.arg(format!("--rate_iops={iops}"));
    }
    command
        .args(["--name=x", "--output-format=json+", "--randrepeat=0"])
        .args(["--norandommap", "--percentile_list=50:99:99.9"])
        .arg(format!("--output={}", answer.display()))
        .arg(format!("--size={}", job.size))
        .arg(format!("--rw={}", mode.rw))
        .arg(format!("--bs={}", mode.block))
        .arg(format!("--iodepth={}", mode.depth))
        // fio's NBD engine knows fsync only, not fdatasync.
        .arg(format!("--fsync={}", mode.flush_every))
        .args(job.device)
        .stdout(Stdio::null());
    let fio = child::run(&mut command)?;
    let text = std::fs::read_to_string(&answer).context("read fio's answer")?;
    sample(&text, fio.cpu_seconds).with_context(|| format!("fio's answer: {text}"))
}

fn sample(text: &str, cpu_seconds: f64) -> Result<(Sample, Histogram, f64)> {
    // It may begin with warnings.
    let json = text.find('{').map_or("", |at| &text[at..]);
    let answer: Value = serde_json::from_str(json)?;
    let job = &answer["jobs"][0];
    let number = |value: &Value, name: &str| value.as_f64().with_context(|| format!("no {name}"));
    let (reads, writes) = (&job["read"], &job["write"]);
    let side = if number(&reads["total_ios"], "total_ios")? > 0.0 {
        reads
    } else {
        writes
    };
    let done = number(&side["total_ios"], "total_ios")?;
    anyhow::ensure!(done > 0.0, "fio did nothing");
    let percentiles =
        |of: &Value| PERCENTILES.map(|percentile| of["percentile"][percentile].as_f64().unwrap_or(0.0) / 1e3);
    let bins = side["clat_ns"]["bins"].as_object().into_iter().flatten();
    let histogram = bins
        .map(|(ns, count)| Ok((ns.parse()?, count.as_u64().context("bins")?)))
        .collect::<Result<_>>()?;
    let sample = Sample {
        iops: number(&side["iops"], "iops")?,
        mb_per_second: number(&side["bw_bytes"], "bw_bytes")? / 1e6,
        latency_us: percentiles(&side["clat_ns"]),
        flush_us: percentiles(&job["sync"]["lat_ns"]),
        cpu_us: cpu_seconds * 1e6 / done,
    };
    Ok((sample, histogram, done))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_side_that_did_something_counts() {
        let text = r#"fio: a warning
            {"jobs":[{"read":{"total_ios":0},
            "write":{"total_ios":1000,"iops":250.0,"bw_bytes":1024000,
                     "clat_ns":{"percentile":{"50.000000":1000,"99.000000":2000,"99.900000":3000},
                                 "bins":{"1000":600,"2000":400}}},
            "sync":{"lat_ns":{"percentile":{"50.000000":5000,"99.000000":6000,"99.900000":7000}}}}]}"#;
        let (got, histogram, operations) = sample(text, 0.5).unwrap();
        assert!((operations - 1000.0).abs() < 1e-9);
        assert_eq!(histogram, BTreeMap::from([(1000, 600), (2000, 400)]));
        assert_eq!((got.iops, got.mb_per_second, got.cpu_us), (250.0, 1.024, 500.0));
        assert_eq!((got.latency_us, got.flush_us), ([1.0, 2.0, 3.0], [5.0, 6.0, 7.0]));
        assert!(
            sample(
                r#"{"jobs":[{"read":{"total_ios":0},"write":{"total_ios":0}}]}"#,
                0.0
            )
            .is_err()
        );
    }
}
