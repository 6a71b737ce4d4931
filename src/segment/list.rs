//! The published list of a partition's segments. Readers take a snapshot of it, which later changes do not affect.

use crate::offset::Offset;
use crate::segment::Segment;
use crate::sync::Arc;
use crate::sync::explored::RwLock;

/// The segments at one moment, in order. The last one is the active one.
#[derive(Debug)]
pub(crate) struct SegmentList {
    segments: Vec<Arc<Segment>>,
}

impl SegmentList {
    /// Creates a list of these segments, which are in order and at least one.
    pub(crate) fn new(segments: Vec<Arc<Segment>>) -> SegmentList {
        assert!(!segments.is_empty(), "a partition always has an active segment");
        assert!(segments.windows(2).all(|pair| pair[0].base() < pair[1].base()), "segments are in order");
        SegmentList { segments }
    }

    /// All segments.
    pub(crate) fn segments(&self) -> &[Arc<Segment>] {
        &self.segments
    }

    /// The segments that are no longer written.
    pub(crate) fn sealed(&self) -> &[Arc<Segment>] {
        self.segments.split_last().map_or(&[], |(_, sealed)| sealed)
    }

    /// The segment that is appended to.
    pub(crate) fn active(&self) -> &Arc<Segment> {
        self.segments.last().expect("a partition always has an active segment")
    }

    /// The log end offset.
    pub(crate) fn end(&self) -> Offset {
        self.active().end()
    }

    /// The number of bytes in all segments.
    pub(crate) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.len()).sum()
    }

    /// The segment that holds `offset`, or the first after it, with its successors.
    pub(crate) fn from(&self, offset: Offset) -> &[Arc<Segment>] {
        let after = self.segments.partition_point(|segment| segment.base() <= offset);
        let at = after.saturating_sub(1);
        self.segments.get(at..).unwrap_or_default()
    }
}

/// The current list. A change is a pointer swap under its lock; no I/O happens there.
#[derive(Debug)]
pub(crate) struct SegmentListCell(RwLock<Arc<SegmentList>>);

impl SegmentListCell {
    pub(crate) fn new(view: SegmentList) -> SegmentListCell {
        SegmentListCell(RwLock::new(Arc::new(view)))
    }

    /// Returns a snapshot.
    #[inline]
    pub(crate) fn load(&self) -> Arc<SegmentList> {
        Arc::clone(&self.0.read())
    }

    /// Replaces the list with the result of `change`, or leaves it as it is on `None`. Returns whether it changed.
    pub(crate) fn update(&self, change: impl FnOnce(&SegmentList) -> Option<SegmentList>) -> bool {
        let mut current = self.0.write();
        match change(&current) {
            Some(view) => {
                *current = Arc::new(view);
                true
            }
            None => false,
        }
    }
}
