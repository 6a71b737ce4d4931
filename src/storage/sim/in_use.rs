//! What a process has of the files of a simulated disk, and the violations that show in it.
//!
//! A simulated mapping, region or reader's slice is a copy of the bytes at the time. A real one would show what is
//! written later, or kill the process once its file is cut. So each copy is registered here, and every change to the
//! file is held against it; so is each space that is being zeroed. None of it survives a crash.

use std::collections::BTreeMap;
use std::ops::Range;

use super::change::Change;

/// What a process has of the files, by their ids.
#[derive(Clone, Debug, Default)]
pub(super) struct InUse {
    files: BTreeMap<u64, Uses>,
    last: u64,
    violations: Vec<String>,
}

#[derive(Clone, Debug, Default)]
struct Uses {
    handles: usize,
    /// The first bytes of the file, as somebody has them.
    copies: BTreeMap<u64, bytes::Bytes>,
    /// Windows, and spaces that are being zeroed.
    windows: BTreeMap<u64, Range<u64>>,
    zeroing: BTreeMap<u64, Range<u64>>,
}

/// By whom a file is changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum By {
    Call,
    Window,
    /// Zeros of the space with this number.
    Zeros(u64),
}

impl InUse {
    /// The files that somebody has.
    pub(super) fn files(&self) -> impl Iterator<Item = u64> {
        self.files.keys().copied()
    }

    /// The engine asked for what must be refused.
    pub(super) fn refused(&mut self, what: String) {
        self.violations.push(what);
    }

    /// Takes what went wrong so far.
    pub(super) fn take_violations(&mut self) -> Vec<String> {
        std::mem::take(&mut self.violations)
    }

    pub(super) fn open(&mut self, id: u64) {
        self.files.entry(id).or_default().handles += 1;
    }

    pub(super) fn close(&mut self, id: u64) {
        self.change(id, |uses| uses.handles -= 1);
    }

    /// Somebody has the first bytes of a file.
    pub(super) fn copy(&mut self, id: u64, bytes: bytes::Bytes) -> u64 {
        self.register(id, |uses, number| uses.copies.insert(number, bytes).is_none())
    }

    pub(super) fn drop_copy(&mut self, id: u64, number: u64) {
        self.change(id, |uses| uses.copies.retain(|copy, _| *copy != number));
    }

    pub(super) fn window(&mut self, id: u64, part: Range<u64>) -> u64 {
        self.register(id, |uses, number| uses.windows.insert(number, part).is_none())
    }

    pub(super) fn drop_window(&mut self, id: u64, number: u64) {
        self.change(id, |uses| uses.windows.retain(|window, _| *window != number));
    }

    /// Zeros are written to a part of a file from now on.
    pub(super) fn zeroing(&mut self, id: u64, part: Range<u64>, there: &[u8]) -> u64 {
        let covered = there.iter().skip(part.start as usize).take((part.end - part.start) as usize);
        if covered.into_iter().any(|byte| *byte != 0) {
            self.violations.push(format!("zeros over bytes that are written: {part:?} of {} bytes", there.len()));
        }
        self.register(id, |uses, number| uses.zeroing.insert(number, part).is_none())
    }

    pub(super) fn zeroed(&mut self, id: u64, number: u64) {
        self.change(id, |uses| uses.zeroing.retain(|zeros, _| *zeros != number));
    }

    /// Holds a change to a file of `len` bytes against what somebody has of it.
    pub(super) fn check(&mut self, id: u64, change: &Change, by: By) {
        let Some(uses) = self.files.get(&id) else { return };
        let mut violations = Vec::new();
        match change {
            Change::Write { position, bytes } => {
                let end = position + bytes.len() as u64;
                let changed = |copy: &&bytes::Bytes| {
                    let seen = copy.get(*position as usize..).unwrap_or_default();
                    let seen = &seen[..seen.len().min(bytes.len())];
                    *seen != bytes[..seen.len()]
                };
                if uses.copies.values().any(|copy| changed(&copy)) {
                    violations.push(format!("bytes that somebody has are overwritten: {position}..{end}"));
                }
                let meets = |(number, part): (&u64, &Range<u64>)| {
                    by != By::Zeros(*number) && *position < part.end && part.start < end
                };
                if uses.zeroing.iter().any(meets) {
                    violations.push(format!("{by:?} writes {position}..{end}, where zeros are being written"));
                }
            }
            Change::SetLen(len) => {
                if uses.copies.values().any(|copy| *len < copy.len() as u64) {
                    violations.push(format!("a file is cut at {len}, below bytes that somebody has"));
                }
                if uses.windows.values().chain(uses.zeroing.values()).any(|part| *len < part.end) {
                    violations.push(format!("a file is cut at {len}, below the end of a window or of zeros"));
                }
            }
        }
        self.violations.append(&mut violations);
    }

    fn register(&mut self, id: u64, insert: impl FnOnce(&mut Uses, u64) -> bool) -> u64 {
        self.last += 1;
        assert!(insert(self.files.entry(id).or_default(), self.last), "numbers are given once");
        self.last
    }

    fn change(&mut self, id: u64, change: impl FnOnce(&mut Uses)) {
        // A file of a machine that was switched off meanwhile is in nobody's hands.
        let Some(uses) = self.files.get_mut(&id) else { return };
        change(uses);
        let unused = uses.handles == 0 && uses.copies.is_empty() && uses.windows.is_empty() && uses.zeroing.is_empty();
        if unused {
            self.files.remove(&id);
        }
    }
}
