//! Names of files and directories. No other module knows them.
//!
//! Kafka's names are used wherever it has one. When Kafka opens a directory, it deletes files whose names end in
//! `.cleaned` or `.deleted`, and ignores names that it does not know.

use std::fmt;

use crate::offset::Offset;

/// The lock file of a log directory.
pub const LOCK: &str = ".lock";
/// Ours: version, identity and hash secret of a log directory.
pub const META: &str = "stratalog.meta";
/// Ours: the catalog of topics.
pub const TOPICS: &str = "stratalog.topics";
/// Ours: whether the log is open.
pub const USE: &str = "stratalog.use";
/// Kafka's: the offset up to which each partition is known to be on disk.
pub const RECOVERY_POINT_CHECKPOINT: &str = "recovery-point-offset-checkpoint";
/// Kafka's: the first offset of each partition.
pub const LOG_START_CHECKPOINT: &str = "log-start-offset-checkpoint";
/// Kafka's: the high watermark of each partition.
pub const REPLICATION_CHECKPOINT: &str = "replication-offset-checkpoint";
/// Kafka's: the first offset of each partition that is not yet compacted.
pub const CLEANER_CHECKPOINT: &str = "cleaner-offset-checkpoint";
/// Kafka's: present after a clean shutdown, with any content.
pub const CLEAN_SHUTDOWN: &str = ".kafka_cleanshutdown";
/// Kafka's: the identity of the broker.
pub const META_PROPERTIES: &str = "meta.properties";
/// Ours, in a partition's directory: the two ends of its chain of segments.
pub const STATE: &str = "state";
/// Kafka's, in a partition's directory: where each leader epoch starts.
pub const LEADER_EPOCHS: &str = "leader-epoch-checkpoint";
/// Kafka's, in a partition's directory: the id of its topic.
pub const PARTITION_METADATA: &str = "partition.metadata";

/// Kafka's checkpoint files with an offset for each partition.
pub const OFFSET_CHECKPOINTS: [&str; 4] =
    [LOG_START_CHECKPOINT, RECOVERY_POINT_CHECKPOINT, REPLICATION_CHECKPOINT, CLEANER_CHECKPOINT];

const TEMPORARY: &str = ".tmp";
const DELETED_DIR: &str = "-delete";
const FUTURE_DIR: &str = "-future";
const STRAY_DIR: &str = "-stray";
/// The number of digits of an offset in a file name.
const DIGITS: usize = 20;
/// The longest name that file systems allow.
const NAME_LEN_MAX: usize = 255;
/// The longest name of a topic.
const TOPIC_LEN_MAX: usize = 249;

/// The contents of a segment's file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum SegmentFileKind {
    /// Record batches.
    Log,
    /// The sparse offset index.
    OffsetIndex,
    /// The time index.
    TimeIndex,
    /// The aborted transactions.
    TxnIndex,
    /// The producers' state before the segment's first offset.
    Snapshot,
    /// Ours: the digest of its keys.
    Digest,
}

impl SegmentFileKind {
    /// All kinds, the log last.
    pub const ALL: [SegmentFileKind; 6] = [
        SegmentFileKind::OffsetIndex,
        SegmentFileKind::TimeIndex,
        SegmentFileKind::TxnIndex,
        SegmentFileKind::Snapshot,
        SegmentFileKind::Digest,
        SegmentFileKind::Log,
    ];

    const fn extension(self) -> &'static str {
        match self {
            SegmentFileKind::Log => "log",
            SegmentFileKind::OffsetIndex => "index",
            SegmentFileKind::TimeIndex => "timeindex",
            SegmentFileKind::TxnIndex => "txnindex",
            SegmentFileKind::Snapshot => "snapshot",
            SegmentFileKind::Digest => "digest",
        }
    }
}

/// The stage of a segment's file as it is added or removed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Suffix {
    /// In use.
    None,
    /// Being written by a compaction.
    Cleaned,
    /// Written by a committed compaction. It takes the place of the segments that it replaces.
    Swap,
    /// To be removed.
    Deleted,
    /// Damaged bytes, set aside by a recovery.
    Broken,
}

impl Suffix {
    const fn extension(self) -> &'static str {
        match self {
            Suffix::None => "",
            Suffix::Cleaned => ".cleaned",
            Suffix::Swap => ".swap",
            Suffix::Deleted => ".deleted",
            Suffix::Broken => ".broken",
        }
    }

    const fn may_be_numbered(self) -> bool {
        matches!(self, Suffix::Cleaned | Suffix::Deleted | Suffix::Broken)
    }
}

