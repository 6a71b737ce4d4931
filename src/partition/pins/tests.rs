use proptest::prelude::*;

use super::*;

const HOLD_MAX: Duration = Duration::from_millis(100);

fn at(offset: u64) -> Offset {
    Offset::new(offset)
}

fn time(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn lost_from(result: Result<impl Sized>) -> Option<u64> {
    match result.err()?.kind() {
        ErrorKind::LostTombstones { from } => Some(from.get()),
        other => panic!("{other}"),
    }
}

fn reader(name: Option<&str>, from: u64) -> LostReader {
    LostReader { name: name.map(str::to_owned), from: at(from) }
}

/// What a pass finds at `now`: its floor, and who stands there until when.
fn floor(pins: &Pins, below: u64, now: i64) -> (u64, Option<(Option<String>, i64)>) {
    let pass = pins.begin_pass(at(below), time(now), HOLD_MAX);
    let holder = pass.holder().map(|holder| (holder.name.clone(), holder.holds_until.as_millis()));
    (pass.floor().get(), holder)
}

#[test]
fn the_lowest_pin_of_the_owner_bounds_compaction_while_it_lives() {
    let pins = Pins::default();
    assert_eq!(pins.owner_bound(), None);
    let mut low = pins.pin(at(10));
    let other = pins.pin(at(10));
    let _high = pins.pin(at(30));
    low.move_to(at(40));
    assert_eq!((low.offset(), pins.owner_bound()), (at(40), Some(at(10))));
    drop(other);
    assert_eq!(pins.owner_bound(), Some(at(30)));
    low.move_to(at(20));
    assert_eq!(pins.owner_bound(), Some(at(20)));
    drop(low);
    assert_eq!(pins.owner_bound(), Some(at(30)));
}

#[test]
fn the_lowest_reader_or_position_in_the_way_is_the_floor() {
    let pins = Pins::default();
    assert_eq!(floor(&pins, 50, 0), (50, None));
    let first = pins.reader::<()>(at(20));
    let mut second = pins.reader::<()>(at(10));
    pins.register_position("p", at(15)).expect("it is new");
    assert_eq!(floor(&pins, 50, 0), (10, Some((None, 100))));
    assert_eq!(floor(&pins, 10, 0), (10, None), "a tombstone at 10 would be in the way, none below is");
    second.view_at(at(30), || ()).expect("it has lost nothing");
    assert_eq!(floor(&pins, 50, 0), (15, Some((Some("p".to_owned()), 100))));
    assert!(pins.unregister_position("p") && !pins.unregister_position("p"));
    assert_eq!(floor(&pins, 50, 0).0, 20);
    drop((first, second));
    assert_eq!(floor(&pins, 50, 0), (50, None));
}

#[test]
fn who_stands_still_holds_from_the_first_pass_that_meets_it_and_no_longer_than_allowed() {
    let pins = Pins::default();
    let mut pin = pins.reader::<()>(at(10));
    assert_eq!(floor(&pins, 50, 1000), (10, Some((None, 1100))));
    assert_eq!(floor(&pins, 50, 1099), (10, Some((None, 1100))));
    pin.view_at(at(11), || ()).expect("it has lost nothing");
    assert_eq!(floor(&pins, 50, 1100), (11, Some((None, 1200))), "moving on begins anew");
    assert_eq!(floor(&pins, 50, 1200), (50, None));
    pin.view_at(at(11), || ()).expect("nothing was removed yet");
    assert_eq!(floor(&pins, 11, 1200), (11, None));
    assert_eq!(floor(&pins, 50, 1201), (11, Some((None, 1301))), "at the end of the log it was in nobody's way");
}

#[test]
fn a_clock_that_is_set_back_does_not_make_a_reader_hold_longer() {
    let pins = Pins::default();
    let _pin = pins.reader::<()>(at(10));
    assert_eq!(floor(&pins, 50, 1_000_000).0, 10);
    assert_eq!(floor(&pins, 50, 1000), (10, Some((None, 1100))));
    assert_eq!(floor(&pins, 50, 1100), (50, None));
}

#[test]
fn who_held_too_long_is_told_once_a_tombstone_that_it_has_not_passed_is_gone() {
    let pins = Pins::default();
    let mut behind = pins.reader::<()>(at(10));
    let mut ahead = pins.reader::<()>(at(30));
    pins.register_position("p", at(20)).expect("it is new");
    floor(&pins, 50, 0);
    let pass = pins.begin_pass(at(50), time(100), HOLD_MAX);
    assert_eq!(pass.floor(), at(50));
    let (published, lost) = pass.publish(at(20), || "published");
    assert_eq!((published, lost), ("published", vec![reader(None, 10), reader(Some("p"), 20)]));
    assert_eq!(pass.publish(at(25), || ()).1, vec![], "each is told of once");
    drop(pass);

    assert_eq!(lost_from(behind.view_at(at(40), || ())), Some(10));
    assert_eq!(lost_from(behind.view_at(at(60), || ())), Some(10), "the error is sticky");
    assert_eq!(lost_from(pins.register_position("p", at(60))), Some(20));
    ahead.view_at(at(40), || ()).expect("it had passed the tombstone");
    assert_eq!(floor(&pins, 50, 200).0, 40, "who has lost holds nothing");

    assert!(pins.unregister_position("p"));
    pins.register_position("p", at(0)).expect("it starts over");
}

#[test]
fn a_reader_made_during_a_pass_keeps_its_view_until_it_is_past_all_that_may_go() {
    let pins = Pins::default();
    let pass = pins.begin_pass(at(50), time(0), HOLD_MAX);
    let mut during = pins.reader(at(0));
    let mut beyond = pins.reader(at(50));
    assert_eq!(during.view_at(at(0), || "old").ok(), Some("old"));
    assert_eq!(pass.publish(at(49), || ()).1, vec![]);
    drop(pass);
    let mut after = pins.reader(at(0));
    assert_eq!(during.view_at(at(49), || "new").ok(), Some("old"));
    assert!(during.held.is_some());
    assert_eq!(during.view_at(at(50), || "new").ok(), Some("new"));
    assert!(during.held.is_none(), "segments that were replaced can go");
    assert_eq!(beyond.view_at(at(50), || "new").ok(), Some("new"));
    assert_eq!(after.view_at(at(0), || "new").ok(), Some("new"));
    assert_eq!(after.view_at(at(0), || "newer").ok(), Some("newer"));
}

#[test]
fn a_position_registered_or_set_back_during_a_pass_is_told_unless_it_gets_past() {
    let pins = Pins::default();
    for name in ["back", "far"] {
        pins.register_position(name, at(60)).expect("it is new");
    }
    let pass = pins.begin_pass(at(50), time(0), HOLD_MAX);
    for (name, offset) in [("new", 10), ("quick", 10), ("back", 30), ("quick", 45)] {
        pins.register_position(name, at(offset)).expect("nothing was removed yet");
    }
    assert_eq!(pass.publish(at(44), || ()).1, vec![reader(Some("back"), 30), reader(Some("new"), 10)]);
    drop(pass);
    assert_eq!(lost_from(pins.register_position("new", at(11))), Some(10));
    for name in ["quick", "far"] {
        pins.register_position(name, at(70)).expect("it had passed");
    }
}

#[test]
fn who_loads_a_view_without_the_tombstone_is_told() {
    let pins = Pins::default();
    let mut pin = pins.reader(at(10));
    let pass = pins.begin_pass(at(50), time(0), Duration::ZERO);
    let mut view = "old";
    let publish_just_before = || {
        pass.publish(at(20), || view = "new");
        view
    };
    assert_eq!(lost_from(pin.view_at(at(10), publish_just_before)), Some(10));
}

#[test]
fn a_reader_that_begins_anew_is_as_one_that_is_made_then() {
    let pins = Pins::default();
    let mut pin = pins.reader(at(60));
    let mut lost = pins.reader(at(10));
    let pass = pins.begin_pass(at(50), time(0), Duration::ZERO);
    // It holds nobody up where it stood; from now on it might miss a tombstone.
    pin.restart(at(20));
    assert_eq!(pin.view_at(at(20), || "old").unwrap(), "old");
    assert_eq!(pass.publish(at(44), || ()).1, vec![reader(None, 10)]);
    assert_eq!(pin.view_at(at(30), || "new").unwrap(), "old");
    drop(pass);
    assert!(lost.view_at(at(10), || "new").is_err());
    lost.restart(at(10));
    assert_eq!(lost.view_at(at(10), || "new").unwrap(), "new");
    pin.restart(at(20));
    assert_eq!(pin.view_at(at(20), || "new").unwrap(), "new");
    drop((pin, lost));
    assert_eq!(pins.lowest(at(100)), None);
}

#[test]
fn a_truncation_ends_readers_that_keep_an_old_view() {
    let pins = Pins::default();
    let pass = pins.begin_pass(at(50), time(0), HOLD_MAX);
    let [mut keeps, mut past] = [(); 2].map(|()| pins.reader::<()>(at(0)));
    past.view_at(at(50), || ()).expect("nothing was removed");
    drop(pass);
    let mut other = pins.reader::<()>(at(0));
    pins.truncated(Offset::ZERO);
    assert_eq!(lost_from(keeps.view_at(at(1), || ())), Some(0));
    past.view_at(at(51), || ()).expect("it keeps no view");
    other.view_at(at(1), || ()).expect("it keeps no view");
}

#[test]
fn positions_are_bounded_in_number_and_length() {
    let pins = Pins::default();
    let refused = |result: Result<()>| matches!(result.unwrap_err().kind(), ErrorKind::InvalidConfig(_));
    assert!(refused(pins.register_position(&"n".repeat(MAX_NAME + 1), at(0))));
    pins.register_position(&"n".repeat(MAX_NAME), at(0)).expect("it is as long as allowed");
    (1..MAX_POSITIONS).for_each(|i| pins.register_position(&i.to_string(), at(0)).expect("there is room"));
    assert!(refused(pins.register_position("one more", at(0))));
    pins.register_position("1", at(5)).expect("it is known");
}

#[test]
#[should_panic(expected = "one compaction at a time")]
fn two_passes_at_once_are_a_mistake() {
    let pins = Pins::default();
    let _first = pins.begin_pass(at(1), time(0), HOLD_MAX);
    pins.begin_pass(at(1), time(0), HOLD_MAX);
}

#[test]
#[should_panic(expected = "a tombstone above the floor has to stay")]
fn removing_a_tombstone_that_is_held_is_a_mistake() {
    let pins = Pins::default();
    let _pin = pins.reader::<()>(at(10));
    pins.begin_pass(at(50), time(0), HOLD_MAX).publish(at(10), || ());
}

mod simulation {
    //! Readers, compactions and appends in any order, in steps as small as what other threads can see: nobody that is
    //! promised anything ends with a key that was deleted.

    use super::*;

    type State = BTreeMap<u8, u64>;

    /// A record: offset, key, and whether it is a tombstone. A value is the offset.
    #[derive(Clone, Copy, PartialEq, Debug)]
    struct Rec {
        offset: u64,
        key: u8,
        tombstone: bool,
    }

    type View = Arc<(Vec<Rec>, u64)>;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Append {
            key: u8,
            tombstone: bool,
        },
        Open,
        Register,
        /// A reader or consumer asks for a view, or confirms its position.
        Look(usize),
        /// It reads the next record of the view that it has.
        Read(usize),
        Close(usize),
        Begin,
        Publish,
        Wait(i64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0..3u8, any::<bool>()).prop_map(|(key, tombstone)| Step::Append { key, tombstone }),
            2 => Just(Step::Open),
            2 => Just(Step::Register),
            12 => (0..4usize).prop_map(Step::Look),
            12 => (0..4usize).prop_map(Step::Read),
            1 => (0..4usize).prop_map(Step::Close),
            4 => Just(Step::Begin),
            4 => Just(Step::Publish),
            2 => (1..80i64).prop_map(Step::Wait),
        ]
    }

    enum Pinned {
        Reader(ReaderPin<View>),
        Position(String),
    }

    struct Consumer {
        pinned: Pinned,
        id: u64,
        view: View,
        next: u64,
        state: State,
        /// Where it last said to be, and since when.
        told: (u64, i64),
    }

    struct World {
        pins: Pins,
        view: View,
        now: i64,
        opened: u64,
        consumers: Vec<Consumer>,
        lost: usize,
        removed: usize,
        truth: State,
    }

    fn apply(state: &mut State, rec: Rec) {
        if rec.tombstone {
            state.remove(&rec.key)
        } else {
            state.insert(rec.key, rec.offset)
        };
    }

    /// The latest record of each key, without the tombstones below the floor; and the last one of those.
    fn compact(records: &[Rec], below: u64, floor: u64) -> (Vec<Rec>, Option<u64>) {
        let dead = |rec: &Rec| records.iter().any(|r| r.offset < below && r.offset > rec.offset && r.key == rec.key);
        let kept: Vec<Rec> = records.iter().copied().filter(|rec| rec.offset >= below || !dead(rec)).collect();
        let gone = |rec: &Rec| rec.tombstone && rec.offset < floor;
        let highest = kept.iter().filter(|rec| gone(rec)).map(|rec| rec.offset).max();
        (kept.into_iter().filter(|rec| !gone(rec)).collect(), highest)
    }

    impl World {
        fn new() -> World {
            let view = Arc::new((Vec::new(), 0));
            let (pins, consumers, truth) = (Pins::default(), Vec::new(), State::new());
            World { pins, view, now: 0, opened: 0, consumers, lost: 0, removed: 0, truth }
        }

        fn append(&mut self, key: u8, tombstone: bool) {
            let (mut records, end) = (*self.view).clone();
            let rec = Rec { offset: end, key, tombstone };
            apply(&mut self.truth, rec);
            records.push(rec);
            self.view = Arc::new((records, end + 1));
        }

        fn open(&mut self, reader: bool) {
            if self.consumers.len() == 4 {
                return;
            }
            self.opened += 1;
            let id = self.opened;
            let pinned = if reader {
                Pinned::Reader(self.pins.reader(at(0)))
            } else {
                self.pins.register_position(&id.to_string(), at(0)).expect("its name is new");
                Pinned::Position(id.to_string())
            };
            let (view, state) = (Arc::new((Vec::new(), 0)), State::new());
            self.consumers.push(Consumer { pinned, id, view, next: 0, state, told: (0, self.now) });
        }

        /// Takes the next view. Whoever is told that all is well and is at the end knows the truth; whoever is told
        /// otherwise had been given its time.
        fn look(&mut self, i: usize) -> std::result::Result<(), TestCaseError> {
            let Some(consumer) = self.consumers.get_mut(i) else { return Ok(()) };
            let current = &self.view;
            let looked = match &mut consumer.pinned {
                Pinned::Reader(pin) => pin.view_at(at(consumer.next), || Arc::clone(current)),
                Pinned::Position(name) => {
                    self.pins.register_position(name, at(consumer.next)).map(|()| Arc::clone(current))
                }
            };
            if consumer.told.0 != consumer.next {
                consumer.told = (consumer.next, self.now);
            }
            match looked {
                Ok(view) => {
                    if consumer.next == self.view.1 {
                        prop_assert_eq!(&consumer.state, &self.truth);
                    }
                    consumer.view = view;
                }
                Err(error) => {
                    let lost = matches!(error.kind(), ErrorKind::LostTombstones { .. });
                    prop_assert!(lost, "{}", error);
                    self.lost += 1;
                    self.close(i);
                }
            }
            Ok(())
        }

        fn read(&mut self, i: usize) {
            let Some(consumer) = self.consumers.get_mut(i) else { return };
            let (records, end) = &*consumer.view;
            let before = consumer.next;
            match records.iter().find(|rec| rec.offset >= before) {
                Some(rec) => {
                    apply(&mut consumer.state, *rec);
                    consumer.next = rec.offset + 1;
                }
                None => consumer.next = before.max(*end),
            }
        }

        fn close(&mut self, i: usize) {
            if i < self.consumers.len()
                && let Pinned::Position(name) = self.consumers.swap_remove(i).pinned
            {
                self.pins.unregister_position(&name);
            }
        }

        /// Ids of those who may lose tombstones to a pass that begins now.
        fn overdue(&self) -> BTreeSet<u64> {
            let overdue = self.consumers.iter().filter(|c| self.now - c.told.1 >= HOLD_MAX.as_millis() as i64);
            overdue.map(|consumer| consumer.id).collect()
        }
    }

    /// A pass from its beginning to its end, with some of the steps in between.
    fn pass(world: &mut World, steps: &mut std::vec::IntoIter<Step>) -> std::result::Result<(), TestCaseError> {
        // Only this borrows from the world's pins while all else changes.
        let pins = Pins { registry: Arc::clone(&world.pins.registry) };
        let below = world.view.1;
        let overdue = world.overdue();
        let pass = pins.begin_pass(at(below), time(world.now), HOLD_MAX);
        let known: BTreeSet<u64> = world.consumers.iter().map(|consumer| consumer.id).collect();
        for step in steps.by_ref() {
            match step {
                Step::Publish => break,
                step => take(world, step)?,
            }
        }
        let (records, highest) = compact(&world.view.0, below, pass.floor().get());
        let output = Arc::new((records, world.view.1));
        match highest {
            None => world.view = output,
            Some(highest) => {
                world.removed += 1;
                let before: Vec<_> = world.consumers.iter().map(|c| (c.id, is_lost(world, c))).collect();
                let view = &mut world.view;
                pass.publish(at(highest), || *view = output);
                for (consumer, (id, was_lost)) in world.consumers.iter().zip(before) {
                    let new_position = !known.contains(&id) && matches!(consumer.pinned, Pinned::Position(_));
                    let allowed = was_lost || overdue.contains(&id) || new_position;
                    prop_assert!(allowed || !is_lost(world, consumer), "{} had its time left", id);
                }
            }
        }
        Ok(())
    }

    fn is_lost(world: &World, consumer: &Consumer) -> bool {
        match &consumer.pinned {
            Pinned::Reader(pin) => pin.place.is_lost(),
            Pinned::Position(name) => world.pins.lock().positions[&**name].place.is_lost(),
        }
    }

    fn take(world: &mut World, step: Step) -> std::result::Result<(), TestCaseError> {
        match step {
            Step::Append { key, tombstone } => world.append(key, tombstone),
            Step::Open => world.open(true),
            Step::Register => world.open(false),
            Step::Look(i) => world.look(i)?,
            Step::Read(i) => world.read(i),
            Step::Close(i) => world.close(i),
            Step::Wait(millis) => world.now += millis,
            Step::Begin | Step::Publish => {}
        }
        Ok(())
    }

    fn run(steps: Vec<Step>) -> std::result::Result<World, TestCaseError> {
        let mut world = World::new();
        let mut steps = steps.into_iter();
        while let Some(step) = steps.next() {
            match step {
                Step::Begin => pass(&mut world, &mut steps)?,
                step => take(&mut world, step)?,
            }
        }
        Ok(world)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn who_is_promised_it_ends_with_the_latest_value_of_every_key(steps in prop::collection::vec(step(), 0..120)) {
            run(steps)?;
        }
    }

    /// The case that the view is kept for: the reader takes the old value and would never hear of the deletion.
    #[test]
    fn a_reader_between_a_value_and_its_tombstone_at_the_swap_hears_of_the_deletion() {
        let steps = vec![
            Step::Append { key: 1, tombstone: false },
            Step::Append { key: 1, tombstone: true },
            Step::Begin,
            Step::Open,
            Step::Look(0),
            Step::Read(0),
            Step::Publish,
            Step::Look(0),
            Step::Read(0),
            Step::Look(0),
        ];
        let world = run(steps).expect("all is as promised");
        assert_eq!((world.removed, world.lost, world.consumers[0].next), (1, 0, 2));
    }
}
