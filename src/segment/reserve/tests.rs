//! The invariant of the reservation, on the simulated storage, which tells by itself where zeros meet a write; and, with
//! loom, in every interleaving of the appender and the preallocating thread.

use super::*;

/// Small enough for a few writes to come to every case.
#[cfg(any(not(loom), feature = "sim"))]
const SIZES: Sizes = Sizes {
    window_min: 64,
    window_max: 128,
    mapped_write_max: 100,
    zeroed_write_max: 600,
    zeroed_piece: 32,
    ahead_write_max: 200,
    windows_ahead: 2,
    writes_before_window: 2,
    map_growth_min: 1 << 20,
};

#[cfg(not(loom))]
mod simulated {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::storage::sim::{Call, Fault, SimStorage};
    use crate::storage::{OpenMode, Storage};

    /// A file that is appended to as a segment's writer does, with what it is to hold.
    struct Appended {
        storage: SimStorage,
        file: Arc<dyn File>,
        space: Reservation,
        preallocator: Arc<Preallocator>,
        model: Vec<u8>,
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Append(usize),
        /// The thread does a piece.
        Preallocate,
        How(Option<Reserve>),
        Trim,
        LetGo,
        /// The next reservation, or write, fails.
        Fail(Call),
    }

    impl Appended {
        fn new() -> Appended {
            let storage = SimStorage::new();
            let file = storage.open(Path::new("/file"), OpenMode::CreateNew).unwrap();
            let preallocator = Arc::new(Preallocator::default());
            let space = Reservation::new(0, Some(Reserve::Mapped), SIZES, &preallocator);
            Appended { storage, file, space, preallocator, model: Vec::new() }
        }

        fn append(&mut self, size: usize) {
            // No byte is zero: zeros over it would show.
            let bytes: Vec<u8> = (0..size).map(|at| (self.model.len() + at) as u8 | 1).collect();
            let (len, half) = (self.model.len() as u64, size / 3);
            let parts = [&bytes[..half], &bytes[half..]];
            if !self.space.copy(parts, len) {
                let next = self.space.make_room(&self.file, len, size as u64);
                let copied = self.space.copy_across(parts, len, next);
                if !copied && self.file.write_vectored_at(&parts, len).is_err() {
                    self.space.halt();
                    self.file.set_len(len).unwrap();
                    self.space.cut_at(len);
                    return;
                }
                self.space.written(&self.file, len + size as u64, size as u64);
            }
            self.model.extend_from_slice(&bytes);
        }

        fn step(&mut self, step: Step) {
            match step {
                Step::Append(size) => self.append(size),
                Step::Preallocate => drop(self.preallocator.run_one()),
                Step::How(how) => self.space.set_how(how),
                Step::Trim => {
                    self.space.halt();
                    self.file.set_len(self.model.len() as u64).unwrap();
                    self.space.cut_at(self.model.len() as u64);
                    assert_eq!(self.there().len(), self.model.len());
                }
                Step::LetGo => self.space.halt(),
                Step::Fail(call) => {
                    let failure =
                        Fault { call: Some(call), after: 0, error: io::ErrorKind::StorageFull, forever: false };
                    self.storage.set_fault(Some(failure));
                }
            }
            self.check();
        }

        fn there(&self) -> Vec<u8> {
            self.storage.contents(Path::new("/file")).unwrap()
        }

