//! The `.digest` of a sealed segment: which keys it holds, without the keys.
//!
//! ```text
//! blocks   up to 170 entries of 24 bytes, and their CRC-32; all but the last block are full
//! annex    the horizons (end offset i64, time i64), marker horizons (first offset i64, time i64), the producers (id
//!          i64, flags u8)
//! footer   fixed: see `DigestFooter::encode`
//! ```
//!
//! An entry stands for the last record of a key in the segment. Entries are sorted by the hash of the key, and each
//! hash occurs once. So digests of many segments can be merged in one sweep, and a single digest can be searched like
//! an index. An entry is three big-endian u64. Two of them are the hash. The third is the place: the offset less the
//! segment's base (31 bits), the tombstone flag (1 bit), and the size of the record in bytes, uncompressed (32 bits).
//!
//! A change of any byte of the file is detected: footer, annex and each block have a checksum. The checksum of a block
//! also covers which block of which segment it is, down to the content of that segment. So no stale or misplaced block
//! passes for another.
//!
//! A digest is a cache. If it does not match its segment it is rebuilt.

use std::fmt;

use byteorder::{BigEndian, ByteOrder};

use super::FormatError;
use super::fields::Fields;
use super::siphash::SipHasher;
use crate::offset::Offset;

mod annex;

pub use annex::{DigestAnnex, Horizon, MarkerHorizon, SegmentProducer};
use annex::{HORIZON_LEN, PRODUCER_LEN};

const MAGIC: [u8; 4] = *b"STLD";
const VERSION: u16 = 2;
const CRC_LEN: usize = 4;
/// The part of a batch header that a [`HeadersSum`] covers: offset, length, epoch, magic, and the checksum of all the
/// rest.
const SUMMED_LEN: usize = 21;

/// The 128-bit hash of a key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyHash {
    /// The upper half, which orders the entries.
    pub high: u64,
    /// The lower half.
    pub low: u64,
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.high, self.low)
    }
}

/// Hashes keys with the secret of a log. Nobody can construct two keys with the same hash without knowing the secret.
#[derive(Clone, Copy)]
pub struct KeyHasher {
    sip: SipHasher,
    id: u64,
}

impl KeyHasher {
    /// A hasher with this secret.
    pub fn new(secret: &[u8; 16]) -> KeyHasher {
        let sip = SipHasher::new(secret);
        let [id, _] = sip.hash(b"stratalog: the id of a hash secret");
        KeyHasher { sip, id }
    }

    /// The hash of a key.
    #[inline]
    pub fn hash(&self, key: &[u8]) -> KeyHash {
        let [high, low] = self.sip.hash(key);
        KeyHash { high, low }
    }

    /// Distinguishes hashers with different secrets, without revealing the secret.
    pub fn id(&self) -> u64 {
        self.id
    }
}

/// Hides the secret.
impl fmt::Debug for KeyHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyHasher").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The last record of a key in a segment. Ordered by hash, then by offset.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DigestEntry {
    hash: KeyHash,
    /// Offset delta (31 bits), tombstone (1 bit), record bytes (32 bits).
    place: u64,
}

impl DigestEntry {
    /// Bytes of an entry.
    pub const LEN: usize = 24;
    /// The largest offset delta.
    pub const DELTA_MAX: u32 = i32::MAX as u32;
    /// An entry for no record, with the highest hash of all.
    pub(crate) const NONE: DigestEntry = DigestEntry { hash: KeyHash { high: u64::MAX, low: u64::MAX }, place: 0 };

    /// An entry for the record `delta` offsets after the segment's base, of `record_bytes` bytes.
    ///
    /// # Panics
    /// If `delta` is larger than [`DELTA_MAX`](Self::DELTA_MAX).
    #[inline]
    pub fn new(hash: KeyHash, delta: u32, tombstone: bool, record_bytes: u32) -> DigestEntry {
        assert!(delta <= DigestEntry::DELTA_MAX, "an offset delta has 31 bits");
        let place = u64::from(delta) << 33 | u64::from(tombstone) << 32 | u64::from(record_bytes);
        DigestEntry { hash, place }
    }

