use std::collections::HashSet;

use super::*;

/// What must be true of every role's tables.
fn check_tables<S: Named, D: Named, C: Named, A: Named>(
    moves: &'static [Move<S, D, C>],
    rules: &'static [Rule<S, D, C, A>],
) {
    let names: Vec<&str> = State::<S, D>::all().map(|s| s.name()).collect();
    let unique: HashSet<&str> = names.iter().copied().collect();
    assert_eq!(unique.len(), names.len(), "names are unique: {names:?}");
    let commands: HashSet<&str> = C::ALL.iter().map(Named::name).collect();
    assert_eq!(commands.len(), C::ALL.len(), "command names are unique");

    for state in State::<S, D>::all() {
        assert_eq!(state.name().parse::<State<S, D>>(), Ok(state));
        assert_eq!(
            serde_json::to_string(&state).unwrap(),
            format!("{:?}", state.name())
        );
        assert_eq!(
            serde_json::from_str::<State<S, D>>(&format!("{:?}", state.name())).unwrap(),
            state
        );
        for by in C::ALL {
            let answers = moves
                .iter()
                .filter(|m| State::Static(m.from) == state && m.by == *by)
                .count();
            assert!(answers <= 1, "{state} {by:?}");
            match find_in(moves, state, *by) {
                Ok(found) => assert_eq!((State::Static(found.from), found.by, answers), (state, *by, 1)),
                Err(refused) => {
                    assert_eq!(answers, 0);
                    let text = refused.to_string();
                    assert!(
                        text.starts_with(&format!("bad state:{state}, expected ")),
                        "{text}"
                    );
                }
            }
        }
    }

    let mut reached = vec![S::ALL[0]];
    let mut i = 0;
    while let Some(from) = reached.get(i).copied() {
        for m in moves.iter().filter(|m| m.from == from) {
            if !reached.contains(&m.to) {
                reached.push(m.to);
            }
        }
        i += 1;
    }
    assert_eq!(
        reached.len(),
        S::ALL.len(),
        "every static state is reached: {reached:?}"
    );
    for d in D::ALL {
        assert!(moves.iter().any(|m| m.through == *d), "{d:?} is reached");
    }
    for c in C::ALL {
        let n = rules.iter().filter(|r| r.command == *c).count();
        let moving = moves.iter().any(|m| m.by == *c);
        assert!(
            n == 1 || (n == 0 && moving),
            "{c:?} has one rule, or moves the volume"
        );
    }
    // Where a command both moves and has a rule, the two agree on the states.
    for rule in rules {
        let from: HashSet<&str> = moves
            .iter()
            .filter(|m| m.by == rule.command)
            .map(|m| m.from.name())
            .collect();
        let accepted: HashSet<&str> = rule.accepted.iter().map(State::name).collect();
        assert!(from.is_empty() || from == accepted, "{:?}", rule.command);
    }
}

#[test]
fn the_tables_of_a_storage_hold_together() {
    check_tables(storage::MOVES, storage::RULES);
}

#[test]
fn the_tables_of_a_proxy_hold_together() {
    check_tables(proxy::MOVES, proxy::RULES);
}

#[test]
fn the_tables_of_an_archive_hold_together() {
    check_tables(archive::MOVES, archive::RULES);
}

#[test]
fn a_refusal_names_what_is_and_what_should_be() {
    use storage::{Command, Dynamic, Static, find_move};
    let refused = find_move(Static::Clear, Command::FullBackup).unwrap_err();
    assert_eq!(refused.to_string(), "bad state:Clear, expected SyncReady");
    let refused = find_move(Dynamic::FullSync, Command::Stop).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "bad state:FullSync, expected Standby or Target"
    );
    let refused = storage::check(Command::Snapshot, Dynamic::FullSync).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "bad state:FullSync, expected Target or Stopped"
    );
    let refused = archive::check(archive::Command::Merge, archive::Static::Archived, |a| {
        a == archive::Action::Apply
    });
    assert_eq!(
        refused.unwrap_err().to_string(),
        "bad action:Apply is running, expected none of Apply, Merge, Resize"
    );
}

#[test]
fn a_backup_goes_through_stopped_to_target() {
    use storage::{Command, Dynamic, Static, find_move};
    let backup = find_move(Static::SyncReady, Command::FullBackup).unwrap();
    assert_eq!((backup.through, backup.to), (Dynamic::FullSync, Static::Stopped));
    let start = find_move(backup.to, Command::StartTarget).unwrap();
    assert_eq!((start.through, start.to), (Dynamic::StartTarget, Static::Target));
    assert!(storage::may_send_wlog(Dynamic::FullSync) && storage::may_send_wlog(Static::Target));
    assert!(!storage::may_send_wlog(Static::Stopped) && !storage::may_send_wlog(Dynamic::StopTarget));
}

#[test]
fn a_wdiff_comes_in_beside_every_action_and_only_when_archived() {
    use archive::{Command, Dynamic, Static, check};
    assert_eq!(check(Command::WdiffRecv, Static::Archived, |_| true), Ok(()));
    assert!(check(Command::WdiffRecv, Dynamic::WdiffRecv, |_| false).is_err());
    assert!(check(Command::WdiffRecv, Static::Stopped, |_| false).is_err());
    assert_eq!(check(Command::Apply, Dynamic::HashSync, |_| false), Ok(()));
    assert!(archive::is_active(Dynamic::WdiffRecv) && !archive::is_active(Static::Stopped));
}

#[test]
fn a_merge_may_start_while_a_restore_or_replication_runs_but_not_the_other_way_round() {
    use archive::{Action, Command, Static, check};
    let while_running = |command, running| check(command, Static::Archived, |a| a == running);
    assert!(while_running(Command::Merge, Action::Restore).is_ok());
    assert!(while_running(Command::Merge, Action::ReplSyncAsClient).is_ok());
    assert!(while_running(Command::ReplicateAsSource, Action::Merge).is_err());
    assert!(while_running(Command::Restore, Action::Merge).is_ok());
}

#[test]
fn the_documented_diagrams_are_those_of_the_tables() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/states.md");
    let page = std::fs::read_to_string(path).expect("docs/states.md");
    let rendered = diagram::render_page();
    assert!(page == rendered, "docs/states.md has to be:\n{rendered}");
}
