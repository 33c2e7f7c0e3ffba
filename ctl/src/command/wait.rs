//! Accepted actions: nothing more to say, or followed to the end of their job.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use serde_json::Value;
use walb_common::rest::{Accepted, ApiError, ErrorCode, Job, JobState, Progress};

use crate::answer::Answer;
use crate::error::CommandError;
use crate::session::{SERVERS, Session, decode};

/// Pauses between two looks at a job: quick at first, so that short jobs seem short.
const LOOK_FIRST: Duration = Duration::from_millis(50);
const LOOK_LAST: Duration = Duration::from_secs(1);
/// How long the server may be away (restarting, for instance) while we follow a job.
const PATIENCE: Duration = Duration::from_secs(60);

/// A command whose work may be a job that scripts do not know of: it is over when we return.
pub async fn done(session: &Session, answer: Value) -> Result<Answer, CommandError> {
    match decode::<Accepted>(&answer) {
        Ok(accepted) => follow(session, accepted.job).await.map(Answer::silent),
        Err(_) => Ok(Answer::silent(answer)),
    }
}

/// A command that returns when accepted, unless `--wait`.
pub async fn accepted(session: &Session, answer: Value) -> Result<Answer, CommandError> {
    if session.options.wait {
        done(session, answer).await
    } else {
        Ok(Answer::silent(answer))
    }
}

/// Waits for the end of a job; its last state, or why it failed.
pub async fn follow(session: &Session, id: u64) -> Result<Value, CommandError> {
    let path = format!("/v1/jobs/{id}");
    let limit = session.options.timeout.map(Duration::from_secs);
    let bar = std::io::stderr().is_terminal();
    let (began, mut heard, mut pause) = (Instant::now(), Instant::now(), LOOK_FIRST);
    let result = loop {
        match session.get(SERVERS, &path).await {
            Ok(answer) => {
                heard = Instant::now();
                let job: Job = decode(&answer)?;
                if bar {
                    draw(&bar_line(&job));
                }
                if job.state.is_over() {
                    break ended(job).map(|()| answer);
                }
            }
            Err(error) if error.is_passing() && heard.elapsed() < PATIENCE => {}
            Err(error) => break Err(error),
        }
        let rest = limit.map(|limit| limit.saturating_sub(began.elapsed()));
        if rest.is_some_and(|rest| rest.is_zero()) {
            let seconds = began.elapsed().as_secs();
            break Err(CommandError::local_with(
                format!("timed out:job {id} still runs after {seconds} s"),
                format!("it goes on: `job {id} --wait` follows it, `job {id} --cancel` ends it"),
            ));
        }
        tokio::time::sleep(rest.map_or(pause, |rest| pause.min(rest))).await;
        pause = (pause * 2).min(LOOK_LAST);
    };
    if bar {
        draw("");
    }
    result
}

fn ended(job: Job) -> Result<(), CommandError> {
    if job.state == JobState::Succeeded {
        return Ok(());
    }
    let error = job.error.unwrap_or_else(|| match job.state {
        JobState::Cancelled => ApiError::new(ErrorCode::Cancelled, "cancelled"),
        _ => ApiError::new(ErrorCode::Internal, "failed without a reason"),
    });
    Err(CommandError::Job { id: job.id, error })
}

/// Writes over the current line of the terminal.
fn draw(line: &str) {
    // A terminal that cannot be written to is no reason to stop waiting.
    let _ = write!(std::io::stderr(), "\r\x1b[K{line}").and_then(|()| std::io::stderr().flush());
}

const BAR_WIDTH: usize = 30;

