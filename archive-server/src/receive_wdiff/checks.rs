//! Whether a diff is accepted. Plain functions over values; the order is part of the protocol, because the proxy acts on
//! the first reason: it deletes what is too old or of another lineage, and keeps what merely comes at a bad moment.

use walb_common::daemon::occupancy::{Archive, View};
use walb_common::lineage::{Relation, Snapshot};
use walb_common::state::archive::{Dynamic, State, Static};
use walb_common::types::{Lb, Uuid};
use walb_common::wire::message::{Refusal, RefusalReason, WdiffBegin};

fn refusal(reason: RefusalReason, message: String) -> Refusal {
    Refusal { reason, message }
}

/// What the volume's state has against it.
pub(super) fn state(view: &View<Archive>) -> Option<Refusal> {
    use RefusalReason as R;
    if view.stopping.is_some() {
        return Some(refusal(R::BadState, "the volume is stopping".to_owned()));
    }
    let state = view.state;
    match state {
        State::Static(Static::Archived) => None,
        State::Static(Static::Stopped) | State::Dynamic(Dynamic::Start) => Some(refusal(
            R::Stopped,
            format!("stopped: the volume is in state {state}"),
        )),
        State::Dynamic(Dynamic::FullSync | Dynamic::HashSync | Dynamic::Resync) => Some(refusal(
            R::Syncing,
            format!("syncing: the volume is in state {state}"),
        )),
        State::Dynamic(Dynamic::WdiffRecv) => Some(refusal(
            R::WdiffRecv,
            "wdiff-recv: another diff is being received".to_owned(),
        )),
        State::Static(Static::Clear | Static::SyncReady) | State::Dynamic(_) => Some(refusal(
            R::BadState,
            format!("bad state:{state}, expected Archived"),
        )),
    }
}

/// What the volume's data have against it. `free`: bytes free on the disk, if known.
pub(super) fn content(
    begin: &WdiffBegin,
    uuid: Uuid,
    size: Lb,
    latest: Snapshot,
    free: Option<u64>,
) -> Option<Refusal> {
    use RefusalReason as R;
    let diff = &begin.diff;
    if begin.uuid != uuid {
        let text = format!(
            "different-uuid: expected {uuid}, that of the last backup, found {}",
            begin.uuid
        );
        return Some(refusal(R::DifferentUuid, text));
    }
    if size < begin.size {
        let text = format!(
            "smaller-lv-size: the base image has {size} blocks, the volume {}",
            begin.size
        );
        return Some(refusal(R::SmallerSize, text));
    }
    match diff.relation(latest) {
        Relation::Applicable => {}
        Relation::TooOld => {
            return Some(refusal(
                R::TooOldDiff,
                format!("too-old-diff: {diff}, latest is {latest}"),
            ));
        }
        Relation::TooNew => {
            return Some(refusal(
                R::TooNewDiff,
                format!("too-new-diff: {diff}, latest is {latest}"),
            ));
        }
        Relation::NotApplicable => {
            return Some(refusal(
                R::Other,
                format!("compared diff {diff} is not for the latest snapshot {latest}"),
            ));
        }
    }
    if let Some(free) = free.filter(|free| *free < diff.size()) {
        return Some(refusal(
            R::NoSpace,
            format!("no space: {} bytes needed for {diff}, {free} free", diff.size()),
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use walb_common::lineage::MetaDiff;
    use walb_common::rest::StopMode;
    use walb_common::types::Gid;

    fn view(state: State) -> View<Archive> {
        View {
            state,
            actions: HashMap::new(),
            stopping: None,
        }
    }

    fn begin(from: u64, to: u64) -> WdiffBegin {
        let diff = MetaDiff::new(Snapshot::clean(Gid(from)), Snapshot::clean(Gid(to))).unwrap();
        WdiffBegin {
            uuid: Uuid([1; 16]),
            size: Lb(100),
            diff: diff.with_size(1000),
        }
    }

    #[test]
    fn only_an_archived_volume_that_is_not_stopping_takes_a_diff() {
        use RefusalReason as R;
        let expected = |state: State| match state.to_string().as_str() {
            "Archived" => None,
            "Stopped" | "Start" => Some(R::Stopped),
            "FullSync" | "HashSync" | "Resync" => Some(R::Syncing),
            "WdiffRecv" => Some(R::WdiffRecv),
            _ => Some(R::BadState),
        };
        for at in State::all() {
            assert_eq!(state(&view(at)).map(|r| r.reason), expected(at), "{at}");
        }
        let stopping = View {
            stopping: Some(StopMode::Graceful),
            ..view(Static::Archived.into())
        };
        assert_eq!(state(&stopping).map(|r| r.reason), Some(R::BadState));
    }

    #[test]
    fn the_first_of_several_reasons_is_the_lineage_then_the_size_then_the_gids_then_the_room() {
        use RefusalReason as R;
        let check = |b: &WdiffBegin, uuid, size, latest, free| {
            content(
                b,
                Uuid([uuid; 16]),
                Lb(size),
                Snapshot::clean(Gid(latest)),
                Some(free),
            )
            .map(|r| r.reason)
        };
        assert_eq!(check(&begin(0, 5), 2, 1, 9, 0), Some(R::DifferentUuid));
        assert_eq!(check(&begin(0, 5), 1, 99, 9, 0), Some(R::SmallerSize));
        assert_eq!(check(&begin(0, 5), 1, 100, 5, 0), Some(R::TooOldDiff));
        assert_eq!(check(&begin(6, 7), 1, 100, 5, 0), Some(R::TooNewDiff));
        assert_eq!(check(&begin(5, 7), 1, 100, 5, 999), Some(R::NoSpace));
        assert_eq!(check(&begin(5, 7), 1, 100, 5, 1000), None);
        assert_eq!(check(&begin(3, 7), 1, 101, 5, 1000), None, "an overlap is no gap");
    }
}
