//! A table: cases that are run in turn, round after round, and what their samples say.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::child::{self, Sample};
use crate::interrupt;

/// A command to measure.
pub struct Case {
    /// Its name in the table.
    pub name: String,
    /// Program and arguments. What it prints is thrown away.
    pub command: Vec<String>,
    /// Bytes it reads.
    pub bytes_in: u64,
    /// Where its result goes.
    pub output: Output,
    /// What it is to be judged by.
    pub reference: Reference,
}

/// Where the result of a command goes.
pub enum Output {
    /// Nowhere.
    None,
    /// Into a file, which is measured and removed after each run.
    File(PathBuf),
    /// Into the place of what was there: so many bytes.
    InPlace(u64),
}

/// What a figure is to be judged by; all ratios are over the table's first case.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Reference {
    /// What the existing tools need.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub existing: String,
    /// At most this ratio of wall time.
    pub wall: Option<f64>,
    /// At most this ratio of CPU time.
    pub cpu: Option<f64>,
    /// At most so much memory, bytes.
    pub peak_bytes: Option<u64>,
}

/// Cases on the same data. The first is the yardstick of all.
pub struct Table {
    /// The work: one of the names of `--only`.
    pub work: &'static str,
    /// What it is about.
    pub title: String,
    /// Size of the workload, bytes.
    pub size: u64,
    /// In the order in which they run in each round.
    pub cases: Vec<Case>,
}

/// A table that was measured.
#[derive(serde::Serialize)]
pub struct Measured {
    /// The work.
    pub work: &'static str,
    /// What it is about.
    pub title: String,
    /// Size of the workload, bytes.
    pub size: u64,
    /// Peak memory below this could not be told apart, bytes.
    pub peak_floor_bytes: u64,
    /// As in the table.
    pub rows: Vec<Row>,
}

/// What the samples of a case say.
#[derive(serde::Serialize)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// Bytes read.
    pub bytes_in: u64,
    /// Bytes of the result, if it has one.
    pub bytes_out: Option<u64>,
    /// Medians of the rounds.
    pub median: Sample,
    /// Median of each round's wall time over the yardstick's of the same round.
    pub wall_ratio: f64,
    /// The same of CPU time.
    pub cpu_ratio: f64,
    /// What they are to be judged by.
    pub reference: Reference,
    /// All rounds.
    pub samples: Vec<Sample>,
}

impl Case {
    /// A command without a result of its own, of which nothing is demanded.
    pub fn new(name: impl Into<String>, command: &[&str], bytes_in: u64) -> Self {
        Self {
            name: name.into(),
            command: command.iter().map(ToString::to_string).collect(),
            bytes_in,
            output: Output::None,
            reference: Reference::default(),
        }
    }

    fn run(&self) -> Result<(Sample, Option<u64>)> {
        let (program, arguments) = self.command.split_first().context("an empty command")?;
        let mut command = Command::new(program);
        let sample = child::run(command.args(arguments).stdout(Stdio::null()))?;
        let bytes = match &self.output {
            Output::None => None,
            Output::InPlace(bytes) => Some(*bytes),
            Output::File(path) => {
                let bytes = path
                    .metadata()
                    .with_context(|| format!("result {}", path.display()))?;
                std::fs::remove_file(path)?;
                Some(bytes.len())
            }
        };
        Ok((sample, bytes))
    }
}

impl Table {
    /// Runs everything `rounds` times, in turn.
    pub fn measure(self, rounds: usize) -> Result<Measured> {
        ensure!(rounds > 0, "nothing can be said after 0 rounds");
        let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); self.cases.len()];
        let mut results = vec![None; self.cases.len()];
        for round in 1..=rounds {
            eprintln!("{}, round {round} of {rounds} ...", self.title);
            for (at, case) in self.cases.iter().enumerate() {
                interrupt::check()?;
                let (sample, bytes) = case.run()?;
                samples[at].push(sample);
                results[at] = bytes;
            }
        }
        let yardstick = samples.first().cloned().context("a table without a case")?;
        let rows = self.cases.into_iter().zip(samples).zip(results);
        let rows = rows.map(|((case, samples), bytes_out)| row(case, samples, bytes_out, &yardstick));
        Ok(Measured {
            work: self.work,
            title: self.title,
            size: self.size,
            peak_floor_bytes: child::peak_floor_bytes(),
            rows: rows.collect(),
        })
    }
}

fn row(case: Case, samples: Vec<Sample>, bytes_out: Option<u64>, yardstick: &[Sample]) -> Row {
    let ratio = |of: fn(&Sample) -> f64| {
        let pairs = samples.iter().zip(yardstick);
        median(pairs.map(|(ours, theirs)| of(ours) / of(theirs).max(1e-6)))
    };
    let mut peaks: Vec<u64> = samples.iter().map(|s| s.peak_bytes).collect();
    peaks.sort_unstable();
    Row {
        name: case.name,
        bytes_in: case.bytes_in,
        bytes_out,
        median: Sample {
            wall_seconds: median(samples.iter().map(|s| s.wall_seconds)),
            cpu_seconds: median(samples.iter().map(|s| s.cpu_seconds)),
            peak_bytes: peaks[peaks.len() / 2],
        },
        wall_ratio: ratio(|sample| sample.wall_seconds),
        cpu_ratio: ratio(|sample| sample.cpu_seconds),
        reference: case.reference,
        samples,
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_round_by_round() {
        // The machine was busy in the second round, which both felt.
        let sample = |wall_seconds: f64| Sample {
            wall_seconds,
            cpu_seconds: wall_seconds / 2.0,
            peak_bytes: 1,
        };
        let yardstick: Vec<_> = [1.0, 10.0, 1.0].map(sample).into();
        let ours = [2.0, 20.0, 2.0].map(sample).into();
        let row = row(Case::new("ours", &["true"], 0), ours, None, &yardstick);
        assert!((row.wall_ratio - 2.0).abs() < 1e-9 && (row.cpu_ratio - 2.0).abs() < 1e-9);
        assert!((row.median.wall_seconds - 2.0).abs() < 1e-9);
    }

    #[test]
    fn a_result_is_measured_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let out = path.to_str().unwrap();
        let case = Case {
            output: Output::File(path.clone()),
            ..Case::new(
                "dd",
                &["dd", "if=/dev/zero", "bs=1000", "count=3", &format!("of={out}")],
                0,
            )
        };
        let table = Table {
            work: "none",
            title: "t".into(),
            size: 0,
            cases: vec![Case::new("true", &["true"], 0), case],
        };
        let measured = table.measure(2).unwrap();
        assert_eq!(measured.rows[1].bytes_out, Some(3000));
        assert_eq!(measured.rows[1].samples.len(), 2);
        assert!(!path.exists());
    }
}
