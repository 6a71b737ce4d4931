//! The start of each leader epoch. Two replicas compare these to find where their logs diverge.

use crate::format::checkpoint::{EpochCheckpoint, write_epochs};
use crate::offset::Offset;

/// The leader epochs of a partition. Both the epochs and their start offsets grow strictly.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct LeaderEpochs {
    entries: Vec<EpochCheckpoint>,
    /// Whether the stored checkpoint differs.
    changed: bool,
}

impl LeaderEpochs {
    /// Restores the epochs from a checkpoint. Where its lines contradict each other, the later line counts.
    pub(crate) fn from_checkpoint(entries: &[EpochCheckpoint]) -> LeaderEpochs {
        let mut epochs = LeaderEpochs::default();
        entries.iter().for_each(|entry| epochs.assign(entry.epoch, entry.start));
        epochs.changed = epochs.entries != entries;
        epochs
    }

    /// Returns the text of the checkpoint if it must be stored again. If storing it fails, call
    /// [`mark_changed`](LeaderEpochs::mark_changed).
    pub(crate) fn take_changed(&mut self) -> Option<String> {
        std::mem::take(&mut self.changed).then(|| write_epochs(&self.entries))
    }

    /// Records that the stored checkpoint is not what [`take_changed`](LeaderEpochs::take_changed) returned.
    pub(crate) fn mark_changed(&mut self) {
        self.changed = true;
    }

    /// The latest epoch.
    pub(crate) fn latest(&self) -> Option<i32> {
        self.entries.last().map(|entry| entry.epoch)
    }

    /// The epoch that covers `offset`.
    pub(crate) fn at(&self, offset: Offset) -> Option<i32> {
        let next = self.entries.partition_point(|entry| entry.start <= offset);
        next.checked_sub(1).and_then(|covering| self.entries.get(covering)).map(|entry| entry.epoch)
    }

    /// Records that a batch of `epoch` is at `start`, or that the leader of that epoch begins there. A negative epoch
    /// is none.
    ///
    /// Contradicting entries are dropped: epochs from `epoch` on, and those that start at `start` or behind.
    #[inline]
    pub(crate) fn assign(&mut self, epoch: i32, start: Offset) {
        let known = self.entries.last().is_some_and(|last| last.epoch == epoch && last.start <= start);
        if epoch >= 0 && !known {
            self.replace_from(EpochCheckpoint { epoch, start });
        }
    }

    /// Returns the largest epoch up to `epoch`, and the end of its records. From that end on, a replica whose last
    /// record has `epoch` has nothing in common with this log.
    ///
    /// The latest epoch ends at `log_end`. An epoch before the first one is only known to end where the first one
    /// starts. Returns `None` for an epoch that is negative or later than the latest.
    pub(crate) fn end_offset_for(&self, epoch: i32, log_end: Offset) -> Option<(i32, Offset)> {
        if epoch < 0 {
            return None;
        }
        let next = self.entries.partition_point(|entry| entry.epoch <= epoch);
        let floor = next.checked_sub(1).and_then(|last| self.entries.get(last)).map_or(epoch, |entry| entry.epoch);
        match self.entries.get(next) {
            Some(next) => Some((floor, next.start)),
            None if self.latest() == Some(epoch) => Some((epoch, log_end)),
            None => None,
        }
    }

    /// The log now ends at `end`: drops epochs that start there or behind. Returns whether there were any.
    pub(crate) fn truncate_from_end(&mut self, end: Offset) -> bool {
        let keep = self.entries.partition_point(|entry| entry.start < end);
        let forgotten = keep < self.entries.len();
        self.changed |= forgotten;
        self.entries.truncate(keep);
        forgotten
    }

    /// The log now starts at `start`: drops epochs that end before it, and moves the start of the epoch that covers it
    /// there.
    pub(crate) fn truncate_from_start(&mut self, start: Offset) {
        let covering = self.entries.partition_point(|entry| entry.start <= start).checked_sub(1);
        let Some(covering) = covering else { return };
        self.entries.drain(..covering);
        if let Some(first) = self.entries.first_mut() {
            self.changed |= covering > 0 || first.start != start;
            first.start = start;
        }
    }

