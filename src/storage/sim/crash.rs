//! What a power cut leaves: of the changes to names and to files since their last sync, which are there.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::change::{Change, grow};
use super::disk::{Content, Dir, Disk, Inode, NameChange, Node, Pending, ROOT};
use super::fault::Draw;

/// What a crash leaves of the changes to names.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Order {
    /// Any subset of what was not synced.
    Strict,
    /// What was done first is kept first, as journaling file systems do.
    Journaled,
}

/// Chooses what a power cut leaves of what was not synced. The same choice leaves the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Crash {
    /// Of the changes to names.
    pub order: Order,
    /// 0 keeps nothing, 1 keeps everything; the others are drawn.
    pub seed: u64,
}

/// One of the images that a power cut may leave: what is kept of the changes to names, and of those to files, both in
/// the order in which they were made.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Image {
    /// Of the changes to names.
    pub names: Kept,
    /// Of the changes to files.
    pub data: Kept,
}

/// What is kept of a sequence of changes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kept {
    /// So many of the first.
    Prefix(usize),
    /// All but this one. Of a lost write the length stays: a hole, or zeros at the end.
    AllBut(usize),
    /// Those before this one, and part of it, as the seed has it: its first bytes, some of its sectors, or its length
    /// with zeros or garbage in it. For changes to files.
    Torn(usize, u64),
    /// All, but this one only in part.
    TornAmong(usize, u64),
    /// As drawn: each is there, torn, or not. Names are kept in order where the seed says so.
    Drawn(u64, Order),
}

/// How many images of each kind are looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Breadth {
    /// What may happen to names.
    pub order: Order,
    /// Ways to tear each write.
    pub tears: u64,
    /// Images drawn.
    pub drawn: u64,
    /// Chooses the drawn ones.
    pub seed: u64,
    /// More pending changes to files than this, and only the last so many are cut at and torn one by one.
    pub last: usize,
}

impl Image {
    /// What a draw keeps.
    pub fn drawn(crash: &Crash) -> Image {
        match crash.seed {
            0 => Image { names: Kept::Prefix(0), data: Kept::Prefix(0) },
            1 => Image { names: Kept::Prefix(usize::MAX), data: Kept::Prefix(usize::MAX) },
            seed => Image { names: Kept::Drawn(seed, crash.order), data: Kept::Drawn(seed ^ 0x5EED, Order::Strict) },
        }
    }

    /// The images of a disk with so many changes to names and to files that no sync has covered: every prefix and every
    /// single loss of names with every prefix of data; every lost, torn and grown write with all names and with none;
    /// and drawn ones.
    pub fn all(names: usize, data: usize, breadth: &Breadth) -> Vec<Image> {
        let mut name_choices: Vec<Kept> = (0..=names).map(Kept::Prefix).collect();
        if breadth.order == Order::Strict {
            // Without the last one it is a prefix.
            name_choices.extend((0..names.saturating_sub(1)).map(Kept::AllBut));
        }
        let first = data.saturating_sub(breadth.last);
        let mut images = Vec::new();
        for at in (first..=data).chain((first > 0).then_some(0)) {
            images.extend(name_choices.iter().map(|names| Image { names: *names, data: Kept::Prefix(at) }));
        }
        let mut extremes = vec![Kept::Prefix(names)];
        if names > 0 {
            extremes.push(Kept::Prefix(0));
        }
        for names in extremes {
            for at in first..data {
                images.push(Image { names, data: Kept::AllBut(at) });
                for tear in 0..breadth.tears {
                    let seed = breadth.seed.wrapping_mul(0x9E37_79B9).wrapping_add(tear);
                    images.push(Image { names, data: Kept::Torn(at, seed) });
                    images.push(Image { names, data: Kept::TornAmong(at, seed) });
                }
            }
        }
        if names + data > 1 {
            images.extend((0..breadth.drawn).map(|n| {
                let seed = breadth.seed.wrapping_mul(0x517C_C1B7).wrapping_add(n) | 2;
                Image::drawn(&Crash { order: breadth.order, seed })
            }));
        }
        images
    }
}

impl Disk {
    /// How many changes to names and to files no sync has covered.
    pub(super) fn pending(&self) -> (usize, usize) {
        let names = self.dirs.values().map(|dir| dir.pending.len()).sum();
        (names, self.inodes.values().map(|inode| inode.pending.len()).sum())
    }

    /// What a power cut leaves.
    pub(super) fn after(&self, image: &Image) -> Disk {
        let names = Kept::choose(image.names, self.dirs.iter().flat_map(|(id, dir)| orders(*id, &dir.pending)));
        let data = Kept::choose(image.data, self.inodes.iter().flat_map(|(id, inode)| orders(*id, &inode.pending)));
        let (last_id, clock, maps, sizes) = (self.last_id, self.clock, self.maps, self.sizes);
        let mut left = Disk { last_id, clock, maps, sizes, random: self.random ^ 1, ..Disk::default() };
        let mut reachable = vec![ROOT];
        while let Some(id) = reachable.pop() {
            let Some(dir) = self.dirs.get(&id) else { continue };
            let names = dir.after(&names);
            for node in names.values() {
                match node {
                    Node::File(id) => {
                        let inode = self.inodes.get(id).map(|inode| inode.after(&data)).unwrap_or_default();
                        left.inodes.insert(*id, Arc::new(inode));
                    }
                    Node::Dir(id) => reachable.push(*id),
                }
            }
            left.dirs.insert(id, Arc::new(Dir { cached: names.clone(), durable: names, pending: Vec::new() }));
        }
        left.tell_apart();
        left
    }

