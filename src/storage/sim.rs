//! A simulated file system in memory: it can crash at any operation, fail any call, and run out of space. Without
//! faults it is a plain in-memory storage.
//!
//! It knows of each file what the page cache holds and what the disk holds, with the writes in between, and of each
//! directory the same of its names. A [crash](SimStorage::crash) keeps what was synced, and of the rest what a [`Crash`]
//! chooses: in [`Order::Strict`] any subset of names and writes, writes torn or lost, lengths ahead of the data; in
//! [`Order::Journaled`] a prefix of the changes to names, as journaling file systems keep them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::{DirEntry, File, FileInfo, FileKind, LockGuard, OpenMode, Reserve, Reserved, Storage};

/// A write is torn at multiples of this, as sectors are written whole.
const SECTOR: u64 = 512;

/// A file system in memory. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct SimStorage {
    disk: Arc<Mutex<Disk>>,
}

/// What a crash leaves of the changes to names.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Order {
    /// Any subset of what was not synced.
    Strict,
    /// What was done first is kept first.
    Journaled,
}

/// Chooses what a power cut leaves of what was not synced. The same choice leaves the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Crash {
    /// Of the changes to names.
    pub order: Order,
    /// 0 keeps nothing, 1 keeps everything; the others are drawn.
    pub seed: u64,
}

/// A call that fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Which kind of call; `None` for any that changes something.
    pub call: Option<Call>,
    /// After so many calls of that kind.
    pub after: u64,
    /// How it fails.
    pub error: io::ErrorKind,
    /// Whether all later ones fail too.
    pub forever: bool,
}

/// Kinds of calls that change something.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Call {
    /// A write. A failed one leaves its first half.
    Write,
    /// A change of a file's length, reserved space included.
    SetLen,
    /// A sync of a file. A failed one marks the pages clean: what was written is lost unless written again.
    Sync,
    /// A sync of a directory.
    SyncDir,
    /// A new file.
    Create,
    /// A rename.
    Rename,
    /// A removal.
    Remove,
    /// A directory made or removed.
    Dir,
}

#[derive(Debug, Default)]
struct Disk {
    inodes: HashMap<u64, Inode>,
    dirs: BTreeMap<PathBuf, Dir>,
    last_id: u64,
    locks: HashSet<PathBuf>,
    operations: u64,
    stop_after: Option<u64>,
    calls: HashMap<Call, u64>,
    fault: Option<Fault>,
    /// Bytes that still fit; `None` for no limit.
    free: Option<u64>,
    /// What was done, when it is recorded.
    trace: Option<Vec<String>>,
}

#[derive(Clone, Debug, Default)]
struct Inode {
    cached: Arc<Vec<u8>>,
    durable: Arc<Vec<u8>>,
    pending: Vec<Change>,
}

/// A change to a file that no sync has covered.
#[derive(Clone, Debug)]
enum Change {
    Write { position: u64, bytes: Arc<[u8]> },
    SetLen(u64),
}

#[derive(Clone, Debug, Default)]
struct Dir {
    cached: BTreeMap<String, Node>,
    durable: BTreeMap<String, Node>,
    pending: Vec<NameChange>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Node {
    File(u64),
    Dir(u64),
}

#[derive(Clone, Debug)]
enum NameChange {
    Add(String, Node),
    Remove(String),
    Rename(String, String, Node),
}

/// Draws numbers, the same for the same seed.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

impl SimStorage {
    /// An empty file system with a root directory.
    pub fn new() -> SimStorage {
        let storage = SimStorage::default();
        storage.lock_disk().dirs.insert(PathBuf::from("/"), Dir::default());
        storage
    }

    /// How many operations have changed something so far.
    pub fn operations(&self) -> u64 {
        self.lock_disk().operations
    }

    /// The machine stops after so many more operations: every call fails from then on.
    pub fn stop_after(&self, operations: u64) {
        let mut disk = self.lock_disk();
        disk.stop_after = Some(disk.operations + operations);
    }

    /// Whether the machine has stopped.
    pub fn is_stopped(&self) -> bool {
        let disk = self.lock_disk();
        disk.stop_after.is_some_and(|stop| disk.operations >= stop)
    }

    /// Records what is done from now on.
    pub fn record(&self) {
        self.lock_disk().trace = Some(Vec::new());
    }

    /// What was done since [`record`](Self::record), one line for each operation.
    pub fn trace(&self) -> Vec<String> {
        self.lock_disk().trace.clone().unwrap_or_default()
    }

