//! The state of the simulated disk: of each file what the page cache holds and what the disk holds, with the changes in
//! between; of each directory the same of its names.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crate::storage::{FileInfo, FileKind, Sizes};

use super::change::Change;
use super::fault::{Call, Draw, Failed, Faults};
use super::in_use::{By, InUse};

/// The id of the root directory.
pub(super) const ROOT: u64 = 0;

/// The machine is off.
const STOPPED: &str = "the machine has stopped";

#[derive(Clone, Default)]
pub(super) struct Disk {
    pub(super) inodes: BTreeMap<u64, Arc<Inode>>,
    pub(super) dirs: BTreeMap<u64, Arc<Dir>>,
    pub(super) last_id: u64,
    pub(super) locks: HashSet<PathBuf>,
    /// Calls that have changed something.
    pub(super) operations: u64,
    /// The time: it goes on with each change to a file, over crashes too.
    pub(super) clock: u64,
    pub(super) stop_after: Option<u64>,
    pub(super) faults: Faults,
    /// Bytes that still fit; `None` for no limit.
    pub(super) free: Option<u64>,
    /// Whether files are mapped.
    pub(super) maps: bool,
    pub(super) sizes: Sizes,
    /// What was done, when it is recorded.
    pub(super) trace: Option<Vec<String>>,
    /// Where random bytes come from.
    pub(super) random: u64,
    /// What the process has of the files: nothing of it survives a crash.
    pub(super) in_use: InUse,
}

/// The bytes of a file, shared by all states of the disk that agree on them.
#[derive(Clone, Debug, Default)]
pub(super) struct Content(Arc<Body>);

#[derive(Clone, Debug, Default)]
struct Body {
    bytes: Vec<u8>,
    hash: OnceLock<u64>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    /// What a program sees as its identity: a number that is used again once nobody has the file.
    pub(super) number: u64,
    pub(super) cached: Content,
    pub(super) durable: Content,
    pub(super) pending: Vec<Pending<Change>>,
    /// A sync has failed: the cache holds what neither the disk has nor the next sync writes.
    pub(super) lossy: bool,
    /// When it was changed last.
    pub(super) modified: u64,
    /// The same as of the last sync.
    pub(super) durably_modified: u64,
}

/// What no sync has covered, with the number of the operation.
#[derive(Clone, Debug)]
pub(super) struct Pending<T> {
    pub(super) order: u64,
    pub(super) what: T,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Dir {
    pub(super) cached: BTreeMap<String, Node>,
    pub(super) durable: BTreeMap<String, Node>,
    pub(super) pending: Vec<Pending<NameChange>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Node {
    File(u64),
    Dir(u64),
}

/// A change to the names of a directory.
#[derive(Clone, Debug)]
pub(super) enum NameChange {
    Add(String, Node),
    Remove(String),
    Rename(String, String, Node),
}

impl Content {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0.bytes
    }

    pub(super) fn edit(&mut self) -> &mut Vec<u8> {
        let body = Arc::make_mut(&mut self.0);
        body.hash = OnceLock::new();
        &mut body.bytes
    }

    /// Worked out once for all who share the bytes.
    pub(super) fn hash(&self) -> u64 {
        *self.0.hash.get_or_init(|| hash(&self.0.bytes, self.0.bytes.len() as u64))
    }
}

/// A fast hash; two different images have the same one with a chance of about 2^-64.
pub(super) fn hash(bytes: &[u8], seed: u64) -> u64 {
    let fold = |a: u64, b: u64| {
        let product = u128::from(a) * u128::from(b);
        (product as u64) ^ (product >> 64) as u64
    };
    let mut hash = seed ^ 0x2D35_8DCC_AA6C_78A5;
    for chunk in bytes.chunks(16) {
        let mut words = [0; 16];
        words[..chunk.len()].copy_from_slice(chunk);
        let word = u128::from_be_bytes(words);
        hash = fold(hash ^ (word as u64) ^ 0x8BB8_4B93_962E_ACC9, (word >> 64) as u64 ^ 0x4B33_A62E_D433_D4A3);
        hash = hash.rotate_left(23) ^ word as u64;
    }
    fold(hash ^ 0x9E37_79B9_7F4A_7C15, 0xE703_7ED1_A0B4_28DB ^ bytes.len() as u64)
}

impl NameChange {
    pub(super) fn apply(&self, names: &mut BTreeMap<String, Node>) {
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
    /// Everything since the last sync is on the disk.
    pub(super) fn sync(&mut self) {
        if self.lossy {
            // What a failed sync lost is lost: the pages were marked clean.
            let durable = self.durable.edit();
            self.pending.iter().for_each(|change| change.what.apply(durable));
        } else {
            self.durable = self.cached.clone();
        }
        self.durably_modified = self.modified;
        self.pending.clear();
    }

    /// The pages are marked clean, and of their content the disk has what the seed chooses. Lengths are no pages: they
    /// still wait for a sync.
    pub(super) fn fail_sync(&mut self, seed: u64) {
        let mut draw = Draw(seed);
        let pending = std::mem::take(&mut self.pending);
        for change in pending {
            if matches!(change.what, Change::SetLen(_)) {
                self.pending.push(change);
                continue;
            }
            self.lossy = true;
            if seed == 0 {
                continue;
            }
            match draw.below(3) {
                0 => {}
                1 => change.what.apply_torn(self.durable.edit(), &mut draw),
                _ => change.what.apply(self.durable.edit()),
            }
        }
    }
}

impl Disk {
    pub(super) fn new() -> Disk {
        let dirs = BTreeMap::from([(ROOT, Arc::new(Dir::default()))]);
        Disk { dirs, maps: true, ..Disk::default() }
    }

