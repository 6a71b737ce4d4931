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

fn map(file_cache: &Arc<FileCache>) -> Option<MappedTicket> {
    let member: Arc<dyn Evict> = Arc::new(Member);
    file_cache.map(60, &Arc::downgrade(&member))
}

#[test]
fn models_two_that_map_at_once_keep_within_the_budget() {
    explore("two that map at once", None, |seen| {
        let file_cache = FileCache::new(1, 100);
        let other = {
            let file_cache = Arc::clone(&file_cache);
            thread::spawn(move || map(&file_cache))
        };
        let own = map(&file_cache);
        let other = other.join().unwrap();
        assert!(file_cache.mapped_bytes() <= 100, "more is mapped than the budget allows");
        if own.is_some() != other.is_some() {
            seen.note();
        }
        drop((own, other));
        assert_eq!(file_cache.mapped_bytes(), 0);
    });
}
