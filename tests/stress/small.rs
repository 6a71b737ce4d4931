//! A program as simple as can be: one thread, the default configuration, small records with now and then a large one.

use std::path::Path;

use stratalog::{Log, LogConfig, Offset, Partition, Record, TopicConfig};

use super::draw::Rng;

/// The records in a round, and the number of them on one large record.
const RECORDS: u64 = 12_000;
const ONE_LARGE_OF: u64 = 600;
/// Below the default `max_batch_bytes`.
const LARGE: usize = 1_000_000;

/// Records of a round that cannot be read as they were appended: while the log is open, and when it is opened again.
pub fn lost(above: &Path, round: u64) -> (u64, u64) {
    let dir = tempfile::tempdir_in(above).unwrap();
    let log = Log::open(dir.path(), LogConfig::new()).unwrap();
    let partition = log.create_topic("t", 1, TopicConfig::new()).unwrap().partition(0).unwrap();
    let mut sizes = Rng::of(&[round]);
    let sizes: Vec<usize> = (0..RECORDS).map(|_| size(&mut sizes)).collect();
    let mut value = vec![0; LARGE];
    for (n, size) in sizes.iter().enumerate() {
        let appended = partition.append_records([Record::keyless(fill(&mut value[..*size], n))]).unwrap();
        assert_eq!(appended.base_offset, Offset::new(n as u64));
    }
    partition.flush().unwrap();
    let open = unread(&partition, &sizes);
    drop(partition);
    log.close().unwrap();
    let log = Log::open(dir.path(), LogConfig::new()).unwrap();
    let partition = log.partition("t", 0).unwrap();
    (open, unread(&partition, &sizes))
}

pub fn records(rounds: u64) -> u64 {
    rounds * RECORDS
}

fn size(rng: &mut Rng) -> usize {
    if rng.one_in(ONE_LARGE_OF) { LARGE } else { rng.between(50, 150) }
}

/// The value of a record: no two in a row are alike, and none is of zeros.
fn fill(value: &mut [u8], n: usize) -> &[u8] {
    value.fill(1 + (n % 255) as u8);
    value
}

fn unread(partition: &Partition, sizes: &[usize]) -> u64 {
    let mut value = vec![0; LARGE];
    let mut lost = 0;
    let mut n = 0;
    while n < sizes.len() {
        // Each error once: behind it reading goes on at the next record.
        let Ok(mut reader) = partition.reader(Offset::new(n as u64)) else { return lost + (sizes.len() - n) as u64 };
        while let Ok(Some(record)) = reader.next_record() {
            lost += record.offset.get() - n as u64;
            n = record.offset.get() as usize;
            lost += u64::from(record.value != Some(fill(&mut value[..sizes[n]], n)));
            n += 1;
        }
        if n < sizes.len() {
            lost += 1;
            n += 1;
        }
    }
    lost
}
