//! `stratalog verify --flip`: single bytes of a copy are changed, and every read must be right or say what is wrong.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use stratalog::inspect::{Content, Directory, Located};
use stratalog::storage::FileSystem;
use stratalog::{Log, LogConfig, Offset, Partition, Timestamp, inspect};

use crate::outcome::Failure;
use crate::ui::Ui;

/// Offsets of each partition from which it is read as well.
const SEEKS: usize = 8;
/// Findings shown with their details.
const SHOWN_MAX: usize = 20;

/// What came of it.
#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Flipped {
    pub seed: u64,
    /// Bytes changed, one at a time.
    pub flips: u64,
    pub panics: u64,
    pub silent_wrong_reads: u64,
    /// Reads that differ because a number in a file of Kafka's changed that has no checksum.
    pub unprotected: u64,
    /// Flips that made a difference, and were told of.
    pub reported: u64,
    /// Flips after which every read was the same as before.
    pub harmless: u64,
    /// The first panics and wrong reads.
    pub details: Vec<String>,
}

/// What was read of a partition.
#[derive(PartialEq, Eq, Debug, Default, Clone)]
struct Seen {
    start: Offset,
    records: Vec<SeenRecord>,
    /// What lookups by time found.
    times: Vec<Option<Offset>>,
    /// A lookup by offset that found another record than the walk.
    wrong: Option<String>,
    /// A compaction that was committed could not be finished: what it would have replaced is there again, and is told
    /// of.
    is_undone: bool,
    /// It ended with an error, or what opening found explains why there is less.
    is_told: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct SeenRecord {
    offset: Offset,
    timestamp: Timestamp,
    /// Of key, value and headers.
    hash: u64,
}

type SeenLog = BTreeMap<(String, u32), Seen>;

/// How a log is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum How {
    Reading,
    Writing,
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            How::Reading => "reading",
            How::Writing => "writing",
        })
    }
}

/// What a flip came to.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Verdict {
    Harmless,
    Reported,
    Unprotected,
    Wrong(String),
    Panic,
}

/// Two copies: one that stays as it is, one that is changed.
struct Copies {
    root: tempfile::TempDir,
    files: Vec<Copied>,
}

struct Copied {
    /// Below the directory.
    name: PathBuf,
    len: u64,
    is_unprotected: bool,
}

/// Flips bytes of a copy of a log directory, and reads it each time.
pub fn run(directory: &Directory, count: u64, seed: u64, ui: &Ui) -> Result<Flipped, Failure> {
    let copies = Copies::new(directory)?;
    let before = Before { reading: copies.read(How::Reading)?, writing: copies.read(How::Writing)? };
    copies.restore()?;
    let mut flipped = Flipped {
        seed,
        flips: 0,
        panics: 0,
        silent_wrong_reads: 0,
        unprotected: 0,
        reported: 0,
        harmless: 0,
        details: Vec::new(),
    };
    let mut random = Random(seed);
    let bar = ui.count(count, "flipping");
    let panics = Panics::count();
    for _ in 0..count {
        let Some((file, position, mask)) = copies.pick(&mut random) else { break };
        let verdict = copies.flip(file, position, mask, &before, &panics)?;
        flipped.flips += 1;
        flipped.note(verdict, &format!("byte {position} of {} changed by {mask:#04x}", file.name.display()));
        bar.inc(1);
    }
    drop(panics);
    bar.finish_and_clear();
    Ok(flipped)
}

struct Before {
    reading: SeenLog,
    writing: SeenLog,
}

impl Flipped {
    /// Whether no panic and no wrong read was met.
    pub fn is_well(&self) -> bool {
        self.panics == 0 && self.silent_wrong_reads == 0
    }

    pub fn text(&self) -> String {
        let mut out = format!(
            "{} bytes flipped (seed {}): {} panics, {} silent wrong reads; {} told of, {} without effect",
            self.flips, self.seed, self.panics, self.silent_wrong_reads, self.reported, self.harmless
        );
        if self.unprotected > 0 {
            let _ = write!(out, ", {} in files of Kafka's without checksum", self.unprotected);
        }
        out.push('\n');
        for detail in &self.details {
            let _ = writeln!(out, "  {detail}");
        }
        out
    }

