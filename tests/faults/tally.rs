//! Many tries, a few at once, and the count of them.

use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

/// How many are tried at once. Much of a try is waiting.
const WORKERS: usize = 8;

/// What was tried so far.
#[derive(Default)]
pub(crate) struct Tally {
    passed: usize,
    failures: Vec<String>,
}

impl Tally {
    /// Makes every try of `work`, each of which says whether it came to its point, and panics if a
    /// promise was broken.
    pub(crate) fn add<T: Debug + Sync>(
        &mut self,
        what: &str,
        work: &[T],
        attempt: impl Fn(&T) -> bool + Sync,
    ) {
        let next = AtomicUsize::new(0);
        let hits = AtomicUsize::new(0);
        let failed = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..WORKERS {
                scope.spawn(|| {
                    while let Some(item) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
                        match catch_unwind(AssertUnwindSafe(|| attempt(item))) {
                            Ok(hit) => drop(hits.fetch_add(usize::from(hit), Ordering::Relaxed)),
                            Err(panic) => {
                                let why = panic.downcast_ref::<String>().cloned();
                                let why = why.unwrap_or_else(|| "a panic".into());
                                failed.lock().push(format!("{what}: {item:?}: {why}"));
                            }
                        }
                    }
                });
            }
        });
        let failed = failed.into_inner();
        println!(
            "{what}, {} tries, {} of them came to their point, {} failed",
            work.len(),
            hits.into_inner(),
            failed.len()
        );
        self.passed += work.len() - failed.len();
        self.failures.extend(failed);
    }

    /// Fails if anything did, or if fewer than `least` tries were made.
    pub(crate) fn end(self, least: usize) {
        for failure in &self.failures {
            println!("FAILED {failure}");
        }
        println!("tries: {} passed, {} failed", self.passed, self.failures.len());
        assert!(self.failures.is_empty());
        assert!(self.passed >= least, "too few points were found to prove anything");
    }
}
