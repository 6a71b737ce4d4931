//! Real system calls that fail, a real disk that is full, a real sync that fails. What the machine does not allow is
//! skipped, and said.
//!
//! A child process works on a log and tells what it was told. Its system calls are made to fail by `strace`, one of
//! them in each case. `STRATALOG_STRACE_CASES` says how many cases, 40 if it does not.
#![cfg(target_os = "linux")]

mod common;

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::quiet;
use stratalog::{ErrorKind, Log, LogConfig, Offset, Partition, Record, TopicConfig};

const TEST: &str = "a_system_call_that_fails_breaks_no_promise";
/// Set for a child: the directory.
const DIR: &str = "STRATALOG_STRACE_DIR";
const COUNT: &str = "STRATALOG_STRACE_CASES";
const CASES: usize = 40;
/// What is said before the first call that may fail.
const BEGUN: &str = "begun";

/// System calls, and how each is made to fail.
const INJECTIONS: [(&str, &str); 24] = [
    ("fsync", "error=EIO"),
    ("fsync", "error=ENOSPC"),
    ("fsync", "error=EINTR"),
    ("fsync", "signal=SIGKILL"),
    ("pwrite64", "error=EIO"),
    ("pwrite64", "error=ENOSPC"),
    ("pwrite64", "error=EINTR"),
    ("pwrite64", "retval=0"),
    ("pwrite64", "signal=SIGKILL"),
    ("pwritev", "error=EIO"),
    ("pwritev", "error=ENOSPC"),
    ("pwritev", "signal=SIGKILL"),
    ("openat", "error=EMFILE"),
    ("openat", "error=ENOSPC"),
    ("openat", "error=EIO"),
    ("ftruncate", "error=EIO"),
    ("ftruncate", "error=ENOSPC"),
    ("/rename", "error=EIO"),
    ("/rename", "error=ENOSPC"),
    ("/rename", "signal=SIGKILL"),
    ("/unlink", "error=EIO"),
    ("/unlink", "signal=SIGKILL"),
    ("pread64", "error=EIO"),
    ("pread64", "error=EINTR"),
];

fn config() -> LogConfig {
    quiet().checkpoint_bytes(8192)
}

fn topic() -> TopicConfig {
    TopicConfig::new().segment_bytes(4096).index_interval_bytes(256)
}

fn value(offset: u64) -> String {
    format!("{offset}-").repeat(20)
}

/// A line to the parent, whole in the pipe before anything else is done.
fn tell(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\n{line}\n").as_bytes()).and_then(|()| out.flush()).unwrap();
}

/// The child: says what it was told, and goes on after each error.
fn child(dir: &Path) {
    tell(BEGUN);
    for _ in 0..3 {
        match session(dir) {
            Ok(()) => {}
            Err(error) => tell(&format!("error {error}")),
        }
    }
}

fn session(dir: &Path) -> stratalog::Result<()> {
    let log = Log::open(dir, config())?;
    if log.topic("t").is_none() {
        log.create_topic("t", 1, topic())?;
    }
    let Some(partition) = log.partition("t", 0) else { return Ok(()) };
    for n in 0..60 {
        let end = partition.offsets().end;
        tell(&format!("try {end}"));
        if let Err(error) = partition.append_records([Record::new("key", &value(end.get()))]) {
            tell(&format!("error {error}"));
        }
        let told = match n {
            _ if n % 10 == 9 => partition.flush().map(|durable| tell(&format!("durable {durable}"))),
            25 => partition.roll(),
            35 => {
                let to = Offset::new(end.get() / 3);
                tell(&format!("deleting {to}"));
                partition.delete_before(to).map(|()| tell(&format!("start {to}")))
            }
            45 => log.create_topic("u", 1, topic()).and_then(|_| log.delete_topic("u")),
            _ => Ok(()),
        };
        if let Err(error) = told {
            tell(&format!("error {error}"));
        }
    }
    log.close()
}

/// What a child was told.
#[derive(Default)]
struct Told {
    begun: bool,
    errors: usize,
    tried: u64,
    durable: u64,
    start: u64,
    start_max: u64,
}

impl Told {
    fn of(output: &str) -> Told {
        let mut told = Told::default();
        for line in output.lines() {
            let number = || line.rsplit(' ').next().and_then(|word| word.trim_start_matches('@').parse().ok()).unwrap();
            match line.split(' ').next() {
                Some(BEGUN) => told.begun = true,
                Some("error") => told.errors += 1,
                Some("try") => told.tried = told.tried.max(number() + 1),
                Some("durable") => told.durable = told.durable.max(number()),
                Some("deleting") => told.start_max = told.start_max.max(number()),
                Some("start") => told.start = told.start.max(number()),
                _ => {}
            }
        }
        told
    }

