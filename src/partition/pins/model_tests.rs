//! A reader beside a compaction that does not wait for it, and beside a truncation, in every interleaving.

use loom::sync::RwLock;
use loom::thread;

use super::*;
use crate::sync::tests::explore;

/// A value at offset 0 and its tombstone at 1, or neither.
#[derive(Clone, Copy, PartialEq)]
enum View {
    Both,
    Neither,
}

#[test]
fn models_a_reader_that_saw_a_value_sees_its_tombstone_or_is_told() {
    explore("a reader beside a compaction", None, |seen| {
        let (pins, view) = (Arc::new(Pins::default()), Arc::new(RwLock::new(View::Both)));
        let compaction = {
            let (pins, view) = (Arc::clone(&pins), Arc::clone(&view));
            thread::spawn(move || {
                let now = Timestamp::from_millis(1_000);
                let pass = pins.begin_pass(Offset::new(2), now, Duration::ZERO);
                let lost = pass.publish(Offset::new(1), || *view.write().unwrap() = View::Neither).1;
                lost.len()
            })
        };
        let mut pin = pins.reader(Offset::ZERO);
        let load = || *view.read().unwrap();
        let first = pin.view_at(Offset::ZERO, load);
        let next = first.clone().and_then(|_| pin.view_at(Offset::new(1), load));
        if let (Ok(View::Both), Ok(next)) = (&first, &next) {
            assert!(*next == View::Both, "it goes on without the tombstone");
        }
        if compaction.join().unwrap() > 0 && next.is_err() {
            seen.note();
        }
    });
}

#[test]
fn models_a_reader_that_sees_what_came_after_a_cut_knows_of_the_cut() {
    explore("a reader beside a truncation", None, |seen| {
        let (pins, end) = (Arc::new(Pins::default()), Arc::new(AtomicU64::new(4)));
        let pin: ReaderPin<()> = pins.reader(Offset::new(1));
        let truncation = {
            let (pins, end) = (Arc::clone(&pins), Arc::clone(&end));
            thread::spawn(move || {
                end.store(2, Ordering::Release);
                pins.truncated(Offset::new(2));
                // What is appended in the place of what was cut.
                end.store(5, Ordering::Release);
            })
        };
        if end.load(Ordering::Acquire) == 5 {
            assert!(pin.is_cut(), "it would show what is gone");
            assert_eq!(pin.take_cut(), Some(Offset::new(2)));
            seen.note();
        }
        truncation.join().unwrap();
        drop(pin);
    });
}