    fn note(&mut self, verdict: Verdict, what: &str) {
        let detail = match verdict {
            Verdict::Harmless => return self.harmless += 1,
            Verdict::Reported => return self.reported += 1,
            Verdict::Unprotected => return self.unprotected += 1,
            Verdict::Wrong(how) => {
                self.silent_wrong_reads += 1;
                format!("wrong read: {what}: {how}")
            }
            Verdict::Panic => {
                self.panics += 1;
                format!("panic: {what}")
            }
        };
        if self.details.len() < SHOWN_MAX {
            self.details.push(detail);
        }
    }
}

impl Copies {
    fn new(directory: &Directory) -> Result<Copies, Failure> {
        let dir = &directory.path;
        let root = tempfile::Builder::new().prefix("stratalog-flip").tempdir()?;
        let mut copies = Copies { root, files: Vec::new() };
        let mut names = Vec::new();
        list(dir, Path::new(""), &mut names)?;
        for name in names {
            let from = dir.join(&name);
            // What is nobody's is neither read nor flipped.
            let is_known = |name: &str| !directory.unknown.iter().any(|unknown| unknown == name);
            let content = content(&from);
            if content.is_none() && !name.to_str().is_some_and(|name| !name.contains('/') && is_known(name)) {
                continue;
            }
            // An owner may have removed it meanwhile.
            let Ok(len) = copy(&from, &copies.kept().join(&name)) else { continue };
            copy(&copies.kept().join(&name), &copies.used().join(&name))?;
            copies.files.push(Copied { is_unprotected: content.is_some_and(is_unprotected), name, len });
        }
        Ok(copies)
    }

    fn kept(&self) -> PathBuf {
        self.root.path().join("kept")
    }

    fn used(&self) -> PathBuf {
        self.root.path().join("used")
    }

    /// A byte of all bytes, each as likely as the other, and what to change of it.
    fn pick(&self, random: &mut Random) -> Option<(&Copied, u64, u8)> {
        let total: u64 = self.files.iter().map(|file| file.len).sum();
        let mut at = random.below(total)?;
        let mask = (random.below(255)? + 1) as u8;
        for file in &self.files {
            if at < file.len {
                return Some((file, at, mask));
            }
            at -= file.len;
        }
        None
    }

    fn flip(
        &self,
        file: &Copied,
        position: u64,
        mask: u8,
        before: &Before,
        panics: &Panics,
    ) -> Result<Verdict, Failure> {
        let path = self.used().join(&file.name);
        let mut verdict = Verdict::Harmless;
        for (how, before) in [(How::Reading, &before.reading), (How::Writing, &before.writing)] {
            let mut bytes = fs::read(self.kept().join(&file.name))?;
            if let Some(byte) = bytes.get_mut(position as usize) {
                *byte ^= mask;
            }
            fs::write(&path, &bytes)?;
            let so_far = panics.seen();
            let read = panic::catch_unwind(AssertUnwindSafe(|| self.read(how)));
            let judged = match read {
                _ if panics.seen() > so_far => Verdict::Panic,
                Err(_) => Verdict::Panic,
                // The log does not open, and says why.
                Ok(Err(_)) => Verdict::Reported,
                Ok(Ok(after)) => judge(before, &after),
            };
            verdict = verdict.max(match judged {
                Verdict::Wrong(_) if file.is_unprotected => Verdict::Unprotected,
                Verdict::Wrong(what) => Verdict::Wrong(format!("opened for {how}: {what}")),
                judged => judged,
            });
            self.restore()?;
        }
        Ok(verdict)
    }

