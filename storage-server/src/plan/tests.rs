use proptest::prelude::*;

use super::*;

const M: u64 = 100;
const LIMITS: Limits = Limits {
    max_pb: M,
    snapshot_interval: 10,
};

fn record(lsid: u64, gid: u64, mergeable: bool) -> LsidGid {
    LsidGid {
        lsid: Lsid(lsid),
        gid: Gid(gid),
        mergeable,
        timestamp: Timestamp(1000),
    }
}

/// A device that has written everything up to `latest`, and made it permanent up to `permanent`.
fn device(permanent: u64, latest: u64) -> Lsids {
    Lsids {
        permanent: Lsid(permanent),
        completed: Lsid(latest),
        latest: Lsid(latest),
        ..Lsids::default()
    }
}

const NOW: Timestamp = Timestamp(1000);

fn sent(next: Next) -> (u64, u64) {
    match next {
        Next::Send(t) => (t.end.gid.0, t.limit.0),
        other => panic!("expected a transfer, found {other:?}"),
    }
}

#[test]
fn a_snapshot_leaves_gids_for_the_transfers_it_takes_to_get_there() {
    let done = record(0, 5, false);
    let take = |queue: &[LsidGid], latest| take_snapshot(&done, queue, Lsid(latest), false, M, true, NOW);
    assert_eq!(take(&[], 0), Ok(record(0, 6, true)));
    assert_eq!(take(&[], 99), Ok(record(99, 6, true)));
    assert_eq!(take(&[], 100), Ok(record(100, 7, true)));
    assert_eq!(take(&[record(50, 6, true)], 350), Ok(record(350, 10, true)));
}

#[test]
fn no_snapshot_is_taken_of_a_log_that_overflowed_went_back_or_ran_out_of_gids() {
    let done = record(10, u64::MAX - 2, false);
    let take = |latest, overflowed| take_snapshot(&done, &[], Lsid(latest), overflowed, M, false, NOW);
    assert_eq!(take(10, true), Err(SnapshotRefused::Overflowed));
    assert_eq!(
        take(9, false),
        Err(SnapshotRefused::LogWentBack {
            latest: Lsid(9),
            previous: Lsid(10)
        })
    );
    assert!(take(10, false).is_ok());
    assert!(matches!(take(110, false), Err(SnapshotRefused::NoGidLeft { .. })));
}

#[test]
fn an_implicit_snapshot_is_taken_when_nothing_waits_or_the_newest_is_old() {
    let done = record(0, 0, false);
    let choose =
        |queue: &[LsidGid], now| choose_transfer(&done, queue, &device(50, 50), LIMITS, Timestamp(now));
    assert_eq!(choose(&[], 1000), Next::TakeSnapshot);
    assert_eq!(choose(&[record(40, 1, true)], 1010), Next::TakeSnapshot);
    assert_eq!(sent(choose(&[record(40, 1, true)], 1009)), (1, 40));
    assert_eq!(
        sent(choose(&[record(50, 1, true)], 2000)),
        (1, 50),
        "nothing is newer"
    );
    // A clock that went back delays the next implicit one, no more.
    assert_eq!(sent(choose(&[record(40, 1, true)], 0)), (1, 40));
    // Delivered records do not count as waiting.
    assert_eq!(choose(&[record(0, 0, false)], 1000), Next::TakeSnapshot);
}

#[test]
fn implicit_snapshots_collapse_and_an_explicit_one_ends_the_diff() {
    let done = record(0, 0, false);
    let choose = |queue: &[LsidGid]| sent(choose_transfer(&done, queue, &device(500, 500), LIMITS, NOW));
    let (a, b) = (record(10, 1, true), record(20, 2, true));
    assert_eq!(choose(&[a, b, record(90, 3, true)]), (3, 90));
    assert_eq!(choose(&[a, record(20, 2, false), record(90, 3, true)]), (2, 20));
    assert_eq!(
        choose(&[a, b, record(101, 3, true)]),
        (2, 20),
        "one more would exceed the limit"
    );
}