        fn check(&self) {
            let there = self.there();
            assert_eq!(self.storage.take_violations(), Vec::<String>::new());
            assert!(there.starts_with(&self.model), "a byte that was appended is not there");
            assert!(there[self.model.len()..].iter().all(|byte| *byte == 0), "zeros lie behind the end");
        }
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let size = prop_oneof![4 => 1..60usize, 2 => 60..250usize, 1 => 250..900usize];
        let how = prop_oneof![Just(None), Just(Some(Reserve::Mapped)), Just(Some(Reserve::Zeroed))];
        let step = prop_oneof![
            12 => size.prop_map(Step::Append),
            4 => Just(Step::Preallocate),
            1 => how.prop_map(Step::How),
            1 => Just(Step::Trim),
            1 => Just(Step::LetGo),
            1 => prop_oneof![Just(Call::Write), Just(Call::Reserve)].prop_map(Step::Fail),
        ];
        prop::collection::vec(step, 1..60)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn every_byte_that_is_appended_stays_whatever_is_reserved_and_when(steps in steps()) {
            let mut file = Appended::new();
            steps.into_iter().for_each(|step| file.step(step));
        }
    }

    #[test]
    fn a_write_beyond_both_spaces_that_are_ordered_takes_both_back() {
        let mut file = Appended::new();
        (0..12).for_each(|_| file.append(40));
        assert!(file.space.lead.as_ref().is_some_and(|lead| lead.lock().ordered.len() == 2), "two are ordered");
        file.step(Step::Append(500));
        while file.preallocator.run_one() {
            file.check();
        }
        (0..20).for_each(|_| file.step(Step::Append(40)));
    }

    #[test]
    fn nothing_is_reserved_over_appends_that_come_once_windows_are_switched_off() {
        let mut file = Appended::new();
        (0..12).for_each(|_| file.append(40));
        file.step(Step::How(None));
        (0..20).for_each(|_| file.step(Step::Append(40)));
        while file.preallocator.run_one() {
            file.check();
        }
    }

    #[test]
    fn windows_that_the_thread_made_are_filled_without_a_call() {
        let mut file = Appended::new();
        (0..12).for_each(|_| file.append(40));
        while file.preallocator.run_one() {}
        file.storage.set_fault(None);
        (0..4).for_each(|_| file.step(Step::Append(40)));
        for call in [Call::Write, Call::Reserve] {
            let calls = file.storage.calls(crate::storage::sim::Calls::Only(call));
            assert_eq!(calls, 0, "{call:?}: they were copied");
        }
    }
}

/// Two threads, three pieces: `RUSTFLAGS="--cfg loom" cargo test --release --target-dir target/loom --lib reserve`.
#[cfg(loom)]
mod interleavings {
    use std::os::fd::BorrowedFd;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use loom::cell::UnsafeCell;

    use super::*;
    use crate::storage::{FileInfo, Hold};

    const CELL: u64 = 2;
    const CELLS: usize = 14;
    /// Two cells, so that a write of one leaves a part of the window, and there is use for more.
    const WINDOW: u64 = 4;

    /// A file of cells: loom finds two threads in one at the same time.
    struct Cells {
        cells: Vec<UnsafeCell<u8>>,
        /// A reservation met a cell that was written.
        overwritten: AtomicBool,
    }

    // Loom checks the accesses itself.
    #[expect(unsafe_code, reason = "a model: loom fails where two threads meet")]
    unsafe impl Sync for Cells {}

    #[expect(unsafe_code, reason = "a model: loom fails where two threads meet")]
    impl Cells {
        fn write(&self, from: u64, to: u64, change: impl Fn(u8) -> u8) {
            for cell in &self.cells[(from / CELL) as usize..to.div_ceil(CELL) as usize] {
                // SAFETY: loom ends the model where another thread is in the cell.
                cell.with_mut(|byte| unsafe { *byte = change(*byte) });
            }
        }
    }