    /// Whether the log is what the child was told.
    fn check(&self, dir: &Path, what: &str) {
        let log = Log::open(dir, config()).unwrap_or_else(|error| panic!("{what}: {error}"));
        let Some(partition) = log.partition("t", 0) else {
            assert_eq!(self.durable, 0, "{what}: the topic is gone");
            return;
        };
        assert!(partition.stats().error.is_none(), "{what}: {:?}", partition.stats().error);
        let offsets = partition.offsets();
        let (start, end) = (offsets.start.get(), offsets.end.get());
        assert!(
            (self.durable..=self.tried).contains(&end),
            "{what}: {offsets:?}, not {}..={}",
            self.durable,
            self.tried
        );
        assert!((self.start..=self.start_max).contains(&start), "{what}: {offsets:?}, not {}", self.start);
        check_values(&partition, start, end, what);
        let findings = partition.verify().unwrap().findings;
        assert!(findings.is_empty(), "{what}: {findings:?}");
        partition.append_records([Record::new("key", &value(end))]).unwrap();
        log.close().unwrap();
    }
}

fn check_values(partition: &Partition, start: u64, end: u64, what: &str) {
    let mut reader = partition.reader(Offset::new(start)).unwrap();
    for offset in start..end {
        let record = reader.next_record().unwrap().unwrap_or_else(|| panic!("{what}: {offset} is gone"));
        assert_eq!((record.offset.get(), record.value), (offset, Some(value(offset).as_bytes())), "{what}");
    }
    assert!(reader.next_record().unwrap().is_none());
}

fn may_trace() -> bool {
    Command::new("strace").args(["-qq", "-e", "trace=none", "true"]).status().is_ok_and(|status| status.success())
}

#[test]
fn a_system_call_that_fails_breaks_no_promise() {
    if let Some(dir) = std::env::var_os(DIR) {
        return child(Path::new(&dir));
    }
    if !may_trace() {
        println!("SKIPPED: no strace here, or it may not trace; no system call is made to fail");
        return;
    }
    let wanted = std::env::var(COUNT).ok().and_then(|count| count.parse().ok()).unwrap_or(CASES);
    let (mut cases, mut tries, mut told, mut by_call) = (0, 0, 0, BTreeMap::<&str, usize>::new());
    while cases < wanted {
        let (call, how) = INJECTIONS[tries % INJECTIONS.len()];
        let nth = 1 + tries / INJECTIONS.len() * 3 + tries % 3;
        tries += 1;
        assert!(tries < 6 * wanted + 100, "calls that do not come: {by_call:?}");
        // Where syncs take no time.
        let dir = if Path::new("/dev/shm").is_dir() { tempfile::tempdir_in("/dev/shm") } else { tempfile::tempdir() }
            .unwrap();
        let what = format!("{call}:{how}:when={nth}");
        let Some(child) = run(dir.path(), &what) else { continue };
        child.check(dir.path(), &what);
        cases += 1;
        told += usize::from(child.errors > 0);
        *by_call.entry(call).or_default() += 1;
    }
    println!("{cases} system calls made to fail, 0 bad; {told} of them were told of: {by_call:#?}");
}

/// Runs a child whose nth call fails; `None` when it has not come to that, or has not even begun.
fn run(dir: &Path, injection: &str) -> Option<Told> {
    let trace = dir.with_extension("strace");
    let call = injection.split(':').next().unwrap();
    let output = Command::new("strace")
        .args(["-f", "-qq", "-y", "-o", trace.to_str().unwrap(), "-e", &format!("trace={call}")])
        .args(["-e", &format!("inject={injection}")])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture", "--test-threads", "1"])
        .env(DIR, dir)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let traced = std::fs::read_to_string(&trace).unwrap_or_default();
    let _ = std::fs::remove_file(&trace);
    // Not a call of the loader's, before the log is there.
    let ours = |line: &str| line.contains("(INJECTED)") && line.contains(dir.to_str().unwrap());
    let killed = output.status.signal() == Some(9) || output.status.code() == Some(128 + 9);
    let told = Told::of(&String::from_utf8_lossy(&output.stdout));
    if !told.begun || !(killed || traced.lines().any(ours)) {
        return None;
    }
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(killed || output.status.success(), "{injection}: {:?} {errors}", output.status);
    Some(told)
}

/// A file system of so many MiB in memory; `None` where it may not be mounted.
struct Mounted(PathBuf);

