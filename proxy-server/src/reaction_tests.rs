use super::*;

const POLICY: RetryPolicy = RetryPolicy {
    delay: Duration::from_secs(1),
    max_delay: Duration::from_secs(300),
    give_up_after: 1800,
};

fn on(reply: Reply, last_wlog: Option<u64>) -> Reaction {
    let last_wlog = last_wlog.map(Timestamp);
    react(
        reply,
        &mut Backoff::default(),
        &POLICY,
        last_wlog,
        Timestamp(10_000),
    )
}

#[test]
fn every_reply_has_its_reaction() {
    let keep = Reaction::RetryAfter(Duration::from_secs(1));
    let flag = Reaction::RaiseErrorFlag;
    for (reply, while_writing, long_after) in [
        (Reply::Accept, Reaction::Send, Reaction::Send),
        (
            Reply::TooOldDiff,
            Reaction::DeleteAndContinue,
            Reaction::DeleteAndContinue,
        ),
        (
            Reply::DifferentUuid,
            Reaction::DeleteAndContinue,
            Reaction::DeleteAndContinue,
        ),
        (Reply::TooNewDiff, keep, keep),
        (Reply::Syncing, keep, keep),
        (Reply::WdiffRecv, keep, flag),
        (Reply::Stopped, keep, flag),
        (Reply::SmallerLvSize, flag, flag),
        (Reply::ArchiveNotFound, flag, flag),
        (Reply::OtherRefusal, keep, flag),
        (Reply::ConnectionFailed, keep, keep),
    ] {
        assert_eq!(on(reply, Some(9_000)), while_writing, "{reply:?}");
        assert_eq!(
            on(reply, Some(8_000)),
            long_after,
            "{reply:?} long after the last wlog"
        );
        assert_eq!(on(reply, None), while_writing, "{reply:?} before any wlog");
    }
}

#[test]
fn giving_up_takes_more_than_the_limit() {
    let keep = Reaction::RetryAfter(Duration::from_secs(1));
    assert_eq!(on(Reply::Stopped, Some(10_000 - 1800)), keep);
    assert_eq!(on(Reply::Stopped, Some(10_000 - 1801)), Reaction::RaiseErrorFlag);
    assert_eq!(on(Reply::Stopped, Some(20_000)), keep, "the clock went back");
}

#[test]
fn waits_double_up_to_the_longest_and_start_anew_after_a_success() {
    let mut backoff = Backoff::default();
    let mut waits = |n: usize| -> Vec<u64> { (0..n).map(|_| backoff.fail(&POLICY).as_secs()).collect() };
    assert_eq!(waits(11), [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    assert!(waits(100).iter().all(|w| *w == 300));
    let reaction = react(Reply::Accept, &mut backoff, &POLICY, None, Timestamp(0));
    assert_eq!((reaction, backoff), (Reaction::Send, Backoff::default()));
}

#[test]
fn words_stand_for_replies_and_unknown_ones_for_a_refusal() {
    for reply in Reply::ALL {
        if let Some(word) = reply.word() {
            assert_eq!(Reply::from_word(word), reply);
        }
    }
    assert_eq!(
        Reply::from_word("bad state:Clear, expected Archived"),
        Reply::OtherRefusal
    );
}