    fn replace_from(&mut self, entry: EpochCheckpoint) {
        let keep = self.entries.partition_point(|known| known.epoch < entry.epoch && known.start < entry.start);
        self.entries.truncate(keep);
        self.entries.push(entry);
        self.changed = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::checkpoint::parse_epochs;

    fn epochs(entries: &[(i32, u64)]) -> LeaderEpochs {
        let mut epochs = LeaderEpochs::default();
        entries.iter().for_each(|(epoch, start)| epochs.assign(*epoch, Offset::new(*start)));
        epochs
    }

    fn entries(epochs: &LeaderEpochs) -> Vec<(i32, u64)> {
        epochs.entries.iter().map(|entry| (entry.epoch, entry.start.get())).collect()
    }

    fn end_for(epochs: &LeaderEpochs, epoch: i32) -> Option<(i32, u64)> {
        epochs.end_offset_for(epoch, Offset::new(100)).map(|(epoch, end)| (epoch, end.get()))
    }

    #[test]
    fn an_epoch_ends_where_the_next_one_starts_and_the_latest_at_the_log_end() {
        let epochs = epochs(&[(2, 10), (4, 20), (5, 60)]);
        assert_eq!(end_for(&epochs, 2), Some((2, 20)));
        assert_eq!(end_for(&epochs, 3), Some((2, 20)), "the largest epoch up to the one asked for");
        assert_eq!(end_for(&epochs, 4), Some((4, 60)));
        assert_eq!(end_for(&epochs, 5), Some((5, 100)));
        assert_eq!(end_for(&epochs, 6), None, "an epoch of the future");
        assert_eq!(end_for(&epochs, 1), Some((1, 10)), "an epoch of which no record is left");
        assert_eq!(end_for(&epochs, -1), None);
        assert_eq!(end_for(&LeaderEpochs::default(), 0), None);
    }

    #[test]
    fn an_epoch_is_noted_once() {
        let mut epochs = epochs(&[(0, 0), (3, 10)]);
        assert_eq!(epochs.latest(), Some(3));
        assert!(epochs.take_changed().is_some());
        epochs.assign(3, Offset::new(10));
        epochs.assign(3, Offset::new(50));
        epochs.assign(-1, Offset::new(60));
        assert_eq!(epochs.take_changed(), None);
        assert_eq!(entries(&epochs), [(0, 0), (3, 10)]);
    }

    #[test]
    fn what_contradicts_a_new_epoch_gives_way() {
        let start = [(0, 0), (3, 10), (7, 20)];
        for (epoch, at, expected) in [
            (8, 20, &[(0, 0), (3, 10), (8, 20)][..]),
            (8, 5, &[(0, 0), (8, 5)]),
            (3, 30, &[(0, 0), (3, 30)]),
            (7, 15, &[(0, 0), (3, 10), (7, 15)]),
            (5, 12, &[(0, 0), (3, 10), (5, 12)]),
            (0, 0, &[(0, 0)]),
        ] {
            let mut epochs = epochs(&start);
            epochs.assign(epoch, Offset::new(at));
            assert_eq!(entries(&epochs), expected, "({epoch}, {at})");
        }
    }

    #[test]
    fn truncation_forgets_the_epochs_that_start_at_the_new_end() {
        let mut epochs = epochs(&[(0, 0), (3, 10), (7, 20)]);
        epochs.truncate_from_end(Offset::new(21));
        assert_eq!(entries(&epochs), [(0, 0), (3, 10), (7, 20)]);
        epochs.truncate_from_end(Offset::new(20));
        assert_eq!(entries(&epochs), [(0, 0), (3, 10)]);
        epochs.truncate_from_end(Offset::ZERO);
        assert_eq!(entries(&epochs), []);
    }

    #[test]
    fn the_epoch_that_covers_the_new_log_start_starts_there() {
        for (start, expected) in [
            (5, &[(1, 5), (3, 10), (7, 20)][..]),
            (2, &[(1, 2), (3, 10), (7, 20)]),
            (1, &[(1, 2), (3, 10), (7, 20)]),
            (10, &[(3, 10), (7, 20)]),
            (19, &[(3, 19), (7, 20)]),
            (99, &[(7, 99)]),
        ] {
            let mut epochs = epochs(&[(1, 2), (3, 10), (7, 20)]);
            epochs.take_changed();
            epochs.truncate_from_start(Offset::new(start));
            assert_eq!(entries(&epochs), expected, "{start}");
            assert_eq!(epochs.take_changed().is_some(), expected != [(1, 2), (3, 10), (7, 20)], "{start}");
        }
    }

    #[test]
    fn the_checkpoint_is_stored_when_it_changed_and_read_back() {
        let mut epochs = epochs(&[(0, 0), (3, 10)]);
        let text = epochs.take_changed().expect("it is new");
        assert_eq!(text, "0\n2\n0 0\n3 10\n");
        let mut read = LeaderEpochs::from_checkpoint(&parse_epochs(text.as_bytes()).expect("it was just written"));
        assert_eq!(read, epochs);
        assert_eq!(read.take_changed(), None, "nothing has changed since");
        read.mark_changed();
        assert_eq!(read.take_changed(), Some(text));
    }

    #[test]
    fn an_epoch_without_records_in_a_checkpoint_is_dropped() {
        let twice = [(3, 10), (4, 10)].map(|(epoch, start)| EpochCheckpoint { epoch, start: Offset::new(start) });
        let mut epochs = LeaderEpochs::from_checkpoint(&twice);
        assert_eq!(entries(&epochs), [(4, 10)]);
        assert!(epochs.take_changed().is_some());
    }
}
