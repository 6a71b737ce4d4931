//! Waiting, seen from its callers.

use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::thread;
use std::time::Duration;

use super::*;
use crate::error::ErrorKind;

type End = Arc<std::sync::atomic::AtomicU64>;

fn tail() -> (Arc<Tail>, End) {
    (Arc::new(Tail::default()), End::default())
}

fn reader(end: &End) -> impl Fn() -> Result<u64> + Unpin + use<> {
    let end = Arc::clone(end);
    move || Ok(end.load(Ordering::Acquire))
}

fn move_to(tail: &Tail, end: &End, to: u64) {
    end.store(to, Ordering::Release);
    tail.notify(to);
}

fn assert_nobody_is_left(tail: &Tail) {
    let waiters = tail.lock();
    assert!(waiters.waiting.is_empty() && waiters.looking.is_empty());
    assert!(!tail.has_waiters());
}

/// Counts how often it is called.
#[derive(Default)]
struct Calls(AtomicUsize);

impl Calls {
    fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Wake for Calls {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[cfg(not(loom))]
mod threads {
    use super::*;

    #[test]
    fn no_wake_up_is_lost_between_many_waiters_and_a_writer() {
        let (tail, end) = tail();
        let waiters: Vec<_> = (0..8)
            .map(|stride| {
                let (tail, current) = (Arc::clone(&tail), reader(&end));
                thread::spawn(move || {
                    for target in (1..=4000).step_by(stride + 1) {
                        tail.wait(target, &current, None).unwrap();
                    }
                })
            })
            .collect();
        (1..=4000).for_each(|next| move_to(&tail, &end, next));
        waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
        assert_nobody_is_left(&tail);
    }

    #[test]
    fn two_threads_that_wait_for_each_other_never_stand_still() {
        let ((here, ours), (there, theirs)) = (tail(), tail());
        let other = {
            let (here, there, ours, theirs) = (here.clone(), there.clone(), ours.clone(), theirs.clone());
            thread::spawn(move || {
                for round in 1..=20_000 {
                    here.wait(round, reader(&ours), None).unwrap();
                    move_to(&there, &theirs, round);
                }
            })
        };
        for round in 1..=20_000 {
            move_to(&here, &ours, round);
            there.wait(round, reader(&theirs), None).unwrap();
        }
        other.join().unwrap();
    }

    #[test]
    fn a_wait_for_any_of_many_ends_with_the_first() {
        let waiters: Vec<_> = (0..50).map(|_| tail()).collect();
        let registrations: Vec<_> = waiters.iter().map(|(tail, _)| tail.register(1)).collect();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                wait_any(&registrations, None, || {
                    Ok(waiters.iter().position(|(_, end)| end.load(Ordering::Acquire) > 0))
                })
            });
            while !waiters.iter().all(|(tail, _)| tail.has_waiters()) {
                thread::yield_now();
            }
            move_to(&waiters[31].0, &waiters[31].1, 1);
            assert_eq!(waiting.join().unwrap().unwrap(), Some(31));
        });
        drop(registrations);
        waiters.iter().for_each(|(tail, _)| assert_nobody_is_left(tail));
    }

    #[test]
    fn closing_ends_those_who_wait_and_those_who_come_later() {
        let (tail, end) = tail();
        let waiting = {
            let (tail, current) = (Arc::clone(&tail), reader(&end));
            thread::spawn(move || tail.wait(1, current, None))
        };
        while !tail.has_waiters() {
            thread::yield_now();
        }
        tail.close(ErrorKind::Closed.into()).call();
        assert_eq!(*waiting.join().unwrap().unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(*tail.wait(1, reader(&end), None).unwrap_err().kind(), ErrorKind::Closed);
        assert_nobody_is_left(&tail);
    }

    #[test]
    fn a_wait_ends_when_its_time_is_up() {
        let (tail, end) = tail();
        move_to(&tail, &end, 3);
        let deadline = Some(Instant::now() + Duration::from_millis(1));
        assert_eq!(tail.wait(5, reader(&end), deadline).unwrap(), WaitOutcome::TimedOut(Offset::new(3)));
        assert_nobody_is_left(&tail);
    }

    #[test]
    fn what_is_reached_is_told_even_when_waiting_has_ended() {
        let (tail, end) = tail();
        move_to(&tail, &end, 3);
        let mut future = Reached::new(Arc::clone(&tail), 4, reader(&end));
        let waker = Waker::noop();
        assert!(future.advance(waker).unwrap().is_none());
        move_to(&tail, &end, 4);
        tail.close(ErrorKind::Poisoned.into()).call();
        assert_eq!(tail.wait(3, reader(&end), None).unwrap(), WaitOutcome::Reached(Offset::new(4)));
        assert_eq!(future.advance(waker).unwrap(), Some(Offset::new(4)));
        assert_eq!(*tail.wait(5, reader(&end), None).unwrap_err().kind(), ErrorKind::Poisoned);
    }

    #[test]
    fn a_writer_wakes_only_those_whose_target_it_reached() {
        let (tail, end) = tail();
        let calls: Vec<_> = (0..3).map(|_| Arc::new(Calls::default())).collect();
        let registrations: Vec<_> = (0..3).map(|n| tail.register(10 * (n + 1))).collect();
        for (registration, calls) in registrations.iter().zip(&calls) {
            assert!(registration.renew(&Waker::from(Arc::clone(calls))).unwrap().is_none());
        }
        let counts = || calls.iter().map(|calls| calls.count()).collect::<Vec<_>>();
        move_to(&tail, &end, 9);
        assert_eq!(counts(), [0, 0, 0]);
        move_to(&tail, &end, 20);
        assert_eq!(counts(), [1, 1, 0]);
        move_to(&tail, &end, 25);
        assert_eq!(counts(), [1, 1, 0]);
        assert_eq!(tail.lowest.load(Ordering::Relaxed), 30);
        drop(registrations);
        move_to(&tail, &end, 99);
        assert_eq!(counts(), [1, 1, 0]);
        assert_nobody_is_left(&tail);
    }

    #[test]
    fn a_truncation_ends_only_the_waits_that_it_cut_off() {
        let (tail, _) = tail();
        let waker = Waker::noop();
        let (above, below) = (tail.register(9), tail.register(5));
        assert!(above.renew(waker).is_ok() && below.renew(waker).is_ok());
        tail.fail_above(5, ErrorKind::Truncated.into()).call();
        assert_eq!(*above.renew(waker).unwrap_err().kind(), ErrorKind::Truncated);
        assert!(below.renew(waker).is_ok());
        assert!(tail.register(9).renew(waker).is_ok());
    }

    #[test]
    fn a_wait_that_was_cut_off_fails_though_the_end_grew_again_and_was_cut_higher_up() {
        let (tail, end) = tail();
        let mut future = Reached::new(Arc::clone(&tail), 9, reader(&end));
        assert!(future.advance(Waker::noop()).unwrap().is_none());
        // Reached, but cut off before anybody looked.
        move_to(&tail, &end, 9);
        end.store(4, Ordering::Release);
        tail.fail_above(4, ErrorKind::Truncated.into()).call();
        move_to(&tail, &end, 20);
        end.store(12, Ordering::Release);
        tail.fail_above(12, ErrorKind::Truncated.into()).call();
        assert_eq!(*future.advance(Waker::noop()).unwrap_err().kind(), ErrorKind::Truncated);
    }

    #[test]
    fn a_future_resolves_when_its_offset_is_reached_and_leaves() {
        let (tail, end) = tail();
        let mut future = Box::pin(Reached::new(Arc::clone(&tail), 2, reader(&end)));
        let calls = Arc::new(Calls::default());
        let waker = Waker::from(Arc::clone(&calls));
        let mut context = Context::from_waker(&waker);
        assert!(future.as_mut().poll(&mut context).is_pending());
        move_to(&tail, &end, 1);
        assert!(future.as_mut().poll(&mut context).is_pending());
        assert_eq!(calls.count(), 0);
        move_to(&tail, &end, 2);
        assert_eq!(calls.count(), 1);
        assert!(matches!(future.as_mut().poll(&mut context), Poll::Ready(Ok(offset)) if offset == Offset::new(2)));
        assert_nobody_is_left(&tail);
    }

    #[test]
    fn a_future_that_moves_to_another_task_wakes_that_one() {
        let (tail, end) = tail();
        let mut future = Reached::new(Arc::clone(&tail), 1, reader(&end));
        let (first, second) = (Arc::new(Calls::default()), Arc::new(Calls::default()));
        assert!(future.advance(&Waker::from(Arc::clone(&first))).unwrap().is_none());
        assert!(future.advance(&Waker::from(Arc::clone(&second))).unwrap().is_none());
        move_to(&tail, &end, 1);
        assert_eq!((first.count(), second.count()), (0, 1));
    }

    /// A task that waits at the same tail itself: whoever drops or calls its waker comes back to the tail.
    struct Comrade {
        place: std::sync::Mutex<Option<Registration>>,
        called: AtomicBool,
    }

    impl Wake for Comrade {
        fn wake(self: Arc<Self>) {
            self.called.store(true, Ordering::SeqCst);
            self.place.lock().unwrap().take();
        }
    }

    fn comrade(tail: &Arc<Tail>) -> Waker {
        let place = std::sync::Mutex::new(Some(tail.register(7)));
        Waker::from(Arc::new(Comrade { place, called: AtomicBool::new(false) }))
    }

    #[test]
    fn a_waker_may_come_back_to_the_tail_when_called_or_dropped() {
        let (tail, end) = tail();
        let registration = tail.register(5);
        // Replaced, used, dropped with its place, called by a close.
        registration.renew(&comrade(&tail)).unwrap();
        registration.renew(&comrade(&tail)).unwrap();
        move_to(&tail, &end, 5);
        registration.renew(&comrade(&tail)).unwrap();
        drop(registration);
        let registration = tail.register(6);
        registration.renew(&comrade(&tail)).unwrap();
        tail.close(ErrorKind::Closed.into()).call();
        drop(registration);
        assert_nobody_is_left(&tail);
    }
}