    /// Counts a call that changes something; what it fails with, if it does. Fails when the machine has stopped.
    pub(super) fn begin(&mut self, call: Call, what: impl FnOnce() -> String) -> io::Result<Option<Failed>> {
        self.check_running()?;
        self.operations += 1;
        let failed = self.faults.begin(call);
        if let Some(trace) = &mut self.trace {
            let failed = if failed.is_some() { ": fails" } else { "" };
            trace.push(format!("{} {call:?} {}{failed}", self.operations, what()));
        }
        Ok(failed)
    }

    /// The same of a call that leaves nothing when it fails.
    pub(super) fn begin_whole(&mut self, call: Call, what: impl FnOnce() -> String) -> io::Result<()> {
        self.begin(call, what)?.map_or(Ok(()), |failed| Err(failed.error))
    }

    /// Counts a store into a mapping, which cannot fail; whether the machine still runs.
    pub(super) fn store(&mut self, what: impl FnOnce() -> String) -> bool {
        if self.check_running().is_err() {
            return false;
        }
        self.operations += 1;
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{} Store {}", self.operations, what()));
        }
        true
    }

    /// Counts a call that changes nothing.
    pub(super) fn look(&mut self, call: Call) -> io::Result<()> {
        self.check_running()?;
        self.faults.begin(call).map_or(Ok(()), |failed| Err(failed.error))
    }

    pub(super) fn check_running(&self) -> io::Result<()> {
        if self.stop_after.is_some_and(|stop| self.operations >= stop) {
            return Err(io::Error::other(STOPPED));
        }
        Ok(())
    }

    /// Another time than all before.
    pub(super) fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    pub(super) fn new_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// The id of a directory.
    pub(super) fn dir_id(&self, path: &Path) -> io::Result<u64> {
        let mut id = ROOT;
        for part in path.components().skip(1) {
            let name = part.as_os_str().to_str().ok_or(io::ErrorKind::NotFound)?;
            id = match self.dirs.get(&id).and_then(|dir| dir.cached.get(name)) {
                Some(Node::Dir(id)) => *id,
                _ => return Err(io::ErrorKind::NotFound.into()),
            };
        }
        Ok(id)
    }

    pub(super) fn dir(&self, path: &Path) -> io::Result<&Dir> {
        let id = self.dir_id(path)?;
        self.dirs.get(&id).map(|dir| &**dir).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) fn dir_mut(&mut self, path: &Path) -> io::Result<&mut Dir> {
        let id = self.dir_id(path)?;
        self.dirs.get_mut(&id).map(Arc::make_mut).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) fn node(&self, path: &Path) -> io::Result<Node> {
        let (parent, name) = split(path)?;
        self.dir(parent)?.cached.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) fn file(&self, path: &Path) -> io::Result<u64> {
        match self.node(path)? {
            Node::File(id) => Ok(id),
            Node::Dir(_) => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
        }
    }

