//! Takes segments out and puts others in their place, so that a crash leaves exactly the old ones or the new one.

use std::path::PathBuf;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::file_name::{SegmentFileKind, Suffix};
use crate::offset::Offset;
use crate::segment::index::{SegmentIndex, Sums};
use crate::segment::{PartitionDir, Segment, SegmentMeta};
use crate::storage::{File, OpenMode, small_file};

/// Files that are renamed with a segment. The `.log` is renamed last wherever its name is the one that counts.
const WITH_LOG: [SegmentFileKind; 4] =
    [SegmentFileKind::OffsetIndex, SegmentFileKind::TimeIndex, SegmentFileKind::TxnIndex, SegmentFileKind::Digest];

/// Completes a swap whose output has its `.swap` names. First makes these names durable, because a kill may have come
/// between the renames and the sync. Then gives the replaced segments `.deleted` names, durably, and the output its
/// final names. Repeating this is harmless.
pub(crate) fn finish(dir: &PartitionDir, base: Offset, replaced: &[Offset]) -> Result<()> {
    dir.sync_dir()?;
    for old in replaced {
        retire(dir, *old)?;
    }
    dir.sync_dir()?;
    for kind in WITH_LOG.into_iter().chain([SegmentFileKind::Log]) {
        rename(dir, base, kind, Suffix::Swap, Suffix::None)?;
    }
    dir.sync_dir()
}

/// A segment that takes the place of others. It is written and synced under temporary names.
#[derive(Debug)]
pub(crate) struct Replacement {
    pub(crate) base: Offset,
    pub(crate) end: Offset,
    pub(crate) len: u64,
    pub(crate) facts: SegmentMeta,
    pub(crate) sums: Sums,
    /// Its files, each with its kind, the log last.
    pub(crate) files: Vec<(SegmentFileKind, PathBuf)>,
}

/// Puts a written output in the place of segments, so that a crash leaves exactly the old ones or exactly the new one.
/// Returns the output as a segment, which the caller publishes. The replaced ones then have `.deleted` names, and stay
/// readable under them.
pub(crate) fn replace(dir: &Arc<PartitionDir>, olds: &[Arc<Segment>], output: &Replacement) -> Result<Arc<Segment>> {
    for (kind, temporary) in &output.files {
        let to = dir.segment_path(output.base, *kind, Suffix::Swap);
        dir.storage.rename(temporary, &to).map_err(|e| Error::io(e, temporary))?;
    }
    // The commit: from here on recovery finishes what a crash interrupts.
    dir.sync_dir()?;
    for old in olds {
        mark_deleted(old)?;
    }
    dir.sync_dir()?;
    for kind in WITH_LOG.into_iter().chain([SegmentFileKind::Log]) {
        rename(dir, output.base, kind, Suffix::Swap, Suffix::None)?;
    }
    dir.sync_dir()?;
    let extent = (output.len, output.end);
    Ok(Segment::new(dir, output.base, extent, true, output.facts, SegmentIndex::of(output.sums)))
}

/// Truncates the file of a segment. Returns `true` if it was truncated in place; the caller must then sync it. Bytes
/// beyond `len` may be mapped, or handed out by this log or an earlier one of this process. In that case a durable copy
/// of the first `len` bytes takes the file's place, so that the bytes in use stay as they are. The caller makes the
/// name durable. If the disk has no room for the copy, it fails and changes nothing.
pub(crate) fn cut(dir: &PartitionDir, file: &dyn File, base: Offset, len: u64) -> Result<bool> {
    if file.held() > len {
        copy_prefix(dir, file, base, len)?;
        put_prefix(dir, base)?;
        return Ok(false);
    }
    let path = dir.segment_path(base, SegmentFileKind::Log, Suffix::None);
    file.set_len(len).map_err(|e| Error::io(e, &path))?;
    Ok(true)
}

/// Copies the first `len` bytes of a segment's file, durably, under a temporary name. An error leaves no copy behind.
pub(crate) fn copy_prefix(dir: &PartitionDir, file: &dyn File, base: Offset, len: u64) -> Result<()> {
    let temporary = dir.segment_path(base, SegmentFileKind::Log, Suffix::Cleaned);
    small_file::remove(&*dir.storage, &temporary)?;
    let copied = dir.storage.open(&temporary, OpenMode::CreateNew).and_then(|prefix| {
        small_file::copy(file, 0..len, |bytes, position| prefix.write_at(bytes, position))?;
        prefix.sync()
    });
    copied.map_err(|e| {
        // A leftover is removed before the next copy, and at the next open.
        let _ = small_file::remove(&*dir.storage, &temporary);
        Error::io(e, &temporary)
    })
}

/// Puts the copy of a segment's first bytes in the place of its file.
pub(crate) fn put_prefix(dir: &PartitionDir, base: Offset) -> Result<()> {
    let temporary = dir.segment_path(base, SegmentFileKind::Log, Suffix::Cleaned);
    let path = dir.segment_path(base, SegmentFileKind::Log, Suffix::None);
    dir.storage.rename(&temporary, &path).map_err(|e| Error::io(e, &temporary))
}

/// Gives all files of a segment `.deleted` names, the log last. A cache without its log counts as a leftover.
fn retire(dir: &PartitionDir, base: Offset) -> Result<()> {
    for kind in WITH_LOG.into_iter().chain([SegmentFileKind::Log]) {
        rename(dir, base, kind, Suffix::None, Suffix::Deleted)?;
    }
    Ok(())
}

/// Removes all files of a segment that is no longer part of the chain.
pub(crate) fn remove_segment_files(dir: &PartitionDir, base: Offset) -> Result<()> {
    for kind in SegmentFileKind::ALL {
        small_file::remove(&*dir.storage, &dir.segment_path(base, kind, Suffix::None))?;
    }
    Ok(())
}

/// Gives a segment that has left the list `.deleted` names. It is removed when the last reader drops it.
pub(crate) fn mark_deleted(segment: &Segment) -> Result<()> {
    let dir = Arc::clone(segment.dir());
    segment.rename(Suffix::Deleted, || retire(&dir, segment.base()))
}

/// Removes the files of a retired segment.
pub(crate) fn remove_deleted_files(segment: &Segment) -> Result<()> {
    let dir = segment.dir();
    for kind in SegmentFileKind::ALL {
        small_file::remove(&*dir.storage, &dir.segment_path(segment.base(), kind, Suffix::Deleted))?;
    }
    Ok(())
}

fn rename(dir: &PartitionDir, base: Offset, kind: SegmentFileKind, from: Suffix, to: Suffix) -> Result<()> {
    let (from, to) = (dir.segment_path(base, kind, from), dir.segment_path(base, kind, to));
    match dir.storage.rename(&from, &to) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(e, &from)),
        _ => Ok(()),
    }
}
