//! The simulated disk behind the seam that the engine sees.

use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::SimStorage;
use super::change::Change;
use super::disk::{Dir, NameChange, Node, split};
use super::fault::{Call, Draw};
use super::in_use::By;
use crate::storage::holds::{Hold, Holds};
use crate::storage::{
    DirEntry, File, FileInfo, FileKind, LockGuard, OpenMode, Reserve, Reserved, Sizes, Storage, Window,
};
use crate::sync::Arc;

/// Zeros are written in pieces of at least this size, two to a reservation.
const ZEROS_MIN: u64 = 256;

struct SimFile {
    storage: SimStorage,
    id: u64,
    /// The name under which it was opened.
    name: String,
    holds: Arc<Holds>,
}

/// The bytes of a simulated mapping or region, as they were when it was made.
struct Copied {
    storage: SimStorage,
    id: u64,
    number: u64,
    bytes: Bytes,
    hold: Option<Hold>,
}

/// A simulated window: what is written to it lies in the page cache.
pub(in crate::storage) struct SimWindow {
    storage: SimStorage,
    id: u64,
    number: u64,
    part: Range<u64>,
    name: String,
}

#[derive(Debug)]
struct SimLock {
    storage: SimStorage,
    path: PathBuf,
}

impl LockGuard for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.storage.lock_disk().locks.remove(&self.path);
    }
}