    impl std::fmt::Debug for Cells {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Cells")
        }
    }

    impl File for Cells {
        fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
            Ok(0)
        }
        fn write_at(&self, buf: &[u8], position: u64) -> io::Result<()> {
            self.write(position, position + buf.len() as u64, |_| 1);
            Ok(())
        }
        fn info(&self) -> io::Result<FileInfo> {
            Err(io::ErrorKind::Unsupported.into())
        }
        fn set_len(&self, len: u64) -> io::Result<()> {
            self.write(len.next_multiple_of(CELL), CELL * CELLS as u64, |_| 0);
            Ok(())
        }
        fn sync(&self) -> io::Result<()> {
            Ok(())
        }
        fn reserve(&self, position: u64, len: u64, _: Reserve) -> io::Result<Reserved> {
            self.write(position, position + len, |byte| {
                if byte != 0 {
                    self.overwritten.store(true, Ordering::SeqCst);
                }
                0
            });
            Ok(Reserved::Space)
        }
        fn map(&self, _: u64) -> io::Result<Option<bytes::Bytes>> {
            Ok(None)
        }
        fn hold(&self, _: u64) -> io::Result<Hold> {
            Err(io::ErrorKind::Unsupported.into())
        }
        fn held(&self) -> u64 {
            0
        }
        fn descriptor(&self) -> Option<BorrowedFd<'_>> {
            None
        }
    }

    /// Appends writes of these sizes while the thread does what is ordered; `halts` before the last.
    fn model(writes: &'static [u64], halts: bool) {
        let (interleavings, reserved) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (count, ahead) = (Arc::clone(&interleavings), Arc::clone(&reserved));
        loom::model(move || {
            count.fetch_add(1, Ordering::Relaxed);
            let ahead = Arc::clone(&ahead);
            let sizes = Sizes {
                window_min: WINDOW,
                window_max: WINDOW,
                mapped_write_max: 64,
                zeroed_write_max: 64,
                zeroed_piece: WINDOW,
                ahead_write_max: 64,
                windows_ahead: 2,
                writes_before_window: 1,
                map_growth_min: 1 << 20,
            };
            let cells = Arc::new(Cells {
                cells: (0..CELLS).map(|_| UnsafeCell::new(0)).collect(),
                overwritten: AtomicBool::new(false),
            });
            let file: Arc<dyn File> = Arc::clone(&cells) as Arc<dyn File>;
            let preallocator = Arc::new(Preallocator::default());
            let mut space = Reservation::new(0, Some(Reserve::Mapped), sizes, &preallocator);
            let lead = Arc::clone(space.lead.get_or_insert_default());
            let thread = loom::thread::spawn(move || {
                for _ in 0..3 {
                    if lead.lock().file.is_some() {
                        ahead.fetch_add(1, Ordering::Relaxed);
                    }
                    lead.run();
                    loom::thread::yield_now();
                }
            });
            let mut len = 0;
            for (at, size) in writes.iter().enumerate() {
                if halts && at + 1 == writes.len() {
                    space.halt();
                    file.set_len(len).unwrap();
                    space.cut_at(len);
                }
                space.make_room(&file, len, *size);
                file.write_at(&vec![1; *size as usize], len).unwrap();
                len += size;
                space.written(&file, len, *size);
            }
            drop(space);
            thread.join().unwrap();
            assert!(!cells.overwritten.load(Ordering::SeqCst), "zeros met what was written");
            #[expect(unsafe_code, reason = "a model: the other thread has ended")]
            for cell in &cells.cells[..(len / CELL) as usize] {
                // SAFETY: the other thread has ended.
                assert_eq!(cell.with(|byte| unsafe { *byte }), 1, "what was appended is there");
            }
        });
        let (interleavings, reserved) = (interleavings.load(Ordering::Relaxed), reserved.load(Ordering::Relaxed));
        println!("{interleavings} interleavings, in which the thread came to an order {reserved} times");
        assert!(reserved > 0, "the thread never came to an order");
    }

    #[test]
    fn reserve_within_and_beyond_one_space() {
        model(&[2, 2, 4, 2], false);
    }

    #[test]
    fn reserve_beyond_both_spaces() {
        model(&[2, 14, 2], false);
    }

    #[test]
    fn reserve_more_while_a_space_is_under_way() {
        model(&[2, 4, 2, 2], false);
    }

    #[test]
    fn reserve_and_a_cut() {
        model(&[2, 4, 2], true);
    }
}
