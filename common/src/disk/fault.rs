//! Named fault points: places between two persisting steps where a test can make the process die or the step fail.
//!
//! `WALB_FAULT=NAME=ACTION[@N][,NAME=ACTION[@N]...]`, where ACTION is `crash` (the process aborts at once, as by kill -9),
//! `eio` or `enospc` (the step fails with that error), and `@N` means "only at the N-th time the point is reached"
//! (counting from 1; without it: every time). Without the variable a point costs one atomic load.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Crash,
    Fail(i32),
}

struct Armed {
    name: String,
    action: Action,
    only_at: Option<u64>,
    reached: AtomicU64,
}

fn armed() -> &'static [Armed] {
    static ARMED: OnceLock<Vec<Armed>> = OnceLock::new();
    ARMED.get_or_init(|| match std::env::var("WALB_FAULT") {
        Ok(text) => text.split(',').filter_map(parse).collect(),
        Err(_) => Vec::new(),
    })
}

fn parse(item: &str) -> Option<Armed> {
    let (name, rest) = item.split_once('=')?;
    let (action, only_at) = match rest.split_once('@') {
        Some((action, n)) => (action, Some(n.parse().ok()?)),
        None => (rest, None),
    };
    let action = match action {
        "crash" => Action::Crash,
        "eio" => Action::Fail(rustix::io::Errno::IO.raw_os_error()),
        "enospc" => Action::Fail(rustix::io::Errno::NOSPC.raw_os_error()),
        _ => return None,
    };
    Some(Armed {
        name: name.to_owned(),
        action,
        only_at,
        reached: AtomicU64::new(0),
    })
}

/// A fault point. Does nothing unless a test armed it.
pub fn point(name: &str) -> io::Result<()> {
    for armed in armed().iter().filter(|a| a.name == name) {
        let times = armed.reached.fetch_add(1, Ordering::Relaxed) + 1;
        if armed.only_at.is_some_and(|n| n != times) {
            continue;
        }
        match armed.action {
            Action::Crash => {
                eprintln!("fault point {name}: dying here as asked by WALB_FAULT");
                // SIGKILL to ourselves: no destructor, no flush, exactly what kill -9 leaves.
                let _ =
                    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
                std::process::abort();
            }
            Action::Fail(errno) => return Err(io::Error::from_raw_os_error(errno)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_armed_point_names_its_action_and_its_turn() {
        let armed = parse("archive.wdiff.renamed=enospc@3").unwrap();
        assert_eq!(
            (armed.name.as_str(), armed.only_at),
            ("archive.wdiff.renamed", Some(3))
        );
        assert!(matches!(armed.action, Action::Fail(28)));
        assert!(parse("nonsense").is_none() && parse("a=b").is_none());
    }

    #[test]
    fn a_point_nobody_armed_does_nothing() {
        assert!(point("nobody.armed.this").is_ok());
    }
}
