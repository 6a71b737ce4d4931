//! Every combination of small directories is walked: each is planned, and each step is simulated whole and in part,
//! until the directory opens or is refused.

use std::cell::Cell;

use super::*;

/// Offsets lie in [0, N].
const N: u64 = 3;

fn o(offset: u64) -> Offset {
    Offset::new(offset)
}

fn offsets() -> impl Iterator<Item = Offset> + Clone {
    (0..=N).map(o)
}

fn maybe(values: impl Iterator<Item = Offset>) -> Vec<Option<Offset>> {
    std::iter::once(None).chain(values.map(Some)).collect()
}

/// Up to three segments with any ends, overlapping and gaping ones among them.
fn all_logs() -> Vec<Vec<SeenLog>> {
    let mut all = vec![Vec::new()];
    let mut from = 0;
    for _ in 0..3 {
        let until = all.len();
        for at in from..until {
            let next = all[at].last().map_or(0, |last: &SeenLog| last.base.get() + 1);
            for base in next..=N {
                for end in base..=N {
                    let mut logs = all[at].clone();
                    logs.push(SeenLog { base: o(base), end: o(end) });
                    all.push(logs);
                }
            }
        }
        from = until;
    }
    all
}

/// Up to two swaps, readable or not.
fn all_swaps() -> Vec<Vec<SeenSwap>> {
    let one = |from: u64| {
        (from..=N).flat_map(|base| maybe((base..=N).map(o)).into_iter().map(move |end| SeenSwap { base: o(base), end }))
    };
    let mut all = vec![Vec::new()];
    for first in one(0) {
        all.push(vec![first]);
        // Compactions commit one after the other, each behind the end of the last.
        let second = first.end.map_or(first.base.get() + 1, |end| end.get().max(first.base.get() + 1));
        all.extend(one(second).filter(|second| second.end.is_some()).map(|second| vec![first, second]));
    }
    all
}

fn all_states() -> Vec<Origin> {
    let mut gaps = vec![Vec::new()];
    gaps.extend(offsets().flat_map(|start| offsets().filter(move |end| *end > start).map(move |end| vec![start..end])));
    let pending = offsets().flat_map(|to| [Pending::Truncate(to), Pending::Reset(to)]);
    let mut all = Vec::new();
    for log_start in offsets() {
        for active_base in offsets() {
            for durable_end in offsets() {
                let known = Known { log_start, active_base, durable_end, ..Known::default() };
                all.extend(gaps.iter().map(|gaps| Known { adopted_gaps: gaps.clone(), ..known.clone() }));
                all.extend(pending.clone().map(|pending| Known { pending, ..known.clone() }));
            }
        }
    }
    all.into_iter().map(Origin::State).collect()
}

fn walk_all(origins: &[Origin], cleaned: &[Option<Offset>], deleted: &[Option<Offset>]) -> u64 {
    let walked = Cell::new(0);
    let (logs, swaps) = (all_logs(), all_swaps());
    for origin in origins {
        for logs in &logs {
            for swaps in &swaps {
                for (lowest_cleaned, deleted) in cleaned.iter().flat_map(|c| deleted.iter().map(move |d| (*c, *d))) {
                    let deleted: Vec<Offset> = deleted.into_iter().collect();
                    let temporary = lowest_cleaned.is_some() || !deleted.is_empty();
                    for (leftovers, allow_gaps) in [(true, false), (temporary, false), (temporary, true)] {
                        let seen = Seen {
                            origin: origin.clone(),
                            logs: logs.clone(),
                            swaps: swaps.clone(),
                            lowest_cleaned,
                            deleted: deleted.clone(),
                            leftovers,
                            allow_gaps,
                        };
                        settle(&seen);
                        walked.set(walked.get() + 1);
                    }
                }
            }
        }
    }
    walked.get()
}

/// How a directory ends up.
#[derive(Clone, PartialEq, Debug)]
enum Outcome {
    Opens { log_start: Offset, gaps: Vec<Range<Offset>>, logs: Vec<SeenLog> },
    Refused(Refusal),
}