/// The meaning of a name in a partition's directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ParsedName {
    /// A file of a segment.
    Segment {
        /// The segment's base offset.
        base: Offset,
        /// Its contents.
        kind: SegmentFileKind,
        /// Its stage.
        suffix: Suffix,
    },
    /// [`LEADER_EPOCHS`].
    LeaderEpochs,
    /// [`PARTITION_METADATA`].
    PartitionMetadata,
    /// [`STATE`].
    State,
    /// [`STATE`], written before it replaces the old one.
    StateTemp,
    /// Another known file, written before it replaces the old one.
    Temp,
}

/// The name of a segment's file: `00000000000000000042.log` plus the suffix.
pub fn segment_file(base: Offset, kind: SegmentFileKind, suffix: Suffix) -> String {
    format!("{:020}.{}{}", base.get(), kind.extension(), suffix.extension())
}

/// The same, made unique by a number: `00000000000000000042.log.7.cleaned`. For names that must not have been used
/// before, or must not collide with files that still exist.
///
/// # Panics
/// For [`Suffix::None`] and [`Suffix::Swap`], because Kafka would not understand the name.
pub fn numbered_segment_file(base: Offset, kind: SegmentFileKind, suffix: Suffix, number: u64) -> String {
    assert!(suffix.may_be_numbered(), "a name in use, or about to be, has no number");
    format!("{:020}.{}.{number}{}", base.get(), kind.extension(), suffix.extension())
}

/// The name under which a file is written before it replaces the one named `name`.
pub fn temporary(name: &str) -> String {
    format!("{name}{TEMPORARY}")
}

/// The name of the file that the one named `name` will replace; `name` itself if it replaces none.
pub fn replaces(name: &str) -> &str {
    name.strip_suffix(TEMPORARY).unwrap_or(name)
}

/// Parses a name in a partition's directory. Returns `None` for a name that is neither ours nor Kafka's.
pub fn parse(name: &str) -> Option<ParsedName> {
    match name {
        STATE => return Some(ParsedName::State),
        LEADER_EPOCHS => return Some(ParsedName::LeaderEpochs),
        PARTITION_METADATA => return Some(ParsedName::PartitionMetadata),
        _ => {}
    }
    match name.strip_suffix(TEMPORARY) {
        Some(STATE) => Some(ParsedName::StateTemp),
        Some(LEADER_EPOCHS | PARTITION_METADATA) => Some(ParsedName::Temp),
        _ => parse_segment(name),
    }
}

/// Whether a name is one that we or Kafka use in a log directory, or write there before it replaces another.
pub fn is_in_log_dir(name: &str) -> bool {
    let name = replaces(name);
    [LOCK, META, TOPICS, USE, CLEAN_SHUTDOWN, META_PROPERTIES].contains(&name) || OFFSET_CHECKPOINTS.contains(&name)
}

/// The name of a partition's directory: `<topic>-<partition>`.
pub fn partition_dir(topic: &str, partition: u32) -> String {
    format!("{topic}-{partition}")
}

/// The name of the directory of a partition that is to be removed: `<topic>-<partition>.<id>-delete`, the id in 32
/// hexadecimal digits. A long topic name is truncated, as in Kafka, because file systems allow at most 255 bytes.
pub fn deleted_partition_dir(topic: &str, partition: u32, id: u128) -> String {
    let suffix = format!("-{partition}.{id:032x}{DELETED_DIR}");
    let topic = topic.get(..NAME_LEN_MAX.saturating_sub(suffix.len())).unwrap_or(topic);
    format!("{topic}{suffix}")
}

/// The meaning of a directory's name in a log directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ParsedDir<'a> {
    /// A partition.
    Partition {
        /// Its topic.
        topic: &'a str,
        /// Its number.
        partition: u32,
    },
    /// A partition that is to be removed.
    Deleted,
    /// Kafka's: a partition on its way from another log directory, or one that its cluster does not know.
    Foreign,
}

/// Parses the name of a directory in a log directory. Returns `None` for a name that is neither ours nor Kafka's.
pub fn parse_dir(name: &str) -> Option<ParsedDir<'_>> {
    for (suffix, parsed) in
        [(DELETED_DIR, ParsedDir::Deleted), (FUTURE_DIR, ParsedDir::Foreign), (STRAY_DIR, ParsedDir::Foreign)]
    {
        if let Some(rest) = name.strip_suffix(suffix) {
            let (partition, id) = rest.rsplit_once('.')?;
            let known = parse_partition(partition).is_some() && is_id(id);
            return known.then_some(parsed);
        }
    }
    let (topic, partition) = parse_partition(name)?;
    Some(ParsedDir::Partition { topic, partition })
}

