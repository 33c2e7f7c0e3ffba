//! Long actions: jobs, job.

use clap::Args;
use walb_common::rest::{Empty, Job, JobState};
use walb_common::types::VolumeName;

use super::wait::{self, percent};
use crate::answer::{Answer, Text};
use crate::error::CommandError;
use crate::session::{SERVERS, Session, decode};

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  walbc -a a0 -p 10200 jobs vol0\n\nOne line per job: ID KIND VOLUME STATE STARTED ENDED PERCENT"
)]
pub struct Jobs {
    /// Only those of this volume
    vol: Option<VolumeName>,
}

impl Jobs {
    pub async fn run(self, session: &Session) -> Result<Answer, CommandError> {
        let query = self.vol.map_or(String::new(), |vol| format!("?volume={vol}"));
        let answer = session.get(SERVERS, &format!("/v1/jobs{query}")).await?;
        let jobs: Vec<Job> = decode(&answer)?;
        Ok(Answer::lines(answer, jobs.iter().map(line)))
    }
}

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  walbc -a a0 -p 10200 job 12\n  walbc -a a0 -p 10200 job 12 --wait\n  walbc -a a0 -p 10200 job 12 --cancel"
)]
pub struct JobCommand {
    /// The job's number, as `jobs` lists it
    id: u64,
    /// Ask it to end; it does at its next safe point
    #[arg(long)]
    cancel: bool,
}

impl JobCommand {
    pub async fn run(self, session: &Session) -> Result<Answer, CommandError> {
        let path = format!("/v1/jobs/{}", self.id);
        let answer = match (self.cancel, session.options.wait) {
            (true, _) => {
                session
                    .post(SERVERS, &format!("{path}/cancel"), &Empty {})
                    .await?
            }
            (false, true) => wait::follow(session, self.id).await?,
            (false, false) => session.get(SERVERS, &path).await?,
        };
        let text = text(&decode(&answer)?);
        Ok(Answer { json: answer, text })
    }
}

fn state_name(state: JobState) -> &'static str {
    match state {
        JobState::Running => "running",
        JobState::Succeeded => "succeeded",
        JobState::Failed => "failed",
        JobState::Cancelled => "cancelled",
    }
}

fn line(job: &Job) -> String {
    let percent = percent(job.progress).map_or("---".to_owned(), |p| format!("{p}%"));
    format!(
        "{} {} {} {} {} {} {percent}",
        job.id,
        job.kind,
        job.volume.as_deref().unwrap_or("-"),
        state_name(job.state),
        job.started,
        job.ended.unwrap_or_default(),
    )
}

fn text(job: &Job) -> String {
    let mut text = Text::default();
    text.pair("id", job.id);
    text.pair("kind", &job.kind);
    text.pair("volume", job.volume.as_deref().unwrap_or("-"));
    text.pair("state", state_name(job.state));
    text.pair("started", job.started);
    text.pair("ended", job.ended.unwrap_or_default());
    text.pair("doneBytes", job.progress.done);
    text.pair("totalBytes", job.progress.total);
    text.pair("bytesPerSecond", job.progress.rate);
    if let Some(seconds) = job.progress.eta_seconds.filter(|_| !job.state.is_over()) {
        text.pair("secondsLeft", seconds);
    }
    if let Some(result) = job.result.as_ref().filter(|r| !r.is_null()) {
        text.pair("result", result);
    }
    if let Some(error) = &job.error {
        text.pair("error", error);
    }
    text.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use walb_common::rest::{ApiError, ErrorCode, Progress};
    use walb_common::types::Timestamp;

    fn job() -> Job {
        Job {
            id: 12,
            kind: "restore".into(),
            volume: Some("vol0".into()),
            state: JobState::Running,
            started: Timestamp(1_795_359_114),
            ended: None,
            progress: Progress {
                done: 42,
                total: 100,
                rate: 21,
                eta_seconds: Some(2),
            },
            result: None,
            error: None,
        }
    }

    #[test]
    fn a_job_is_one_line_of_the_list() {
        assert_eq!(
            line(&job()),
            "12 restore vol0 running 2026-11-22T14:51:54 --- 42%"
        );
        let ended = Job {
            volume: None,
            state: JobState::Cancelled,
            ended: Some(Timestamp(1_795_359_115)),
            progress: Progress::default(),
            ..job()
        };
        assert_eq!(
            line(&ended),
            "12 restore - cancelled 2026-11-22T14:51:54 2026-11-22T14:51:55 ---"
        );
    }

    #[test]
    fn one_job_is_told_in_full() {
        let running = "id 12\nkind restore\nvolume vol0\nstate running\nstarted 2026-11-22T14:51:54\nended ---\n\
                       doneBytes 42\ntotalBytes 100\nbytesPerSecond 21\nsecondsLeft 2\n";
        assert_eq!(text(&job()), running);
        let error = Some(ApiError::new(ErrorCode::NoSpace, "no room").hint("free some"));
        let failed = text(&Job {
            state: JobState::Failed,
            error,
            ..job()
        });
        assert!(
            failed.contains("state failed\n") && failed.ends_with("error no room (free some)\n"),
            "{failed}"
        );
    }
}
