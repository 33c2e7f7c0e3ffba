//! What a device may hold after a death.
//!
//! **Order.** A request is *before* another if the other one could know of it: both came over the same connection, in this
//! order (the device takes the requests of a connection as they come), or the first was answered before the second was
//! sent. Requests that are not ordered so may take effect in either order.
//!
//! **Allowed** is what the device holds after some set of the requests that (1) has with each request all that are before
//! it, (2) has every request that must survive, taken in some order that agrees with *before*. Requests of one
//! connection have only one order, so there this says: some prefix of them. A request is there whole or not at all.

use crate::history::{Death, Kind, Request, Stamp};

/// Whether a request must be there.
fn must(requests: &[Request], number: usize, death: Death) -> bool {
    let request = &requests[number];
    let Some(answered) = request.answered else {
        return false;
    };
    let flushed = |f: &Request| f.kind == Kind::Flush && f.answered.is_some() && answered < f.sent;
    death == Death::Process || request.fua || requests.iter().any(flushed)
}

/// How many requests are there, or why what was found is not allowed.
pub fn judge(base: &[Stamp], requests: &[Request], found: &[Stamp], death: Death) -> Result<usize, String> {
    if found.len() != base.len() {
        return Err(format!("{} blocks, expected {}", found.len(), base.len()));
    }
    let needed: Vec<_> = (0..requests.len()).map(|n| must(requests, n, death)).collect();
    let changes: Vec<_> = requests
        .iter()
        .zip(needed)
        .filter(|(r, _)| r.kind != Kind::Flush)
        .collect();
    let clients = || changes.iter().map(|(r, _)| r.client);
    if clients().min() == clients().max() {
        prefix(base, &changes, found)
    } else {
        some_order(base, &changes, found)
    }
}

/// One connection: the longest prefix that gives what was found.
fn prefix(base: &[Stamp], changes: &[(&Request, bool)], found: &[Stamp]) -> Result<usize, String> {
    let needed = changes.iter().rposition(|(_, must)| *must).map_or(0, |n| n + 1);
    let mut model = base.to_vec();
    let mut wrong = model.iter().zip(found).filter(|(a, b)| a != b).count();
    let mut longest = (wrong == 0).then_some(0);
    for (n, (request, _)) in changes.iter().enumerate() {
        for block in request.blocks.clone() {
            wrong -= usize::from(model[block] != found[block]);
            model[block] = request.writes();
            wrong += usize::from(model[block] != found[block]);
        }
        if wrong == 0 {
            longest = Some(n + 1);
        }
    }
    let total = changes.len();
    match longest {
        None => Err(format!(
            "no prefix of the {total} requests gives it; {needed} were to survive"
        )),
        Some(n) if n < needed => Err(format!(
            "{n} of {total} requests are there, {needed} were to survive"
        )),
        Some(n) => Ok(n),
    }
}

/// Several connections: whether some order explains it. The smallest possible set is judged: more requests only forbid more.
/// Where several requests can have left the zeros of a block, or none, that block says nothing about the order.
fn some_order(base: &[Stamp], changes: &[(&Request, bool)], found: &[Stamp]) -> Result<usize, String> {
    let before = |a: usize, b: usize| changes[a].0.before(changes[b].0);
    let mut last_writer = vec![None; found.len()];
    for (block, &stamp) in found.iter().enumerate() {
        let wrote =
            |(request, _): &(&Request, bool)| request.blocks.contains(&block) && request.writes() == stamp;
        let mut writers = (0..changes.len()).filter(|&n| wrote(&changes[n]));
        let first = writers.next();
        let unchanged = base[block] == stamp;
        last_writer[block] = match (first, writers.next(), unchanged) {
            (Some(one), None, false) => Some(one),
            (Some(_), ..) => continue,
            (None, _, true) => None,
            (None, _, false) => return Err(format!("block {block} holds what was not written there")),
        };
    }
    let mut there = vec![false; changes.len()];
    let mut seeds: Vec<_> = last_writer.iter().flatten().copied().collect();
    seeds.extend((0..changes.len()).filter(|&n| changes[n].1));
    while let Some(seed) = seeds.pop() {
        if !std::mem::replace(&mut there[seed], true) {
            seeds.extend((0..changes.len()).filter(|&n| !there[n] && before(n, seed)));
        }
    }
    let there: Vec<_> = (0..changes.len()).filter(|&n| there[n]).collect();
    // `(earlier, later)`, beyond what `before` says.
    let mut edges = vec![];
    for (block, &stamp) in found.iter().enumerate() {
        for &n in there.iter().filter(|&&n| changes[n].0.blocks.contains(&block)) {
            match last_writer[block] {
                Some(last) if last != n => edges.push((n, last)),
                None if stamp == base[block] && stamp != 0 => {
                    return Err(format!("block {block} lacks request {n}"));
                }
                // Zeros of unknown origin: allowed if a request that wrote zeros may have come last.
                None => {
                    let zeroed = |z: &usize| {
                        let request = changes[*z].0;
                        request.kind == Kind::Zeros && request.blocks.contains(&block) && !before(*z, n)
                    };
                    if changes[n].0.kind != Kind::Zeros && !(0..changes.len()).any(|z| zeroed(&z)) {
                        return Err(format!("block {block} holds zeros and lacks request {n}"));
                    }
                }
                Some(_) => {}
            }
        }
    }
    if edges.iter().any(|&(a, b)| before(b, a)) || !orderable(&there, &edges, before) {
        return Err("each block could be, but no order of the requests gives them all".to_owned());
    }
    Ok(there.len())
}

