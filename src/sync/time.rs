//! Time under the scheduler, and how schedules are run.
//!
//! Time stands still while threads run. It goes on to the next moment that somebody waits for when nobody can do anything
//! else, and now and then before that, as drawn: a thread may be slower than any time that another one waits for. How
//! often is drawn for each schedule, and bounded, so that threads that look after something again and again let the
//! others get on. Waits of hours are taken for waits that never end: only where nobody has anything else to wait for is
//! their time up.
//!
//! A task of its own lets time pass, and the scheduler chooses it as it chooses threads, so a schedule that fails can be
//! replayed. With nobody to wake it ends, and if threads wait still, the scheduler tells of the deadlock.

use std::time::Duration;

use shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler, Schedule, Scheduler, Task, TaskId};
use shuttle::{Config, Runner};

pub use super::clock::draw;
use super::clock::{TIME, Time, now};

/// The task that lets time pass: the first one that is made.
const CLOCK: usize = 1;
/// Who waits longer than this waits for something else.
const FOR_EVER: Duration = Duration::from_secs(600);
/// A thread's stack, in bytes.
const STACK: usize = 256 << 10;
/// How many tasks a schedule has without memory being asked for at each step.
const TASKS: usize = 32;

/// How much time has passed in this schedule.
pub fn passed() -> Duration {
    now()
}

/// Waits until so much time has passed.
pub fn sleep(time: Duration) {
    super::scheduled::sleep(time);
}

/// Runs a case in so many schedules: half of them drawn evenly, half with few changes of threads, which finds what needs a
/// long run of one. With `STRATALOG_REPLAY` in the one schedule that the file of that name holds, as a failure prints it.
pub fn check(case: impl Fn() + Send + Sync + Copy + 'static, count: usize) {
    let mut config = Config::new();
    config.stack_size = STACK;
    config.silence_warnings = true;
    let run = move || {
        TIME.set(Time::default());
        shuttle::thread::spawn(let_pass);
        case();
    };
    if let Ok(path) = std::env::var("STRATALOG_REPLAY") {
        let replay = ReplayScheduler::new_from_file(&path).expect("a schedule");
        Runner::new(replay, config).run(run);
        return;
    }
    Runner::new(Timed::new(RandomScheduler::new(count / 2)), config.clone()).run(run);
    Runner::new(Timed::new(PctScheduler::new(3, count - count / 2)), config).run(run);
}

/// Lets time pass whenever it is this task's turn.
fn let_pass() {
    while let Some(wake) = TIME.with_borrow_mut(Time::pass) {
        wake();
        shuttle::thread::sleep(Duration::ZERO);
    }
}

/// A scheduler of threads that chooses when time passes as well.
struct Timed<S> {
    threads: S,
    drawn: u64,
    /// How often time passes yet in this schedule while threads could run.
    early: u32,
    /// At one step of so many.
    pace: u64,
}

impl<S: Scheduler> Timed<S> {
    fn new(threads: S) -> Timed<S> {
        Timed { threads, drawn: 0, early: 0, pace: 1 }
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.drawn = self.drawn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.drawn >> 33) % below
    }

    fn passes_early(&mut self) -> bool {
        let is_near = || TIME.with_borrow(|time| time.next().is_some_and(|left| left < FOR_EVER));
        let passes = self.early > 0 && self.draw(self.pace) == 0 && is_near();
        self.early -= u32::from(passes);
        passes
    }
}

impl<S: Scheduler> Scheduler for Timed<S> {
    fn new_execution(&mut self) -> Option<Schedule> {
        let schedule = self.threads.new_execution()?;
        // It tells its seed no other way; of the same seed comes the same schedule.
        self.drawn =
            format!("{schedule:?}").bytes().fold(0, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
        self.early = [0, 1, 2, 4, 8][self.draw(5) as usize];
        self.pace = 16 << self.draw(7);
        Some(schedule)
    }

    fn next_task(&mut self, runnable: &[&Task], current: Option<TaskId>, is_yielding: bool) -> Option<TaskId> {
        let clock = TaskId::from(CLOCK);
        let mut few = [runnable[0]; TASKS];
        let mut many = Vec::new();
        let mut count = 0;
        for task in runnable.iter().filter(|task| task.id() != clock) {
            match few.get_mut(count) {
                Some(place) => *place = task,
                None if many.is_empty() => many = few.iter().copied().chain([*task]).collect(),
                None => many.push(*task),
            }
            count += 1;
        }
        let threads = if many.is_empty() { &few[..count] } else { &many };
        let Some(first) = threads.first() else { return Some(clock) };
        if count < runnable.len() && self.passes_early() {
            return Some(clock);
        }
        let (current, is_yielding) = match current {
            Some(current) if current == clock => (Some(first.id()), false),
            current => (current, is_yielding),
        };
        self.threads.next_task(threads, current, is_yielding)
    }

    fn next_u64(&mut self) -> u64 {
        self.threads.next_u64()
    }
}