    /// Gives a file another number where an older one has it: that one's removal was lost.
    fn tell_apart(&mut self) {
        let mut seen = HashSet::new();
        let twice: Vec<u64> =
            self.inodes.iter().filter(|(_, inode)| !seen.insert(inode.number)).map(|(id, _)| *id).collect();
        for id in twice {
            let number = (1..).find(|number| seen.insert(*number)).unwrap_or_default();
            self.inode(id).number = number;
        }
    }
}

/// The changes of a file or directory, with the number of the operation.
fn orders<T>(id: u64, pending: &[Pending<T>]) -> impl Iterator<Item = (u64, u64)> {
    pending.iter().map(move |change| (change.order, id))
}

/// What becomes of each change, by the number of its operation; what is not there is kept.
struct Chosen {
    fates: BTreeMap<u64, Fate>,
    default: Fate,
}

#[derive(Clone, Copy)]
enum Fate {
    Kept,
    Lost,
    /// A lost write whose length is there.
    Hole,
    Torn(u64),
}

impl Chosen {
    fn fate(&self, order: u64) -> Fate {
        self.fates.get(&order).copied().unwrap_or(self.default)
    }
}

impl Kept {
    fn choose(self, changes: impl Iterator<Item = (u64, u64)>) -> Chosen {
        let mut orders: Vec<u64> = changes.map(|(order, _)| order).collect();
        orders.sort_unstable();
        let mut fates = BTreeMap::new();
        let mut default = Fate::Kept;
        let mut lose = |from: usize| {
            for order in orders.iter().skip(from) {
                fates.insert(*order, Fate::Lost);
            }
        };
        match self {
            Kept::Prefix(count) => lose(count),
            Kept::AllBut(at) => {
                orders.get(at).map(|order| fates.insert(*order, Fate::Hole));
            }
            Kept::Torn(at, seed) => {
                lose(at);
                orders.get(at).map(|order| fates.insert(*order, Fate::Torn(seed)));
            }
            Kept::TornAmong(at, seed) => {
                orders.get(at).map(|order| fates.insert(*order, Fate::Torn(seed)));
            }
            Kept::Drawn(seed, order) => {
                default = Fate::Lost;
                fates = drawn(&orders, seed, order);
            }
        }
        Chosen { fates, default }
    }
}

fn drawn(orders: &[u64], seed: u64, order: Order) -> BTreeMap<u64, Fate> {
    let mut draw = Draw(seed);
    let cut = draw.below(orders.len() as u64 + 1) as usize;
    let (kept_of_eight, scattered) = (1 + draw.below(7), draw.below(2) == 0);
    let mut fates = BTreeMap::new();
    for (at, number) in orders.iter().enumerate() {
        let fate = match draw.below(8) {
            _ if order == Order::Journaled => Fate::Kept,
            n if n < kept_of_eight => Fate::Kept,
            7 => Fate::Torn(draw.next()),
            6 => Fate::Hole,
            _ => Fate::Lost,
        };
        if at < cut || scattered && order == Order::Strict {
            fates.insert(*number, fate);
        }
    }
    fates
}

impl Dir {
    fn after(&self, chosen: &Chosen) -> BTreeMap<String, Node> {
        let mut names = self.durable.clone();
        for Pending { order, what } in &self.pending {
            if matches!(chosen.fate(*order), Fate::Kept) {
                NameChange::apply(what, &mut names);
            }
        }
        names
    }
}

impl Inode {
    fn after(&self, chosen: &Chosen) -> Inode {
        let content = self.content_after(chosen);
        let is_changed = self.pending.iter().any(|change| !matches!(chosen.fate(change.order), Fate::Lost));
        let modified = if is_changed { self.modified } else { self.durably_modified };
        let (number, cached) = (self.number, content.clone());
        Inode { number, cached, durable: content, modified, durably_modified: modified, ..Inode::default() }
    }

    fn content_after(&self, chosen: &Chosen) -> Content {
        let fates: Vec<Fate> = self.pending.iter().map(|change| chosen.fate(change.order)).collect();
        if !self.lossy && fates.iter().all(|fate| matches!(fate, Fate::Kept)) {
            return self.cached.clone();
        }
        let mut content = self.durable.clone();
        for (Pending { what, .. }, fate) in self.pending.iter().zip(fates) {
            match (fate, what) {
                (Fate::Lost, _) | (Fate::Hole, Change::SetLen(_)) => {}
                (Fate::Kept, _) => what.apply(content.edit()),
                (Fate::Hole, Change::Write { position, bytes }) => {
                    grow(content.edit(), position + bytes.len() as u64);
                }
                (Fate::Torn(seed), _) => what.apply_torn(content.edit(), &mut Draw(seed)),
            }
        }
        content
    }
}