/// Every interleaving of a small case: `RUSTFLAGS="--cfg loom" cargo test --lib --release tail`.
#[cfg(loom)]
mod models {
    use super::*;

    type ModelEnd = Arc<loom::sync::atomic::AtomicU64>;

    fn model(case: impl Fn(Arc<Tail>, ModelEnd) + Send + Sync + 'static) {
        loom::model(move || {
            case(Arc::new(Tail::default()), Arc::new(loom::sync::atomic::AtomicU64::new(0)));
        });
    }

    fn writer(tail: &Arc<Tail>, end: &ModelEnd, ends: &'static [u64]) -> loom::thread::JoinHandle<()> {
        let (tail, end) = (Arc::clone(tail), Arc::clone(end));
        loom::thread::spawn(move || {
            for to in ends {
                end.store(*to, Ordering::Release);
                tail.notify(*to);
            }
        })
    }

    #[test]
    fn a_waiter_never_sleeps_through_its_target() {
        model(|tail, end| {
            let writer = writer(&tail, &end, &[1, 2]);
            tail.wait(2, || Ok(end.load(Ordering::Acquire)), None).unwrap();
            writer.join().unwrap();
            assert_nobody_is_left(&tail);
        });
    }

    #[test]
    fn two_waiters_of_one_writer_both_wake() {
        model(|tail, end| {
            let writer = writer(&tail, &end, &[2]);
            let other = {
                let (tail, end) = (Arc::clone(&tail), Arc::clone(&end));
                loom::thread::spawn(move || tail.wait(2, || Ok(end.load(Ordering::Acquire)), None).unwrap())
            };
            tail.wait(1, || Ok(end.load(Ordering::Acquire)), None).unwrap();
            other.join().unwrap();
            writer.join().unwrap();
        });
    }

    #[test]
    fn a_waiter_never_sleeps_through_a_close() {
        model(|tail, end| {
            let closer = {
                let tail = Arc::clone(&tail);
                loom::thread::spawn(move || tail.close(ErrorKind::Closed.into()).call())
            };
            assert!(tail.wait(1, || Ok(end.load(Ordering::Acquire)), None).is_err());
            closer.join().unwrap();
        });
    }
}
