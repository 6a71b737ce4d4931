//! A simulated file system in memory: it can crash at any operation, fail any call, and run out of space. Without
//! faults it is a plain in-memory storage.
//!
//! It knows of each file what the page cache holds and what the disk holds, with the writes in between, and of each
//! directory the same of its names. A [crash](SimStorage::crash) keeps what was synced, and of the rest what is chosen:
//! in [`Order::Strict`] any subset of names and writes, writes torn or lost, lengths ahead of the data; in
//! [`Order::Journaled`] a prefix of the changes to names, as journaling file systems keep them.
//! [`SimStorage::observed`] hands out the state before each operation, and [`Image::all`] lists what a power cut may
//! leave of it.

mod change;
mod crash;
mod disk;
mod fault;
mod in_use;
mod seam;

use std::io;
use std::path::{Path, PathBuf};

use super::Sizes;
use super::holds::Registry;
use crate::sync::{Arc, Mutex, MutexGuard};

pub use self::crash::{Breadth, Crash, Image, Kept, Order};
use self::disk::{Disk, Node, ROOT, hash};
pub use self::fault::{Call, Calls, Failure, Fault, Injection};
pub(super) use self::seam::SimWindow;

/// A file system in memory. Clones are the same one.
#[derive(Clone)]
pub struct SimStorage {
    shared: Arc<PartitionCore>,
    observer: Option<Observer>,
}

struct PartitionCore {
    disk: Mutex<Disk>,
    /// What somebody holds of the files.
    held: Registry<u64>,
}

/// Is handed the state before each operation that changes something.
pub type Observer = Arc<dyn Fn(SimStorage) + Send + Sync>;

impl SimStorage {
    /// An empty file system with a root directory.
    pub fn new() -> SimStorage {
        SimStorage::of(Disk::new())
    }

    fn of(disk: Disk) -> SimStorage {
        SimStorage { shared: Arc::new(PartitionCore { disk: Mutex::new(disk), held: Registry::new() }), observer: None }
    }

    /// A handle that hands the state before each operation made through it to `observer`, which must not use the
    /// storage itself.
    pub fn observed(&self, observer: impl Fn(SimStorage) + Send + Sync + 'static) -> SimStorage {
        SimStorage { shared: Arc::clone(&self.shared), observer: Some(Arc::new(observer)) }
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
        self.lock_disk().check_running().is_err()
    }

    /// Records what is done from now on.
    pub fn record(&self) {
        self.lock_disk().trace = Some(Vec::new());
    }

    /// What was done since [`record`](Self::record), one line for each operation.
    pub fn trace(&self) -> Vec<String> {
        self.lock_disk().trace.clone().unwrap_or_default()
    }

    /// Chooses the random bytes that it gives.
    pub fn seed_random(&self, seed: u64) {
        self.lock_disk().random = seed;
    }

    /// Has a call fail; `None` for no fault. Counting begins anew.
    pub fn set_fault(&self, fault: Option<Fault>) {
        self.lock_disk().faults.set(fault);
    }

    /// Has a call fail as the operating system would have it fail. Counting begins anew.
    pub fn inject(&self, injection: Injection) {
        self.lock_disk().faults.inject(injection);
    }

    /// How many calls have failed since the fault was set.
    pub fn failed(&self) -> u64 {
        self.lock_disk().faults.failed()
    }

    /// How many calls there were since the fault was set, or removed.
    pub fn calls(&self, calls: Calls) -> u64 {
        self.lock_disk().faults.count(calls)
    }

    /// So many bytes more can be written; `None` for no limit.
    pub fn set_free_space(&self, bytes: Option<u64>) {
        self.lock_disk().free = bytes;
    }

    /// Whether files are mapped, for reading and for appends. Default `true`.
    pub fn set_maps(&self, maps: bool) {
        self.lock_disk().maps = maps;
    }

    /// What it pays to reserve and to map on it. Default: that of every storage. Small ones have a short workload come
    /// to every window.
    pub fn set_sizes(&self, sizes: Sizes) {
        self.lock_disk().sizes = sizes;
    }

    /// Takes the violations that showed so far: bytes that somebody has mapped or holds were overwritten or cut off, or
    /// zeros of reserved space met what is written. One that nobody takes fails the test when the storage is dropped.
    pub fn take_violations(&self) -> Vec<String> {
        self.lock_disk().in_use.take_violations()
    }

    /// Flips a bit of a file, in the page cache and on the disk.
    ///
    /// # Errors
    /// When there is no such file, or it is shorter.
    pub fn flip(&self, path: &Path, position: usize, bit: u8) -> io::Result<()> {
        let mut disk = self.lock_disk();
        let id = disk.file(path)?;
        let inode = disk.inode(id);
        *inode.cached.edit().get_mut(position).ok_or(io::ErrorKind::UnexpectedEof)? ^= 1 << (bit % 8);
        // What is not durable yet is flipped in the cache alone.
        if let Some(byte) = inode.durable.edit().get_mut(position) {
            *byte ^= 1 << (bit % 8);
        }
        Ok(())
    }