/// Plans and carries out until the directory opens or is refused, and checks each answer on the way.
fn settle(first: &Seen) -> Outcome {
    let mut seen = first.clone();
    for _ in 0..10 {
        match plan(&seen) {
            Ok(Step::Open { log_start, adopted_gaps }) => {
                check_open(&seen, log_start, &adopted_gaps);
                return Outcome::Opens { log_start, gaps: adopted_gaps, logs: seen.logs };
            }
            Ok(step) => {
                let Some(next) = carry_out(&seen, &step) else { return Outcome::Refused(Refusal::Missing(o(0)..o(0))) };
                assert_ne!(next, seen, "a step changes something: {step:?}");
                check_step(&seen, &step, &next);
                seen = next;
            }
            Err(refusal) => {
                check_refusal(&seen, &refusal);
                return Outcome::Refused(refusal);
            }
        }
    }
    panic!("never settles: {first:?}");
}

/// What a step makes of a directory; `None` when the step itself finds data missing and does nothing.
fn carry_out(seen: &Seen, step: &Step) -> Option<Seen> {
    let mut next = seen.clone();
    match step {
        Step::Redo(pending) => return redo(seen, *pending),
        Step::DropSwap(base) => next.swaps.retain(|swap| swap.base != *base),
        Step::FinishSwap { swap, replaced } => {
            remove(&mut next, replaced);
            next.deleted.extend(replaced);
            next.leftovers |= !replaced.is_empty();
            let done = next.swaps.remove(next.swaps.iter().position(|seen| seen.base == *swap).expect("it was seen"));
            next.logs.push(SeenLog { base: *swap, end: done.end.expect("it is readable") });
            next.logs.sort_by_key(|log| log.base);
        }
        Step::RemoveLeftovers => {
            next.leftovers = false;
            next.deleted.clear();
            next.lowest_cleaned = None;
        }
        Step::RemoveHead(bases) => remove(&mut next, bases),
        Step::Create(base) => next.logs.push(SeenLog { base: *base, end: *base }),
        Step::Open { .. } => unreachable!("opening changes nothing"),
    }
    Some(next)
}

fn redo(seen: &Seen, pending: Pending) -> Option<Seen> {
    let Origin::State(known) = &seen.origin else { panic!("only a state has something pending") };
    let mut next = seen.clone();
    let mut known = Known { pending: Pending::None, ..known.clone() };
    match pending {
        Pending::None => panic!("nothing is pending"),
        Pending::Truncate(to) => {
            next.logs.retain(|log| log.base <= to);
            let kept = next.logs.last_mut().expect("the plan saw one");
            kept.end = kept.end.min(to);
            if kept.end < known.durable_end.min(to) {
                return None;
            }
            (known.active_base, known.durable_end) = (kept.base, kept.end);
        }
        Pending::Reset(to) => {
            next = Seen { logs: vec![SeenLog { base: to, end: to }], allow_gaps: seen.allow_gaps, ..Seen::default() };
            known = Known { log_start: to, active_base: to, durable_end: to, ..Known::default() };
        }
    }
    next.origin = Origin::State(known);
    Some(next)
}

fn remove(seen: &mut Seen, bases: &[Offset]) {
    seen.logs.retain(|log| !bases.contains(&log.base));
}

/// What a crash in the middle of a step can leave: any subset of its removals.
fn interrupted(seen: &Seen, step: &Step) -> Vec<Seen> {
    let removed: Vec<Offset> = match step {
        Step::FinishSwap { replaced, .. } => replaced.clone(),
        Step::RemoveHead(bases) => bases.clone(),
        Step::Redo(Pending::Truncate(to)) => seen.logs.iter().map(|log| log.base).filter(|base| base > to).collect(),
        Step::Redo(Pending::Reset(_)) => seen.logs.iter().map(|log| log.base).collect(),
        _ => Vec::new(),
    };
    let subset = |bits: usize| {
        let mut next = seen.clone();
        let bases: Vec<Offset> =
            removed.iter().enumerate().filter(|(at, _)| bits & (1 << at) != 0).map(|(_, base)| *base).collect();
        remove(&mut next, &bases);
        next
    };
    (0..1 << removed.len()).map(subset).collect()
}