impl Storage for SimStorage {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let id = match mode {
            OpenMode::Read | OpenMode::Write => {
                let mut disk = self.lock_disk();
                disk.look(Call::Open)?;
                disk.file(path)?
            }
            OpenMode::CreateNew => self.create(path)?,
        };
        self.lock_disk().in_use.open(id);
        let name = path.display().to_string();
        let number = self.lock_disk().number(id);
        let holds = self.shared.held.of(number);
        Ok(Arc::new(SimFile { storage: self.clone(), id, name, holds }))
    }

    fn info(&self, path: &Path) -> io::Result<FileInfo> {
        let mut disk = self.lock_disk();
        disk.look(Call::Look)?;
        if path == Path::new("/") {
            return Ok(FileInfo { kind: FileKind::Directory, len: 0, id: 0, modified: 0 });
        }
        Ok(match disk.node(path)? {
            Node::File(id) => disk.file_info(id),
            Node::Dir(id) => FileInfo { kind: FileKind::Directory, len: 0, id, modified: 0 },
        })
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let mut disk = self.lock_disk();
        disk.look(Call::Look)?;
        let kind = |node: &Node| if matches!(node, Node::File(_)) { FileKind::File } else { FileKind::Directory };
        let names = disk.dir(dir)?.cached.iter();
        Ok(names.map(|(name, node)| DirEntry { name: name.clone(), kind: kind(node) }).collect())
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut disk = self.change_disk();
        let (parent, name) = split(dir)?;
        if disk.dir(parent)?.cached.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        disk.begin_whole(Call::Dir, || dir.display().to_string())?;
        let id = disk.new_id();
        disk.dirs.insert(id, Arc::new(Dir::default()));
        disk.change_names(parent, NameChange::Add(name.to_owned(), Node::Dir(id)))
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        let mut disk = self.change_disk();
        if !disk.dir(dir)?.cached.is_empty() {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        disk.begin_whole(Call::Dir, || dir.display().to_string())?;
        let (parent, name) = split(dir)?;
        disk.change_names(parent, NameChange::Remove(name.to_owned()))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.change_disk();
        let node = disk.node(from)?;
        let ((from_dir, from), (to_dir, to)) = (split(from)?, split(to)?);
        assert_eq!(from_dir, to_dir, "the engine renames within a directory");
        if matches!((node, disk.dir(to_dir)?.cached.get(to)), (Node::Dir(_), Some(_))) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        disk.begin_whole(Call::Rename, || format!("{from_dir:?}: {from} to {to}"))?;
        disk.change_names(from_dir, NameChange::Rename(from.to_owned(), to.to_owned(), node))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.change_disk();
        let id = disk.file(path)?;
        disk.begin_whole(Call::Remove, || path.display().to_string())?;
        let (parent, name) = split(path)?;
        let len = disk.content(id).len() as u64;
        disk.give_space(len);
        disk.change_names(parent, NameChange::Remove(name.to_owned()))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut disk = self.change_disk();
        disk.dir(dir)?;
        disk.begin_whole(Call::SyncDir, || dir.display().to_string())?;
        let dir = disk.dir_mut(dir)?;
        dir.durable = dir.cached.clone();
        dir.pending.clear();
        Ok(())
    }

    fn free_space(&self, _dir: &Path) -> io::Result<u64> {
        let mut disk = self.lock_disk();
        disk.look(Call::Look)?;
        Ok(disk.free.unwrap_or(u64::MAX))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>> {
        match self.create(path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        if !self.lock_disk().locks.insert(path.to_path_buf()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(SimLock { storage: self.clone(), path: path.to_path_buf() }))
    }

    fn sizes(&self) -> Sizes {
        self.lock_disk().sizes
    }

    fn fill_random(&self, bytes: &mut [u8]) -> io::Result<()> {
        let mut disk = self.lock_disk();
        let mut draw = Draw(disk.random);
        bytes.iter_mut().for_each(|byte| *byte = draw.next() as u8);
        disk.random = draw.next();
        Ok(())
    }
}

impl SimStorage {
    fn create(&self, path: &Path) -> io::Result<u64> {
        let (parent, name) = split(path)?;
        let exists = self.lock_disk().dir(parent)?.cached.contains_key(name);
        if exists {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let mut disk = self.change_disk();
        disk.begin_whole(Call::Create, || path.display().to_string())?;
        let id = disk.new_inode();
        disk.change_names(parent, NameChange::Add(name.to_owned(), Node::File(id)))?;
        Ok(id)
    }
}

impl File for SimFile {
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        let mut disk = self.storage.lock_disk();
        disk.check_running()?;
        let short = match disk.faults.begin(Call::Read) {
            Some(failed) if !failed.short => return Err(failed.error),
            failed => failed.is_some(),
        };
        let content = disk.content(self.id);
        let rest = content.get(position.min(content.len() as u64) as usize..).unwrap_or_default();
        let len = rest.len().min(buf.len()) >> u32::from(short);
        buf[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn write_at(&self, buf: &[u8], position: u64) -> io::Result<()> {
        self.write_vectored_at(&[buf], position)
    }

    fn write_vectored_at(&self, parts: &[&[u8]], position: u64) -> io::Result<()> {
        let bytes = parts.concat();
        let writing = self.holds.write(position);
        writing.check(&bytes, position, |there| Ok(self.peek(there, position))).map_err(|e| self.refused(e))?;
        self.write_by(&bytes, position, By::Call)
    }

    fn info(&self) -> io::Result<FileInfo> {
        let mut disk = self.storage.lock_disk();
        disk.look(Call::Look)?;
        Ok(disk.file_info(self.id))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let cut = self.holds.cut(len, || {
            let mut disk = self.storage.change_disk();
            disk.begin_whole(Call::SetLen, || format!("{} to {len}", self.name))?;
            disk.change(self.id, Change::SetLen(len), By::Call)
        });
        cut.map_err(|e| self.refused(e))
    }

    fn sync(&self) -> io::Result<()> {
        let mut disk = self.storage.change_disk();
        let failed = disk.begin(Call::Sync, || self.name.clone())?;
        let inode = disk.inode(self.id);
        match failed {
            None => {
                inode.sync();
                Ok(())
            }
            // The pages are clean now: a later sync does not write them.
            Some(failed) => {
                inode.fail_sync(failed.seed);
                Err(failed.error)
            }
        }
    }

    fn write_out(&self, _begin: Range<u64>, _wait_for: Range<u64>) -> io::Result<()> {
        self.storage.lock_disk().look(Call::WriteOut)
    }

    fn populate(&self, _part: &[u8]) -> io::Result<()> {
        self.storage.lock_disk().look(Call::Read)
    }

    fn reserve(&self, position: u64, len: u64, how: Reserve) -> io::Result<Reserved> {
        let maps = self.storage.lock_disk().maps;
        if how == Reserve::Mapped && !maps {
            return Ok(Reserved::Nothing);
        }
        self.zero(position..position + len)?;
        if how == Reserve::Zeroed || self.storage.lock_disk().look(Call::Map).is_err() {
            return Ok(Reserved::Space);
        }
        Ok(Reserved::Window(self.window(position..position + len)?))
    }

    fn map(&self, len: u64) -> io::Result<Option<Bytes>> {
        {
            let mut disk = self.storage.lock_disk();
            disk.look(Call::Map)?;
            if !disk.maps {
                return Ok(None);
            }
        }
        let copied = self.copied(len)?;
        if (copied.bytes.len() as u64) < len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Some(Bytes::from_owner(copied)))
    }

    fn hold(&self, len: u64) -> io::Result<Hold> {
        Ok(Hold::new(self.copied(len)?))
    }

    fn held(&self) -> u64 {
        self.holds.end()
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

impl SimFile {
    /// Reads without being counted.
    fn peek(&self, into: &mut [u8], position: u64) -> usize {
        let disk = self.storage.lock_disk();
        let there = disk.content(self.id).get(position as usize..).unwrap_or_default();
        let len = there.len().min(into.len());
        into[..len].copy_from_slice(&there[..len]);
        len
    }

    fn write_by(&self, bytes: &[u8], position: u64, by: By) -> io::Result<()> {
        let mut disk = self.storage.change_disk();
        let call = if let By::Zeros(_) = by { Call::Reserve } else { Call::Write };
        let failed = disk.begin(call, || format!("{} at {position}, {} bytes", self.name, bytes.len()))?;
        let Some(failed) = failed else {
            return disk.change(self.id, Change::Write { position, bytes: bytes.into() }, by);
        };
        let written = match failed.seed {
            0 => bytes.len() / 2,
            seed => Draw(seed).below(bytes.len() as u64 + 1) as usize,
        };
        disk.change(self.id, Change::Write { position, bytes: bytes[..written].into() }, by)?;
        Err(failed.error)
    }

    /// Writes zeros, in pieces: whatever else is done meanwhile must not touch what they cover.
    fn zero(&self, part: Range<u64>) -> io::Result<()> {
        let number = {
            let mut disk = self.storage.lock_disk();
            let there = disk.inode(self.id).cached.clone();
            disk.in_use.zeroing(self.id, part.clone(), there.bytes())
        };
        let piece = ((part.end - part.start).div_ceil(2)).max(ZEROS_MIN);
        let mut at = part.start;
        let zeroed = loop {
            if at >= part.end {
                break Ok(());
            }
            let end = (at + piece).min(part.end);
            let writing = self.holds.write(at);
            let zeros = vec![0; (end - at) as usize];
            let written = writing
                .check(&zeros, at, |there| Ok(self.peek(there, at)))
                .map_err(|e| self.refused(e))
                .and_then(|()| self.write_by(&zeros, at, By::Zeros(number)));
            if written.is_err() {
                break written;
            }
            at = end;
        };
        self.storage.lock_disk().in_use.zeroed(self.id, number);
        zeroed
    }

    fn window(&self, part: Range<u64>) -> io::Result<Window> {
        let hold = self.holds.window(part.clone()).map_err(|e| self.refused(e))?;
        let number = self.storage.lock_disk().in_use.window(self.id, part.clone());
        let (storage, id, name) = (self.storage.clone(), self.id, self.name.clone());
        let start = part.start;
        Ok(Window::simulated(start, SimWindow { storage, id, number, part, name }, hold))
    }

    /// The first bytes of the file, held and registered.
    fn copied(&self, len: u64) -> io::Result<Copied> {
        let hold = self.holds.hold(len).map_err(|e| self.refused(e))?;
        let mut disk = self.storage.lock_disk();
        disk.check_running()?;
        let there = disk.content(self.id);
        let bytes = Bytes::copy_from_slice(&there[..there.len().min(len as usize)]);
        let number = disk.in_use.copy(self.id, bytes.clone());
        Ok(Copied { storage: self.storage.clone(), id: self.id, number, bytes, hold: Some(hold) })
    }

    /// The engine asks for nothing that must be refused: that is a violation, and told as one.
    fn refused(&self, error: io::Error) -> io::Error {
        if error.kind() == io::ErrorKind::ResourceBusy {
            self.storage.lock_disk().in_use.refused(format!("{}: {error}", self.name));
        }
        error
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.storage.lock_disk().in_use.close(self.id);
    }
}

impl std::fmt::Debug for SimFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimFile({})", self.name)
    }
}

impl AsRef<[u8]> for Copied {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        // First: once nobody has the file, another one may get its number.
        self.hold = None;
        self.storage.lock_disk().in_use.drop_copy(self.id, self.number);
    }
}

impl SimWindow {
    pub(in crate::storage) fn len(&self) -> u64 {
        self.part.end - self.part.start
    }

    /// Writes to the page cache, without a call that could fail; a machine that has stopped keeps nothing of it.
    pub(in crate::storage) fn write(&mut self, parts: [&[u8]; 2], position: u64) -> bool {
        let bytes = parts.concat();
        if position < self.part.start || position + bytes.len() as u64 > self.part.end {
            return false;
        }
        let mut disk = self.storage.change_disk();
        if disk.store(|| format!("{} at {position}, {} bytes", self.name, bytes.len())) {
            disk.apply(self.id, Change::Write { position, bytes: bytes.into() }, By::Window);
        }
        true
    }
}

impl Drop for SimWindow {
    fn drop(&mut self) {
        self.storage.lock_disk().in_use.drop_window(self.id, self.number);
    }
}