    pub(super) fn change_names(&mut self, dir: &Path, change: NameChange) -> io::Result<()> {
        let order = self.operations;
        let dir = self.dir_mut(dir)?;
        change.apply(&mut dir.cached);
        dir.pending.push(Pending { order, what: change });
        Ok(())
    }

    /// Makes a file, with the lowest number that no file has.
    pub(super) fn new_inode(&mut self) -> u64 {
        let id = self.new_id();
        let taken: HashSet<u64> = self.live().into_iter().map(|id| self.number(id)).collect();
        let number = (1..).find(|number| !taken.contains(number)).unwrap_or_default();
        let modified = self.tick();
        let inode = Inode { number, modified, durably_modified: modified, ..Inode::default() };
        self.inodes.insert(id, Arc::new(inode));
        id
    }

    /// The files that have a name, and those that somebody has open, mapped or held.
    fn live(&self) -> Vec<u64> {
        let named = self.dirs.values().flat_map(|dir| dir.cached.values());
        let named = named.filter_map(|node| if let Node::File(id) = node { Some(*id) } else { None });
        named.chain(self.in_use.files()).collect()
    }

    /// What a program sees as a file's identity.
    pub(super) fn number(&self, id: u64) -> u64 {
        self.inodes.get(&id).map_or(0, |inode| inode.number)
    }

    pub(super) fn inode(&mut self, id: u64) -> &mut Inode {
        Arc::make_mut(self.inodes.entry(id).or_default())
    }

    pub(super) fn content(&self, id: u64) -> &[u8] {
        self.inodes.get(&id).map_or(&[], |inode| inode.cached.bytes())
    }

    pub(super) fn file_info(&self, id: u64) -> FileInfo {
        let modified = self.inodes.get(&id).map_or(0, |inode| inode.modified) as i64;
        FileInfo { kind: FileKind::File, len: self.content(id).len() as u64, id: self.number(id), modified }
    }

    /// Changes a file in the page cache. On a full disk a write is done as far as it fits.
    pub(super) fn change(&mut self, id: u64, change: Change, by: By) -> io::Result<()> {
        let before = self.content(id).len() as u64;
        let after = match &change {
            Change::Write { position, bytes } => before.max(position + bytes.len() as u64),
            Change::SetLen(len) => *len,
        };
        let change = match (self.take_space(after.saturating_sub(before)), change) {
            (Ok(()), change) => change,
            (Err(full), Change::Write { position, bytes }) => {
                let room = self.free.take().unwrap_or_default();
                let fits = (before + room).saturating_sub(position).min(bytes.len() as u64) as usize;
                self.free = Some((before + room).saturating_sub(before.max(position + fits as u64)));
                self.apply(id, Change::Write { position, bytes: bytes[..fits].into() }, by);
                return Err(full);
            }
            (Err(full), Change::SetLen(_)) => return Err(full),
        };
        self.give_space(before.saturating_sub(after));
        self.apply(id, change, by);
        Ok(())
    }

    /// Changes a file in the page cache, within the space that it has.
    pub(super) fn apply(&mut self, id: u64, change: Change, by: By) {
        let (order, modified) = (self.operations, self.tick());
        self.in_use.check(id, &change, by);
        let inode = self.inode(id);
        change.apply(inode.cached.edit());
        inode.modified = modified;
        inode.pending.push(Pending { order, what: change });
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

    pub(super) fn give_space(&mut self, shrunk: u64) {
        if let Some(free) = &mut self.free {
            *free += shrunk;
        }
    }
}

pub(super) fn split(path: &Path) -> io::Result<(&Path, &str)> {
    let name = path.file_name().and_then(|name| name.to_str()).ok_or(io::ErrorKind::InvalidInput)?;
    Ok((path.parent().unwrap_or(Path::new("/")), name))
}