    /// The same for a segment with another base.
    ///
    /// # Panics
    /// If `delta` is larger than [`DELTA_MAX`](Self::DELTA_MAX).
    #[inline]
    pub fn with_delta(&self, delta: u32) -> DigestEntry {
        DigestEntry::new(self.hash, delta, self.is_tombstone(), self.record_bytes())
    }

    /// The hash of the key.
    #[inline]
    pub fn hash(&self) -> KeyHash {
        self.hash
    }

    /// The record's offset, relative to the segment's base.
    #[inline]
    pub fn delta(&self) -> u32 {
        (self.place >> 33) as u32
    }

    /// Whether the record deletes its key.
    #[inline]
    pub fn is_tombstone(&self) -> bool {
        self.place >> 32 & 1 != 0
    }

    /// The uncompressed size of the record, in bytes.
    #[inline]
    pub fn record_bytes(&self) -> u32 {
        self.place as u32
    }

    /// Writes the entry as on disk, directly into its place. A detour through an array would be stored in parts and
    /// loaded as a whole, which stalls the processor.
    #[inline]
    pub fn encode_to(&self, out: &mut [u8; DigestEntry::LEN]) {
        BigEndian::write_u64(&mut out[..8], self.hash.high);
        BigEndian::write_u64(&mut out[8..16], self.hash.low);
        BigEndian::write_u64(&mut out[16..], self.place);
    }

    /// Decodes an entry.
    #[inline]
    pub fn decode(bytes: &[u8; DigestEntry::LEN]) -> DigestEntry {
        let hash = KeyHash { high: BigEndian::read_u64(&bytes[..8]), low: BigEndian::read_u64(&bytes[8..16]) };
        DigestEntry { hash, place: BigEndian::read_u64(&bytes[16..]) }
    }

    /// Decodes all entries in these bytes, whose length is a multiple of [`LEN`](Self::LEN).
    #[inline]
    pub fn decode_all(bytes: &[u8]) -> impl ExactSizeIterator<Item = DigestEntry> + '_ {
        bytes.as_chunks().0.iter().map(DigestEntry::decode)
    }
}

impl fmt::Debug for DigestEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tombstone = if self.is_tombstone() { " tombstone" } else { "" };
        write!(f, "{:?} +{}{tombstone} {} B", self.hash, self.delta(), self.record_bytes())
    }
}

/// A sum over the batch headers of a segment, and so over the checksums of everything in it.
#[derive(Clone, Debug, Default)]
pub struct HeadersSum(crc32fast::Hasher);

impl HeadersSum {
    /// Adds the next batch: its bytes, or its header alone.
    #[inline]
    pub fn update(&mut self, batch: &[u8]) {
        self.0.update(batch.get(..SUMMED_LEN).unwrap_or(batch));
    }

    /// The sum of all batches so far.
    pub fn value(&self) -> u32 {
        self.0.clone().finalize()
    }
}

/// The segment of a digest, and the identity of the secret that was used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DigestSubject {
    /// [`KeyHasher::id`].
    pub key_id: u64,
    /// The segment's base offset.
    pub base: Offset,
    /// One past its last offset.
    pub end: Offset,
    /// The size of its `.log`, in bytes.
    pub log_len: u64,
    /// The [`HeadersSum`] of its batches.
    pub headers_sum: u32,
}

impl DigestSubject {
    const LEN: usize = 36;

    fn encode(&self) -> [u8; DigestSubject::LEN] {
        let mut bytes = [0; DigestSubject::LEN];
        BigEndian::write_u64(&mut bytes[..8], self.key_id);
        BigEndian::write_u64(&mut bytes[8..16], self.base.get());
        BigEndian::write_u64(&mut bytes[16..24], self.end.get());
        BigEndian::write_u64(&mut bytes[24..32], self.log_len);
        BigEndian::write_u32(&mut bytes[32..], self.headers_sum);
        bytes
    }

