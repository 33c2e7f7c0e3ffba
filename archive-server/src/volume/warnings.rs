//! What somebody should look at although the volume works. A diff that is lost, here or upstream, stops the volume at
//! the snapshot before it: everything later is refused as too new, for ever, and this is where it shows.

use walb_common::archive_files::check::gap;
use walb_common::lineage::MetaDiff;
use walb_common::types::Timestamp;

use super::Held;

impl Held {
    /// A diff that starts beyond the latest snapshot was refused. The earliest one tells most; the time is the first's.
    pub fn refuse_too_new(&mut self, diff: MetaDiff, now: Timestamp) {
        self.too_new = Some(match self.too_new {
            Some((known, since)) if known.begin() <= diff.begin() => (known, since),
            Some((_, since)) => (diff, since),
            None => (diff, now),
        });
    }

    /// A line each.
    pub fn warnings(&self) -> Vec<String> {
        let Some(latest) = self.latest else {
            return Vec::new();
        };
        let latest = latest.snapshot();
        let mut told: Vec<String> = gap(latest, &self.diffs).into_iter().collect();
        if let Some((diff, since)) = self.too_new {
            told.push(format!(
                "gap: the diffs from gid {} to gid {} have not come, {diff} has been refused as too new since {since}; \
                 if no proxy has them any more, only reset-vol and a new full backup go on",
                latest.begin(),
                diff.begin().begin(),
            ));
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::Lineage;
    use walb_common::lineage::{BaseState, Snapshot};
    use walb_common::types::{Gid, Uuid};

    fn diff(from: u64, to: u64) -> MetaDiff {
        MetaDiff::new(Snapshot::clean(Gid(from)), Snapshot::clean(Gid(to))).unwrap()
    }

    fn held() -> Held {
        let base = BaseState::idle(Snapshot::clean(Gid(0)), Timestamp(1));
        let mut held = Held {
            lineage: Some(Lineage {
                base,
                archive_uuid: Uuid::NIL,
                uuid: Uuid::NIL,
            }),
            latest: Some(base),
            ..Held::default()
        };
        held.register(diff(0, 3), Timestamp(2));
        held
    }

    #[test]
    fn the_earliest_diff_that_is_too_new_is_told_until_what_is_missing_has_come() {
        let mut held = held();
        assert_eq!(held.warnings(), [""; 0]);
        held.refuse_too_new(diff(7, 8), Timestamp(100));
        held.refuse_too_new(diff(5, 7), Timestamp(200));
        held.refuse_too_new(diff(8, 9), Timestamp(300));
        let [told] = &held.warnings()[..] else {
            panic!("{:?}", held.warnings())
        };
        assert!(
            told.starts_with("gap: the diffs from gid 3 to gid 5 have not come, |5|-->|7| "),
            "{told}"
        );
        assert!(told.contains(&format!("since {};", Timestamp(100))), "{told}");
        held.register(diff(3, 4), Timestamp(400));
        assert!(held.warnings()[0].starts_with("gap: the diffs from gid 4 to gid 5 "));
        held.register(diff(4, 5), Timestamp(400));
        assert_eq!(held.warnings(), [""; 0]);
    }

    #[test]
    fn diffs_beyond_a_gap_are_told_and_lead_on_once_it_is_closed() {
        let mut held = held();
        held.diffs.extend([diff(5, 6), diff(6, 9)]);
        assert_eq!(
            held.warnings(),
            ["gap: no diff leads from gid 3 to gid 5; 2 diffs beyond it cannot be used"]
        );
        held.register(diff(3, 5), Timestamp(3));
        assert_eq!(held.latest.unwrap().snapshot(), Snapshot::clean(Gid(9)));
        assert_eq!(held.warnings(), [""; 0]);
    }
}