fn held(seen: &Seen, offset: Offset) -> bool {
    seen.logs.iter().any(|log| (log.base..log.end).contains(&offset))
        || seen.swaps.iter().any(|swap| swap.end.is_some_and(|end| (swap.base..end).contains(&offset)))
}

fn check_step(seen: &Seen, step: &Step, next: &Seen) {
    let keeps_from = match (step, &seen.origin) {
        (Step::Redo(_), _) => Offset::MAX,
        (_, Origin::State(known)) => known.log_start,
        (_, Origin::Lost { log_start } | Origin::Kafka { log_start, .. }) => log_start.unwrap_or_default(),
    };
    // Kafka's swap may end before what it replaces, and span gaps of an earlier one: no record was left there.
    let kafka_swap =
        matches!((step, &seen.origin), (Step::FinishSwap { .. } | Step::DropSwap(_), Origin::Kafka { .. }));
    for offset in offsets().filter(|offset| *offset >= keeps_from && !kafka_swap) {
        assert!(!held(seen, offset) || held(next, offset), "{step:?} loses {offset}: {seen:?}");
    }
    if let Step::Redo(Pending::Truncate(to)) = step {
        for offset in offsets().filter(|offset| offset < to) {
            let logs = |seen: &Seen| seen.logs.iter().any(|log| (log.base..log.end).contains(&offset));
            assert!(!logs(seen) || logs(next), "{step:?} loses {offset}: {seen:?}");
        }
    }
    match step {
        Step::RemoveLeftovers => assert!(seen.swaps.is_empty() && !seen.origin.is_kafka()),
        Step::RemoveHead(bases) => {
            assert!(!bases.is_empty() && bases.len() < seen.logs.len());
            assert!(seen.logs.iter().filter(|log| bases.contains(&log.base)).all(|log| log.end <= keeps_from));
        }
        Step::Create(_) => assert!(seen.logs.is_empty() && seen.swaps.is_empty()),
        _ => {}
    }
}

fn is_explained(seen: &Seen, log_start: Offset, log: SeenLog, next: SeenLog) -> bool {
    if seen.allow_gaps || next.base <= log_start {
        return true;
    }
    match &seen.origin {
        Origin::State(known) => known.adopted_gaps.iter().any(|gap| gap.start <= log.end && next.base <= gap.end),
        Origin::Lost { .. } => false,
        Origin::Kafka { gaps: Gaps { cleaned_to, recorded, written }, .. } => {
            cleaned_to.is_some_and(|to| next.base <= to)
                || seen.deleted.iter().any(|deleted| log.base <= *deleted && *deleted < next.base)
                || recorded.iter().any(|gap| gap.start <= log.end && next.base <= gap.end)
                || written.contains(&log.base)
        }
    }
}

fn check_open(seen: &Seen, log_start: Offset, gaps: &[Range<Offset>]) {
    assert!(seen.swaps.is_empty(), "an open chain has no swaps: {seen:?}");
    assert!(seen.logs[0].base <= log_start, "the first segment covers the log start: {seen:?}");
    let active = match &seen.origin {
        Origin::State(known) => {
            assert_eq!((known.pending, known.log_start), (Pending::None, log_start));
            let active = seen.logs.iter().find(|log| log.base == known.active_base);
            assert!(active.is_some_and(|log| log.end >= known.durable_end), "the end is there: {seen:?}");
            known.active_base
        }
        Origin::Lost { .. } | Origin::Kafka { .. } => Offset::MAX,
    };
    assert!(seen.origin.is_kafka() || !seen.leftovers);
    let mut found = Vec::new();
    for pair in seen.logs.windows(2).filter(|pair| pair[1].base <= active) {
        assert!(pair[0].end <= pair[1].base, "no overlap: {seen:?}");
        if pair[0].end < pair[1].base {
            assert!(is_explained(seen, log_start, pair[0], pair[1]), "an unexplained gap is opened: {seen:?}");
            found.push(pair[0].end..pair[1].base);
        }
    }
    assert_eq!(found, gaps, "each gap is put on record: {seen:?}");
}

