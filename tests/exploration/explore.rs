//! Crashes a workload at every operation, in every way that the breadth asks for, and looks at what is left; then goes
//! on from there and crashes again.

use std::cell::RefCell;
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, Once};

use stratalog::sim::{Breadth, Image, Order, SimStorage};

use super::found::After;
use super::model::Model;
use super::workload::{Draw, Kind, Op, SIZES};
use super::world::{Ended, Rig, World};

/// A workload, and how it is looked at.
#[derive(Clone, Debug)]
pub struct Case {
    pub seed: u64,
    pub kind: Kind,
    pub ops: Vec<Op>,
    pub breadth: Breadth,
    /// Crashes one after the other, at most.
    pub depth: u32,
    /// Only crashes in the last operation, or right after it, are looked at.
    pub only_last: bool,
    /// Whether operations are recorded, to be printed.
    pub trace: bool,
}

/// How much was looked at.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Operations after which the power went.
    pub points: u64,
    /// Images made.
    pub images: u64,
    /// Different ones among them, and among those of later crashes.
    pub distinct: u64,
    /// Times that the engine opened what a crash had left, and all was as it must be.
    pub recovered: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.points += other.points;
        self.images += other.images;
        self.distinct += other.distinct;
        self.recovered += other.recovered;
    }
}

/// What was looked at already.
#[derive(Default)]
pub struct Seen {
    /// Hashes of images.
    images: HashSet<u64>,
    /// Images with what was promised when the power went, and with what cannot be seen of them.
    checked: HashSet<(u64, u64, u64)>,
}

/// A broken promise, and how to see it again.
#[derive(Clone, Debug)]
pub struct Failure {
    pub why: String,
    pub ops: Vec<Op>,
    /// The operation before which the power went.
    pub point: u64,
    pub crashes: Vec<String>,
    pub trace: Vec<String>,
}

impl Seen {
    /// Forgets what was checked, for another workload: the same image may have to hold something else then.
    pub fn begin_workload(&mut self) {
        self.checked.clear();
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}", self.why)?;
        writeln!(f, "workload: {:?}", self.ops)?;
        writeln!(f, "the power goes after operation {}, then: {:?}", self.point, self.crashes)?;
        self.trace.iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}

/// The state before an operation, and what was promised by then.
struct Point {
    storage: SimStorage,
    model: Arc<Model>,
}

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
    static QUIET: RefCell<bool> = const { RefCell::new(false) };
}

/// Explores a case; panics of the engine are broken promises too.
pub fn explore(case: &Case, rig: Rig<'_>, seen: &mut Seen) -> Result<Counts, Failure> {
    let mut counts = Counts::default();
    let mut points = Vec::new();
    let mut crashes = Vec::new();
    let run = quietly(|| record(case, rig, &mut points));
    let fail = |why: String, points: &[Point], crashes: &[String]| Failure {
        why,
        ops: case.ops.clone(),
        point: points.last().map_or(0, |point| point.storage.operations()),
        crashes: crashes.to_vec(),
        trace: points.last().map(|point| point.storage.trace()).unwrap_or_default(),
    };
    if let Err(why) = run {
        return Err(fail(why, &points, &[]));
    }
    for (at, Point { storage, model }) in points.iter().enumerate() {
        counts.points += 1;
        let (names, data) = storage.pending();
        let breadth = Breadth { seed: case.breadth.seed ^ at as u64, ..case.breadth };
        let images = Image::all(names, data, &breadth);
        let killed = std::iter::once((storage.kill(), After::Kill, "killed".to_owned()));
        let cut = images.iter().map(|image| (storage.image(image), After::PowerCut, format!("{image:?}")));
        for (left, after, how) in killed.chain(cut) {
            counts.images += 1;
            let digest = left.digest();
            counts.distinct += u64::from(seen.images.insert(digest));
            // A kill leaves more than can be seen.
            let unseen = if after == After::Kill { 1 + at as u64 } else { 0 };
            if !seen.checked.insert((digest, model.version, unseen)) {
                continue;
            }
            crashes.clear();
            crashes.push(how);
            let mut chain = Chain { case, rig, seen: &mut seen.images, counts: &mut counts, crashes: &mut crashes };
            let draw = Draw(digest ^ case.seed);
            if let Err(why) = quietly(|| chain.follow(left, model, after, case.depth, draw)) {
                return Err(fail(why, &points[..=at], &crashes));
            }
        }
    }
    Ok(counts)
}

/// Runs the workload, and keeps the states that are looked at: before each operation and at the end.
fn record(case: &Case, rig: Rig<'_>, points: &mut Vec<Point>) -> Result<(), String> {
    let storage = SimStorage::new();
    storage.seed_random(case.seed);
    storage.set_sizes(SIZES);
    if case.trace {
        storage.record();
    }
    let mut world = World::new(case.kind, rig, storage.clone(), Arc::default());
    let kept: Arc<Mutex<Vec<Point>>> = Arc::default();
    let (model, into) = (Arc::clone(&world.model), Arc::clone(&kept));
    world.observe(move |before| {
        let model = Arc::clone(&model.lock().unwrap());
        into.lock().unwrap().push(Point { storage: before, model });
    });
    let (before, last) = case.ops.split_at(if case.only_last { case.ops.len() - 1 } else { 0 });
    let ended = catch_unwind(AssertUnwindSafe(|| {
        world.start()?;
        world.run(before)?;
        if case.only_last {
            kept.lock().unwrap().clear();
        }
        world.run(last)
    }));
    let last = Point { storage: storage.snapshot(), model: world.snapshot() };
    points.append(&mut kept.lock().unwrap());
    points.push(last);
    match ended {
        Err(panic) => std::panic::resume_unwind(panic),
        Ok(Err(Ended::Violation(why))) => Err(why),
        Ok(_) => Ok(()),
    }
}