#[test]
fn only_permanent_log_is_sent() {
    let done = record(0, 0, false);
    let queue = [record(10, 1, true), record(20, 2, true), record(30, 3, true)];
    let choose = |permanent| choose_transfer(&done, &queue, &device(permanent, 30), LIMITS, NOW);
    assert_eq!(sent(choose(25)), (2, 20));
    assert_eq!(choose(9), Next::Wait(Some(Duration::from_millis(550))));
}

#[test]
fn an_explicit_snapshot_without_writes_is_sent_empty() {
    let done = record(10, 3, true);
    let next = choose_transfer(&done, &[record(10, 4, false)], &device(10, 10), LIMITS, NOW);
    assert_eq!(sent(next), (4, 10));
    let Next::Send(transfer) = next else {
        unreachable!()
    };
    assert_eq!(transfer.max_pb(), 0);
    let outcome = after_transfer(&transfer, Lsid(10)).unwrap();
    assert_eq!(
        (outcome.diff.to_string().as_str(), outcome.done),
        ("|3|-->|4|", record(10, 4, false))
    );
}

#[test]
fn a_long_way_is_split_while_gids_last_and_then_sent_whole() {
    let done = record(0, 0, false);
    let far = record(250, 3, false);
    let choose = |done: &LsidGid| choose_transfer(done, &[far], &device(250, 250), LIMITS, NOW);
    let Next::Send(first) = choose(&done) else {
        unreachable!()
    };
    assert_eq!((first.end, first.limit), (far, Lsid(100)));
    // Large packs: 60 at a time.
    let outcome = after_transfer(&first, Lsid(60)).unwrap();
    assert_eq!(outcome.diff.to_string(), "|0|-->|1|");
    assert!(!outcome.diff.is_mergeable(), "it starts at an explicit snapshot");
    assert_eq!(outcome.done, record(60, 1, true));
    let Next::Send(second) = choose(&outcome.done) else {
        unreachable!()
    };
    let outcome = after_transfer(&second, Lsid(120)).unwrap();
    assert!(outcome.diff.is_mergeable());
    // No gid is left between 2 and 3: 130 blocks at once.
    let Next::Send(third) = choose(&outcome.done) else {
        unreachable!()
    };
    assert_eq!(third.limit, Lsid(250));
    let outcome = after_transfer(&third, Lsid(250)).unwrap();
    assert_eq!(
        (outcome.diff.to_string().as_str(), outcome.done),
        ("|2|-->|3|", far)
    );
}

#[test]
fn a_transfer_that_ends_where_none_can_is_refused() {
    let transfer = Transfer {
        done: record(10, 0, true),
        end: record(200, 5, true),
        limit: Lsid(110),
    };
    assert_eq!(
        after_transfer(&transfer, Lsid(10)).unwrap_err().to_string(),
        "the log pack at lsid 10 does not end by 110: it is larger than a transfer may be"
    );
    assert!(matches!(
        after_transfer(&transfer, Lsid(9)),
        Err(TransferError::OutOfRange { .. })
    ));
    assert!(matches!(
        after_transfer(&transfer, Lsid(111)),
        Err(TransferError::OutOfRange { .. })
    ));
    let backwards = Transfer {
        end: record(50, 0, true),
        limit: Lsid(50),
        ..transfer
    };
    assert!(matches!(
        after_transfer(&backwards, Lsid(50)),
        Err(TransferError::NoProgress { .. })
    ));
}