/// A chain without hole or overlap from its first segment to its last, nothing unfinished, both ends in it.
fn is_sound(seen: &Seen) -> bool {
    let chained = seen.logs.windows(2).all(|pair| pair[0].end == pair[1].base);
    let (Some(first), Some(last)) = (seen.logs.first(), seen.logs.last()) else { return false };
    let ends = match &seen.origin {
        Origin::State(known) => {
            known.pending == Pending::None
                && first.base <= known.log_start
                && last.base == known.active_base
                && last.end >= known.durable_end
        }
        Origin::Lost { .. } | Origin::Kafka { .. } => true,
    };
    chained && ends && seen.swaps.is_empty()
}

fn check_refusal(seen: &Seen, refusal: &Refusal) {
    assert!(!is_sound(seen), "a sound directory is refused, {refusal:?}: {seen:?}");
    match refusal {
        Refusal::Missing(range) => {
            assert!(range.start < range.end, "{refusal:?} names offsets: {seen:?}");
            let is_named = seen.logs.iter().any(|log| log.base == range.start && log.end >= range.end);
            // Or the file that `state` says holds them does not.
            let active_is_short = matches!(&seen.origin, Origin::State(known) if range.end == known.durable_end);
            assert!(!is_named || active_is_short, "{refusal:?} is not missing: {seen:?}");
        }
        Refusal::Overlap(range) => {
            assert!(range.start < range.end);
            let holders = seen.logs.iter().filter(|log| log.base <= range.start && range.end <= log.end);
            assert!(holders.count() >= 1 && seen.logs.iter().any(|log| log.base == range.start), "{seen:?}");
        }
        Refusal::BrokenSwap(base) => assert!(seen.swaps.iter().any(|swap| swap.base == *base)),
    }
}

/// Steps that a crash interrupts, in any subset of their removals, lead to the same end.
fn check_interruptions(first: &Seen) {
    let mut seen = first.clone();
    while let Ok(step) = plan(&seen) {
        if matches!(step, Step::Open { .. }) {
            return;
        }
        let whole = settle(&seen);
        for left in interrupted(&seen, &step) {
            let again = settle(&left);
            assert_eq!(again, whole, "{step:?} interrupted at {left:?}, begun at {seen:?}");
        }
        match carry_out(&seen, &step) {
            Some(next) => seen = next,
            None => return,
        }
    }
}

#[test]
fn every_small_directory_with_a_state_opens_or_is_refused_for_a_reason() {
    let walked = walk_all(&all_states(), &[None], &[None, Some(o(1))]);
    println!("{walked} directories with a state");
    assert!(walked > 1_000_000);
}

#[test]
fn every_small_directory_without_a_state_opens_or_is_refused_for_a_reason() {
    let lost: Vec<Origin> = maybe(offsets()).into_iter().map(|log_start| Origin::Lost { log_start }).collect();
    let kafka: Vec<Origin> = maybe(offsets())
        .into_iter()
        .flat_map(|log_start| {
            let gaps = maybe(offsets()).into_iter().map(|cleaned_to| Gaps { cleaned_to, ..Gaps::default() });
            gaps.map(move |gaps| Origin::Kafka { log_start, gaps })
        })
        .collect();
    // It was ours before: some gaps are on record, and some segments were written since.
    let since = [(vec![o(1)..o(2)], vec![]), (vec![], vec![o(0)]), (vec![o(2)..o(3)], vec![o(0), o(1)])];
    let since = since.map(|(recorded, written)| Gaps { cleaned_to: None, recorded, written });
    let since: Vec<Origin> = since.map(|gaps| Origin::Kafka { log_start: None, gaps }).into();
    let walked = walk_all(&lost, &[None, Some(o(1))], &[None, Some(o(1))])
        + walk_all(&kafka, &maybe(offsets()), &maybe(offsets()))
        + walk_all(&since, &maybe(offsets()), &maybe(offsets()));
    println!("{walked} directories without a state");
    assert!(walked > 500_000);
}