/// Why a string cannot be the name of a topic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum BadTopicName {
    /// It is empty.
    Empty,
    /// It has more than 249 bytes.
    TooLong,
    /// It is `.` or `..`.
    Dots,
    /// It has a character other than ASCII letters and digits, `.`, `_` and `-`.
    BadCharacter,
}

impl fmt::Display for BadTopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl BadTopicName {
    /// The reason in words.
    pub const fn as_str(self) -> &'static str {
        match self {
            BadTopicName::Empty => "it is empty",
            BadTopicName::TooLong => "it is longer than 249 bytes",
            BadTopicName::Dots => "it is \".\" or \"..\"",
            BadTopicName::BadCharacter => "only A-Z, a-z, 0-9, '.', '_' and '-' are allowed",
        }
    }
}

impl std::error::Error for BadTopicName {}

/// Checks a topic name: 1 to 249 of `A-Z a-z 0-9 . _ -`, but not `.` or `..`.
pub fn check_topic(name: &str) -> Result<(), BadTopicName> {
    if name.is_empty() {
        Err(BadTopicName::Empty)
    } else if name.len() > TOPIC_LEN_MAX {
        Err(BadTopicName::TooLong)
    } else if name == "." || name == ".." {
        Err(BadTopicName::Dots)
    } else if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')) {
        Err(BadTopicName::BadCharacter)
    } else {
        Ok(())
    }
}

fn parse_segment(name: &str) -> Option<ParsedName> {
    let (digits, rest) = name.split_once('.')?;
    if digits.len() != DIGITS || !is_number(digits) {
        return None;
    }
    let base = Offset::from_i64(digits.parse().ok()?)?;
    let mut parts = rest.split('.');
    let extension = parts.next()?;
    let kind = SegmentFileKind::ALL.into_iter().find(|kind| kind.extension() == extension)?;
    let suffix = match (parts.next(), parts.next(), parts.next()) {
        (None, ..) => Suffix::None,
        (Some(suffix), None, _) => parse_suffix(suffix)?,
        (Some(number), Some(suffix), None) if is_canonical(number) => {
            parse_suffix(suffix).filter(|suffix| suffix.may_be_numbered())?
        }
        _ => return None,
    };
    Some(ParsedName::Segment { base, kind, suffix })
}

fn parse_suffix(name: &str) -> Option<Suffix> {
    match name {
        "cleaned" => Some(Suffix::Cleaned),
        "swap" => Some(Suffix::Swap),
        "deleted" => Some(Suffix::Deleted),
        "broken" => Some(Suffix::Broken),
        _ => None,
    }
}

/// Splits at the last `-`, because topics may contain `-` themselves.
fn parse_partition(name: &str) -> Option<(&str, u32)> {
    let (topic, partition) = name.rsplit_once('-')?;
    if !is_canonical(partition) || check_topic(topic).is_err() {
        return None;
    }
    let partition = u32::try_from(partition.parse::<i32>().ok()?).ok()?;
    Some((topic, partition))
}