    /// Replaces all bytes of a file, in the page cache and on the disk: damage, or what another program wrote.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn overwrite(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.lock_disk();
        let id = disk.file(path)?;
        let modified = disk.tick();
        let inode = disk.inode(id);
        bytes.clone_into(inode.cached.edit());
        inode.durable = inode.cached.clone();
        (inode.modified, inode.durably_modified) = (modified, modified);
        inode.pending.clear();
        Ok(())
    }

    /// Replaces all bytes of a file as a medium that fails does: its time of the last change stays.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn rot(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.lock_disk();
        let id = disk.file(path)?;
        let inode = disk.inode(id);
        bytes.clone_into(inode.cached.edit());
        inode.durable = inode.cached.clone();
        inode.pending.clear();
        Ok(())
    }

    /// What a power cut leaves, as a file system of its own: nobody has it open, and all of it is durable.
    pub fn crash(&self, crash: &Crash) -> SimStorage {
        self.image(&Image::drawn(crash))
    }

    /// One of the images that a power cut may leave, as a file system of its own.
    pub fn image(&self, image: &Image) -> SimStorage {
        SimStorage::of(self.lock_disk().after(image))
    }

    /// How many changes to names, and how many to files, no sync has covered.
    pub fn pending(&self) -> (usize, usize) {
        self.lock_disk().pending()
    }

    /// What a killed process leaves: all of it is still in the page cache, nobody has it open, nothing more is durable.
    pub fn kill(&self) -> SimStorage {
        let disk = self.lock_disk();
        let left = Disk {
            inodes: disk.inodes.clone(),
            dirs: disk.dirs.clone(),
            last_id: disk.last_id,
            operations: disk.operations,
            clock: disk.clock,
            free: disk.free,
            random: disk.random ^ 1,
            maps: disk.maps,
            sizes: disk.sizes,
            ..Disk::default()
        };
        SimStorage::of(left)
    }

    /// A hash of everything that a program can find out: two images that agree are the same.
    pub fn digest(&self) -> u64 {
        let disk = self.lock_disk();
        let mut hash_of = 0;
        let mut reachable = vec![ROOT];
        while let Some(id) = reachable.pop() {
            for (name, node) in disk.dirs.get(&id).iter().flat_map(|dir| &dir.cached) {
                hash_of = hash(name.as_bytes(), hash_of);
                let (id, content, modified) = match node {
                    Node::File(id) => {
                        let inode = disk.inodes.get(id);
                        inode.map_or((0, 0, 0), |inode| (inode.number, inode.cached.hash(), inode.modified))
                    }
                    Node::Dir(id) => {
                        reachable.push(*id);
                        (*id, 1, 0)
                    }
                };
                hash_of = hash(&[id, content, modified].map(u64::to_be_bytes).concat(), hash_of);
            }
        }
        hash_of
    }

    /// The bytes of a file, as a reader sees them.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn contents(&self, path: &Path) -> io::Result<Vec<u8>> {
        let disk = self.lock_disk();
        let id = disk.file(path)?;
        Ok(disk.content(id).to_vec())
    }

    /// Every file's path and length, in order.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let disk = self.lock_disk();
        let mut files = Vec::new();
        let mut reachable = vec![(PathBuf::from("/"), ROOT)];
        while let Some((path, id)) = reachable.pop() {
            for (name, node) in disk.dirs.get(&id).iter().flat_map(|dir| &dir.cached) {
                match node {
                    Node::File(id) => files.push((path.join(name), disk.content(*id).len() as u64)),
                    Node::Dir(id) => reachable.push((path.join(name), *id)),
                }
            }
        }
        files.sort();
        files
    }

    /// The state as it is now, of its own from here on: a machine that stands still.
    pub fn snapshot(&self) -> SimStorage {
        SimStorage::of(Disk { in_use: Default::default(), ..self.lock_disk().clone() })
    }

    fn lock_disk(&self) -> MutexGuard<'_, Disk> {
        self.shared.disk.lock()
    }

    /// The disk, for an operation that changes something.
    fn change_disk(&self) -> MutexGuard<'_, Disk> {
        let disk = self.lock_disk();
        if let Some(observer) = &self.observer {
            observer(SimStorage::of(Disk { in_use: Default::default(), ..disk.clone() }));
        }
        disk
    }
}

impl Drop for PartitionCore {
    fn drop(&mut self) {
        let violations = self.disk.lock().in_use.take_violations();
        assert!(violations.is_empty() || std::thread::panicking(), "violations: {violations:?}");
    }
}

impl Default for SimStorage {
    fn default() -> SimStorage {
        SimStorage::new()
    }
}

impl std::fmt::Debug for SimStorage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimStorage").field("operations", &self.operations()).finish_non_exhaustive()
    }
}