#[test]
fn nothing_to_send_waits_for_the_device_or_for_its_checkpoint() {
    let done = record(50, 1, true);
    let choose = |lsids: &Lsids| choose_transfer(&done, &[], lsids, LIMITS, NOW);
    let mut lsids = device(50, 50);
    assert_eq!(
        choose(&lsids),
        Next::Wait(Some(Duration::from_secs(1))),
        "delivered log is to be erased yet"
    );
    lsids.oldest = Lsid(50);
    assert_eq!(choose(&lsids), Next::Wait(None));
    lsids.latest = Lsid(51);
    assert_eq!(
        choose(&lsids),
        Next::Wait(Some(Duration::from_secs(1))),
        "log is to become permanent yet"
    );
}

#[test]
fn a_log_that_ends_before_the_records_is_named() {
    let done = record(50, 1, true);
    let choose =
        |queue: &[LsidGid], latest| choose_transfer(&done, queue, &device(latest, latest), LIMITS, NOW);
    let went_back = |latest, recorded| Next::LogWentBack {
        latest: Lsid(latest),
        recorded: Lsid(recorded),
    };
    assert_eq!(choose(&[], 49), went_back(49, 50));
    assert_eq!(choose(&[record(60, 2, true)], 55), went_back(55, 60));
}

#[test]
fn the_more_log_waits_the_sooner_it_is_looked_at() {
    for (remaining, millis) in [
        (0, 1000),
        (10, 1000),
        (20, 775),
        (30, 550),
        (50, 100),
        (51, 100),
        (u64::MAX, 100),
    ] {
        assert_eq!(
            next_check_delay(remaining, 100).as_millis(),
            millis,
            "{remaining}"
        );
    }
    assert_eq!(next_check_delay(0, 0).as_millis(), 1000);
    assert_eq!(next_check_delay(u64::MAX, u64::MAX).as_millis(), 100);
}

#[test]
fn log_is_erased_up_to_what_is_delivered_and_recorded_as_written() {
    let at = |oldest, prev_written| Lsids {
        oldest: Lsid(oldest),
        prev_written: Lsid(prev_written),
        ..device(900, 900)
    };
    let delivered = Keep::Undelivered { done: Lsid(100) };
    assert_eq!(erase_to(delivered, &at(0, 500), false), Some(Lsid(100)));
    assert_eq!(erase_to(delivered, &at(0, 50), false), Some(Lsid(50)));
    assert_eq!(erase_to(delivered, &at(100, 500), false), None);
    assert_eq!(erase_to(delivered, &at(0, 500), true), None);
    assert_eq!(erase_to(Keep::Nothing, &at(0, 500), false), Some(Lsid(500)));
    assert_eq!(erase_to(Keep::Nothing, &at(500, 500), false), None);
}

#[derive(Debug, Clone)]
enum Event {
    Write {
        pack_pb: u64,
    },
    BecomePermanent,
    Snapshot,
    /// Asks what to do and does it; `lost` is a transfer whose acknowledgement never came.
    Run {
        lost: bool,
    },
    Pass {
        seconds: u64,
    },
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        5 => (1..=M).prop_map(|pack_pb| Event::Write { pack_pb }),
        2 => Just(Event::BecomePermanent),
        1 => Just(Event::Snapshot),
        4 => prop::bool::weighted(0.2).prop_map(|lost| Event::Run { lost }),
        1 => (1_u64..20).prop_map(|seconds| Event::Pass { seconds }),
    ]
}

/// A storage volume without IO: what it remembers, and where its device's packs end.
struct Volume {
    done: LsidGid,
    queue: Vec<LsidGid>,
    pack_ends: Vec<u64>,
    permanent: u64,
    now: u64,
    diffs: Vec<MetaDiff>,
    explicit: Vec<(Gid, Lsid)>,
}

impl Volume {
    fn latest(&self) -> u64 {
        self.pack_ends.last().copied().unwrap_or(0)
    }

    fn snapshot(&mut self, mergeable: bool) {
        let latest = Lsid(self.latest());
        let taken = take_snapshot(
            &self.done,
            &self.queue,
            latest,
            false,
            M,
            mergeable,
            Timestamp(self.now),
        )
        .unwrap();
        let previous = self.queue.last().unwrap_or(&self.done);
        assert!(previous.gid < taken.gid && previous.lsid <= taken.lsid);
        if !mergeable {
            self.explicit.push((taken.gid, taken.lsid));
        }
        self.queue.push(taken);
    }