    fn decode(fields: &mut Fields<'_>) -> Result<DigestSubject, FormatError> {
        Ok(DigestSubject {
            key_id: fields.u64()?,
            base: fields.offset()?,
            end: fields.offset()?,
            log_len: fields.u64()?,
            headers_sum: fields.u32()?,
        })
    }

    /// The checker for the blocks of this digest.
    pub fn blocks(&self) -> DigestBlocks {
        DigestBlocks(crc32fast::hash(&self.encode()))
    }
}

/// Seals and checks the blocks of one digest.
#[derive(Clone, Copy, Debug)]
pub struct DigestBlocks(u32);

impl DigestBlocks {
    /// The number of entries in a full block.
    pub const ENTRIES: usize = 170;
    /// The size of a full block, in bytes.
    pub const LEN: usize = DigestBlocks::ENTRIES * DigestEntry::LEN + CRC_LEN;

    /// The number of bytes that this many entries take in blocks.
    pub const fn len_of(entries: u64) -> u64 {
        entries * DigestEntry::LEN as u64 + entries.div_ceil(DigestBlocks::ENTRIES as u64) * CRC_LEN as u64
    }

    /// Appends the checksum to the entries of block `number`, which begin at `start`.
    pub fn seal(&self, number: u64, out: &mut Vec<u8>, start: usize) {
        let crc = self.crc(number, out.get(start..).unwrap_or_default());
        out.extend_from_slice(&crc.to_be_bytes());
    }

    /// Returns the entries of block `number`, after checking its checksum.
    #[inline]
    pub fn check<'a>(&self, number: u64, block: &'a [u8]) -> Result<&'a [u8], FormatError> {
        let Some((entries, crc)) = block.split_last_chunk::<CRC_LEN>() else {
            return Err(FormatError::Truncated { needed: CRC_LEN, available: block.len() });
        };
        if entries.is_empty() || !entries.len().is_multiple_of(DigestEntry::LEN) {
            return Err(FormatError::BadLength);
        }
        let (stored, computed) = (BigEndian::read_u32(crc), self.crc(number, entries));
        if stored == computed { Ok(entries) } else { Err(FormatError::BadCrc { stored, computed }) }
    }

    fn crc(&self, number: u64, entries: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new_with_initial(self.0);
        hasher.update(&number.to_be_bytes());
        hasher.update(entries);
        hasher.finalize()
    }
}

/// The counts of a segment that are known without reading its entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DigestCounts {
    /// The number of batches of any kind.
    pub batches: u64,
    /// The number of records without control records, but including aborted ones and those without a key.
    pub records: u64,
    /// Their uncompressed bytes; for aborted ones, their bytes as stored.
    pub record_bytes: u64,
    /// The number of entries: the records that are the last of their key in the segment. All others may be removed.
    pub keys: u64,
    /// The uncompressed bytes of these records.
    pub key_bytes: u64,
    /// The number of tombstones among them.
    pub tombstones: u64,
    /// The number of control batches that have a record.
    pub control_batches: u64,
    /// Their bytes as stored, headers included.
    pub control_bytes: u64,
    /// The number of them that are markers without a horizon and directly follow another marker of their producer.
    /// Nothing is left of their transactions.
    pub loose_markers: u64,
}

/// The end of a digest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DigestFooter {
    /// The segment of the digest.
    pub subject: DigestSubject,
    /// The counts of its contents.
    pub counts: DigestCounts,
    horizons: u32,
    markers: u32,
    producers: u32,
    annex_crc: u32,
}

impl DigestFooter {
    /// The size of a footer, in bytes.
    pub const LEN: usize = DigestSubject::LEN + 9 * 8 + 4 * 4 + CRC_LEN + 2 + 4;

