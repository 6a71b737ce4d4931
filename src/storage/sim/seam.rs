//! The simulated disk behind the seam that the engine sees.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::SimStorage;
use super::disk::{Change, Dir, Inode, NameChange, Node, split};
use super::fault::{Call, Draw};
use crate::storage::{DirEntry, File, FileInfo, FileKind, LockGuard, OpenMode, Reserve, Reserved, Storage};

#[derive(Debug)]
struct SimFile {
    storage: SimStorage,
    id: u64,
    /// The name under which it was opened.
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
        Ok(Arc::new(SimFile { storage: self.clone(), id, name: path.display().to_string() }))
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
        let id = disk.new_id();
        let modified = disk.tick();
        disk.inodes.insert(id, Arc::new(Inode { modified, durably_modified: modified, ..Inode::default() }));
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
        let mut disk = self.storage.change_disk();
        let failed = disk.begin(Call::Write, || format!("{} at {position}, {} bytes", self.name, bytes.len()))?;
        let Some(failed) = failed else {
            return disk.change(self.id, Change::Write { position, bytes: bytes.into() });
        };
        let written = match failed.seed {
            0 => bytes.len() / 2,
            seed => Draw(seed).below(bytes.len() as u64 + 1) as usize,
        };
        disk.change(self.id, Change::Write { position, bytes: bytes[..written].into() })?;
        Err(failed.error)
    }

    fn info(&self) -> io::Result<FileInfo> {
        let mut disk = self.storage.lock_disk();
        disk.look(Call::Look)?;
        Ok(disk.file_info(self.id))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut disk = self.storage.change_disk();
        disk.begin_whole(Call::SetLen, || format!("{} to {len}", self.name))?;
        disk.change(self.id, Change::SetLen(len))
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

    fn reserve(&self, position: u64, len: u64, how: Reserve) -> io::Result<Reserved> {
        match how {
            Reserve::Mapped => self.set_len(position + len)?,
            Reserve::Zeroed => self.write_at(&vec![0; len as usize], position)?,
        }
        Ok(Reserved::Space)
    }

    fn release(&self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }

    fn map(&self, _len: u64) -> io::Result<Option<Bytes>> {
        Ok(None)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
