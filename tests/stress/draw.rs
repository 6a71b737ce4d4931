//! The records to append. Each is a function of the seed, of its writer and of the number of the attempt, so that a model
//! takes little memory, and every record that is read tells the content that it must have.

use bytes::Bytes;
use stratalog::format::{BatchView, Scratch};
use stratalog::{BatchBuilder, Codec, Header, Offset, Record, RecordView, Timestamp};

/// The partitions that are written: of a topic that keeps everything, and of one that is compacted.
pub const PARTITIONS: [(&str, u32); 5] = [("kept", 0), ("kept", 1), ("kept", 2), ("compacted", 0), ("compacted", 1)];
/// The number of partitions of the topic that keeps everything; these come first.
pub const KEPT: usize = 3;
/// Keys of a compacted partition.
const KEYS: u64 = 60;

/// The largest value.
pub const VALUE_MAX: usize = 4 << 20;
/// The number of places in the pool where a value can begin.
const STARTS: usize = 1 << 20;
/// Sizes of writes at which the engine does something else.
const EDGES: [usize; 9] =
    [2 << 10, 32 << 10, 64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20, 1_200_000, (3 << 20) / 2];
/// The bytes of a batch of one record beside its value, about.
const AROUND: usize = 100;
/// The writer, its attempt and the number of the record: the header of every record.
const ID_LEN: usize = 16;
const ID_KEY: &[u8] = b"i";
/// The low bits of an attempt's number are its place in a block of attempts that are alike.
const BLOCK_BITS: u32 = 20;

/// Random numbers from a seed.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    pub fn of(parts: &[u64]) -> Rng {
        let mut rng = Rng(0x5851_f42d_4c95_7f2d);
        for part in parts {
            rng.0 ^= *part;
            rng.next();
        }
        rng
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// One of `0..end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    pub fn between(&mut self, least: usize, most: usize) -> usize {
        least + self.below((most - least + 1) as u64) as usize
    }

    /// True once in `of` times.
    pub fn one_in(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// As likely between 1 and 2 as between 1,000 and 2,000.
    pub fn of_any_size(&mut self, most: usize) -> usize {
        let bits = self.below(u64::from(most.ilog2()) + 1);
        ((1 << bits) + self.below(1 << bits) as usize).min(most)
    }
}

/// The way a batch is appended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// `append_records`.
    Records,
    /// By its key, through the topic.
    Topic,
    /// `append` of a ready batch.
    Batch,
    /// `append_if` at the end.
    If,
    /// `append_at` of several batches with gaps.
    At,
    /// Batches of a producer, and the marker that ends its transaction.
    Transaction,
}

/// The kind of all attempts of a block.
#[derive(Clone, Copy, Debug)]
enum Style {
    /// Small ones, with now and then a large one.
    Small,
    /// Just below, at and above the sizes at which the engine does something else.
    Edges,
    Any,
    Medium,
}

/// A record to append.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Item {
    pub key: Option<u64>,
    /// The length of its value; none deletes its key.
    pub len: Option<usize>,
}

/// An attempt to append something.
#[derive(Clone, Debug)]
pub struct Plan {
    pub writer: u32,
    pub n: u64,
    pub how: How,
    pub partition: usize,
    pub codec: Codec,
    /// Whether a transaction is committed.
    pub commit: bool,
    pub batches: Vec<Planned>,
}

/// A batch of it.
#[derive(Clone, Debug)]
pub struct Planned {
    /// Offsets that are left out before it, where they are given.
    pub gap: u64,
    /// The number of its first record within the attempt.
    pub first: u32,
    pub items: Vec<Item>,
}

/// The record's writer, attempt, and place in the attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Id {
    pub writer: u32,
    pub n: u64,
    pub index: u32,
}

/// The source of attempts and of the bytes in their values.
#[derive(Debug)]
pub struct Draw {
    pub seed: u64,
    pool: Vec<u8>,
}

impl Draw {
    pub fn new(seed: u64) -> Draw {
        let mut rng = Rng::of(&[seed, 0]);
        let mut pool = Vec::with_capacity(VALUE_MAX + STARTS + 8);
        while pool.len() < VALUE_MAX + STARTS {
            pool.extend(rng.next().to_be_bytes());
        }
        Draw { seed, pool }
    }

    /// The attempt that comes after `n`: of the same block, or the first one of the next.
    pub fn after(&self, writer: u32, n: u64) -> u64 {
        let (block, place) = (n >> BLOCK_BITS, n & ((1 << BLOCK_BITS) - 1));
        if place + 1 < self.block(writer, block).1 { n + 1 } else { (block + 1) << BLOCK_BITS }
    }

    /// The style of a block, how many attempts it has, and where the numbers for the rest come from.
    fn block(&self, writer: u32, block: u64) -> (Style, u64, Rng) {
        let mut rng = Rng::of(&[self.seed, 1, u64::from(writer), block]);
        let style = rng.pick(&[Style::Small, Style::Small, Style::Small, Style::Edges, Style::Any, Style::Medium]);
        let len = match style {
            Style::Small => rng.between(1000, 12_000),
            Style::Edges | Style::Any => rng.between(5, 40),
            Style::Medium => rng.between(20, 300),
        };
        (style, len as u64, rng)
    }