/// Whether there is an order of the requests that agrees with `before` and the edges.
fn orderable(all: &[usize], edges: &[(usize, usize)], before: impl Fn(usize, usize) -> bool) -> bool {
    let most = all.iter().max().map_or(0, |n| n + 1);
    let mut waits_for = vec![0; most];
    for &later in all {
        waits_for[later] = all.iter().filter(|&&n| n != later && before(n, later)).count();
    }
    let mut follow = vec![vec![]; most];
    for &(earlier, later) in edges {
        waits_for[later] += 1;
        follow[earlier].push(later);
    }
    let mut left: Vec<_> = all.to_vec();
    while let Some(place) = left.iter().position(|&n| waits_for[n] == 0) {
        let next = left.swap_remove(place);
        for &n in left.iter().filter(|&&n| before(next, n)) {
            waits_for[n] -= 1;
        }
        for &n in &follow[next] {
            waits_for[n] -= 1;
        }
    }
    left.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `(client, first block, blocks, sent, answered)`, with the number, from 1, as the stamp.
    fn requests(all: &[(usize, usize, usize, u64, Option<u64>)]) -> Vec<Request> {
        (1..)
            .zip(all)
            .map(|(stamp, &(client, first, blocks, sent, answered))| Request {
                client,
                kind: Kind::Data,
                blocks: first..first + blocks,
                stamp,
                fua: false,
                sent,
                answered,
            })
            .collect()
    }

    fn allowed(requests: &[Request], found: &[Stamp]) -> bool {
        judge(&[90, 91, 0], requests, found, Death::Process).is_ok()
    }

    #[test]
    fn of_one_connection_only_prefixes_are_allowed_that_have_what_was_answered() {
        let one = requests(&[(0, 0, 2, 1, Some(4)), (0, 1, 2, 2, None), (0, 0, 1, 3, None)]);
        for (found, good) in [
            ([1, 1, 0], true),
            ([1, 2, 2], true),
            ([3, 2, 2], true),
            ([90, 91, 0], false), // the first was answered
            ([3, 1, 0], false),   // a hole
            ([1, 2, 0], false),   // half of one
            ([1, 91, 0], false),
            ([1, 1, 7], false),
        ] {
            assert_eq!(allowed(&one, &found), good, "{found:?}");
        }
        // A power loss may take what was not flushed.
        assert!(judge(&[90, 91, 0], &one, &[90, 91, 0], Death::Power).is_ok());
    }

    #[test]
    fn what_a_flush_covers_must_survive_a_power_loss() {
        let mut all = requests(&[
            (0, 0, 1, 1, Some(2)),
            (0, 0, 0, 3, Some(4)),
            (0, 1, 1, 5, Some(6)),
        ]);
        all[1].kind = Kind::Flush;
        let allowed = |found: [Stamp; 3]| judge(&[90, 91, 0], &all, &found, Death::Power).is_ok();
        assert!(allowed([1, 91, 0]) && allowed([1, 3, 0]));
        assert!(!allowed([90, 91, 0]) && !allowed([90, 3, 0]));
    }

    #[test]
    fn requests_of_several_connections_may_come_in_either_order_but_in_one() {
        let two = requests(&[(0, 0, 2, 1, None), (1, 0, 2, 2, None)]);
        for (found, good) in [
            ([1, 1, 0], true),
            ([2, 2, 0], true),
            ([90, 91, 0], true),
            ([1, 2, 0], false), // each block could be
            ([1, 91, 0], false),
        ] {
            assert_eq!(allowed(&two, &found), good, "{found:?}");
        }
        // Answered before the other was sent: now there is an order.
        let two = requests(&[(0, 0, 2, 1, Some(2)), (1, 0, 2, 3, None)]);
        assert!(allowed(&two, &[1, 1, 0]) && allowed(&two, &[2, 2, 0]));
        assert!(!allowed(&two, &[90, 91, 0]));
        let two = requests(&[(0, 0, 2, 1, Some(2)), (1, 0, 2, 3, Some(4))]);
        assert!(
            !allowed(&two, &[1, 1, 0]),
            "the second was answered and came later"
        );
        let hole = requests(&[(0, 0, 1, 1, None), (0, 1, 1, 2, None), (1, 2, 1, 3, None)]);
        assert!(
            !allowed(&hole, &[90, 2, 0]),
            "the second came later on its connection"
        );
        let circle = requests(&[
            (0, 0, 2, 1, None),
            (1, 1, 2, 2, None),
            (2, 0, 1, 3, None),
            (2, 2, 1, 4, Some(5)),
        ]);
        assert!(allowed(&circle, &[1, 2, 4]));
        assert!(
            !allowed(&circle, &[3, 1, 2]),
            "a circle: the third is before the fourth, that came before the second, and so on"
        );
    }

    #[test]
    fn zeros_count_as_written_too() {
        let mut zeros = requests(&[(0, 0, 1, 1, Some(2)), (1, 0, 1, 3, Some(4))]);
        zeros[1].kind = Kind::Zeros;
        assert!(allowed(&zeros, &[0, 91, 0]));
        assert!(!allowed(&zeros, &[1, 91, 0]));
        zeros.swap(0, 1);
        (zeros[0].sent, zeros[0].answered) = (1, Some(2));
        (zeros[1].sent, zeros[1].answered) = (3, Some(4));
        assert!(!allowed(&zeros, &[0, 91, 0]));
    }
}