    /// One run of the task. Returns whether there may be more to do.
    fn run(&mut self, lost: bool) -> bool {
        let lsids = device(self.permanent, self.latest());
        let transfer = match choose_transfer(&self.done, &self.queue, &lsids, LIMITS, Timestamp(self.now)) {
            Next::Wait(_) => return false,
            went_back @ Next::LogWentBack { .. } => panic!("{went_back:?}"),
            Next::TakeSnapshot => {
                self.snapshot(true);
                return true;
            }
            Next::Send(transfer) => transfer,
        };
        assert!(transfer.limit.0 <= self.permanent, "only permanent log is sent");
        let no_gid_between = transfer.end.gid == transfer.done.gid.next();
        assert!(transfer.max_pb() <= M || no_gid_between, "{transfer:?}");
        let reached = self
            .pack_ends
            .iter()
            .copied()
            .take_while(|end| *end <= transfer.limit.0)
            .last()
            .map_or(transfer.done.lsid.0, |end| end.max(transfer.done.lsid.0));
        let outcome = after_transfer(&transfer, Lsid(reached)).unwrap();
        assert!(self.done.gid < outcome.done.gid && self.done.lsid <= outcome.done.lsid);
        if lost {
            return true;
        }
        // Nothing explicit is passed over.
        let passed = |(gid, _): &&(Gid, Lsid)| self.done.gid < *gid && *gid <= outcome.done.gid;
        for (gid, lsid) in self.explicit.iter().filter(passed) {
            assert_eq!((*gid, *lsid), (outcome.done.gid, outcome.done.lsid));
        }
        self.diffs.push(outcome.diff);
        self.done = outcome.done;
        self.queue.retain(|r| !is_delivered(&outcome.done, r));
        true
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn whatever_happens_the_diffs_chain_and_end_at_every_explicit_snapshot(
        events in prop::collection::vec(any_event(), 0..120),
    ) {
        let mut volume = Volume {
            done: LsidGid { timestamp: Timestamp(0), ..record(0, 0, false) },
            queue: vec![],
            pack_ends: vec![],
            permanent: 0,
            now: 1000,
            diffs: vec![],
            explicit: vec![],
        };
        for event in events {
            match event {
                Event::Write { pack_pb } => volume.pack_ends.push(volume.latest() + pack_pb),
                Event::BecomePermanent => volume.permanent = volume.latest(),
                Event::Snapshot => volume.snapshot(false),
                Event::Run { lost } => { volume.run(lost); }
                Event::Pass { seconds } => volume.now += seconds,
            }
        }
        volume.permanent = volume.latest();
        let mut runs = 0;
        while volume.run(false) {
            runs += 1;
            prop_assert!(runs < 1000, "it settles");
        }
        prop_assert_eq!(volume.done.lsid, Lsid(volume.latest()), "all is delivered");
        prop_assert!(volume.queue.is_empty());

        let mut at = Snapshot::clean(Gid(0));
        for (i, diff) in volume.diffs.iter().enumerate() {
            prop_assert_eq!(diff.begin(), at, "no gap, no overlap");
            at = at.apply(diff).unwrap();
            // A diff is mergeable exactly when it does not start at an explicit snapshot (or at the very beginning).
            let explicit = i == 0 || volume.explicit.iter().any(|(gid, _)| *gid == diff.begin().begin());
            prop_assert_eq!(diff.is_mergeable(), !explicit, "{}", diff);
        }
        for (gid, _) in &volume.explicit {
            prop_assert!(volume.diffs.iter().any(|d| d.end() == Snapshot::clean(*gid)), "{} ends a diff", gid);
        }
    }
}
