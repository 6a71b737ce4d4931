//! What may be seen of a partition: up to which offset, and what of it was aborted.

use crate::error::Result;
use crate::offset::Offset;
use crate::shared::Shared;
use crate::transactions::{self, AbortedRange};
use crate::view::View;

/// How far a reader may see.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Isolation {
    /// Everything appended: up to the log end. A power cut may take back what is not durable yet.
    #[default]
    End,
    /// Up to the high watermark.
    HighWatermark,
    /// Up to the last stable offset; records of aborted transactions are told by
    /// [`Fetch::aborted`](crate::Fetch::aborted), and left out by a [`Reader`](crate::Reader).
    Committed,
    /// Only what no power cut can take back.
    Durable,
}

/// Offsets of a partition at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offsets {
    /// The first offset that can be read.
    pub start: Offset,
    /// One past the last offset.
    pub end: Offset,
    /// One past the last offset that no power cut can take back.
    pub durable: Offset,
    /// As its owner set it; the log end where nobody manages it.
    pub high_watermark: Offset,
    /// No transaction is open below it.
    pub last_stable: Offset,
}

impl Offsets {
    /// One past the last offset that a reader of this isolation sees.
    pub fn visible(&self, isolation: Isolation) -> Offset {
        match isolation {
            Isolation::End => self.end,
            Isolation::HighWatermark => self.high_watermark,
            Isolation::Committed => self.last_stable,
            Isolation::Durable => self.durable,
        }
    }
}

/// The partition's offsets at this moment, in an order that keeps `start <= last_stable <= high_watermark <= end`.
pub(crate) fn offsets(shared: &Shared) -> Offsets {
    let start = shared.ends.log_start();
    let last_stable = shared.last_stable();
    let high_watermark = shared.high_watermark();
    let durable = shared.durability.end();
    let end = shared.end();
    Offsets { start, end, durable: durable.min(end), high_watermark, last_stable }
}

/// The aborted transactions that have records in `[from, to)`. Their markers may lie in any later segment.
pub(crate) fn aborted_in(shared: &Shared, view: &View, from: Offset, to: Offset) -> Result<Vec<AbortedRange>> {
    let mut entries = Vec::new();
    // Segments that the view does not have yet may have a marker that the stable end has passed.
    let now = shared.view.load();
    let newer = now.segments().iter().filter(|segment| segment.base() > view.active().base());
    for segment in view.from(from).iter().chain(newer) {
        let aborted = segment.aborted()?;
        let aborted = match aborted {
            Some(aborted) => aborted,
            None => {
                let holder = if segment.base() > view.active().base() { &now } else { view };
                shared.rebuild_aborted(holder, segment)?;
                segment.aborted()?.unwrap_or_default()
            }
        };
        let done = aborted.iter().any(|entry| entry.last_stable_offset >= to);
        entries.extend(aborted);
        if done {
            break;
        }
    }
    Ok(transactions::collect(entries, from, to))
}