    /// Has a call fail; `None` for no fault.
    pub fn set_fault(&self, fault: Option<Fault>) {
        let mut disk = self.lock_disk();
        disk.calls.clear();
        disk.fault = fault;
    }

    /// So many bytes more can be written; `None` for no limit.
    pub fn set_free_space(&self, bytes: Option<u64>) {
        self.lock_disk().free = bytes;
    }

    /// Flips a bit of a file, in the page cache and on the disk.
    ///
    /// # Errors
    /// When there is no such file, or it is shorter.
    pub fn flip(&self, path: &Path, position: usize, bit: u8) -> io::Result<()> {
        let mut disk = self.lock_disk();
        let id = disk.file(path)?;
        let inode = disk.inodes.get_mut(&id).ok_or(io::ErrorKind::NotFound)?;
        *Arc::make_mut(&mut inode.cached).get_mut(position).ok_or(io::ErrorKind::UnexpectedEof)? ^= 1 << (bit % 8);
        // What is not durable yet is flipped in the cache alone.
        if let Some(byte) = Arc::make_mut(&mut inode.durable).get_mut(position) {
            *byte ^= 1 << (bit % 8);
        }
        Ok(())
    }

    /// What a power cut leaves, as a file system of its own: nobody has it open, and all of it is durable.
    pub fn crash(&self, crash: &Crash) -> SimStorage {
        let disk = self.lock_disk();
        let mut draw = Draw(crash.seed);
        let mut left = Disk { last_id: disk.last_id, ..Disk::default() };
        let mut reachable = vec![PathBuf::from("/")];
        while let Some(key) = reachable.pop() {
            let Some(dir) = disk.dirs.get(&key) else { continue };
            let names = dir.after(crash, &mut draw);
            for node in names.values() {
                match node {
                    Node::File(id) => {
                        let content =
                            disk.inodes.get(id).map(|inode| inode.after(crash, &mut draw)).unwrap_or_default();
                        let content = Arc::new(content);
                        left.inodes
                            .insert(*id, Inode { cached: Arc::clone(&content), durable: content, pending: Vec::new() });
                    }
                    Node::Dir(id) => reachable.push(dir_key(*id)),
                }
            }
            left.dirs.insert(key, Dir { cached: names.clone(), durable: names, pending: Vec::new() });
        }
        SimStorage { disk: Arc::new(Mutex::new(left)) }
    }

    /// What a killed process leaves: all of it is still in the page cache, nobody has it open, nothing more is durable.
    pub fn kill(&self) -> SimStorage {
        let disk = self.lock_disk();
        let left = Disk {
            inodes: disk.inodes.clone(),
            dirs: disk.dirs.clone(),
            last_id: disk.last_id,
            free: disk.free,
            ..Disk::default()
        };
        SimStorage { disk: Arc::new(Mutex::new(left)) }
    }

    /// A hash of everything that can be read: two images that agree are the same.
    pub fn digest(&self) -> u64 {
        let disk = self.lock_disk();
        let mut hasher = DefaultHasher::new();
        for (path, dir) in &disk.dirs {
            path.hash(&mut hasher);
            for (name, node) in &dir.cached {
                name.hash(&mut hasher);
                if let Node::File(id) = node {
                    disk.inodes.get(id).map(|inode| &**inode.cached).hash(&mut hasher);
                }
            }
        }
        hasher.finish()
    }

    /// The bytes of a file, as a reader sees them.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn contents(&self, path: &Path) -> io::Result<Vec<u8>> {
        let disk = self.lock_disk();
        let id = disk.file(path)?;
        Ok(disk.inodes.get(&id).map(|inode| inode.cached.to_vec()).unwrap_or_default())
    }

    /// Every file's path and length, in order.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let disk = self.lock_disk();
        let mut files = Vec::new();
        let mut reachable = vec![(PathBuf::from("/"), PathBuf::from("/"))];
        while let Some((path, key)) = reachable.pop() {
            for (name, node) in disk.dirs.get(&key).iter().flat_map(|dir| &dir.cached) {
                match node {
                    Node::File(id) => {
                        files.push((path.join(name), disk.inodes.get(id).map_or(0, |f| f.cached.len() as u64)))
                    }
                    Node::Dir(id) => reachable.push((path.join(name), dir_key(*id))),
                }
            }
        }
        files.sort();
        files
    }

    fn lock_disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn dir_key(id: u64) -> PathBuf {
    PathBuf::from(format!("#{id}"))
}