    /// The footer of a digest with this annex. The annex is also given as encoded bytes.
    pub fn new(subject: DigestSubject, counts: DigestCounts, annex: &DigestAnnex, annex_bytes: &[u8]) -> DigestFooter {
        let count = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        let (horizons, markers) = (count(annex.horizons.len()), count(annex.markers.len()));
        let (producers, annex_crc) = (count(annex.producers.len()), crc32fast::hash(annex_bytes));
        let footer = DigestFooter { subject, counts, horizons, markers, producers, annex_crc };
        assert_eq!(footer.annex_len(), annex_bytes.len() as u64, "the annex is encoded as it is");
        assert_eq!(footer.check(), Ok(()), "a digest is possible");
        footer
    }

    /// The size of the annex, in bytes.
    pub const fn annex_len(&self) -> u64 {
        (self.horizons as u64 + self.markers as u64) * HORIZON_LEN as u64 + self.producers as u64 * PRODUCER_LEN as u64
    }

    /// The position where the annex begins.
    pub const fn annex_position(&self) -> u64 {
        DigestBlocks::len_of(self.counts.keys)
    }

    /// The size of the whole file, in bytes.
    pub const fn file_len(&self) -> u64 {
        self.annex_position() + self.annex_len() + DigestFooter::LEN as u64
    }

    /// Encodes the footer as on disk: subject, counts, the number of horizons (u32), of marker horizons (u32) and of
    /// producers (u32), the CRC-32 of the annex, the CRC-32 of everything so far and the version, the version (u16),
    /// and the magic at the very end.
    pub fn encode(&self) -> [u8; DigestFooter::LEN] {
        let mut out = Vec::with_capacity(DigestFooter::LEN);
        out.extend_from_slice(&self.subject.encode());
        let DigestCounts { batches, records, record_bytes, keys, key_bytes, tombstones, .. } = self.counts;
        let DigestCounts { control_batches, control_bytes, loose_markers, .. } = self.counts;
        for count in [batches, records, record_bytes, keys, key_bytes, tombstones] {
            out.extend_from_slice(&count.to_be_bytes());
        }
        for count in [control_batches, control_bytes, loose_markers] {
            out.extend_from_slice(&count.to_be_bytes());
        }
        for field in [self.horizons, self.markers, self.producers, self.annex_crc] {
            out.extend_from_slice(&field.to_be_bytes());
        }
        let crc = footer_crc(&out, VERSION);
        out.extend_from_slice(&crc.to_be_bytes());
        out.extend_from_slice(&VERSION.to_be_bytes());
        out.extend_from_slice(&MAGIC);
        let mut bytes = [0; DigestFooter::LEN];
        bytes.copy_from_slice(&out);
        bytes
    }

    /// Decodes the last [`LEN`](Self::LEN) bytes of a file. The values of a valid footer are possible ones, and match
    /// only a file of [`file_len`](Self::file_len) bytes.
    pub fn decode(bytes: &[u8; DigestFooter::LEN]) -> Result<DigestFooter, FormatError> {
        const BODY: usize = DigestFooter::LEN - CRC_LEN - 6;
        let mut fields = Fields(bytes);
        let body = fields.take(BODY)?;
        let (stored, version) = (fields.u32()?, fields.u16()?);
        if fields.array()? != MAGIC {
            return Err(FormatError::BadMagic);
        }
        let computed = footer_crc(body, version);
        if stored != computed {
            return Err(FormatError::BadCrc { stored, computed });
        }
        if version != VERSION {
            return Err(FormatError::BadVersion { found: version.into(), supported: VERSION.into() });
        }
        let mut fields = Fields(body);
        let footer = DigestFooter {
            subject: DigestSubject::decode(&mut fields)?,
            counts: DigestCounts {
                batches: fields.u64()?,
                records: fields.u64()?,
                record_bytes: fields.u64()?,
                keys: fields.u64()?,
                key_bytes: fields.u64()?,
                tombstones: fields.u64()?,
                control_batches: fields.u64()?,
                control_bytes: fields.u64()?,
                loose_markers: fields.u64()?,
            },
            horizons: fields.u32()?,
            markers: fields.u32()?,
            producers: fields.u32()?,
            annex_crc: fields.u32()?,
        };
        footer.check()?;
        Ok(footer)
    }

