//! Two that map at the same time, in every interleaving.

use loom::thread;

use super::*;
use crate::sync::tests::explore;

/// Has nothing to let go of.
struct Member;

impl Evict for Member {
    fn last_used(&self) -> u64 {
        0
    }

    fn evict(&self) -> bool {
        false
    }
}

fn map(handles: &Arc<Handles>) -> Option<MappedTicket> {
    let member: Arc<dyn Evict> = Arc::new(Member);
    handles.map(60, &Arc::downgrade(&member))
}

#[test]
fn models_two_that_map_at_once_keep_within_the_budget() {
    explore("two that map at once", None, |seen| {
        let handles = Handles::new(1, 100);
        let other = {
            let handles = Arc::clone(&handles);
            thread::spawn(move || map(&handles))
        };
        let own = map(&handles);
        let other = other.join().unwrap();
        assert!(handles.mapped_bytes() <= 100, "more is mapped than the budget allows");
        if own.is_some() != other.is_some() {
            seen.note();
        }
        drop((own, other));
        assert_eq!(handles.mapped_bytes(), 0);
    });
}
