//! Many simulated histories, on all cores.

use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};

/// Runs histories 0 to `count` - 1 on all cores and adds up what they give.
///
/// # Panics
/// With the text of the first failure; no further histories are begun then.
pub fn on_all_cores<C: Default + Send>(
    count: u64,
    history: impl Fn(u64) -> Result<C, String> + Sync,
    add: impl Fn(&mut C, C) + Sync,
) -> C {
    let next = AtomicU64::new(0);
    let total = Mutex::new(C::default());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= count {
                        break;
                    }
                    match history(at) {
                        Ok(counts) => add(&mut total.lock().expect("no history panics"), counts),
                        Err(text) => {
                            next.store(count, Ordering::Relaxed);
                            panic!("{text}");
                        }
                    }
                }
            });
        }
    });
    total.into_inner().expect("no history panics")
}
