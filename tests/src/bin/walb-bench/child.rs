//! Running a command as a child and what it cost, by the kernel's own count.

use std::io::{self, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// One run of a command.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Sample {
    /// From before it was started until it had ended, seconds.
    pub wall_seconds: f64,
    /// User and system time of all its threads and of its children, seconds.
    pub cpu_seconds: f64,
    /// Peak resident memory, bytes. Not less than this process has had itself: the kernel hands that down.
    pub peak_bytes: u64,
}

/// Runs `command` to its end; fails unless it succeeds, with what it said. Its standard output must not be a pipe.
pub fn run(command: &mut Command) -> Result<Sample> {
    command.stdin(Stdio::null()).stderr(Stdio::piped());
    let began = Instant::now();
    let mut child = command.spawn().with_context(|| format!("run {command:?}"))?;
    let mut said = Vec::new();
    if let Some(stderr) = &mut child.stderr {
        stderr.read_to_end(&mut said).context("read a child's stderr")?;
    }
    let (status, usage) = wait(child.id()).with_context(|| format!("wait for {command:?}"))?;
    let wall_seconds = began.elapsed().as_secs_f64();
    if !status.success() {
        bail!(
            "{command:?} failed: {status}: {}",
            String::from_utf8_lossy(&said).trim()
        );
    }
    Ok(Sample {
        wall_seconds,
        cpu_seconds: (time(usage.ru_utime) + time(usage.ru_stime)).as_secs_f64(),
        peak_bytes: u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024,
    })
}

/// What every [`Sample::peak_bytes`] is at least: the most memory this process has had so far.
pub fn peak_floor_bytes() -> u64 {
    // SAFETY: all zeroes are a valid rusage, which is plain numbers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live local of the type that getrusage writes.
    if unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) } != 0 {
        return 0;
    }
    u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024
}

/// Reaps the child `id` together with its resource usage, which `std` cannot.
fn wait(id: u32) -> io::Result<(ExitStatus, libc::rusage)> {
    let id = libc::pid_t::try_from(id).map_err(io::Error::other)?;
    loop {
        let mut status = 0;
        // SAFETY: all zeroes are a valid rusage, which is plain numbers.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: both pointers are to live locals of the types that wait4 writes.
        let reaped = unsafe { libc::wait4(id, &raw mut status, 0, &raw mut usage) };
        if reaped == id {
            return Ok((ExitStatus::from_raw(status), usage));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

fn time(of: libc::timeval) -> Duration {
    let seconds = Duration::from_secs(u64::try_from(of.tv_sec).unwrap_or(0));
    seconds + Duration::from_micros(u64::try_from(of.tv_usec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_child_shows_the_floor() {
        let sample = run(&mut Command::new("true")).unwrap();
        assert!(sample.peak_bytes <= peak_floor_bytes(), "{sample:?}");
    }

    #[test]
    fn cpu_and_memory_are_those_of_the_child() {
        // Writes 64 MiB of its own memory, in one block of dd.
        let mut dd = Command::new("dd");
        dd.args(["if=/dev/zero", "of=/dev/null", "bs=64M", "count=1"]);
        let sample = run(&mut dd).unwrap();
        assert!(
            sample.peak_bytes > 64 << 20 && sample.peak_bytes < 96 << 20,
            "{sample:?}"
        );
        assert!(
            sample.cpu_seconds > 0.0 && sample.wall_seconds > 0.0,
            "{sample:?}"
        );
    }

    #[test]
    fn a_command_that_fails_is_told_with_what_it_said() {
        let mut shell = Command::new("sh");
        let error = run(shell.args(["-c", "echo why >&2; exit 3"]))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("exit status: 3") && error.contains("why"),
            "{error}"
        );
    }
}
