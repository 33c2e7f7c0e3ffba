//! How many files the process may have open, and how many of them one task may take.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Most files that one task has open at once where the limit is no matter.
const TASK_MAX: usize = 256;
/// Fewest, or merging would not get anywhere.
const TASK_MIN: usize = 8;
/// For what is open all the time: libraries, database, sockets, logs.
const ALWAYS: u64 = 64;

/// Raises the limit to what the process may have at most. The usual one is a thousand; a volume may have more diffs than
/// that, a daemon more clients, a host more devices. A limit that cannot be raised is told, and kept to.
pub fn raise_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
}

/// How many inputs one of `tasks` tasks may have open at once beside `connections`, under the limit as it is; it may have as
/// many outputs beside them. At least 8, at most 256.
pub fn per_task(connections: usize, tasks: usize) -> usize {
    share(getrlimit(Resource::Nofile).current, connections, tasks)
}

fn share(limit: Option<u64>, connections: usize, tasks: usize) -> usize {
    let Some(limit) = limit else {
        return TASK_MAX;
    };
    let left = limit.saturating_sub(ALWAYS + connections as u64);
    let share = left / (tasks.max(1) as u64) / 2;
    usize::try_from(share)
        .unwrap_or(TASK_MAX)
        .clamp(TASK_MIN, TASK_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_share_what_connections_leave_half_for_inputs() {
        assert_eq!(share(Some(1024), 256, 8), 44);
        assert_eq!(share(Some(1 << 20), 256, 8), TASK_MAX);
        assert_eq!(share(None, 256, 8), TASK_MAX);
        assert_eq!(share(Some(100), 256, 8), TASK_MIN);
        assert_eq!(share(Some(1024), 0, 0), TASK_MAX);
    }
}