#[test]
fn a_step_that_a_crash_interrupts_leads_to_the_same_end() {
    let mut walked = 0;
    let lost = maybe(offsets()).into_iter().map(|log_start| Origin::Lost { log_start });
    for origin in all_states().into_iter().chain(lost) {
        for logs in all_logs() {
            for swaps in all_swaps().into_iter().filter(|swaps| swaps.len() < 2) {
                let seen = Seen { origin: origin.clone(), logs: logs.clone(), swaps, ..Seen::default() };
                check_interruptions(&seen);
                walked += 1;
            }
        }
    }
    println!("{walked} directories with interruptions");
}

#[test]
fn a_swap_that_does_not_hold_what_it_replaces_is_not_finished() {
    let known = Known { active_base: o(3), durable_end: o(3), ..Known::default() };
    let log = |base, end| SeenLog { base: o(base), end: o(end) };
    let seen = |end| Seen {
        origin: Origin::State(known.clone()),
        logs: vec![log(0, 1), log(1, 3), log(3, 3)],
        swaps: vec![SeenSwap { base: o(0), end: Some(o(end)) }],
        ..Seen::default()
    };
    assert_eq!(plan(&seen(3)), Ok(Step::FinishSwap { swap: o(0), replaced: vec![o(0), o(1)] }));
    assert_eq!(plan(&seen(2)), Err(Refusal::BrokenSwap(o(0))));
}

#[test]
fn a_truncation_is_not_redone_where_what_lies_below_it_is_missing() {
    let known = Known { active_base: o(5), durable_end: o(6), pending: Pending::Truncate(o(6)), ..Known::default() };
    let seen = Seen { origin: Origin::State(known), logs: vec![SeenLog { base: o(7), end: o(8) }], ..Seen::default() };
    assert_eq!(plan(&seen), Err(Refusal::Missing(o(0)..o(7))));
}

#[test]
fn a_swap_does_not_take_the_place_of_offsets_before_its_own() {
    let known = Known { active_base: o(5), durable_end: o(5), ..Known::default() };
    let log = |base, end| SeenLog { base: o(base), end: o(end) };
    let seen = |first_end| Seen {
        origin: Origin::State(known.clone()),
        logs: vec![log(0, first_end), log(2, 5), log(5, 5)],
        swaps: vec![SeenSwap { base: o(2), end: Some(o(5)) }],
        ..Seen::default()
    };
    assert_eq!(plan(&seen(2)), Ok(Step::FinishSwap { swap: o(2), replaced: vec![o(2)] }));
    assert_eq!(plan(&seen(3)), Err(Refusal::BrokenSwap(o(2))));
}

#[test]
fn an_unreadable_swap_of_kafka_is_dropped_where_a_segment_holds_its_offsets() {
    let log = |base, end| SeenLog { base: o(base), end: o(end) };
    let seen = |swap| Seen {
        origin: Origin::Kafka { log_start: None, gaps: Gaps::default() },
        logs: vec![log(1, 4), log(4, 6)],
        swaps: vec![SeenSwap { base: o(swap), end: None }],
        ..Seen::default()
    };
    for within in [1, 3, 5] {
        assert_eq!(plan(&seen(within)), Ok(Step::DropSwap(o(within))), "it begins within a segment");
    }
    for outside in [0, 6] {
        assert_eq!(plan(&seen(outside)), Err(Refusal::BrokenSwap(o(outside))));
    }
}

#[test]
fn an_unreadable_swap_above_the_active_segment_is_an_error() {
    // Only sealed segments are replaced, and what lies above the active one is not known to be whole.
    let known = Known { active_base: o(0), durable_end: o(2), ..Known::default() };
    let logs = [0, 2, 4].map(|base| SeenLog { base: o(base), end: o(base + 2) }).to_vec();
    let swaps = vec![SeenSwap { base: o(4), end: None }];
    let seen = Seen { origin: Origin::State(known), logs, swaps, ..Seen::default() };
    assert_eq!(plan(&seen), Err(Refusal::BrokenSwap(o(4))));
}