    /// Opens the changed copy and reads all of it.
    fn read(&self, how: How) -> Result<SeenLog, Failure> {
        let log = match how {
            How::Reading => Log::open_read_only_with(self.used(), quiet())?,
            How::Writing => Log::open(self.used(), quiet())?,
        };
        let mut seen = SeenLog::new();
        let report = log.recovery_report();
        for (topic, id, _) in &report.failed {
            seen.insert((topic.clone(), *id), Seen { is_told: true, ..Seen::default() });
        }
        for partition in log.topics().iter().flat_map(|topic| topic.partitions()) {
            let name = (partition.topic().to_owned(), partition.id());
            let mut found = read_partition(&partition);
            let opened = report.partitions.iter().find(|opened| (&opened.topic, opened.partition) == (&name.0, name.1));
            found.is_undone = opened.is_some_and(|opened| !opened.put_aside.is_empty());
            found.is_told |= partition.stats().error.is_some()
                || opened.is_some_and(|o| o.cut.is_some() || !o.put_aside.is_empty() || o.error.is_some());
            seen.insert(name, found);
        }
        Ok(seen)
    }

    /// Makes the changed copy what it was: every file of another length or time is copied again, every new one goes.
    fn restore(&self) -> Result<(), Failure> {
        let mut names = Vec::new();
        list(&self.used(), Path::new(""), &mut names)?;
        for name in names {
            if !self.files.iter().any(|file| file.name == name) {
                fs::remove_file(self.used().join(name))?;
            }
        }
        for dir in fs::read_dir(self.used())? {
            let dir = dir?;
            let is_new = !self.files.iter().any(|file| file.name.starts_with(dir.file_name()));
            if is_new && dir.file_type()?.is_dir() {
                fs::remove_dir_all(dir.path())?;
            }
        }
        for file in &self.files {
            let path = self.used().join(&file.name);
            let is_same = fs::metadata(&path)
                .is_ok_and(|now| now.len() == file.len && now.modified().is_ok_and(|at| at == long_ago()));
            if !is_same {
                copy(&self.kept().join(&file.name), &path)?;
            }
        }
        Ok(())
    }
}

fn quiet() -> LogConfig {
    LogConfig::new().maintenance_interval(None).min_free_bytes(0).sync_threads(0)
}

fn read_partition(partition: &Partition) -> Seen {
    let offsets = partition.offsets();
    let mut seen = Seen { start: offsets.start, ..Seen::default() };
    seen.is_told = read_from(partition, offsets.start, u64::MAX, &mut seen.records).is_err();
    // Lookups go through the indexes, which reading from the start does not.
    let count = seen.records.len();
    for at in 0..SEEKS.min(count) {
        let sought = seen.records[count / SEEKS.min(count) * at];
        let mut found = Vec::new();
        match read_from(partition, sought.offset, 1, &mut found) {
            Err(_) => seen.is_told = true,
            Ok(()) if found.first() != Some(&sought) => {
                seen.wrong.get_or_insert(format!("looking up offset {} found another record", sought.offset));
            }
            Ok(()) => {}
        }
        match partition.offset_for(sought.timestamp) {
            Err(_) => seen.is_told = true,
            Ok(found) => seen.times.push(found),
        }
    }
    seen
}

/// Reads records until the end, or so many; an error ends it.
fn read_from(partition: &Partition, from: Offset, limit: u64, records: &mut Vec<SeenRecord>) -> stratalog::Result<()> {
    let mut reader = partition.reader(from)?;
    let mut count = 0;
    while count < limit {
        let Some(record) = reader.next_record()? else { break };
        let mut hasher = DefaultHasher::new();
        (record.key, record.value).hash(&mut hasher);
        for header in record.headers() {
            (header.key, header.value).hash(&mut hasher);
        }
        records.push(SeenRecord { offset: record.offset, timestamp: record.timestamp, hash: hasher.finish() });
        count += 1;
    }
    Ok(())
}

