//! The threads that serve the kernel: one of them reads requests at a time.
//!
//! Waking a thread for each request would cost more than most requests do. So one thread has the
//! lead: it takes what waits, does it, stores what has changed in one transaction, and looks for
//! more for a moment before it sleeps. Nothing that it does waits for other nodes. Should a
//! request or a transaction hold it up all the same, for the disk is slow, the next thread takes
//! the lead, so that readers wait no longer than [`PATIENCE`].
//!
//! Invariants:
//! * at most one thread has the lead, and one that was held up learns that it lost it;
//! * while a thread that leads is at work, another watches it.

use std::{
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use super::{
    adapter::Adapter,
    device::{Device, Received},
    protocol::{Request, WRITE_OVERHEAD},
};
use crate::{clock, memdb::MAX_FILE_SIZE};

/// How long one piece of work may take before another thread takes the lead.
const PATIENCE: Duration = Duration::from_millis(2);

/// Looks at a leading thread that does nothing, before the watch sleeps.
const QUIET_LOOKS: u32 = 50;

/// How long a thread looks for more requests before it sleeps: most come right after the answer
/// to another, and waking a thread takes about as long.
const LINGER: Duration = Duration::from_micros(20);

/// Requests that are done before what they changed is stored.
const BATCH_MAX: usize = 32;

const STACK_BYTES: usize = 512 << 10;

/// Size of a buffer for any request.
const BUFFER_BYTES: usize = MAX_FILE_SIZE as usize + (WRITE_OVERHEAD.next_multiple_of(4096));

/// Who leads.
#[derive(Debug, Default)]
struct State {
    /// Counts the threads that had the lead.
    term: u64,
    has_leader: bool,
    /// Counts pieces of work; odd while one is under way.
    work: u64,
    /// Nobody looks at the work, until told.
    watch_sleeps: bool,
    ended: bool,
}

#[derive(Debug, Default)]
struct Lead {
    state: Mutex<State>,
    changed: Condvar,
    /// Held by the one that watches, or waits to lead; the others wait for their turn to do so.
    next: Mutex<()>,
}

impl Lead {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the lead; the number of the term, or `None` at the end.
    fn take(&self) -> Option<u64> {
        let _next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.lock();
        let (mut seen, mut quiet) = (state.work, 0);
        loop {
            if state.ended {
                return None;
            }
            if !state.has_leader {
                break;
            }
            if quiet > QUIET_LOOKS {
                state.watch_sleeps = true;
                let waited = self
                    .changed
                    .wait_while(state, |state| state.watch_sleeps && !state.ended);
                state = waited.unwrap_or_else(PoisonError::into_inner);
                (seen, quiet) = (state.work, 0);
                continue;
            }
            let waited = self.changed.wait_timeout(state, PATIENCE);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            let is_held_up = state.work == seen && state.work % 2 == 1;
            if is_held_up {
                break;
            }
            quiet = if state.work == seen { quiet + 1 } else { 0 };
            seen = state.work;
        }
        state.has_leader = true;
        state.term += 1;
        // What the one before was at is not ours.
        state.work += state.work % 2;
        Some(state.term)
    }

    /// Does a piece of work that could be held up; false if the lead is lost.
    fn work(&self, term: u64, work: impl FnOnce()) -> bool {
        let mut state = self.lock();
        if state.term == term {
            state.work += 1;
            if state.watch_sleeps {
                state.watch_sleeps = false;
                self.changed.notify_one();
            }
        }
        drop(state);
        work();
        let mut state = self.lock();
        let still_leads = state.term == term;
        if still_leads {
            state.work += 1;
        }
        still_leads
    }

    fn finish(&self) {
        self.lock().ended = true;
        self.changed.notify_all();
    }
}

/// Serves a mount with so many threads, until it is gone.
///
/// # Errors
/// When no thread can be had, or the device fails.
pub(super) fn run(adapter: Adapter, device: Arc<Device>, threads: usize) -> io::Result<()> {
    let server = Server {
        adapter,
        device,
        lead: Lead::default(),
        lingers: thread::available_parallelism().is_ok_and(|cpus| cpus.get() > 1),
    };
    thread::scope(|scope| {
        let spawned = (0..threads).map(|number| {
            thread::Builder::new()
                .name(format!("pmxcfs-fuse{number}"))
                .stack_size(STACK_BYTES)
                .spawn_scoped(scope, || server.serve())
        });
        let (workers, failures): (Vec<_>, Vec<_>) = spawned.partition(Result::is_ok);
        let failure = failures.into_iter().find_map(Result::err);
        if let Some(error) = failure {
            if workers.is_empty() {
                return Err(error);
            }
            tracing::warn!(%error, "fewer threads than wanted serve the mount");
        }
        let mut result = Ok(());
        for worker in workers.into_iter().flatten() {
            let ended = worker.join();
            result = result.and(ended.unwrap_or_else(|_| Err(io::Error::other("panicked"))));
        }
        result
    })
}

/// Why a thread does not lead any more.
enum Led {
    /// It was held up, and another took over.
    Lost,
    /// The mount is gone.
    End,
}

struct Server {
    adapter: Adapter,
    device: Arc<Device>,
    lead: Lead,
    /// Whether to look for more requests for a moment: who sends them runs on another processor.
    lingers: bool,
}

impl Server {
    fn serve(&self) -> io::Result<()> {
        // Memory is had only as far as requests reach.
        let mut buffer = vec![0; BUFFER_BYTES];
        while let Some(term) = self.lead.take() {
            match self.lead(term, &mut buffer) {
                // What waits to be stored is not left to whoever comes next.
                Ok(Led::Lost) => self.adapter.settle(),
                ended => {
                    self.lead.finish();
                    return ended.map(drop);
                }
            }
        }
        Ok(())
    }

    /// Serves until the lead or the mount is lost.
    fn lead(&self, term: u64, buffer: &mut [u8]) -> io::Result<Led> {
        loop {
            if !self.lead.work(term, || self.adapter.settle()) {
                return Ok(Led::Lost);
            }
            let mut received = self.next(buffer)?;
            let mut left = BATCH_MAX;
            while let Received::Request(len) = received {
                if !self.lead.work(term, || self.handle(&buffer[..len])) {
                    return Ok(Led::Lost);
                }
                left -= 1;
                if left == 0 {
                    break;
                }
                received = self.device.receive(buffer)?;
            }
            if received == Received::End {
                return Ok(Led::End);
            }
        }
    }

    /// Waits for a request.
    fn next(&self, buffer: &mut [u8]) -> io::Result<Received> {
        // Who waits for another node sends nothing until its answer comes.
        let lingers = self.lingers && !self.adapter.is_waited_for();
        let until = lingers.then(|| clock::monotonic() + LINGER);
        loop {
            match self.device.receive(buffer)? {
                Received::Nothing if until.is_some_and(|until| clock::monotonic() < until) => {
                    std::hint::spin_loop();
                }
                Received::Nothing => self.device.wait()?,
                received => return Ok(received),
            }
        }
    }

    fn handle(&self, bytes: &[u8]) {
        match Request::decode(bytes) {
            Some(request) => self.adapter.handle(&request),
            None => tracing::error!(len = bytes.len(), "a request without a header was dropped"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn the_lead_passes_on_when_work_is_held_up_and_not_before() {
        let lead = Lead::default();
        let first = lead.take().unwrap();
        assert!(lead.work(first, || {}));
        let (sender, receiver) = mpsc::channel();
        thread::scope(|scope| {
            let lead = &lead;
            scope.spawn(move || sender.send(lead.take()).unwrap());
            assert!(receiver.recv_timeout(20 * PATIENCE).is_err());
            let mut second = None;
            let kept = lead.work(first, || second = receiver.recv().unwrap());
            assert!(!kept);
            let second = second.unwrap();
            assert!(lead.work(second, || {}));
            assert!(!lead.work(first, || {}));
            assert!(lead.work(second, || {}));
        });
    }

    #[test]
    fn a_watch_that_sleeps_is_woken_by_work() {
        let lead = Lead::default();
        let first = lead.take().unwrap();
        thread::scope(|scope| {
            let watch = scope.spawn(|| lead.take());
            while !lead.lock().watch_sleeps {
                thread::yield_now();
            }
            assert!(!lead.work(first, || assert!(watch.join().unwrap().is_some())));
            let watch = scope.spawn(|| lead.take());
            while !lead.lock().watch_sleeps {
                thread::yield_now();
            }
            lead.finish();
            assert!(watch.join().unwrap().is_none());
        });
    }
}
