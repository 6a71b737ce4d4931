//! Taking segments out and putting others in their place, so that a crash leaves exactly the old ones or the new one.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::file_name::{SegmentFileKind, Suffix};
use crate::offset::Offset;
use crate::segment::{Place, Segment};
use crate::storage::files;

/// Files that are renamed with a segment; the `.log` last, where its name is what counts.
const WITH_LOG: [SegmentFileKind; 4] =
    [SegmentFileKind::OffsetIndex, SegmentFileKind::TimeIndex, SegmentFileKind::TxnIndex, SegmentFileKind::Digest];

/// Completes a swap whose output is committed (it has `.swap` names, durably): the replaced segments get `.deleted`
/// names, durably, then the output gets its own. Doing it again is harmless.
pub(crate) fn finish(place: &Place, base: Offset, replaced: &[Offset]) -> Result<()> {
    for old in replaced {
        retire(place, *old)?;
    }
    place.sync_dir()?;
    for kind in WITH_LOG.into_iter().chain([SegmentFileKind::Log]) {
        rename(place, base, kind, Suffix::Swap, Suffix::None)?;
    }
    place.sync_dir()
}

/// Gives all files of a segment `.deleted` names, and its snapshot too: what it was taken before is gone.
fn retire(place: &Place, base: Offset) -> Result<()> {
    rename(place, base, SegmentFileKind::Log, Suffix::None, Suffix::Deleted)?;
    for kind in WITH_LOG {
        rename(place, base, kind, Suffix::None, Suffix::Deleted)?;
    }
    Ok(())
}

/// Removes all files of a segment that is no longer part of the chain.
pub(crate) fn remove_segment_files(place: &Place, base: Offset) -> Result<()> {
    for kind in SegmentFileKind::ALL {
        files::remove(&*place.storage, &place.segment_path(base, kind, Suffix::None))?;
    }
    Ok(())
}

/// Gives a segment that has left the view `.deleted` names; it is removed when the last reader lets go of it.
pub(crate) fn bury(segment: &Segment) -> Result<()> {
    let place = Arc::clone(segment.place());
    segment.rename(Suffix::Deleted, || retire(&place, segment.base()))
}

/// Removes the files of a buried segment.
pub(crate) fn remove_buried(segment: &Segment) -> Result<()> {
    let place = segment.place();
    for kind in SegmentFileKind::ALL {
        files::remove(&*place.storage, &place.segment_path(segment.base(), kind, Suffix::Deleted))?;
    }
    Ok(())
}

fn rename(place: &Place, base: Offset, kind: SegmentFileKind, from: Suffix, to: Suffix) -> Result<()> {
    let (from, to) = (place.segment_path(base, kind, from), place.segment_path(base, kind, to));
    match place.storage.rename(&from, &to) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(e, &from)),
        _ => Ok(()),
    }
}
