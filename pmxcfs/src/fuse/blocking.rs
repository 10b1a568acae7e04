//! Calls that may wait, kept off the threads that serve the kernel.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

/// Threads for calls that wait. More calls queue: they wait for the same total order anyway.
const THREADS_MAX: usize = 64;

/// How long a thread stays without work.
const IDLE: Duration = Duration::from_secs(10);

const STACK_BYTES: usize = 512 << 10;

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    /// All calls that did not end yet.
    calls: usize,
    queue: VecDeque<Job>,
    idle: usize,
    threads: usize,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    work: Condvar,
    ended: Condvar,
}

/// Runs calls that may wait.
#[derive(Clone, Default)]
pub(super) struct Blocking(Arc<Shared>);

impl fmt::Debug for Blocking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blocking").finish_non_exhaustive()
    }
}

impl Blocking {
    /// Runs a call on a thread for it.
    pub(super) fn run(&self, job: impl FnOnce() + Send + 'static) {
        let mut state = self.0.lock();
        state.calls += 1;
        state.queue.push_back(Box::new(job));
        if state.queue.len() > state.idle && state.threads < THREADS_MAX {
            state.threads += 1;
            drop(state);
            self.spawn();
        } else {
            drop(state);
            self.0.work.notify_one();
        }
    }

    /// Counts a call that has no thread, until the result is dropped.
    pub(super) fn call(&self) -> Call {
        self.0.lock().calls += 1;
        Call(Arc::clone(&self.0))
    }

    /// Whether a call is under way.
    pub(super) fn has_calls(&self) -> bool {
        self.0.lock().calls > 0
    }

    /// Waits until no call is under way; false if that took too long.
    pub(super) fn wait_idle(&self, timeout: Duration) -> bool {
        let state = self.0.lock();
        let waited = self
            .0
            .ended
            .wait_timeout_while(state, timeout, |state| state.calls > 0);
        waited.unwrap_or_else(PoisonError::into_inner).0.calls == 0
    }

    fn spawn(&self) {
        let shared = Arc::clone(&self.0);
        let spawned = thread::Builder::new()
            .name("pmxcfs-change".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || shared.serve());
        if let Err(error) = spawned {
            tracing::warn!(%error, "no thread for a change; it waits for another to end");
            let mut state = self.0.lock();
            state.threads -= 1;
            // With no thread at all nobody would ever take the call: do it here.
            let job = if state.threads == 0 {
                state.queue.pop_front()
            } else {
                None
            };
            drop(state);
            if let Some(job) = job {
                job();
                self.0.call_ended(self.0.lock());
            }
        }
    }
}

/// A call under way whose answer is on its way.
#[derive(Debug)]
pub(super) struct Call(Arc<Shared>);

impl Drop for Call {
    fn drop(&mut self) {
        self.0.call_ended(self.0.lock());
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("calls", &self.lock().calls)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn serve(&self) {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.queue.pop_front() {
                drop(state);
                job();
                self.call_ended(self.lock());
                state = self.lock();
                continue;
            }
            state.idle += 1;
            let waited = self
                .work
                .wait_timeout_while(state, IDLE, |state| state.queue.is_empty());
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            state.idle -= 1;
            if state.queue.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }

    fn call_ended(&self, mut state: MutexGuard<'_, State>) {
        state.calls -= 1;
        if state.calls == 0 {
            self.ended.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn waiting_calls_leave_the_caller_free() {
        let blocking = Blocking::default();
        let barrier = Arc::new(Barrier::new(11));
        for _ in 0..10 {
            let barrier = Arc::clone(&barrier);
            blocking.run(move || {
                barrier.wait();
            });
        }
        assert!(!blocking.wait_idle(Duration::ZERO));
        barrier.wait();
        assert!(blocking.wait_idle(Duration::from_secs(60)));
    }
}