impl Dir {
    /// The names that a crash leaves.
    fn after(&self, crash: &Crash, draw: &mut Draw) -> BTreeMap<String, Node> {
        let mut names = self.durable.clone();
        let count = self.pending.len() as u64;
        // Half of the draws keep a prefix or lose a single one: what most bugs need.
        let style = draw.below(4);
        let prefix = draw.below(count + 1);
        for (at, change) in self.pending.iter().enumerate() {
            let at = at as u64;
            let kept = match (crash.seed, crash.order, style) {
                (0, ..) => false,
                (1, ..) => true,
                (_, Order::Journaled, _) | (_, Order::Strict, 0) => at < prefix,
                (_, Order::Strict, 1) => at != prefix,
                (_, Order::Strict, _) => draw.below(2) == 0,
            };
            if kept {
                change.apply(&mut names);
            }
        }
        names
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, Node>) {
        match self {
            NameChange::Add(name, node) => {
                names.insert(name.clone(), *node);
            }
            NameChange::Remove(name) => {
                names.remove(name);
            }
            NameChange::Rename(from, to, node) => {
                names.remove(from);
                names.insert(to.clone(), *node);
            }
        }
    }
}

impl Inode {
    /// The content that a crash leaves.
    fn after(&self, crash: &Crash, draw: &mut Draw) -> Vec<u8> {
        let mut content = self.durable.to_vec();
        let count = self.pending.len() as u64;
        let style = draw.below(6);
        let at_stake = draw.below(count + 1);
        for (at, change) in self.pending.iter().enumerate() {
            let at = at as u64;
            match (crash.seed, style) {
                (0, _) => {}
                (1, _) => change.apply(&mut content),
                (_, 0) if at < at_stake => change.apply(&mut content),
                (_, 0) => {}
                // A single one is lost: a hole, or zeros where the length is ahead of the data.
                (_, 1) if at == at_stake => {
                    if let Change::Write { position, bytes } = change {
                        grow(&mut content, position + bytes.len() as u64);
                    }
                }
                (_, 1) => change.apply(&mut content),
                // The last one that is there is torn.
                (_, 2 | 3) if at == at_stake => change.apply_torn(&mut content, draw),
                (_, 2 | 3) if at < at_stake => change.apply(&mut content),
                (_, 2 | 3) => {}
                _ => match draw.below(4) {
                    0 => {}
                    1 => change.apply_torn(&mut content, draw),
                    _ => change.apply(&mut content),
                },
            }
        }
        content
    }
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Change::Write { position, bytes } => {
                grow(content, position + bytes.len() as u64);
                content[*position as usize..*position as usize + bytes.len()].copy_from_slice(bytes);
            }
            Change::SetLen(len) => content.resize(*len as usize, 0),
        }
    }

    /// Some of a write is there: up to a byte, or some of its sectors, or its length with garbage in it.
    fn apply_torn(&self, content: &mut Vec<u8>, draw: &mut Draw) {
        let Change::Write { position, bytes } = self else { return self.apply(content) };
        let len = bytes.len() as u64;
        match draw.below(3) {
            0 => {
                let cut = draw.below(len + 1) as usize;
                Change::Write { position: *position, bytes: bytes[..cut].into() }.apply(content);
            }
            1 => {
                grow(content, position + len);
                let mut at = 0;
                while at < len {
                    let end = ((position + at) / SECTOR * SECTOR + SECTOR - position).min(len);
                    if draw.below(2) == 0 {
                        let piece = bytes[at as usize..end as usize].into();
                        Change::Write { position: position + at, bytes: piece }.apply(content);
                    }
                    at = end;
                }
            }
            _ => {
                // Only blocks that the file did not have yet can hold anything: what is overwritten is old or new.
                let new = (content.len() as u64).max(*position);
                let garbage: Vec<u8> = (new..position + len).map(|_| draw.next() as u8).collect();
                Change::Write { position: new, bytes: garbage.into() }.apply(content);
            }
        }
    }
}

fn grow(content: &mut Vec<u8>, len: u64) {
    if (content.len() as u64) < len {
        content.resize(len as usize, 0);
    }
}

