//! Discovery of the largest IP packet that gets through a link.
//!
//! The first run starts at the top: the kernel refuses the first probe and names the MTU of the
//! interface, so usually one probe is sent and answered. If that one gets no answer, the smallest
//! size is tried, and then the range between is halved. Later runs first try the size that is in
//! use; when it gets no answer any more, the smallest size is used until the run ends, because it
//! may be the only one that still gets through.
//!
//! What this host's own kernel refuses is believed at once. What is said on the way (ICMP) may be
//! forged, so it makes the next run come sooner and changes nothing by itself: the size in use is
//! given up when it gets no answer, as in any run.
//!
//! Invariant: a link on which not even the smallest size gets through is not usable.

use std::time::{Duration, Instant};

const TRIES: u8 = 3;
/// Ends the halving: a few bytes more are not worth another round.
const PRECISION: u16 = 8;
/// Between runs while nothing gets through.
const RETRY: Duration = Duration::from_secs(2);
const LARGEST: u16 = u16::MAX;
/// Between the starts of runs, whoever asks for one.
const REPORT_PAUSE: Duration = Duration::from_secs(1);

/// Discovery on one link.
#[derive(Debug)]
pub(super) struct Pmtud {
    smallest: u16,
    interval: Duration,
    /// Largest IP packet to be sent.
    mtu: u16,
    valid: bool,
    /// Where the next run starts.
    ceiling: u16,
    /// When the last run started.
    started: Option<Instant>,
    /// There is a reason to believe that the size in use does not get through any more.
    doubted: bool,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// The MTU is given by the configuration.
    Fixed,
    /// The link is down.
    Off,
    /// The next run starts then.
    Idle(Instant),
    Probing(Probing),
}

#[derive(Debug, Clone, Copy)]
struct Probing {
    size: u16,
    /// Largest size that was answered in this run, 0 = none.
    low: u16,
    /// No larger size is worth a probe.
    high: u16,
    tries: u8,
    /// When the probe is sent, or sent again, or given up.
    due: Instant,
}

/// What to do now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Send a probe of this size.
    Probe(u16),
    /// MTU or usability changed.
    Changed,
}

impl Pmtud {
    pub(super) fn new(smallest: u16, interval: Duration, fixed: Option<u16>) -> Self {
        Self {
            smallest,
            interval,
            mtu: fixed.unwrap_or(smallest).max(smallest),
            valid: true,
            ceiling: LARGEST,
            started: None,
            doubted: false,
            phase: match fixed {
                Some(_) => Phase::Fixed,
                None => Phase::Off,
            },
        }
    }

    pub(super) fn mtu(&self) -> u16 {
        self.mtu
    }

