//! What something takes: time, processors, memory, disk.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Instant;

use rustix::time::{ClockId, clock_gettime};

/// Time, and what the process has used of the processors.
pub struct Clocked {
    began: Instant,
    cpu: f64,
}

impl Clocked {
    pub fn start() -> Clocked {
        Clocked { began: Instant::now(), cpu: cpu_seconds() }
    }

    /// Seconds, and seconds of a processor, of all threads and of the kernel for them.
    pub fn stop(&self) -> (f64, f64) {
        (self.began.elapsed().as_secs_f64(), cpu_seconds() - self.cpu)
    }
}

fn cpu_seconds() -> f64 {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

/// Resident memory, in bytes: allocated, and mapped of files.
pub fn rss() -> f64 {
    status("VmRSS:")
}

/// The most it was since [`reset_peak`].
pub fn peak_rss() -> f64 {
    status("VmHWM:")
}

/// Resident memory that is no file's.
pub fn anonymous_rss() -> f64 {
    status("RssAnon:")
}

pub fn reset_peak() {
    // Where that is not allowed, what is told is the peak of the whole life of the process.
    let _ = fs::write("/proc/self/clear_refs", "5");
}

fn status(name: &str) -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0) * 1024.0
}

/// Bytes that the files of a directory take on disk: blocks, not lengths.
pub fn blocks_in(dir: &Path) -> f64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0.0 };
    let of = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => blocks_in(&entry.path()),
        Ok(metadata) => (metadata.blocks() * 512) as f64,
        Err(_) => 0.0,
    };
    entries.flatten().map(of).sum()
}
