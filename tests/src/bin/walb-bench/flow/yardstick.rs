//! What the same machine does with the same data in the same rounds.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Cost;

/// `lz4 -b1`: MB/s of its compression, one core, in memory.
pub fn lz4(file: &Path) -> Result<f64> {
    let output = Command::new("lz4")
        .args(["-b1", "-i1"])
        .arg(file)
        .output()
        .context("run lz4")?;
    // `1#workload.wlog : 268435456 -> 140000000 (1.917), 700.1 MB/s, 3000.2 MB/s`, rewritten as it goes on.
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let last = text
        .rsplit(['\r', '\n'])
        .find(|part| part.matches("MB/s").count() == 2);
    let last = last.with_context(|| format!("no speed in the output of lz4 -b1: {text}"))?;
    let speed = last
        .split("MB/s")
        .next()
        .and_then(|part| part.rsplit(',').next())
        .unwrap_or_default();
    speed.trim().parse().with_context(|| format!("speed in {last}"))
}

/// `cat FILE | cat >/dev/null`, several times: reading a file and moving it through a pipe.
pub fn cat(file: &Path) -> Result<Cost> {
    const TIMES: u64 = 8;
    let before = children_cpu()?;
    for _ in 0..TIMES {
        let status = Command::new("sh")
            .args(["-c", "cat \"$0\" | cat >/dev/null"])
            .arg(file)
            .stdin(Stdio::null())
            .status()
            .context("run cat")?;
        ensure!(status.success(), "cat failed");
    }
    Ok(Cost {
        bytes: TIMES * file.metadata()?.len(),
        cpu: children_cpu()?.saturating_sub(before),
    })
}

/// CPU time of ended children, in the kernel's ticks of 10 ms.
fn children_cpu() -> Result<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // Fields 16 and 17 of proc(5), counted from behind the name, which may hold blanks.
    let rest = stat.rsplit(')').next().context("/proc/self/stat")?;
    let fields: Vec<_> = rest.split_whitespace().collect();
    let ticks = |at: usize| {
        fields
            .get(at)
            .and_then(|f| f.parse::<u64>().ok())
            .context("/proc/self/stat")
    };
    Ok(Duration::from_millis(10 * (ticks(13)? + ticks(14)?)))
}