fn is_id(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_number(digits: &str) -> bool {
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether a number is written in canonical form, because two names must never mean the same thing.
fn is_canonical(digits: &str) -> bool {
    is_number(digits) && (digits == "0" || !digits.starts_with('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_segment_name_is_read_back() {
        use Suffix::*;
        for base in [Offset::ZERO, Offset::new(42), Offset::MAX] {
            for kind in SegmentFileKind::ALL {
                for suffix in [None, Cleaned, Swap, Deleted, Broken] {
                    let parsed = Some(ParsedName::Segment { base, kind, suffix });
                    assert_eq!(parse(&segment_file(base, kind, suffix)), parsed);
                    if suffix.may_be_numbered() {
                        assert_eq!(parse(&numbered_segment_file(base, kind, suffix, 7)), parsed);
                    }
                }
            }
        }
        assert_eq!(segment_file(Offset::new(42), SegmentFileKind::Log, Swap), "00000000000000000042.log.swap");
        let numbered = numbered_segment_file(Offset::new(42), SegmentFileKind::TimeIndex, Cleaned, 3);
        assert_eq!(numbered, "00000000000000000042.timeindex.3.cleaned");
    }

    #[test]
    fn names_that_are_almost_right_are_not_ours() {
        for name in [
            "",
            "0.log",
            "0000000000000000000.log",
            "000000000000000000000.log",
            "+0000000000000000000.log",
            "0000000000000000000a.log",
            "99999999999999999999.log",
            "00000000000000000000",
            "00000000000000000000.",
            "00000000000000000000.LOG",
            "00000000000000000000.log.",
            "00000000000000000000.log.gone",
            "00000000000000000000.log.1",
            "00000000000000000000.log.1.swap",
            "00000000000000000000.log.01.cleaned",
            "00000000000000000000.log.x.cleaned",
            "00000000000000000000.log.1.cleaned.swap",
            "00000000000000000000.log.cleaned.cleaned",
            "states",
            "state.tmp.tmp",
            ".tmp",
        ] {
            assert_eq!(parse(name), None, "{name}");
        }
    }

    #[test]
    fn the_other_files_of_a_partition_are_known() {
        assert_eq!(parse(STATE), Some(ParsedName::State));
        assert_eq!(parse(&temporary(STATE)), Some(ParsedName::StateTemp));
        assert_eq!(parse(LEADER_EPOCHS), Some(ParsedName::LeaderEpochs));
        assert_eq!(parse(&temporary(LEADER_EPOCHS)), Some(ParsedName::Temp));
        assert_eq!(parse(PARTITION_METADATA), Some(ParsedName::PartitionMetadata));
        assert_eq!(parse(&temporary(PARTITION_METADATA)), Some(ParsedName::Temp));
    }

    #[test]
    fn the_files_of_a_log_directory_are_known_and_what_replaces_them() {
        for name in [LOCK, META, TOPICS, USE, CLEAN_SHUTDOWN, META_PROPERTIES].into_iter().chain(OFFSET_CHECKPOINTS) {
            assert_eq!(replaces(&temporary(name)), name);
            assert_eq!(replaces(name), name);
            assert!(is_in_log_dir(name) && is_in_log_dir(&temporary(name)), "{name}");
        }
        for name in ["", ".tmp", STATE, "notes.txt", "stratalog.meta.tmp.tmp"] {
            assert!(!is_in_log_dir(name), "{name}");
        }
    }

    #[test]
    fn a_partition_directory_is_split_at_its_last_dash() {
        let parsed = |topic, partition| Some(ParsedDir::Partition { topic, partition });
        assert_eq!(parse_dir("a-b-7"), parsed("a-b", 7));
        assert_eq!(parse_dir(&partition_dir("x--", 0)), parsed("x--", 0));
        assert_eq!(parse_dir("t-2147483647"), parsed("t", i32::MAX as u32));
        for name in ["t", "t-", "-1", "t-01", "t-+1", "t-2147483648", "t-99999999999", "..-1", "a b-1", "t-1.log"] {
            assert_eq!(parse_dir(name), None, "{name}");
        }
    }

    #[test]
    fn a_deleted_directory_keeps_within_the_file_systems_limit() {
        let name = deleted_partition_dir("orders", 3, 0xabc);
        assert_eq!(name, "orders-3.00000000000000000000000000000abc-delete");
        assert_eq!(parse_dir(&name), Some(ParsedDir::Deleted));
        let name = deleted_partition_dir(&"x".repeat(249), 2_147_483_647, u128::MAX);
        assert_eq!(name.len(), 255);
        assert_eq!(parse_dir(&name), Some(ParsedDir::Deleted));
        assert_eq!(parse_dir("orders-3.xyz-delete"), None);
        assert_eq!(parse_dir(&name.replace("-delete", "-stray")), Some(ParsedDir::Foreign));
    }

    #[test]
    fn topic_names_are_those_that_kafka_takes() {
        for name in ["a", "A-b_c.9", "...", &"x".repeat(249)] {
            assert_eq!(check_topic(name), Ok(()), "{name}");
        }
        assert_eq!(check_topic(""), Err(BadTopicName::Empty));
        assert_eq!(check_topic("."), Err(BadTopicName::Dots));
        assert_eq!(check_topic(".."), Err(BadTopicName::Dots));
        assert_eq!(check_topic(&"x".repeat(250)), Err(BadTopicName::TooLong));
        for name in ["a/b", "a b", "ä", "a\0", "a:b"] {
            assert_eq!(check_topic(name), Err(BadTopicName::BadCharacter), "{name}");
        }
    }
}