impl Disk {
    /// Counts an operation, and fails it where it is to fail.
    fn begin(&mut self, call: Call, what: impl FnOnce() -> String) -> io::Result<()> {
        self.check_running()?;
        self.operations += 1;
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{} {call:?} {}", self.operations, what()));
        }
        let count = self.calls.entry(call).or_default();
        *count += 1;
        let count = *count;
        let Some(fault) = self.fault else { return Ok(()) };
        let total: u64 = self.calls.values().sum();
        let reached = match fault.call {
            Some(kind) if kind != call => return Ok(()),
            Some(_) => count,
            None => total,
        };
        if reached == fault.after + 1 || fault.forever && reached > fault.after {
            Err(fault.error.into())
        } else {
            Ok(())
        }
    }

    fn check_running(&self) -> io::Result<()> {
        if self.stop_after.is_some_and(|stop| self.operations >= stop) {
            return Err(io::Error::other("the machine has stopped"));
        }
        Ok(())
    }

    fn dir(&self, path: &Path) -> io::Result<&Dir> {
        self.dirs.get(&self.real(path)).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn dir_mut(&mut self, path: &Path) -> io::Result<&mut Dir> {
        let real = self.real(path);
        self.dirs.get_mut(&real).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The key of a directory: the root's path, or the number of another one.
    fn real(&self, path: &Path) -> PathBuf {
        let mut key = PathBuf::from("/");
        for part in path.components().skip(1) {
            let name = part.as_os_str().to_string_lossy();
            key = match self.dirs.get(&key).and_then(|dir| dir.cached.get(&*name)) {
                Some(Node::Dir(id)) => dir_key(*id),
                _ => return PathBuf::from("absent"),
            };
        }
        key
    }

    fn node(&self, path: &Path) -> io::Result<Node> {
        let (parent, name) = split(path)?;
        self.dir(parent)?.cached.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn file(&self, path: &Path) -> io::Result<u64> {
        match self.node(path)? {
            Node::File(id) => Ok(id),
            Node::Dir(_) => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
        }
    }

    fn change_names(&mut self, dir: &Path, change: NameChange) -> io::Result<()> {
        let dir = self.dir_mut(dir)?;
        change.apply(&mut dir.cached);
        dir.pending.push(change);
        Ok(())
    }

    fn take_space(&mut self, grown: u64) -> io::Result<()> {
        match &mut self.free {
            Some(free) if *free < grown => Err(io::ErrorKind::StorageFull.into()),
            Some(free) => {
                *free -= grown;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn give_space(&mut self, shrunk: u64) {
        if let Some(free) = &mut self.free {
            *free += shrunk;
        }
    }

    fn inode(&mut self, id: u64) -> &mut Inode {
        self.inodes.entry(id).or_default()
    }

    fn change(&mut self, id: u64, change: Change) -> io::Result<()> {
        let before = self.inode(id).cached.len() as u64;
        let after = match &change {
            Change::Write { position, bytes } => before.max(position + bytes.len() as u64),
            Change::SetLen(len) => *len,
        };
        self.take_space(after.saturating_sub(before))?;
        self.give_space(before.saturating_sub(after));
        let inode = self.inode(id);
        change.apply(Arc::make_mut(&mut inode.cached));
        inode.pending.push(change);
        Ok(())
    }
}

fn split(path: &Path) -> io::Result<(&Path, &str)> {
    let name = path.file_name().and_then(|name| name.to_str()).ok_or(io::ErrorKind::InvalidInput)?;
    Ok((path.parent().unwrap_or(Path::new("/")), name))
}

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
        let mut disk = self.lock_disk();
        disk.check_running()?;
        let id = match mode {
            OpenMode::Read | OpenMode::Write => disk.file(path)?,
            OpenMode::CreateNew => {
                let (parent, name) = split(path)?;
                if disk.dir(parent)?.cached.contains_key(name) {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                disk.begin(Call::Create, || path.display().to_string())?;
                disk.last_id += 1;
                let id = disk.last_id;
                disk.inodes.insert(id, Inode::default());
                disk.change_names(parent, NameChange::Add(name.to_owned(), Node::File(id)))?;
                id
            }
        };
        Ok(Arc::new(SimFile { storage: self.clone(), id, name: path.display().to_string() }))
    }

    fn info(&self, path: &Path) -> io::Result<FileInfo> {
        let disk = self.lock_disk();
        disk.check_running()?;
        if path == Path::new("/") {
            return Ok(FileInfo { kind: FileKind::Directory, len: 0, id: 0 });
        }
        Ok(match disk.node(path)? {
            Node::File(id) => {
                let len = disk.inodes.get(&id).map_or(0, |inode| inode.cached.len() as u64);
                FileInfo { kind: FileKind::File, len, id }
            }
            Node::Dir(id) => FileInfo { kind: FileKind::Directory, len: 0, id },
        })
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let disk = self.lock_disk();
        disk.check_running()?;
        let kind = |node: &Node| if matches!(node, Node::File(_)) { FileKind::File } else { FileKind::Directory };
        let names = disk.dir(dir)?.cached.iter();
        Ok(names.map(|(name, node)| DirEntry { name: name.clone(), kind: kind(node) }).collect())
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut disk = self.lock_disk();
        let (parent, name) = split(dir)?;
        if disk.dir(parent)?.cached.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        disk.begin(Call::Dir, || dir.display().to_string())?;
        disk.last_id += 1;
        let id = disk.last_id;
        disk.dirs.insert(dir_key(id), Dir::default());
        disk.change_names(parent, NameChange::Add(name.to_owned(), Node::Dir(id)))
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        let mut disk = self.lock_disk();
        if !disk.dir(dir)?.cached.is_empty() {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        disk.begin(Call::Dir, || dir.display().to_string())?;
        let (parent, name) = split(dir)?;
        disk.change_names(parent, NameChange::Remove(name.to_owned()))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.lock_disk();
        let node = disk.node(from)?;
        let ((from_dir, from), (to_dir, to)) = (split(from)?, split(to)?);
        assert_eq!(from_dir, to_dir, "the engine renames within a directory");
        if matches!((node, disk.dir(to_dir)?.cached.get(to)), (Node::Dir(_), Some(_))) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        disk.begin(Call::Rename, || format!("{from} to {to}"))?;
        disk.change_names(from_dir, NameChange::Rename(from.to_owned(), to.to_owned(), node))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.lock_disk();
        let id = disk.file(path)?;
        disk.begin(Call::Remove, || path.display().to_string())?;
        let (parent, name) = split(path)?;
        let len = disk.inode(id).cached.len() as u64;
        disk.give_space(len);
        disk.change_names(parent, NameChange::Remove(name.to_owned()))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut disk = self.lock_disk();
        disk.dir(dir)?;
        disk.begin(Call::SyncDir, || dir.display().to_string())?;
        let dir = disk.dir_mut(dir)?;
        dir.durable = dir.cached.clone();
        dir.pending.clear();
        Ok(())
    }

    fn free_space(&self, _dir: &Path) -> io::Result<u64> {
        let disk = self.lock_disk();
        disk.check_running()?;
        Ok(disk.free.unwrap_or(u64::MAX))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>> {
        match self.open(path, OpenMode::CreateNew) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        if !self.lock_disk().locks.insert(path.to_path_buf()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(SimLock { storage: self.clone(), path: path.to_path_buf() }))
    }
}

impl File for SimFile {
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        let mut disk = self.storage.lock_disk();
        disk.check_running()?;
        let content = &disk.inode(self.id).cached;
        let rest = content.get(position.min(content.len() as u64) as usize..).unwrap_or_default();
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn write_at(&self, buf: &[u8], position: u64) -> io::Result<()> {
        self.write_vectored_at(&[buf], position)
    }

    fn write_vectored_at(&self, parts: &[&[u8]], position: u64) -> io::Result<()> {
        let bytes = parts.concat();
        let mut disk = self.storage.lock_disk();
        let failed = disk.begin(Call::Write, || format!("{} at {position}, {} bytes", self.name, bytes.len())).err();
        let written = if failed.is_some() { &bytes[..bytes.len() / 2] } else { &bytes[..] };
        if disk.check_running().is_ok() || failed.is_none() {
            disk.change(self.id, Change::Write { position, bytes: written.into() })?;
        }
        failed.map_or(Ok(()), Err)
    }

    fn info(&self) -> io::Result<FileInfo> {
        let mut disk = self.storage.lock_disk();
        disk.check_running()?;
        Ok(FileInfo { kind: FileKind::File, len: disk.inode(self.id).cached.len() as u64, id: self.id })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut disk = self.storage.lock_disk();
        disk.begin(Call::SetLen, || format!("{} to {len}", self.name))?;
        disk.change(self.id, Change::SetLen(len))
    }

    fn sync(&self) -> io::Result<()> {
        let mut disk = self.storage.lock_disk();
        let synced = disk.begin(Call::Sync, || self.name.clone());
        let running = disk.check_running().is_ok();
        let inode = disk.inode(self.id);
        if synced.is_ok() {
            inode.durable = Arc::clone(&inode.cached);
        }
        // A failed sync leaves the pages clean: a later one does not write them.
        if synced.is_ok() || running {
            inode.pending.clear();
        }
        synced
    }

    fn reserve(&self, position: u64, len: u64, _how: Reserve) -> io::Result<Reserved> {
        self.write_at(&vec![0; len as usize], position)?;
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
