//! The lock file of a log directory.

use std::fs;
use std::io;

use crate::storage::LockGuard;

/// A locked lock file. Dropping it releases the lock.
#[derive(Debug)]
pub(super) struct FsLock {
    file: fs::File,
    process: u32,
}

impl LockGuard for FsLock {}

impl FsLock {
    /// Locks a file against this and other processes.
    pub(super) fn take(file: fs::File) -> io::Result<FsLock> {
        fs2::FileExt::try_lock_exclusive(&file)?;
        set_record_lock(&file, true)?;
        Ok(FsLock { file, process: std::process::id() })
    }
}

impl Drop for FsLock {
    fn drop(&mut self) {
        // A child forked meanwhile shares the lock through its descriptor, so closing ours would not release it. The
        // child itself must not release the lock, because it is not the child's.
        if std::process::id() == self.process {
            let _ = set_record_lock(&self.file, false);
            let _ = fs2::FileExt::unlock(&self.file);
        }
    }
}

/// Takes or releases an open-file-description lock. Unlike `flock`, it conflicts with the record locks of a JVM. Unlike
/// those record locks, it is not shared within a process.
#[cfg(target_os = "linux")]
fn set_record_lock(file: &fs::File, locked: bool) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let lock = libc::flock {
        l_type: if locked { libc::F_WRLCK } else { libc::F_UNLCK } as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    // SAFETY: the descriptor is open for the whole call, and `lock` is a valid `flock` that outlives it.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &lock) };
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EACCES | libc::EAGAIN) => Err(io::ErrorKind::WouldBlock.into()),
        _ => Err(error),
    }
}

#[cfg(not(target_os = "linux"))]
fn set_record_lock(_file: &fs::File, _locked: bool) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{FileSystem, Storage};

    #[test]
    fn a_descriptor_that_a_child_inherited_does_not_keep_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let storage = FileSystem::new();
        let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
        // A forked child has the same open file.
        let inherited = file.try_clone().unwrap();
        let lock = FsLock::take(file).unwrap();
        assert_eq!(storage.lock(&path).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(lock);
        storage.lock(&path).unwrap();
        drop(inherited);
    }
}