    /// Whether a segment can have these counts. Computations with them rely on this.
    fn check(&self) -> Result<(), FormatError> {
        let (subject, counts) = (&self.subject, &self.counts);
        let span = subject.end.since(subject.base);
        if subject.end < subject.base || span > u64::from(DigestEntry::DELTA_MAX) + 1 {
            return Err(FormatError::BadOffset);
        }
        let ordered = counts.tombstones <= counts.keys && counts.keys <= counts.records && counts.records <= span;
        let bytes_fit = counts.key_bytes <= counts.record_bytes && counts.record_bytes < 1 << 62;
        let batches_fit = counts.loose_markers <= counts.control_batches
            && counts.control_batches <= counts.batches
            && counts.batches <= span
            && counts.control_bytes <= subject.log_len;
        if ordered && bytes_fit && batches_fit { Ok(()) } else { Err(FormatError::BadCount) }
    }
}

fn footer_crc(body: &[u8], version: u16) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(body);
    hasher.update(&version.to_be_bytes());
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offset::Timestamp;

    fn subject() -> DigestSubject {
        DigestSubject { key_id: 7, base: Offset::new(100), end: Offset::new(900), log_len: 4096, headers_sum: 9 }
    }

    fn annex() -> DigestAnnex {
        DigestAnnex {
            horizons: vec![
                Horizon { end: Offset::new(300), at: Timestamp::from_millis(5) },
                Horizon { end: Offset::new(900), at: Timestamp::from_millis(-3) },
            ],
            markers: [(-3, 130), (9, 101)]
                .map(|(at, first)| MarkerHorizon { at: Timestamp::from_millis(at), first: Offset::new(first) })
                .to_vec(),
            producers: vec![
                SegmentProducer { id: -1, open: false, leads: true },
                SegmentProducer { id: i64::MAX, open: true, leads: false },
            ],
        }
    }

    fn counts() -> DigestCounts {
        DigestCounts {
            batches: 30,
            records: 500,
            record_bytes: 50_000,
            keys: 400,
            key_bytes: 40_000,
            tombstones: 20,
            control_batches: 9,
            control_bytes: 700,
            loose_markers: 4,
        }
    }

    fn footer() -> DigestFooter {
        DigestFooter::new(subject(), counts(), &annex(), &annex().encode())
    }

    #[test]
    fn an_entry_survives_a_round_trip() {
        let hash = KeyHash { high: u64::MAX - 1, low: 3 };
        for (delta, tombstone, bytes) in [(0, false, 0), (DigestEntry::DELTA_MAX, true, u32::MAX), (77, true, 100)] {
            let entry = DigestEntry::new(hash, delta, tombstone, bytes);
            assert_eq!(DigestEntry::decode(&encoded(&entry)), entry);
            assert_eq!(entry.hash(), hash);
            assert_eq!((entry.delta(), entry.is_tombstone(), entry.record_bytes()), (delta, tombstone, bytes));
        }
    }

    #[test]
    fn entries_sort_by_hash_and_then_by_offset_as_their_bytes_do() {
        let entry = |high, low, delta, tombstone| DigestEntry::new(KeyHash { high, low }, delta, tombstone, 1);
        let sorted = [
            entry(1, 9, 5, true),
            entry(2, 0, 1, false),
            entry(2, 0, 1, true),
            entry(2, 0, 2, false),
            entry(2, 1, 0, true),
        ];
        assert!(sorted.is_sorted());
        assert!(sorted.map(|entry| encoded(&entry)).is_sorted());
    }

    #[test]
    fn another_secret_gives_other_hashes_and_another_id_and_is_never_shown() {
        let (one, two) = (KeyHasher::new(&[1; 16]), KeyHasher::new(&[2; 16]));
        assert_eq!(one.hash(b"key"), KeyHasher::new(&[1; 16]).hash(b"key"));
        assert_ne!(one.hash(b"key"), two.hash(b"key"));
        assert_ne!(one.id(), two.id());
        assert_eq!(format!("{one:?}"), format!("KeyHasher {{ id: {}, .. }}", one.id()));
    }

    #[test]
    fn the_footer_and_its_annex_survive_a_round_trip() {
        let decoded = DigestFooter::decode(&footer().encode()).unwrap();
        assert_eq!(decoded, footer());
        assert_eq!(DigestAnnex::decode(&decoded, &annex().encode()), Ok(annex()));
        assert_eq!(decoded.file_len(), 400 * 24 + 3 * 4 + 4 * 16 + 2 * 9 + DigestFooter::LEN as u64);
    }

    #[test]
    fn every_flipped_bit_of_footer_annex_or_block_is_an_error() {
        let bytes = footer().encode();
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            let error = DigestFooter::decode(&bad).unwrap_err();
            assert!(!matches!(error, FormatError::BadVersion { .. }), "bit {bit}");
        }
        let bytes = annex().encode();
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(DigestAnnex::decode(&footer(), &bad).is_err(), "bit {bit}");
        }
        let block = block(&subject().blocks(), 3);
        for bit in 0..block.len() * 8 {
            let mut bad = block.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(subject().blocks().check(3, &bad).is_err(), "bit {bit}");
        }
        for len in 0..block.len() {
            assert!(subject().blocks().check(3, &block[..len]).is_err(), "{len}");
        }
    }

    #[test]
    fn a_block_of_another_place_or_segment_does_not_pass() {
        let block = block(&subject().blocks(), 3);
        assert!(subject().blocks().check(3, &block).is_ok());
        assert!(subject().blocks().check(4, &block).is_err());
        let other = DigestSubject { headers_sum: 10, ..subject() };
        assert!(other.blocks().check(3, &block).is_err());
    }

    #[test]
    fn a_newer_version_is_named() {
        let mut bytes = footer().encode();
        let version = DigestFooter::LEN - 6;
        bytes[version + 1] = 3;
        let crc = footer_crc(&bytes[..version - CRC_LEN], 3);
        bytes[version - CRC_LEN..version].copy_from_slice(&crc.to_be_bytes());
        assert_eq!(DigestFooter::decode(&bytes), Err(FormatError::BadVersion { found: 3, supported: 2 }));
    }

    #[test]
    fn counts_that_no_segment_can_have_are_errors() {
        let possible = footer();
        let with = |change: fn(&mut DigestFooter)| {
            let mut footer = possible;
            change(&mut footer);
            DigestFooter::decode(&footer.encode())
        };
        assert!(with(|_| {}).is_ok());
        assert_eq!(with(|f| f.counts.keys = 501), Err(FormatError::BadCount));
        assert_eq!(with(|f| f.counts.records = 801), Err(FormatError::BadCount));
        assert_eq!(with(|f| f.counts.tombstones = 401), Err(FormatError::BadCount));
        assert_eq!(with(|f| f.counts.key_bytes = 50_001), Err(FormatError::BadCount));
        assert_eq!(with(|f| f.counts.batches = 801), Err(FormatError::BadCount));
        assert_eq!(with(|f| f.counts.control_batches = 31), Err(FormatError::BadCount));
        assert_eq!(with(|f| f.counts.control_bytes = 4097), Err(FormatError::BadCount));
        assert_eq!(with(|f| f.counts.loose_markers = 10), Err(FormatError::BadCount));
        assert_eq!(with(|f| f.subject.end = Offset::new(99)), Err(FormatError::BadOffset));
        assert_eq!(with(|f| f.subject.end = Offset::new(100 + (1 << 31) + 1)), Err(FormatError::BadOffset));
    }

    fn encoded(entry: &DigestEntry) -> [u8; DigestEntry::LEN] {
        let mut bytes = [0; DigestEntry::LEN];
        entry.encode_to(&mut bytes);
        bytes
    }

    fn block(blocks: &DigestBlocks, number: u64) -> Vec<u8> {
        let mut out = vec![0xee];
        for i in 0..3 {
            out.extend_from_slice(&encoded(&DigestEntry::new(KeyHash { high: i, low: i }, 9, false, 10)));
        }
        blocks.seal(number, &mut out, 1);
        out.split_off(1)
    }
}