/// One crash after the other.
struct Chain<'a, 'w> {
    case: &'a Case,
    rig: Rig<'w>,
    seen: &'a mut HashSet<u64>,
    counts: &'a mut Counts,
    crashes: &'a mut Vec<String>,
}

impl Chain<'_, '_> {
    /// Opens what a crash left, looks at it, goes on with it, and has the next crash come at some point of that.
    fn follow(
        &mut self,
        left: SimStorage,
        model: &Arc<Model>,
        after: After,
        depth: u32,
        mut draw: Draw,
    ) -> Result<(), String> {
        left.set_free_space(None);
        let mut world = World::new(self.case.kind, self.rig, left, Arc::clone(model));
        // One of the operations is chosen, each with the same chance.
        let chosen: Arc<Mutex<(u64, Draw, Option<Point>)>> = Arc::new(Mutex::new((0, draw.clone(), None)));
        if depth > 1 {
            let (model, into) = (Arc::clone(&world.model), Arc::clone(&chosen));
            world.observe(move |before| {
                let (count, draw, point) = &mut *into.lock().unwrap();
                *count += 1;
                if draw.below(*count) == 0 {
                    *point = Some(Point { storage: before, model: Arc::clone(&model.lock().unwrap()) });
                }
            });
        }
        let ops: Vec<Op> = self.case.kind.ops(draw.next(), 2, false);
        let went_on = world.recover(after).and_then(|()| {
            self.counts.recovered += 1;
            self.crashes.push(format!("found {}", world.ends()));
            world.refill()?;
            world.run(&ops)
        });
        drop(world);
        match went_on {
            Err(Ended::Violation(why)) => return Err(why),
            Err(Ended::Early) => return Err("the engine gave up".to_owned()),
            Ok(()) => {}
        }
        let Some(point) = chosen.lock().unwrap().2.take() else { return Ok(()) };
        let (names, data) = point.storage.pending();
        let breadth = Breadth { drawn: 2, tears: 1, seed: draw.next(), ..self.case.breadth };
        let images = Image::all(names, data, &breadth);
        let image = &images[draw.below(images.len() as u64) as usize];
        let (next, after) = match draw.below(5) {
            0 => (point.storage.kill(), After::Kill),
            _ => (point.storage.image(image), After::PowerCut),
        };
        let how = if after == After::Kill { "killed".to_owned() } else { format!("{image:?}") };
        self.crashes.push(format!("{ops:?}, and after {} more operations {how}", point.storage.operations()));
        self.counts.images += 1;
        self.counts.distinct += u64::from(self.seen.insert(next.digest()));
        self.follow(next, &point.model, after, depth - 1, draw)
    }
}

/// Runs something; a panic is an error, and is not printed.
pub fn quietly<T>(run: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if QUIET.with(|quiet| *quiet.borrow()) {
                PANIC.with(|panic| *panic.borrow_mut() = Some(info.to_string()));
            } else {
                before(info);
            }
        }));
    });
    QUIET.with(|quiet| *quiet.borrow_mut() = true);
    let result = catch_unwind(AssertUnwindSafe(run));
    QUIET.with(|quiet| *quiet.borrow_mut() = false);
    result.unwrap_or_else(|_| {
        let why = PANIC.with(|panic| panic.borrow_mut().take()).unwrap_or_default();
        Err(format!("I11: a panic: {why}"))
    })
}

/// The shortest workload that still fails, as far as leaving out operations finds it.
pub fn shrink(case: &Case, rig: Rig<'_>, failure: Failure, tries: usize) -> Failure {
    let mut best = failure;
    let mut tries = tries;
    let mut size = (best.ops.len() / 2).max(1);
    loop {
        let mut at = 0;
        let mut shrunk = false;
        while at < best.ops.len() && tries > 0 {
            let mut ops = best.ops.clone();
            ops.drain(at..(at + size).min(ops.len()));
            tries -= 1;
            match explore(&Case { ops, ..case.clone() }, rig, &mut Seen::default()) {
                Err(failure) => (best, shrunk) = (failure, true),
                Ok(_) => at += size,
            }
        }
        if tries == 0 || size == 1 && !shrunk {
            let traced = Case { ops: best.ops.clone(), trace: true, ..case.clone() };
            return explore(&traced, rig, &mut Seen::default()).err().unwrap_or(best);
        }
        size = (size / 2).max(1);
    }
}

/// All sequences of this many operations of a kind, behind what fills the log a little. Together with the shorter ones
/// they crash everywhere, each in its last operation only.
pub fn sequences(kind: Kind, length: u32, order: Order, breadth: Breadth) -> impl Iterator<Item = Case> {
    let all = kind.all();
    let count = all.len();
    (0..count.pow(length)).map(move |number| {
        let own = (0..length).map(|place| all[number / count.pow(place) % count]);
        let ops = [Op::Append { records: 2, size: 30 }, Op::Flush].into_iter().chain(own).collect();
        let seed = number as u64;
        Case { seed, kind, ops, breadth: Breadth { order, seed, ..breadth }, depth: 1, only_last: true, trace: false }
    })
}

/// The case of a seed, in one of the orders.
pub fn case(seed: u64, order: Order, ops: usize, breadth: Breadth, depth: u32) -> Case {
    let kind = Kind::of(seed);
    // Of each kind every other workload meets a fault.
    let faulty = seed / super::workload::KINDS.len() as u64 % 2 == 1;
    Case {
        seed,
        kind,
        ops: kind.ops(seed, ops, faulty),
        breadth: Breadth { order, seed, ..breadth },
        depth,
        only_last: false,
        trace: false,
    }
}