/// `restore vol0 [=====>      ] 42 % 1.2 GiB of 3.0 GiB, 120.0 MiB/s, 0:23 left`
fn bar_line(job: &Job) -> String {
    let Progress {
        done,
        total,
        rate,
        eta_seconds,
    } = job.progress;
    let what = format!("{} {}", job.kind, job.volume.as_deref().unwrap_or("-"));
    if total == 0 {
        let so_far = if done == 0 {
            String::new()
        } else {
            format!(", {} so far", human(done))
        };
        return format!("{what}: at work{so_far}");
    }
    let filled =
        usize::try_from(u128::from(done.min(total)) * BAR_WIDTH as u128 / u128::from(total)).unwrap_or(0);
    let bar: String = (0..BAR_WIDTH)
        .map(|i| match i.cmp(&filled) {
            std::cmp::Ordering::Less => '=',
            std::cmp::Ordering::Equal => '>',
            std::cmp::Ordering::Greater => ' ',
        })
        .collect();
    let left = eta_seconds.map_or(String::new(), |s| format!(", {} left", clock(s)));
    let percent = percent(job.progress).unwrap_or(0);
    format!(
        "{what} [{bar}] {percent} % {} of {}, {}/s{left}",
        human(done),
        human(total),
        human(rate)
    )
}

/// How much is done, when the whole is known.
pub fn percent(progress: Progress) -> Option<u64> {
    let Progress { done, total, .. } = progress;
    let share = (u128::from(done.min(total)) * 100).checked_div(u128::from(total))?;
    u64::try_from(share).ok()
}

fn clock(seconds: u64) -> String {
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 {
        format!("{hours}:{minutes:02}:{seconds:02}")
    } else {
        format!("{minutes}:{seconds:02}")
    }
}

/// Bytes for people: one decimal and a binary unit.
pub fn human(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    // In tenths of the unit, in whole numbers: 64 bits of bytes fit a float only nearly.
    let mut tenths = u128::from(bytes) * 10 / 1024;
    let mut unit = 0;
    while tenths >= 10240 && unit + 1 < units.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;
    use walb_common::types::Timestamp;

    fn job(state: JobState, progress: Progress) -> Job {
        Job {
            id: 7,
            kind: "restore".into(),
            volume: Some("vol0".into()),
            state,
            started: Timestamp(1),
            ended: None,
            progress,
            result: None,
            error: None,
        }
    }

    #[test]
    fn the_bar_tells_share_bytes_rate_and_time_left() {
        let progress = Progress {
            done: 1 << 30,
            total: 4 << 30,
            rate: 100 << 20,
            eta_seconds: Some(83),
        };
        assert_eq!(
            bar_line(&job(JobState::Running, progress)),
            "restore vol0 [=======>                      ] 25 % 1.0 GiB of 4.0 GiB, 100.0 MiB/s, 1:23 left"
        );
        assert_eq!(
            bar_line(&job(JobState::Running, Progress::default())),
            "restore vol0: at work"
        );
    }

    #[test]
    fn a_job_done_beyond_its_total_shows_a_full_bar() {
        let progress = Progress {
            done: u64::MAX,
            total: 10,
            rate: u64::MAX,
            eta_seconds: None,
        };
        let line = bar_line(&job(JobState::Running, progress));
        assert!(line.contains(&format!("[{}] 100 %", "=".repeat(30))), "{line}");
    }

    #[test]
    fn sizes_and_times_for_people() {
        assert_eq!(
            [0, 1023, 1024, 1536, (1 << 20) - 1, 1 << 40].map(human),
            ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1023.9 KiB", "1.0 TiB"]
        );
        assert_eq!([5, 65, 3661].map(clock), ["0:05", "1:05", "1:01:01"]);
    }

    #[test]
    fn a_job_that_failed_gives_its_own_error() {
        let mut failed = job(JobState::Failed, Progress::default());
        failed.error =
            Some(ApiError::new(ErrorCode::NoSpace, "write image:No space left").hint("free some room"));
        assert_eq!(
            ended(failed).unwrap_err().reason(),
            "job 7:write image:No space left (free some room)"
        );
        assert_eq!(
            ended(job(JobState::Cancelled, Progress::default()))
                .unwrap_err()
                .reason(),
            "job 7:cancelled"
        );
    }
}