    pub(super) fn is_valid(&self) -> bool {
        self.valid
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Fixed | Phase::Off => None,
            Phase::Idle(next) => Some(*next),
            Phase::Probing(probing) => Some(probing.due),
        }
    }

    /// The link came up: everything may be different from before.
    pub(super) fn link_up(&mut self, now: Instant) {
        if !matches!(self.phase, Phase::Fixed) {
            self.ceiling = LARGEST;
            self.start(now);
        }
    }

    pub(super) fn link_down(&mut self) {
        if !matches!(self.phase, Phase::Fixed) {
            self.phase = Phase::Off;
            self.doubted = false;
            self.mtu = self.smallest;
            self.valid = true;
        }
    }

    /// Somebody on the way says that a packet was too large for it. Whether it is true shows when
    /// the size in use is tried; during a run it may be true of the probe.
    pub(super) fn handle_report(&mut self, now: Instant) {
        if let Phase::Idle(next) = &mut self.phase {
            let soon = self.started.map_or(now, |at| now.max(at + REPORT_PAUSE));
            *next = soon.min(*next);
            self.doubted = true;
        }
    }

    fn start(&mut self, now: Instant) {
        self.started = Some(now);
        let high = self.ceiling.max(self.mtu);
        self.phase = Phase::Probing(Probing {
            size: if self.mtu > self.smallest {
                self.mtu
            } else {
                high
            },
            low: 0,
            high,
            tries: 0,
            due: now,
        });
    }

    /// Call until it gives `None`. `wait` is the time that an answer may take.
    pub(super) fn handle_timeout(&mut self, now: Instant, wait: Duration) -> Option<Action> {
        match &mut self.phase {
            Phase::Fixed | Phase::Off => None,
            Phase::Idle(next) if *next > now => None,
            Phase::Idle(_) => {
                self.start(now);
                self.handle_timeout(now, wait)
            }
            Phase::Probing(probing) if probing.due > now => None,
            Phase::Probing(probing) if probing.tries < TRIES => {
                probing.tries += 1;
                probing.due = now + if self.doubted { wait / 2 } else { wait };
                Some(Action::Probe(probing.size))
            }
            Phase::Probing(probing) => {
                let probing = *probing;
                self.unanswered(now, probing).then_some(Action::Changed)
            }
        }
    }

    /// `true` if MTU or usability changed.
    pub(super) fn handle_reply(&mut self, now: Instant, size: u16) -> Option<bool> {
        let Phase::Probing(probing) = &mut self.phase else {
            return None;
        };
        if probing.size != size || probing.tries == 0 {
            return None;
        }
        probing.low = size;
        self.doubted = false;
        let probing = *probing;
        Some(self.next_probe(now, probing))
    }

    /// The kernel refused a packet as too large. `mtu` is what it allows, if it says so; `probe`
    /// the size if it was a probe.
    pub(super) fn handle_too_large(
        &mut self,
        now: Instant,
        probe: Option<u16>,
        mtu: Option<u16>,
    ) -> bool {
        let probing = match (&mut self.phase, probe) {
            (Phase::Fixed | Phase::Off, _) | (Phase::Idle(_), Some(_)) => return false,
            (Phase::Probing(probing), Some(size)) if probing.size == size => probing,
            (Phase::Probing(_), Some(_)) => return false,
            // A packet that fitted until now: the path is narrower than it was.
            (Phase::Probing(_), None) => return self.set(self.smallest, self.valid),
            (Phase::Idle(_), None) if self.mtu == self.smallest => {
                self.phase = Phase::Idle(now + RETRY);
                return self.set(self.smallest, false);
            }
            (Phase::Idle(_), None) => {
                self.ceiling = mtu.unwrap_or(self.ceiling).max(self.smallest);
                self.set(self.smallest, true);
                self.start(now);
                return true;
            }
        };
        let below = probing.size.saturating_sub(1);
        let Some(mtu) = mtu.filter(|mtu| (self.smallest..=below).contains(mtu)) else {
            let probing = *probing;
            return self.unanswered(now, probing);
        };
        self.ceiling = mtu;
        *probing = Probing {
            size: mtu,
            low: 0,
            high: mtu,
            tries: 0,
            due: now,
        };
        false
    }

    /// A size got no answer. `true` if MTU or usability changed.
    fn unanswered(&mut self, now: Instant, mut probing: Probing) -> bool {
        self.doubted = false;
        if probing.size == self.smallest {
            self.phase = Phase::Idle(now + RETRY);
            return self.set(self.smallest, false);
        }
        probing.high = probing.size - 1;
        let changed = self.set(self.smallest.max(probing.low), self.valid);
        self.next_probe(now, probing) || changed
    }

    /// Chooses the next size, or ends the run.
    fn next_probe(&mut self, now: Instant, probing: Probing) -> bool {
        let Probing { low, high, .. } = probing;
        if low != 0 && high.saturating_sub(low) < PRECISION {
            self.phase = Phase::Idle(now + self.interval);
            return self.set(low, true);
        }
        let changed = low != 0 && self.set(self.mtu.max(low), true);
        let size = if low == 0 {
            self.smallest
        } else if high == self.ceiling {
            high
        } else {
            low + (high - low).div_ceil(2)
        };
        self.phase = Phase::Probing(Probing {
            size,
            tries: 0,
            due: now,
            ..probing
        });
        changed
    }

    fn set(&mut self, mtu: u16, valid: bool) -> bool {
        let changed = (self.mtu, self.valid) != (mtu, valid);
        (self.mtu, self.valid) = (mtu, valid);
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_millis(200);
    const INTERVAL: Duration = Duration::from_secs(30);

    /// Runs discovery for `time` on a path that carries `path` bytes, behind an interface that
    /// refuses more than `interface`. Gives back the number of probes that were sent.
    fn run(
        pmtud: &mut Pmtud,
        now: &mut Instant,
        time: Duration,
        interface: u16,
        path: u16,
    ) -> usize {
        let end = *now + time;
        let mut sent = 0;
        while let Some(due) = pmtud.deadline().filter(|due| *due <= end) {
            *now = due.max(*now);
            while let Some(action) = pmtud.handle_timeout(*now, WAIT) {
                let Action::Probe(size) = action else {
                    continue;
                };
                if size > interface {
                    pmtud.handle_too_large(*now, Some(size), Some(interface));
                } else {
                    sent += 1;
                    if size <= path {
                        pmtud.handle_reply(*now, size).unwrap();
                    }
                }
            }
        }
        *now = end;
        sent
    }

    fn up() -> (Pmtud, Instant) {
        let now = crate::proto::knet::tests_base();
        let mut pmtud = Pmtud::new(576, INTERVAL, None);
        assert_eq!(pmtud.deadline(), None);
        pmtud.link_up(now);
        (pmtud, now)
    }

    #[test]
    fn one_probe_is_enough_when_the_path_is_as_wide_as_the_interface() {
        let (mut pmtud, mut now) = up();
        assert_eq!((pmtud.mtu(), pmtud.is_valid()), (576, true));
        assert_eq!(run(&mut pmtud, &mut now, WAIT, 1500, 1500), 1);
        assert_eq!((pmtud.mtu(), pmtud.is_valid()), (1500, true));
        assert_eq!(run(&mut pmtud, &mut now, INTERVAL, 1500, 1500), 1);
    }

    #[test]
    fn a_narrower_path_is_found_by_halving() {
        let (mut pmtud, mut now) = up();
        run(&mut pmtud, &mut now, Duration::from_secs(20), 1500, 1400);
        assert!((1392..=1400).contains(&pmtud.mtu()), "{}", pmtud.mtu());
        assert!(pmtud.is_valid());
    }

    #[test]
    fn a_path_that_narrows_falls_back_and_recovers() {
        let (mut pmtud, mut now) = up();
        run(&mut pmtud, &mut now, WAIT, 9000, 9000);
        assert_eq!(pmtud.mtu(), 9000);
        run(&mut pmtud, &mut now, INTERVAL + WAIT * 3, 9000, 1500);
        assert_eq!((pmtud.mtu(), pmtud.is_valid()), (576, true));
        run(&mut pmtud, &mut now, INTERVAL, 9000, 1500);
        assert!((1492..=1500).contains(&pmtud.mtu()));
        run(&mut pmtud, &mut now, INTERVAL * 2, 9000, 9000);
        assert_eq!(pmtud.mtu(), 9000);
    }

    #[test]
    fn a_path_without_answers_is_not_valid_until_there_are_some() {
        let (mut pmtud, mut now) = up();
        run(&mut pmtud, &mut now, Duration::from_secs(5), 1500, 0);
        assert!(!pmtud.is_valid());
        run(&mut pmtud, &mut now, Duration::from_secs(5), 1500, 1500);
        assert_eq!((pmtud.mtu(), pmtud.is_valid()), (1500, true));
    }

    #[test]
    fn a_refused_packet_starts_a_run() {
        let (mut pmtud, mut now) = up();
        run(&mut pmtud, &mut now, WAIT, 9000, 9000);
        assert!(pmtud.handle_too_large(now, None, Some(1500)));
        assert_eq!(pmtud.mtu(), 576);
        assert_eq!(run(&mut pmtud, &mut now, WAIT, 1500, 1500), 1);
        assert_eq!(pmtud.mtu(), 1500);
    }

    #[test]
    fn what_somebody_on_the_way_says_is_tried_and_not_believed() {
        let (mut pmtud, mut now) = up();
        run(&mut pmtud, &mut now, WAIT, 1500, 1500);
        // A flood of forged reports, in all phases of a run.
        let mut probes = 0;
        for _ in 0..10_000 {
            pmtud.handle_report(now);
            probes += run(&mut pmtud, &mut now, Duration::from_millis(1), 1500, 1500);
            assert_eq!((pmtud.mtu(), pmtud.is_valid()), (1500, true));
        }
        assert!((9..=11).contains(&probes), "{probes}");
        // A true one: the path became narrower.
        run(&mut pmtud, &mut now, REPORT_PAUSE * 2, 1500, 1500);
        pmtud.handle_report(now);
        run(&mut pmtud, &mut now, WAIT * 3 / 2, 1500, 1400);
        assert!(pmtud.mtu() <= 1400, "{}", pmtud.mtu());
        run(&mut pmtud, &mut now, INTERVAL / 2, 1500, 1400);
        assert!((1392..=1400).contains(&pmtud.mtu()), "{}", pmtud.mtu());
    }

    #[test]
    fn reports_about_larger_probes_do_not_narrow_a_link() {
        let (mut pmtud, mut now) = up();
        run(&mut pmtud, &mut now, Duration::from_secs(20), 1500, 1400);
        let known = pmtud.mtu();
        let end = now + INTERVAL * 2;
        while let Some(due) = pmtud.deadline().filter(|due| *due <= end) {
            now = due.max(now);
            if let Some(Action::Probe(size)) = pmtud.handle_timeout(now, WAIT) {
                if size > 1400 {
                    pmtud.handle_report(now);
                } else {
                    pmtud.handle_reply(now, size);
                }
            }
            assert!(pmtud.mtu() >= known, "{}", pmtud.mtu());
        }
    }

    #[test]
    fn the_smallest_size_stays_usable_whatever_is_reported() {
        let (mut pmtud, mut now) = up();
        run(&mut pmtud, &mut now, Duration::from_secs(20), 1500, 576);
        for _ in 0..3000 {
            pmtud.handle_report(now);
            run(&mut pmtud, &mut now, Duration::from_millis(1), 1500, 576);
            assert_eq!((pmtud.mtu(), pmtud.is_valid()), (576, true));
        }
    }

    #[test]
    fn replies_to_other_probes_are_not_taken() {
        let (mut pmtud, now) = up();
        assert_eq!(pmtud.handle_reply(now, u16::MAX), None);
        assert_eq!(
            pmtud.handle_timeout(now, WAIT),
            Some(Action::Probe(u16::MAX))
        );
        assert_eq!(pmtud.handle_reply(now, 9000), None);
        assert_eq!(pmtud.handle_reply(now, u16::MAX), Some(true));
    }

    #[test]
    fn a_fixed_mtu_needs_no_probes() {
        let now = crate::proto::knet::tests_base();
        let mut pmtud = Pmtud::new(576, INTERVAL, Some(1400));
        pmtud.link_up(now);
        assert_eq!((pmtud.mtu(), pmtud.deadline()), (1400, None));
        pmtud.link_down();
        assert_eq!(pmtud.mtu(), 1400);
    }
}
