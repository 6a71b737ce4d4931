use super::*;
use crate::storage::sim::{Call, Calls, SimStorage};

/// Two streams of the numbers from 0 on, as far as they are told, both in the file.
fn spilled(storage: &SimStorage, pages: Pages, lens: [u64; 2]) -> Streams<8> {
    let name = || PathBuf::from("/spilled");
    let temp = TempFiles::new(storage, &name);
    let mut streams = Streams::new(2, pages);
    for (stream, len) in lens.into_iter().enumerate() {
        for number in 0..len {
            *streams.push(stream, &temp).unwrap() = number.to_be_bytes();
        }
    }
    streams.spill(&temp).unwrap();
    streams.complete(&temp).unwrap();
    streams
}

/// The file of what was spilled, and its bytes.
fn file_of(streams: &Streams<8>) -> (Arc<dyn File>, Vec<u8>) {
    let file = Arc::clone(&streams.temp.as_ref().unwrap().file);
    let mut bytes = vec![0; file.info().unwrap().len as usize];
    file.read_at(&mut bytes, 0).unwrap();
    (file, bytes)
}

fn read(streams: &mut Streams<8>, stream: usize) -> Result<Vec<u64>> {
    let mut all = Vec::new();
    streams.read(stream, |items| {
        all.extend(items.as_chunks().0.iter().map(|item| u64::from_be_bytes(*item)));
        Ok(())
    })?;
    Ok(all)
}

#[test]
fn every_flipped_bit_of_the_file_is_found() {
    let storage = SimStorage::new();
    let mut streams = spilled(&storage, Pages { items: 3, count: 3 }, [9, 9]);
    let (file, bytes) = file_of(&streams);
    assert_eq!(bytes.len(), 6 * (3 * 8 + CRC_LEN));
    for bit in 0..8 * bytes.len() {
        let (at, mask) = (bit / 8, 1 << (bit % 8));
        file.write_at(&[bytes[at] ^ mask], at as u64).unwrap();
        let errors: Vec<Error> = (0..2).filter_map(|stream| read(&mut streams, stream).err()).collect();
        assert!(matches!(&errors[..], [error] if error.is_corruption()), "bit {bit}: {errors:?}");
        file.write_at(&[bytes[at]], at as u64).unwrap();
    }
    assert_eq!(read(&mut streams, 1).unwrap(), (0..9).collect::<Vec<_>>());
}

#[test]
fn a_page_is_taken_in_its_own_place_only() {
    let storage = SimStorage::new();
    let mut streams = spilled(&storage, Pages { items: 3, count: 3 }, [6, 6]);
    let (file, bytes) = file_of(&streams);
    let pages: Vec<&[u8]> = bytes.chunks(3 * 8 + CRC_LEN).collect();
    // Of the same stream; and of another one, where the items are the same.
    for order in [[1, 0, 2, 3], [2, 1, 0, 3]] {
        file.write_at(&order.map(|page| pages[page]).concat(), 0).unwrap();
        assert!(read(&mut streams, 0).unwrap_err().is_corruption(), "{order:?}");
    }
}

#[test]
fn what_was_written_in_one_go_is_read_in_one_go_but_never_more_than_a_piece() {
    let storage = SimStorage::new();
    for (pages, count) in [(2, 1), (3 * PIECE_MAX / 28 + 1, 4)] {
        let mut streams = spilled(&storage, Pages { items: 3, count: pages + 2 }, [pages as u64 * 3, 0]);
        assert_eq!(streams.streams[0].runs.len(), 1, "pages that follow each other are one run");
        storage.set_fault(None);
        assert_eq!(read(&mut streams, 0).unwrap().len(), pages * 3);
        assert_eq!(storage.calls(Calls::Only(Call::Read)), count);
        assert!(streams.piece.len() <= PIECE_MAX);
    }
}