    /// The attempt with this number.
    pub fn plan(&self, writer: u32, n: u64) -> Plan {
        let (style, _, mut of_block) = self.block(writer, n >> BLOCK_BITS);
        let partition = of_block.pick(&[0, 0, 1, 1, 2, 2, 3, 4]) as usize;
        let compacted = partition >= KEPT;
        let hows: &[How] = match style {
            _ if compacted => &[How::Records, How::Batch, How::If, How::At],
            Style::Small => &[How::Records, How::Records, How::Topic, How::Batch, How::If],
            _ => &[How::Records, How::Batch, How::If, How::At, How::At, How::Transaction],
        };
        let how = of_block.pick(hows);
        let mut rng = Rng::of(&[self.seed, 2, u64::from(writer), n]);
        let (how, style) = match style {
            Style::Small if rng.one_in(1000) => {
                (rng.pick(if compacted { hows } else { &[How::Records, How::Batch, How::At] }), Style::Any)
            }
            style => (how, style),
        };
        let codec = if how == How::Batch && rng.one_in(16) { Codec::Lz4 } else { Codec::None };
        let mut plan =
            Plan { writer, n, how, partition, codec, commit: !rng.one_in(3), batches: Vec::with_capacity(1) };
        let count = match how {
            How::At | How::Transaction => rng.between(1, 4),
            _ => 1,
        };
        let mut first = 0;
        for _ in 0..count {
            let records = if how == How::Topic { 1 } else { rng.pick(&[1, 1, 1, 2, 7]) };
            let size = size(&mut rng, style);
            let items: Vec<Item> = (0..records).map(|_| item(&mut rng, compacted, how, size / records)).collect();
            let gap = rng.pick(&[0, 0, 1, 20, 100_000]);
            plan.batches.push(Planned { gap, first, items });
            first += records as u32;
        }
        plan
    }

    fn value(&self, id: Id, len: usize) -> &[u8] {
        let start = Rng::of(&[u64::from(id.writer), id.n, u64::from(id.index)]).below(STARTS as u64) as usize;
        &self.pool[start..start + len]
    }

    /// Has a batch of an attempt built. The builder's producer, codec and base offset are the caller's.
    pub fn push(&self, builder: &mut BatchBuilder, plan: &Plan, batch: &Planned, now: Timestamp) {
        let parts = self.parts(plan, batch);
        for part in &parts {
            builder.push(&part.record(&part.header()), now).expect("a record that fits");
        }
    }

    /// The parts that the records of a batch borrow.
    pub fn parts(&self, plan: &Plan, batch: &Planned) -> Vec<Part<'_>> {
        let part = |(at, item): (usize, &Item)| {
            let id = Id { writer: plan.writer, n: plan.n, index: batch.first + at as u32 };
            Part { id: id.to_bytes(), key: item.key.map(key), value: item.len.map(|len| self.value(id, len)) }
        };
        batch.items.iter().enumerate().map(part).collect()
    }

    /// The id in a record's header; an error where key or value are not those of that id.
    pub fn identify(&self, record: &RecordView<'_>, plan: &mut Option<Plan>) -> Result<Id, String> {
        let id = record.headers().next().filter(|header| header.key == ID_KEY).and_then(|header| header.value);
        let id = id.and_then(Id::from_bytes).ok_or("a record without the header that all have")?;
        if plan.as_ref().is_none_or(|plan| (plan.writer, plan.n) != (id.writer, id.n)) {
            *plan = Some(self.plan(id.writer, id.n));
        }
        let plan = plan.as_ref().expect("it was just made");
        let item = plan.item(id.index).ok_or_else(|| format!("{id:?} has no such record"))?;
        let (key, value) = (item.key.map(key), item.len.map(|len| self.value(id, len)));
        if record.key != key.as_ref().map(String::as_bytes) {
            return Err(format!("{id:?} has the key {:?} instead of {key:?}", record.key));
        }
        if record.value != value {
            let lens = (record.value.map(<[u8]>::len), value.map(<[u8]>::len));
            return Err(format!("{id:?} has another value, of {:?} bytes instead of {:?}", lens.0, lens.1));
        }
        Ok(id)
    }

    /// The id of a batch's first record, and the number of records; none for an empty batch and for a control batch. The
    /// checksum was checked.
    pub fn identify_batch(&self, batch: &BatchView<'_>, scratch: &mut Scratch, bytes: &mut u64) -> Checked {
        if batch.header().attributes.is_control() {
            return Ok(None);
        }
        let mut plan = None;
        let mut found: Option<Seen> = None;
        for record in batch.records(scratch).map_err(|why| why.to_string())? {
            let record = record.map_err(|why| why.to_string())?;
            let id = self.identify(&record, &mut plan)?;
            *bytes += record.value.map_or(0, <[u8]>::len) as u64;
            let offset = record.offset.since(batch.header().base_offset) as u32;
            match &mut found {
                None => found = Some(Seen { id: Id { index: id.index - offset.min(id.index), ..id }, count: 1 }),
                Some(seen) if (seen.id.writer, seen.id.n) != (id.writer, id.n) => {
                    return Err(format!("{id:?} in the batch of {:?}", seen.id));
                }
                Some(seen) if seen.id.index + offset != id.index => {
                    return Err(format!("{id:?} has the place of another record"));
                }
                Some(seen) => seen.count += 1,
            }
        }
        Ok(found)
    }

    /// The same for all batches in these bytes, with their checksums.
    pub fn identify_all(&self, chunks: &[Bytes], bytes: &mut u64) -> Result<(), String> {
        let mut scratch = Scratch::default();
        for chunk in chunks {
            for batch in stratalog::format::Batches::new(chunk) {
                let batch = batch.map_err(|why| why.to_string())?;
                batch.check_crc().map_err(|why| why.to_string())?;
                self.identify_batch(&batch, &mut scratch, bytes)?;
            }
        }
        Ok(())
    }
}

