//! What takes another process: locks, permissions, a full disk.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use stratalog::{Budget, ErrorKind, Log, LogConfig, Offset, Record, Timestamp, TopicConfig};

use super::common::{append, expected, quiet, read};
use super::{listing, one};

/// Says in which directory a child process plays its part.
const DIR: &str = "STRATALOG_BAD_INPUT_DIR";

fn child_dir() -> Option<PathBuf> {
    std::env::var_os(DIR).map(PathBuf::from)
}

/// Runs one test of this file again, in a process of its own, behind `before`; `$0` there is the program.
fn again(test: &str, exe: &Path, dir: &Path, before: &str) -> Output {
    let script = format!("{before} \"$0\" --exact child::{test} --nocapture --test-threads 1");
    Command::new("sh").arg("-c").arg(script).arg(exe).env(DIR, dir).output().unwrap()
}

fn passed(output: &Output) {
    let text = [&*output.stdout, &*output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

fn exe() -> PathBuf {
    std::env::current_exe().unwrap()
}

fn skip(test: &str, why: &str) {
    eprintln!("SKIPPED {test}: {why}");
}

fn works(program: &str, args: &[&str]) -> bool {
    let run = Command::new(program).args(args).stdin(Stdio::null()).output();
    run.is_ok_and(|output| output.status.success())
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.starts_with(b"0\n"))
}

#[test]
fn a_directory_in_use_is_refused_here_and_in_other_processes() {
    const NAME: &str = "a_directory_in_use_is_refused_here_and_in_other_processes";
    if let Some(dir) = child_dir() {
        assert_eq!(*Log::open(&dir, quiet()).unwrap_err().kind(), ErrorKind::Locked);
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (log, partition) = one(dir.path());
    assert_eq!(*Log::open(dir.path(), quiet()).unwrap_err().kind(), ErrorKind::Locked);
    passed(&again(NAME, &exe(), dir.path(), "exec"));
    // The refused one must not have let go of the lock.
    assert_eq!(*Log::open(dir.path(), quiet()).unwrap_err().kind(), ErrorKind::Locked);
    append(&partition, 1);
    log.close().unwrap();
    assert_eq!(read(&Log::open(dir.path(), quiet()).unwrap().partition("t", 0).unwrap(), 0), expected(0..11));
}

/// A process that tries the lock, says `held` or `refused`, and waits for its input to end.
struct Locker(Child);

impl Locker {
    fn start(command: &mut Command) -> (Locker, String) {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
        (Locker(child), said.trim().to_owned())
    }

    fn end(mut self) {
        let _ = self.0.stdin.take().unwrap().flush();
        self.0.wait().unwrap();
    }
}

fn excludes(command: impl Fn(&Path) -> Command) {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = one(dir.path());
    let (locker, said) = Locker::start(&mut command(&dir.path().join(".lock")));
    locker.end();
    assert_eq!(said, "refused", "what we hold");
    assert_eq!(*Log::open(dir.path(), quiet()).unwrap_err().kind(), ErrorKind::Locked, "and we still hold it");
    log.close().unwrap();
    let (locker, said) = Locker::start(&mut command(&dir.path().join(".lock")));
    assert_eq!(said, "held", "what we have let go");
    assert_eq!(*Log::open(dir.path(), quiet()).unwrap_err().kind(), ErrorKind::Locked);
    locker.end();
    let log = Log::open(dir.path(), quiet()).unwrap();
    assert_eq!(read(&log.partition("t", 0).unwrap(), 0), expected(0..10));
}

#[test]
fn a_process_with_a_record_lock_excludes_us_and_we_exclude_it() {
    const NAME: &str = "a_process_with_a_record_lock_excludes_us_and_we_exclude_it";
    if !works("python3", &["-c", "import fcntl"]) {
        return skip(NAME, "no python3 with fcntl");
    }
    const SCRIPT: &str = "
import fcntl, sys
with open(sys.argv[1], 'r+b') as file:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        print('held', flush=True)
        sys.stdin.read()
    except OSError:
        print('refused', flush=True)
";
    excludes(|lock| {
        let mut command = Command::new("python3");
        command.arg("-c").arg(SCRIPT).arg(lock);
        command
    });
}

#[test]
fn a_java_process_excludes_us_and_we_exclude_it() {
    const NAME: &str = "a_java_process_excludes_us_and_we_exclude_it";
    const PROGRAM: &str = r#"
import java.nio.channels.*;
import java.nio.file.*;
public class Lock {
    public static void main(String[] args) throws Exception {
        try (FileChannel file = FileChannel.open(Path.of(args[0]), StandardOpenOption.READ, StandardOpenOption.WRITE)) {
            FileLock lock = file.tryLock();
            System.out.println(lock == null ? "refused" : "held");
            System.out.flush();
            if (lock != null) System.in.read();
        }
    }
}
"#;
    if !works("java", &["-version"]) {
        return skip(NAME, "no java");
    }
    let source = tempfile::tempdir().unwrap();
    let program = source.path().join("Lock.java");
    fs::write(&program, PROGRAM).unwrap();
    excludes(|lock| {
        let mut command = Command::new("java");
        command.arg(&program).arg(lock);
        command
    });
}

#[test]
fn a_directory_without_permission_is_an_error_and_stays_as_it_is() {
    const NAME: &str = "a_directory_without_permission_is_an_error_and_stays_as_it_is";
    let denied = |dir: &Path| {
        let error = Log::open(dir, quiet()).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Io(std::io::ErrorKind::PermissionDenied), "{error:?}");
        assert!(error.path().is_some_and(|path| path.starts_with(dir)));
    };
    if let Some(dir) = child_dir() {
        return denied(&dir);
    }
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let parent = tempfile::tempdir().unwrap();
    mode(parent.path(), 0o755);
    let dir = parent.path().join("log");
    let (log, _) = one(&dir);
    log.close().unwrap();
    // It can be listed, but neither read nor written.
    mode(&dir, 0o555);
    let before = listing(&dir);
    if is_root() {
        const NOBODY: &[&str] = &["--reuid=65534", "--regid=65534", "--clear-groups"];
        let copy = parent.path().join("test");
        fs::copy(exe(), &copy).unwrap();
        mode(&copy, 0o755);
        let list = [NOBODY, &[copy.to_str().unwrap(), "--list"]].concat();
        if !works("setpriv", &list) {
            return skip(NAME, "root may do everything, and setpriv does not work");
        }
        passed(&again(NAME, &copy, &dir, &format!("exec setpriv {}", NOBODY.join(" "))));
    } else {
        denied(&dir);
    }
    assert_eq!(listing(&dir), before);
    mode(&dir, 0o755);
    let log = Log::open(&dir, quiet()).unwrap();
    assert_eq!(read(&log.partition("t", 0).unwrap(), 0), expected(0..10));
}

#[test]
fn a_full_disk_takes_nothing_back_and_stops_nothing_but_appends() {
    const NAME: &str = "a_full_disk_takes_nothing_back_and_stops_nothing_but_appends";
    if let Some(dir) = child_dir() {
        // With and without reserved space, synced and not.
        for windows in [false, true] {
            for durability in [stratalog::Durability::Sync, TopicConfig::new().durability] {
                let topic = TopicConfig::new().segment_bytes(64 << 10).append_windows(windows).durability(durability);
                fill(&dir.join(format!("log-{windows}-{durability:?}").replace(' ', "")), topic);
            }
        }
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mount = format!("mount -t tmpfs -o size=1m none '{}'", dir.path().display());
    let Some(unshare) = [&["-m"][..], &["-r", "-m"]]
        .into_iter()
        .find(|how| works("unshare", &[how, &["sh", "-c", &mount][..]].concat()))
    else {
        return skip(NAME, "a small tmpfs cannot be mounted");
    };
    let inner = format!("{mount} && exec \"$0\" \"$@\"").replace('\'', "'\\''");
    let before = format!("exec unshare {} sh -c '{inner}'", unshare.join(" "));
    passed(&again(NAME, &exe(), dir.path(), &before));
}

/// Fills the disk, and goes through everything that must work then.
fn fill(dir: &Path, topic: TopicConfig) {
    println!("{}", dir.display());
    let log = Log::open(dir, quiet()).unwrap();
    log.create_topic("t", 1, topic).unwrap();
    let partition = log.partition("t", 0).unwrap();
    let value = |n: u64| format!("{n}-").repeat(400);
    let write = |partition: &stratalog::Partition, n: u64| partition.append_records([Record::new("key", &value(n))]);
    let mut end = 0;
    let error = loop {
        match write(&partition, end) {
            Ok(appended) => assert_eq!(appended.base_offset, Offset::new(end)),
            Err(error) => break error,
        }
        end += 1;
    };
    println!("the disk is full after {end} records: {error}");
    assert_eq!(*error.kind(), ErrorKind::DiskFull, "{error:?}");
    assert!(end > 100);
    for _ in 0..3 {
        // Smaller ones may still fit: whatever is acknowledged counts.
        match partition.append_records([Record::new("key", "small")]) {
            Ok(_) => break,
            Err(error) => assert_eq!(*error.kind(), ErrorKind::DiskFull, "{error:?}"),
        }
    }
    let all = read(&partition, 0);
    assert!(all.len() as u64 >= end && partition.offsets().end == Offset::new(all.len() as u64));
    assert!(partition.stats().error.is_none(), "{:?}", partition.stats().error);

    drop((partition, log));
    let log = Log::open(dir, quiet()).unwrap();
    let report = log.recovery_report();
    assert!(report.failed.is_empty() && report.partitions[0].cut.is_none(), "{report:?}");
    let partition = log.partition("t", 0).unwrap();
    assert_eq!(read(&partition, 0), all);
    let error = write_until_full(&partition, &value(7));
    assert_eq!(*error.kind(), ErrorKind::DiskFull, "{error:?}");
    let all = read(&partition, 0);

    let keep = all.len() as u64 / 2;
    partition.delete_before(Offset::new(keep)).unwrap();
    assert_eq!(read(&partition, keep), all[keep as usize..]);
    let report = log.maintain(Timestamp::from_millis(1), Budget::default()).unwrap();
    assert!(report.passes.iter().all(|(_, _, pass)| pass.errors.is_empty()), "{report:?}");
    assert!(report.passes.iter().any(|(_, _, pass)| pass.segments_removed > 0), "{report:?}");
    let end = all.len() as u64;
    for n in end..end + 20 {
        assert_eq!(write(&partition, n).unwrap().base_offset, Offset::new(n), "there is room again");
    }
    log.close().unwrap();
    let log = Log::open(dir, LogConfig::new().min_free_bytes(0)).unwrap();
    let found = read(&log.partition("t", 0).unwrap(), keep);
    assert_eq!(found[..all.len() - keep as usize], all[keep as usize..]);
    assert_eq!(found.len() as u64, end + 20 - keep);
    log.close().unwrap();
    fs::remove_dir_all(dir).unwrap();
}

fn write_until_full(partition: &stratalog::Partition, value: &str) -> stratalog::Error {
    loop {
        if let Err(error) = partition.append_records([Record::new("key", value)]) {
            return error;
        }
    }
}