impl Mounted {
    fn new(at: &Path, arguments: &[&str]) -> Option<Mounted> {
        std::fs::create_dir_all(at).unwrap();
        let mounted = Command::new("mount").args(arguments).arg(at).stderr(Stdio::null()).status();
        mounted.is_ok_and(|status| status.success()).then(|| Mounted(at.to_path_buf()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A child that another test is about to begin has our files open for a moment.
        for _ in 0..100 {
            let unmounted = Command::new("umount").arg(&self.0).stderr(Stdio::null()).status();
            if unmounted.is_ok_and(|status| status.success()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn a_disk_that_is_full_takes_no_append_and_gives_its_room_back() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("small");
    let Some(mounted) = Mounted::new(&at, &["-t", "tmpfs", "-o", "size=1M", "none"]) else {
        println!("SKIPPED: nothing may be mounted here, no real disk is full");
        return;
    };
    let dir = mounted.0.join("log");
    let log = Log::open(&dir, config()).unwrap();
    log.create_topic("t", 1, topic().segment_bytes(64 << 10)).unwrap();
    let partition = log.partition("t", 0).unwrap();
    let mut full = 0;
    for round in 0..20 {
        let error = loop {
            let end = partition.offsets().end.get();
            match partition.append_records([Record::new("key", &value(end))]) {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(*error.kind(), ErrorKind::DiskFull, "{error}");
        full += 1;
        let offsets = partition.offsets();
        check_values(&partition, offsets.start.get(), offsets.end.get(), "full");
        // Neither deleting nor opening needs room.
        let _ = partition.flush();
        let middle = Offset::new((offsets.start.get() + offsets.end.get()) / 2);
        partition.delete_before(middle).unwrap();
        partition.retain(stratalog::Timestamp::from_millis(0)).unwrap();
        if round % 5 == 0 {
            let again = Command::new("cp").args(["-r"]).arg(&dir).arg(at.with_extension("copy")).status().unwrap();
            assert!(again.success());
            let copy = Log::open(at.with_extension("copy"), config()).unwrap();
            let kept = copy.partition("t", 0).unwrap().offsets();
            assert_eq!((kept.start, kept.end), (middle, offsets.end));
            drop(copy);
            std::fs::remove_dir_all(at.with_extension("copy")).unwrap();
        }
    }
    let offsets = partition.offsets();
    drop((partition, log));
    let log = Log::open(&dir, config()).unwrap();
    let partition = log.partition("t", 0).unwrap();
    assert_eq!((partition.offsets().start, partition.offsets().end), (offsets.start, offsets.end));
    check_values(&partition, offsets.start.get(), offsets.end.get(), "opened again");
    println!("a disk of 1 MiB was full {full} times, 0 bad");
    drop((partition, log));
}

/// A sync fails where the device below the file system has no room for what the file system was sure to have.
#[test]
fn a_sync_that_fails_on_a_real_device_is_not_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mounted) = Mounted::new(&dir.path().join("below"), &["-t", "tmpfs", "-o", "size=8M", "none"]) else {
        println!("SKIPPED: nothing may be mounted here, no real sync fails");
        return;
    };
    let image = mounted.0.join("image");
    std::fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
    // Without a journal: else the file system as a whole gives up.
    let made = Command::new("mkfs.ext4").args(["-q", "-F", "-O", "^has_journal"]).arg(&image).status();
    let device = made
        .is_ok_and(|made| made.success())
        .then(|| Mounted::new(&dir.path().join("disk"), &["-o", "loop", image.to_str().unwrap()]));
    let Some(disk) = device.flatten() else {
        println!("SKIPPED: no ext4 on a loop device here, no real sync fails");
        return;
    };
    let log = Log::open(disk.0.join("log"), quiet().sync_threads(0)).unwrap();
    log.create_topic("t", 1, TopicConfig::new()).unwrap();
    let partition = log.partition("t", 0).unwrap();
    let append = || {
        let end = partition.offsets().end.get();
        partition.append_records([Record::new("key", &value(end))])
    };
    let mut durable = 0;
    let error = loop {
        for _ in 0..1000 {
            append().unwrap();
        }
        match partition.flush() {
            Ok(end) => durable = end.get(),
            Err(error) => break error,
        }
    };
    assert!(durable > 0, "{error}");
    assert_eq!(*append().unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(*partition.flush().unwrap_err().kind(), ErrorKind::Poisoned, "a sync that failed is not tried again");
    drop((partition, log));
    // Opened in the same boot, with room below: what is shown is on the disk, page cache or not.
    let grown = Command::new("mount").args(["-o", "remount,size=100M"]).arg(&mounted.0).status().unwrap();
    assert!(grown.success());
    let log = Log::open(disk.0.join("log"), quiet().sync_threads(0)).unwrap();
    let shown = log.partition("t", 0).unwrap().offsets().end.get();
    assert!(shown >= durable, "{shown} of {durable}");
    drop(log);
    drop(disk);
    let disk = Mounted::new(&dir.path().join("disk"), &["-o", "loop", image.to_str().unwrap()]).unwrap();
    let log = Log::open(disk.0.join("log"), quiet()).unwrap();
    let partition = log.partition("t", 0).unwrap();
    assert_eq!(partition.offsets().end.get(), shown);
    check_values(&partition, 0, shown, "mounted again");
    println!("a sync failed on a real device at {durable} records ({error}); {shown} were there afterwards, 0 bad");
    drop((partition, log));
}