/// The parts that a record borrows.
pub struct Part<'a> {
    id: [u8; ID_LEN],
    key: Option<String>,
    value: Option<&'a [u8]>,
}

impl Part<'_> {
    pub fn header(&self) -> [Header<'_>; 1] {
        [Header { key: ID_KEY, value: Some(&self.id) }]
    }

    pub fn record<'a>(&'a self, headers: &'a [Header<'a>; 1]) -> Record<'a> {
        Record { key: self.key.as_ref().map(String::as_bytes), value: self.value, headers, timestamp: None }
    }
}

/// The id that the first record of a batch had when it was appended, and the number of records left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen {
    pub id: Id,
    pub count: u32,
}

type Checked = Result<Option<Seen>, String>;

impl Planned {
    /// Whether it deletes a key.
    pub fn deletes(&self, key: u64) -> bool {
        self.items.iter().any(|item| item.key == Some(key) && item.len.is_none())
    }
}

impl Plan {
    pub fn item(&self, index: u32) -> Option<Item> {
        let batch = self.batches.iter().rev().find(|batch| batch.first <= index)?;
        batch.items.get((index - batch.first) as usize).copied()
    }

    /// Which of its batches begins with a record.
    pub fn batch_of(&self, index: u32) -> Option<usize> {
        self.batches.iter().position(|batch| batch.first == index)
    }

    /// Its batches with the offsets that they have from `end` on.
    pub fn given(&self, draw: &Draw, end: Offset, now: Timestamp) -> (Vec<u8>, Vec<(Offset, Offset)>) {
        let (mut bytes, mut places, mut at) = (Vec::new(), Vec::new(), end);
        let mut builder = BatchBuilder::new().codec(self.codec);
        for batch in &self.batches {
            let base = at + batch.gap;
            builder.reset();
            builder.set_base_offset(base);
            draw.push(&mut builder, self, batch, now);
            bytes.extend_from_slice(builder.finish().expect("a batch of records"));
            at = base + batch.items.len() as u64;
            places.push((base, at));
        }
        (bytes, places)
    }

    /// How many bytes it appends, about.
    pub fn size(&self) -> u64 {
        let items = self.batches.iter().flat_map(|batch| &batch.items);
        items.map(|item| (item.len.unwrap_or(0) + AROUND) as u64).sum()
    }
}

impl Id {
    fn to_bytes(self) -> [u8; ID_LEN] {
        let mut bytes = [0; ID_LEN];
        bytes[..4].copy_from_slice(&self.writer.to_be_bytes());
        bytes[4..12].copy_from_slice(&self.n.to_be_bytes());
        bytes[12..].copy_from_slice(&self.index.to_be_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Id> {
        let bytes: &[u8; ID_LEN] = bytes.try_into().ok()?;
        let writer = u32::from_be_bytes(bytes[..4].try_into().ok()?);
        let n = u64::from_be_bytes(bytes[4..12].try_into().ok()?);
        Some(Id { writer, n, index: u32::from_be_bytes(bytes[12..].try_into().ok()?) })
    }
}

fn key(n: u64) -> String {
    format!("key-{n}")
}

fn item(rng: &mut Rng, compacted: bool, how: How, len: usize) -> Item {
    let key = (compacted || how == How::Topic || rng.one_in(2)).then(|| rng.below(KEYS));
    let deletes = compacted && rng.one_in(6);
    Item { key, len: (!deletes).then_some(len.max(1)) }
}

/// The size of a batch's values together.
fn size(rng: &mut Rng, style: Style) -> usize {
    match style {
        Style::Small => rng.pick(&[1, 20, 60, 100, 100, 100, 300, 1500]),
        Style::Edges => rng.pick(&EDGES) - AROUND + rng.between(0, 160) - 80,
        Style::Medium => rng.between(1, 32 << 10),
        Style::Any if rng.one_in(3) => 1_000_000,
        Style::Any => rng.of_any_size(VALUE_MAX),
    }
}
