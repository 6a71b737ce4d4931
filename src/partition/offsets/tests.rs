//! Whoever sees an end sees what lies below it, in every interleaving: with the segment, its writer and the view as they
//! are.

use loom::thread;

use super::*;
use crate::format::BatchHeader;
use crate::segment::Segment;
use crate::segment::list::{SegmentList, SegmentListCell};
use crate::segment::writer::SegmentWriter;
use crate::storage::tests::{batch, batch_len, dir};
use crate::sync::tests::explore;

/// Appends a batch as the appender does, with an entry in the index for each.
fn append(writer: &mut SegmentWriter, batch: &[u8], ends: &Ends) {
    let position = writer.len();
    let header = BatchHeader::parse(batch).unwrap();
    writer.write([batch, &[]]).unwrap();
    writer.note(&header, position);
    writer.publish(header.next_offset());
    ends.set_log_end(header.next_offset());
}

/// What a reader from `from` on finds below the end that it has seen.
fn read(segment: &Segment, from: u64, end: Offset) {
    let slice = segment.slice(Offset::new(from), end, 1 << 16, true).expect("no damage");
    let slice = slice.expect("what lies below the end is there");
    let expected: Vec<u8> = (from..end.get()).flat_map(|offset| batch(offset, "a")).collect();
    assert!(slice.bytes == expected && slice.next == end, "all that lies below the end is there");
}

#[test]
fn models_an_end_shows_the_bytes_and_index_entries_below_it() {
    explore("an end and what lies below it", None, |seen| {
        let ends = Arc::new(Ends::new(Offset::ZERO, Offset::ZERO, Offset::ZERO));
        let mut writer = SegmentWriter::create(&dir(), Offset::ZERO, 1, None).unwrap();
        let segment = Arc::clone(writer.segment());
        let appender = {
            let ends = Arc::clone(&ends);
            thread::spawn(move || (0..2).for_each(|offset| append(&mut writer, &batch(offset, "a"), &ends)))
        };
        let end = ends.log_end();
        if end > Offset::ZERO {
            read(&segment, 0, end);
            // The first batch of a segment has no entry.
            assert!(u64::from(segment.index_entries().offsets) + 1 >= end.get(), "its entry is there");
            assert!(segment.len() >= end.get() * batch_len() && segment.end() >= end);
            seen.note();
        }
        appender.join().unwrap();
    });
}

#[test]
fn models_an_end_behind_a_roll_shows_the_sealed_segment_and_the_next_one() {
    explore("an end behind a roll", None, |seen| {
        let ends = Arc::new(Ends::new(Offset::ZERO, Offset::ZERO, Offset::ZERO));
        let dir = dir();
        let mut writer = SegmentWriter::create(&dir, Offset::ZERO, 1, None).unwrap();
        let view = Arc::new(SegmentListCell::new(SegmentList::new(vec![Arc::clone(writer.segment())])));
        let appender = {
            let (ends, view) = (Arc::clone(&ends), Arc::clone(&view));
            thread::spawn(move || {
                append(&mut writer, &batch(0, "a"), &ends);
                writer.trim().unwrap();
                let mut next = SegmentWriter::create(&dir, Offset::new(1), 1, None).unwrap();
                let sealed = writer.seal(crate::Timestamp::NONE);
                view.update(|_| Some(SegmentList::new(vec![sealed, Arc::clone(next.segment())])));
                append(&mut next, &batch(1, "a"), &ends);
            })
        };
        let known = view.load();
        let end = ends.log_end();
        if end == Offset::new(2) && known.segments().len() == 1 {
            // A reader has a view from before the roll, and an end from behind it.
            let segment = known.active();
            assert!(segment.is_sealed(), "who is past its end goes on in the next one");
            assert_eq!(segment.end(), Offset::new(1));
            read(segment, 0, segment.end());
            seen.note();
        }
        if end == Offset::new(2) {
            read(view.load().active(), 1, end);
        }
        appender.join().unwrap();
    });
}

/// The high watermark is set back to where a transaction is not decided any more, in the order of
/// `move_high_watermark`.
#[test]
fn models_a_watermark_that_is_set_back_leaves_nothing_undecided() {
    explore("a watermark that is set back", None, |seen| {
        let ends = Arc::new(Ends::new(Offset::ZERO, Offset::new(2), Offset::new(2)));
        let owner = {
            let ends = Arc::clone(&ends);
            thread::spawn(move || {
                // The marker at 1 is not below the mark any more.
                let first_unstable = Some(Offset::ZERO);
                ends.lower_first_unstable(first_unstable);
                ends.set_high_watermark(Offset::new(1));
                ends.set_first_unstable(first_unstable);
            })
        };
        match ends.last_stable(true).get() {
            0 => seen.note(),
            stable => assert_eq!(stable, 2, "nobody sees as stable what is not decided below the mark"),
        }
        owner.join().unwrap();
    });
}

#[test]
fn models_what_is_stable_is_decided() {
    explore("the last stable offset", None, |seen| {
        let ends = Arc::new(Ends::new(Offset::ZERO, Offset::ZERO, Offset::ZERO));
        let aborted = Arc::new(loom::sync::atomic::AtomicBool::new(false));
        let appender = {
            let (ends, aborted) = (Arc::clone(&ends), Arc::clone(&aborted));
            thread::spawn(move || {
                let open = Some(Offset::ZERO);
                ends.lower_first_unstable(open);
                ends.set_log_end(Offset::new(1));
                ends.set_first_unstable(open);
                // The marker, whose entry in the index is there before its end.
                aborted.store(true, Ordering::Relaxed);
                ends.lower_first_unstable(None);
                ends.set_log_end(Offset::new(2));
                ends.set_first_unstable(None);
            })
        };
        if ends.last_stable(false) > Offset::ZERO {
            assert!(aborted.load(Ordering::Relaxed), "nobody takes an aborted record for a committed one");
            seen.note();
        }
        appender.join().unwrap();
    });
}
