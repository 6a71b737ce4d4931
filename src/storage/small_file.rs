//! Reads and writes small files whole.

use std::io;
use std::ops::Range;
use std::path::Path;

use super::{File, OpenMode, Storage};
use crate::error::{Error, Result};

/// How much is copied at a time. A piece stays in the processor's cache until it is written.
const COPIED_AT_ONCE: u64 = 256 << 10;

/// Reads a file of at most `limit` bytes. Returns `None` if there is no file of that name.
pub(crate) fn read(storage: &dyn Storage, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    let at = |e| Error::io(e, path);
    let file = match storage.open(path, OpenMode::Read) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(at(e)),
    };
    let len = file.info().map_err(at)?.len;
    if len > limit {
        return Err(Error::corrupt(path, limit, "larger than such a file can be"));
    }
    let mut bytes = vec![0; len as usize];
    let read = file.read_at(&mut bytes, 0).map_err(at)?;
    // A partly read file would be taken for a damaged one.
    if read < bytes.len() { Err(at(io::ErrorKind::UnexpectedEof.into())) } else { Ok(Some(bytes)) }
}

/// Writes and syncs a file that nothing relies on before its name is durable. Removes an old one of that name first.
pub(crate) fn write_new(storage: &dyn Storage, path: &Path, bytes: &[u8]) -> Result<()> {
    let at = |e| Error::io(e, path);
    remove(storage, path)?;
    let file = storage.open(path, OpenMode::CreateNew).map_err(at)?;
    file.write_at(bytes, 0).map_err(at)?;
    file.sync().map_err(at)
}

/// The same for a file that may be listed after a kill: it gets its name only once it is whole. The caller makes the
/// name durable.
pub(crate) fn put(storage: &dyn Storage, path: &Path, temporary: &Path, bytes: &[u8]) -> Result<()> {
    write_new(storage, temporary, bytes)?;
    storage.rename(temporary, path).map_err(|e| Error::io(e, path))
}

/// Replaces a file in `dir` atomically: after a crash either the old one or the new one is there.
pub(crate) fn replace(storage: &dyn Storage, dir: &Path, path: &Path, temporary: &Path, bytes: &[u8]) -> Result<()> {
    put(storage, path, temporary, bytes)?;
    storage.sync_dir(dir).map_err(|e| Error::io(e, dir))
}

/// Removes a file, which may be gone already.
pub(crate) fn remove(storage: &dyn Storage, path: &Path) -> Result<()> {
    match storage.remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io(e, path)),
        _ => Ok(()),
    }
}

/// Passes the bytes in a range of a file to `write`, piece by piece, each with its position.
pub(crate) fn copy(
    file: &dyn File,
    range: Range<u64>,
    mut write: impl FnMut(&[u8], u64) -> io::Result<()>,
) -> io::Result<()> {
    let mut buffer = vec![0; COPIED_AT_ONCE.min(range.end.saturating_sub(range.start)) as usize];
    let mut at = range.start;
    while at < range.end {
        let len = (buffer.len() as u64).min(range.end - at) as usize;
        let read = file.read_at(&mut buffer[..len], at)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        write(&buffer[..read], at)?;
        at += read as u64;
    }
    Ok(())
}
