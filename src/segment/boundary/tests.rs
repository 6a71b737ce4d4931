use std::sync::Arc;

use super::*;
use crate::format::{BatchBuilder, Record};
use crate::offset::Timestamp;
use crate::storage::sim::SimStorage;

/// A file of batches with one record each, at these offsets; where each ends.
fn write(storage: &SimStorage, offsets: &[u64]) -> (Arc<dyn File>, Vec<u64>) {
    let path = Path::new("/").join(segment_file(Offset::ZERO, SegmentFileKind::Log, Suffix::None));
    let file = storage.open(&path, OpenMode::CreateNew).unwrap();
    let (mut at, mut ends) = (0, Vec::new());
    for offset in offsets {
        let mut batch = BatchBuilder::new().base_offset(Offset::new(*offset));
        batch.push(&Record::new("key", "value"), Timestamp::from_millis(1)).unwrap();
        let batch = batch.build().unwrap();
        file.write_at(batch.as_bytes(), at).unwrap();
        at += batch.as_bytes().len() as u64;
        ends.push(at);
    }
    (file, ends)
}

fn write_index(storage: &SimStorage, entries: &[(u32, u64)]) {
    let path = Path::new("/").join(segment_file(Offset::ZERO, SegmentFileKind::OffsetIndex, Suffix::None));
    let bytes = entries.iter().map(|(offset, at)| OffsetIndexEntry { offset: *offset, position: *at as u32 }.encode());
    storage.open(&path, OpenMode::CreateNew).unwrap().write_at(&bytes.collect::<Vec<_>>().concat(), 0).unwrap();
}

fn look(storage: &SimStorage, file: &dyn File, position: u64, end: u64) -> Boundary {
    let len = file.info().unwrap().len;
    let looked = Looked { storage, dir: Path::new("/"), file, base: Offset::ZERO, len };
    looked.boundary(position, Offset::new(end)).unwrap()
}

#[test]
fn a_position_is_confirmed_only_where_the_batch_with_the_offset_ends() {
    let storage = SimStorage::new();
    let (file, ends) = write(&storage, &[0, 1, 5, 6]);
    for (at, end) in ends.iter().zip([1, 2, 6, 7]) {
        assert_eq!(look(&storage, &*file, *at, end), Boundary::Confirmed);
        assert!(matches!(look(&storage, &*file, *at, end + 1), Boundary::Damage(_)), "its offset is damaged");
        assert_eq!(look(&storage, &*file, *at - 1, end), Boundary::Elsewhere);
    }
}

#[test]
fn an_index_that_leads_astray_does_no_harm() {
    let storage = SimStorage::new();
    let (file, ends) = write(&storage, &[0, 1, 2, 3]);
    // The second entry is of no batch, the third lies behind what is asked for, and zeros are no entries.
    write_index(&storage, &[(1, ends[0]), (2, ends[1] - 1), (3, ends[2]), (0, 0)]);
    for (at, end) in ends.iter().zip(1..) {
        assert_eq!(look(&storage, &*file, *at, end), Boundary::Confirmed);
    }
    assert_eq!(look(&storage, &*file, ends[1] + 1, 2), Boundary::Elsewhere);
}

#[test]
fn damage_is_told_from_another_file() {
    let storage = SimStorage::new();
    let (file, ends) = write(&storage, &[0, 1, 2, 3]);
    // The magic of the third batch.
    file.write_at(&[7], ends[1] + 16).unwrap();
    assert_eq!(look(&storage, &*file, ends[0], 1), Boundary::Confirmed);
    assert_eq!(look(&storage, &*file, ends[2], 3), Boundary::Damage(ends[1]));
    // Nothing is missing before it: it may be a torn tail.
    assert_eq!(look(&storage, &*file, ends[1] + 1, 2), Boundary::Elsewhere);
    file.set_len(ends[1]).unwrap();
    file.write_at(&[0; 100], ends[1]).unwrap();
    assert_eq!(look(&storage, &*file, ends[1] + 50, 3), Boundary::Elsewhere, "reserved space is none");
}
