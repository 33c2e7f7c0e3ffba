use super::super::fixture::{diff, diffs, snap};
use super::*;

fn base(text: &str) -> BaseState {
    text.parse().unwrap()
}

#[test]
fn states_print_and_parse_with_and_without_time() {
    for text in [
        "<|5|>",
        "<|0,10|>",
        "<|0|-->|25|>",
        "<|0,10|-->|25|>",
        "<|0|-->|5,6|>",
        "<|0,10|-->|12,18446744073709551615|>",
    ] {
        assert_eq!(base(text).to_string(), text);
        let default = BaseState::parse(text, Timestamp(77)).unwrap();
        assert_eq!((default, default.timestamp()), (base(text), Timestamp(77)));
        let timed = format!("{text}-20261122140000");
        assert_eq!(base(&timed).with_time(), timed);
        let json = serde_json::to_string(&base(&timed)).unwrap();
        assert_eq!(json, format!("{timed:?}"));
        assert_eq!(
            serde_json::from_str::<BaseState>(&json).unwrap().with_time(),
            timed
        );
    }
}

#[test]
fn what_is_no_state_is_refused() {
    for text in [
        "",
        "<>",
        "|5|",
        "<|5|",
        "|5|>",
        "<5>",
        "<|5|-->|5|>",
        "<|5|-->|4|>",
        "<|5|-->>",
        "<-->|5|>",
        "<|5|>-",
        "<|5|>x",
        "<|5|>-2026112214000",
        "<|5|>-20261122140000x",
        "<|5|-->|6|-->|7|>",
    ] {
        assert!(text.parse::<BaseState>().is_err(), "{text}");
    }
}

/// The text has no checksum, so another digit is another state. But nothing is read as what it does not say.
#[test]
fn a_damaged_text_is_refused_or_read_as_it_stands() {
    for text in [
        "<|5|>-20261122140000",
        "<|10,17|>-20261122140000",
        "<|0|-->|25|>-20261122140000",
        "<|1,10|-->|25,36|>-20261122140000",
    ] {
        let sound = base(text);
        let mut read = 0;
        let mut damaged = text.as_bytes().to_vec();
        for bit in 0..text.len() * 8 {
            damaged[bit / 8] ^= 1 << (bit % 8);
            if let Some(found) = str::from_utf8(&damaged)
                .ok()
                .and_then(|t| t.parse::<BaseState>().ok())
            {
                assert_eq!(found.with_time().as_bytes(), damaged, "of {text}");
                assert!(found != sound || found.timestamp() != sound.timestamp());
                read += 1;
            }
            damaged[bit / 8] ^= 1 << (bit % 8);
        }
        assert!(read > 0, "digits become other digits");
        for len in 0..text.len() {
            // Without its time, and only then, a shorter text says the same.
            let whole = text[..len].ends_with("|>");
            assert_eq!(
                text[..len].parse::<BaseState>().is_ok(),
                whole,
                "{}",
                &text[..len]
            );
        }
    }
}

#[test]
fn equality_ignores_the_time() {
    assert_eq!(base("<|5|>-20261122140000"), base("<|5|>"));
    assert_ne!(base("<|5|>"), base("<|5|-->|6|>"));
    assert_ne!(base("<|5|-->|7|>"), base("<|5|-->|6|>"));
    assert_ne!(base("<|5|>"), base("<|5,6|>"));
}

#[test]
fn beginning_twice_or_ending_what_was_begun_gives_the_same() {
    let list = [
        diff("|0|-->|5|").with_timestamp(Timestamp(1)),
        diff("|5|-->|10|").with_timestamp(Timestamp(2)),
    ];
    let idle = base("<|0,10|>");
    let begun = idle.begin_applying(&list).unwrap();
    assert_eq!(
        (begun, begun.timestamp()),
        (base("<|0,10|-->|10|>"), Timestamp(2))
    );
    assert_eq!(begun.begin_applying(&list), Ok(begun));
    let ended = idle.end_applying(&list).unwrap();
    assert_eq!((ended, ended.timestamp()), (base("<|10|>"), Timestamp(2)));
    assert_eq!(begun.end_applying(&list), Ok(ended));
    assert_eq!(begun.begin_applying(&[]), Ok(begun));
    assert_eq!(idle.end_applying(&[]), Ok(idle));
}

#[test]
fn an_interrupted_apply_is_only_completed_by_a_list_that_reaches_its_target() {
    let begun = base("<|0|-->|10|>");
    let short = diffs(&["|0|-->|5|"]);
    assert!(!begun.can_apply(&short));
    assert_eq!(
        begun.end_applying(&short).unwrap_err().to_string(),
        "the diffs lead from |0| to |5| only: expected at least |10|, which was being applied"
    );
    assert!(begun.can_apply(&diffs(&["|0|-->|5|", "|5|-->|10|"])));
    assert!(begun.can_apply(&diffs(&["|0|-->|12|"])));
}

#[test]
fn a_gap_is_named() {
    let gap = diffs(&["|0|-->|5|", "|6|-->|7|"]);
    assert_eq!(
        base("<|0|>").begin_applying(&gap),
        Err(NotApplicable::Gap {
            at: snap("|5|"),
            diff: gap[1],
        })
    );
}