/// What is read afterwards must be what was read before, or begin like it with a reason why there is no more.
fn judge(before: &SeenLog, after: &SeenLog) -> Verdict {
    let mut verdict = Verdict::Harmless;
    for (name, before) in before {
        let judged = match after.get(name) {
            Some(after) => judge_partition(before, after),
            None => Verdict::Wrong("it is gone without a word".to_owned()),
        };
        verdict = verdict.max(match judged {
            Verdict::Wrong(how) => Verdict::Wrong(format!("{}-{}: {how}", name.0, name.1)),
            judged => judged,
        });
    }
    let new = after.iter().find(|(name, seen)| !before.contains_key(*name) && !seen.records.is_empty());
    match new {
        Some(((topic, id), _)) => Verdict::Wrong(format!("{topic}-{id} came up")),
        None => verdict,
    }
}

fn judge_partition(before: &Seen, after: &Seen) -> Verdict {
    if let Some(how) = &after.wrong {
        return Verdict::Wrong(how.clone());
    }
    let mut all = after.records.iter();
    if after.is_undone && before.records.iter().all(|then| all.any(|now| now == then)) {
        return Verdict::Reported;
    }
    let shared = after.records.iter().zip(&before.records);
    if let Some((now, then)) = shared.clone().find(|(now, then)| now != then) {
        let how =
            if now.offset == then.offset { "was changed".to_owned() } else { format!("was read for {}", then.offset) };
        return Verdict::Wrong(format!("the record at {} {how}", now.offset));
    }
    if after.records.len() > before.records.len() {
        return Verdict::Wrong(format!("{} records were read", after.records.len()));
    }
    let is_same = after.records.len() == before.records.len() && after.start == before.start;
    match (is_same && after.times == before.times, after.is_told) {
        (true, told) if told == before.is_told => Verdict::Harmless,
        (_, true) => Verdict::Reported,
        (true, false) => Verdict::Harmless,
        (false, false) if is_same => Verdict::Wrong("a lookup by time found another offset".to_owned()),
        (false, false) => Verdict::Wrong(format!(
            "{} of {} records from {} on were read, without a word",
            after.records.len(),
            before.records.len(),
            after.start
        )),
    }
}

/// The files below a directory, in order.
fn list(root: &Path, below: &Path, names: &mut Vec<PathBuf>) -> io::Result<()> {
    let mut entries = fs::read_dir(root.join(below))?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = below.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            list(root, &name, names)?;
        } else if kind.is_file() {
            names.push(name);
        }
    }
    Ok(())
}

/// Copies a file, and gives the copy a time by which a change is seen.
fn copy(from: &Path, to: &Path) -> io::Result<u64> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    // Not its permissions: the copy is to be written to.
    let mut file = fs::File::create(to)?;
    let len = io::copy(&mut fs::File::open(from)?, &mut file)?;
    file.set_modified(long_ago())?;
    Ok(len)
}

fn long_ago() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000)
}

fn content(path: &Path) -> Option<Content> {
    match inspect::locate(&FileSystem::new(), path) {
        Ok(Located::File { content, .. }) => content,
        _ => None,
    }
}

/// Kafka's text files have no checksum.
fn is_unprotected(content: Content) -> bool {
    matches!(content, Content::OffsetCheckpoint | Content::LeaderEpochs | Content::PartitionMetadata)
}

static PANICS: AtomicU64 = AtomicU64::new(0);

type Hook = Box<dyn Fn(&panic::PanicHookInfo<'_>) + Sync + Send>;

/// Counts panics of all threads instead of printing them, until dropped.
struct Panics(Option<Hook>);

impl Panics {
    fn count() -> Panics {
        let before = panic::take_hook();
        panic::set_hook(Box::new(|_| {
            PANICS.fetch_add(1, Ordering::SeqCst);
        }));
        Panics(Some(before))
    }

    fn seen(&self) -> u64 {
        PANICS.load(Ordering::SeqCst)
    }
}

impl Drop for Panics {
    fn drop(&mut self) {
        if let Some(before) = self.0.take() {
            panic::set_hook(before);
        }
    }
}

/// Random enough for picking bytes (SplitMix64).
struct Random(u64);

impl Random {
    /// A number below `bound`; `None` when there is none.
    fn below(&mut self, bound: u64) -> Option<u64> {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31).checked_rem(bound)
    }
}
