//! How models are run.

use super::Arc;
use super::atomic::{AtomicUsize, Ordering};

/// Explores a model: every interleaving, or those in which threads are interrupted at most so often. Prints how many
/// there were, and fails where the model never came to `Seen::note`.
pub(crate) fn explore(name: &str, interruptions_max: Option<usize>, model: impl Fn(&Seen) + Send + Sync + 'static) {
    let (count, seen) = (Arc::new(AtomicUsize::new(0)), Seen::default());
    let (counted, noted) = (Arc::clone(&count), seen.clone());
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = interruptions_max;
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        model(&noted);
    });
    let (count, seen) = (count.load(Ordering::Relaxed), seen.0.load(Ordering::Relaxed));
    let bound = interruptions_max.map_or(String::new(), |max| format!(" with at most {max} interruptions"));
    println!("{name}: {count} interleavings{bound}, {seen} of them came to what it is about");
    assert!(seen > 0, "the model never came to what it is about");
}

/// Counts the interleavings that came to what a model is about: without one it shows nothing.
#[derive(Clone, Default)]
pub(crate) struct Seen(Arc<AtomicUsize>);

impl Seen {
    pub(crate) fn note(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}
