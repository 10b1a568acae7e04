//! One link to one host: pings, latency, up and down.
//!
//! A link comes up after a number of pongs and goes down when pongs stay away, or at once when
//! the kernel refuses to send on it. When somebody on the way says that nobody is there (ICMP, which
//! anyone can forge), quick pings decide. Each ping carries a time that is answered once: a pong that
//! was recorded and is played again says nothing about the link.
//!
//! Limits: [`MAX_OUTSTANDING`] pings are remembered.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::Discard;
use super::pmtud::Pmtud;
use super::stats::{Latencies, Traffic};

const MAX_OUTSTANDING: usize = 16;
/// Pings of a link that answers but is not up yet, and of one whose pong is late.
const FAST_PING_INTERVAL: Duration = Duration::from_millis(200);
/// When a ping of the other side is answered with one, counted from the last one.
const PING_BACK_AFTER: Duration = Duration::from_millis(50);
/// What a pong may be late beyond its usual latency before the next ping is sent early.
const LATE: Duration = Duration::from_millis(50);
/// A link that goes down sooner after it came up has to earn twice as many pongs next time, and
/// four times at the most: with fast pings that is no longer than peers take for their few.
const STABLE_AFTER: Duration = Duration::from_secs(30);
const MAX_FLAPS: u32 = 2;
/// Pings of a link in doubt, and how many of them have to stay without a pong.
const DOUBT_PING_INTERVAL: Duration = Duration::from_millis(50);
const DOUBT_PINGS: u32 = 4;
const MIN_PROBE_WAIT: Duration = Duration::from_millis(200);

/// Settings of a link, the same for all hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkConfig {
    /// Time between pings.
    pub ping_interval: Duration,
    /// A link without a pong for this long, and a bit for its latency, is down.
    pub ping_timeout: Duration,
    /// One pong more than this brings a link up.
    pub pong_count: u32,
    /// Most pongs that the average latency is taken over.
    pub ping_precision: u32,
    /// In passive mode the usable link with the highest one carries the data.
    pub priority: u8,
}

/// Why a link went down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkDownReason {
    /// Pongs stayed away.
    NoPong,
    /// The kernel could not send on it.
    SendFailed,
    /// It is no longer configured.
    Removed,
}

/// Time in a ping, as it travels.
pub(super) type PingTime = [u8; 16];

/// One link to one host.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) remote: SocketAddr,
    pub(super) config: LinkConfig,
    pub(super) pmtud: Pmtud,
    pub(super) traffic: Traffic,
    pub(super) latencies: Latencies,
    up_since: Option<Instant>,
    /// Since the link was last down.
    pongs: u32,
    /// How often it went down soon after it came up, at most [`MAX_FLAPS`].
    flaps: u32,
    ups: u64,
    downs: u64,
    latency: Option<Duration>,
    samples: u32,
    last_pong: Option<Instant>,
    last_ping: Option<Instant>,
    /// The other side has pinged since: it is there.
    is_pinged: bool,
    /// When the link is down if there is no pong before.
    doubted_until: Option<Instant>,
    /// Pings of all links go out at whole intervals after this.
    grid: Instant,
    outstanding: VecDeque<(PingTime, Instant)>,
}

impl Link {
    pub(super) fn new(remote: SocketAddr, config: LinkConfig, pmtud: Pmtud, grid: Instant) -> Self {
        Self {
            remote,
            config,
            pmtud,
            traffic: Traffic::default(),
            latencies: Latencies::default(),
            up_since: None,
            pongs: 0,
            flaps: 0,
            ups: 0,
            downs: 0,
            latency: None,
            samples: 0,
            last_pong: None,
            last_ping: None,
            is_pinged: false,
            doubted_until: None,
            grid,
            outstanding: VecDeque::new(),
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.up_since.is_some()
    }

    /// Data can be sent on it.
    pub(super) fn is_usable(&self) -> bool {
        self.is_up() && self.pmtud.is_valid()
    }

    /// Average time from ping to pong.
    pub(super) fn latency(&self) -> Option<Duration> {
        self.latency
    }

    /// How often it came up.
    pub(super) fn ups(&self) -> u64 {
        self.ups
    }

    /// How often it went down.
    pub(super) fn downs(&self) -> u64 {
        self.downs
    }

    /// Time that the answer to a path-MTU probe may take.
    pub(super) fn probe_wait(&self) -> Duration {
        MIN_PROBE_WAIT.max(self.latency.unwrap_or_default() * 4)
    }

    fn timeout(&self) -> Duration {
        self.config.ping_timeout + self.latency.unwrap_or_default() * 2
    }

    fn pongs_needed(&self) -> u32 {
        self.config.pong_count.saturating_add(1) << self.flaps
    }

    /// When a ping is due; `None` = at once, there was none yet.
    fn next_ping(&self) -> Option<Instant> {
        let last = self.last_ping?;
        if self.doubted_until.is_some() {
            return Some(last + DOUBT_PING_INTERVAL);
        }
        let usual = self.aligned(last + self.config.ping_interval);
        let fast = last + self.config.ping_interval.min(FAST_PING_INTERVAL);
        Some(match self.last_pong {
            Some(pong) if self.is_up() => {
                let late =
                    pong + self.config.ping_interval + self.latency.unwrap_or_default() * 2 + LATE;
                usual.min(fast.max(late))
            }
            Some(_) => fast,
            None if self.is_pinged => last + PING_BACK_AFTER,
            None => usual,
        })
    }

    /// The latest common point not after `at`, so that a node wakes up once for all its links.
    fn aligned(&self, at: Instant) -> Instant {
        let since = at.saturating_duration_since(self.grid).as_nanos();
        let beyond = since % self.config.ping_interval.as_nanos().max(1);
        at - Duration::from_nanos(u64::try_from(beyond).unwrap_or(0))
    }

    /// When pongs have stayed away for too long.
    fn down_at(&self) -> Option<Instant> {
        let silent = self.last_pong? + self.timeout();
        Some(self.doubted_until.map_or(silent, |at| at.min(silent)))
    }

    pub(super) fn deadline(&self, now: Instant) -> Instant {
        let deadlines = [self.down_at(), self.pmtud.deadline()];
        let first = deadlines.into_iter().flatten().min();
        let ping = self.next_ping().unwrap_or(now);
        first.map_or(ping, |first| first.min(ping))
    }

    /// Whether a ping is due.
    pub(super) fn ping_due(&self, now: Instant) -> bool {
        self.next_ping().is_none_or(|next| next <= now)
    }

    /// The other side has sent a ping. `true` if that brings the next one from here forward: links
    /// should come up on both sides together, or what one sends is lost at the other.
    pub(super) fn handle_ping(&mut self) -> bool {
        let is_news = !self.is_pinged && self.last_pong.is_none();
        self.is_pinged |= is_news;
        is_news
    }

    /// The other side has started anew: that the link went down then says nothing against it.
    pub(super) fn forgive(&mut self) {
        self.flaps = 0;
    }

    /// A ping with this time is sent.
    pub(super) fn pinged(&mut self, now: Instant, time: PingTime, timed: bool) {
        if timed {
            self.last_ping = Some(now);
            self.is_pinged = false;
        }
        if self.outstanding.len() == MAX_OUTSTANDING {
            self.outstanding.pop_front();
        }
        self.outstanding.push_back((time, now));
    }

    /// `Ok(true)`: the link came up.
    pub(super) fn handle_pong(&mut self, now: Instant, time: PingTime) -> Result<bool, Discard> {
        let index = self
            .outstanding
            .iter()
            .position(|(outstanding, _)| *outstanding == time)
            .ok_or(Discard::Unasked)?;
        let Some((_, sent)) = self.outstanding.remove(index) else {
            return Err(Discard::Unasked);
        };
        let latency = now.saturating_duration_since(sent);
        if latency > self.config.ping_timeout {
            return Err(Discard::Late);
        }
        self.measure(latency);
        self.last_pong = Some(now);
        self.doubted_until = None;
        if self.is_up() {
            return Ok(false);
        }
        self.pongs = self.pongs.saturating_add(1);
        if self.pongs < self.pongs_needed() {
            return Ok(false);
        }
        self.up_since = Some(now);
        self.ups += 1;
        self.pmtud.link_up(now);
        Ok(true)
    }

    /// Sets counters to zero.
    pub(super) fn clear_stats(&mut self) {
        self.traffic = Traffic::default();
        self.latencies = Latencies::default();
        (self.ups, self.downs) = (0, 0);
    }

    fn measure(&mut self, latency: Duration) {
        self.latencies.note(latency);
        let precision = self.config.ping_precision.max(1);
        self.samples = self.samples.saturating_add(1).min(precision);
        let average = self.latency.unwrap_or_default();
        self.latency = Some((average * (self.samples - 1) + latency) / self.samples);
    }

    /// For this long, nobody listened for pongs.
    pub(super) fn excuse(&mut self, time: Duration) {
        for at in [&mut self.last_pong, &mut self.doubted_until] {
            *at = at.map(|at| at + time);
        }
    }

    /// The link may be of no use: unless there is a pong, it is down soon.
    pub(super) fn doubt(&mut self, now: Instant) {
        if self.is_up() && self.doubted_until.is_none() {
            let wait = DOUBT_PING_INTERVAL * DOUBT_PINGS + self.latency.unwrap_or_default() * 2;
            self.doubted_until = Some(now + wait);
        }
    }

    /// `true`: the link went down.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> bool {
        self.down_at().is_some_and(|at| at <= now) && self.take_down(now)
    }

    /// Forgets what is known about the link. `true` if it was up.
    pub(super) fn take_down(&mut self, now: Instant) -> bool {
        let up_since = self.up_since.take();
        if let Some(since) = up_since {
            self.downs += 1;
            let stable = now.saturating_duration_since(since) >= STABLE_AFTER;
            self.flaps = if stable {
                0
            } else {
                (self.flaps + 1).min(MAX_FLAPS)
            };
        }
        self.pongs = 0;
        self.last_pong = None;
        self.doubted_until = None;
        self.latency = None;
        self.samples = 0;
        self.outstanding.clear();
        self.pmtud.link_down();
        up_since.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::knet::tests_base;

    const MS: Duration = Duration::from_millis(1);

    fn link() -> Link {
        let config = LinkConfig {
            ping_interval: 750 * MS,
            ping_timeout: 1500 * MS,
            pong_count: 2,
            ping_precision: 2048,
            priority: 1,
        };
        let remote = "10.0.0.1:5405".parse().unwrap();
        Link::new(
            remote,
            config,
            Pmtud::new(576, 30_000 * MS, None),
            tests_base(),
        )
    }

    /// Sends each ping when it is due and answers it after `latency` until `until`, or not at all.
    fn run(link: &mut Link, now: &mut Instant, until: Instant, latency: Option<Duration>) {
        let mut number = u64::try_from(now.duration_since(tests_base()).as_nanos()).unwrap();
        loop {
            let due = link.next_ping().unwrap_or(*now).max(*now);
            let down = link.down_at().filter(|at| *at < due && *at <= until);
            if let Some(at) = down {
                *now = at;
                link.handle_timeout(at);
                continue;
            }
            if due > until {
                *now = until;
                return;
            }
            *now = due;
            let mut time = [0; 16];
            time[..8].copy_from_slice(&number.to_le_bytes());
            number += 1;
            link.pinged(due, time, true);
            if let Some(latency) = latency {
                link.handle_pong(due + latency, time).unwrap();
            }
        }
    }

    #[test]
    fn a_link_needs_one_pong_more_than_the_count() {
        let mut link = link();
        let mut now = tests_base();
        for (number, up) in [(1, false), (2, false), (3, true)] {
            assert!(link.ping_due(now) || number > 1);
            link.pinged(now, [number; 16], true);
            assert_eq!(link.handle_pong(now + MS, [number; 16]), Ok(up));
            now = link.next_ping().unwrap();
        }
        assert!(link.is_usable());
        assert_eq!(link.latency(), Some(MS));
    }

    #[test]
    fn a_pong_counts_once_and_only_in_time() {
        let mut link = link();
        let now = tests_base();
        link.pinged(now, [1; 16], true);
        assert_eq!(link.handle_pong(now, [2; 16]), Err(Discard::Unasked));
        assert_eq!(link.handle_pong(now, [1; 16]), Ok(false));
        assert_eq!(link.handle_pong(now, [1; 16]), Err(Discard::Unasked));
        link.pinged(now, [3; 16], true);
        assert_eq!(
            link.handle_pong(now + 1501 * MS, [3; 16]),
            Err(Discard::Late)
        );
    }

    #[test]
    fn silence_takes_the_link_down_within_the_timeout() {
        let mut link = link();
        let mut now = tests_base();
        run(
            &mut link,
            &mut now,
            tests_base() + 60_000 * MS,
            Some(10 * MS),
        );
        assert!(link.is_up());
        let last = link.last_pong.unwrap();
        run(&mut link, &mut now, last + 1519 * MS, None);
        assert!(link.is_up());
        run(&mut link, &mut now, last + 1521 * MS, None);
        assert!(!link.is_up());
    }

    #[test]
    fn a_link_in_doubt_is_kept_by_pongs_and_lost_without() {
        let mut link = link();
        let mut now = tests_base();
        run(&mut link, &mut now, tests_base() + 5000 * MS, Some(MS));
        // Again and again: as a flood of forged reports would.
        let mut pings = 0;
        let end = now + 10_000 * MS;
        while now < end {
            link.doubt(now);
            let before = link.last_ping;
            let next = now + MS;
            run(&mut link, &mut now, next, Some(MS));
            pings += u32::from(link.last_ping != before);
            assert!(link.is_up());
        }
        assert!(pings <= 220, "{pings}");
        let later = now + 100 * MS;
        run(&mut link, &mut now, later, Some(MS));
        assert_eq!(link.doubted_until, None);
        link.doubt(now);
        let last = now;
        run(&mut link, &mut now, last + 190 * MS, None);
        assert!(link.is_up());
        run(&mut link, &mut now, last + 210 * MS, None);
        assert!(!link.is_up());
        // Of a link that is down there is nothing to doubt.
        link.doubt(now);
        assert_eq!(link.doubted_until, None);
    }

    #[test]
    fn a_late_pong_makes_pings_faster() {
        let mut link = link();
        let mut now = tests_base();
        run(&mut link, &mut now, tests_base() + 5000 * MS, Some(MS));
        let last = link.last_ping.unwrap();
        link.pinged(last + 750 * MS, [9; 16], true);
        assert_eq!(link.next_ping(), Some(last + 950 * MS));
    }

    #[test]
    fn a_ping_of_the_other_side_is_answered_with_one_soon() {
        let mut link = link();
        let now = tests_base();
        link.pinged(now, [1; 16], true);
        assert_eq!(link.next_ping(), Some(now + 750 * MS));
        assert!(link.handle_ping());
        assert_eq!(link.next_ping(), Some(now + 50 * MS));
        assert!(!link.handle_ping());
        // One for each: who pings and does not hear is not asked more often.
        link.pinged(now + 200 * MS, [2; 16], true);
        assert_eq!(link.next_ping(), Some(now + 750 * MS));
    }

    #[test]
    fn a_link_that_flaps_has_to_earn_more_pongs() {
        let mut link = link();
        let mut now = tests_base();
        let mut times = Vec::new();
        for _ in 0..5 {
            let start = now;
            while !link.is_up() {
                let next = now + 100 * MS;
                run(&mut link, &mut now, next, Some(MS));
            }
            times.push(now.duration_since(start));
            link.take_down(now);
        }
        assert!(times[3] > times[1], "{times:?}");
        assert!(times[4] < 8000 * MS, "{times:?}");
        assert!(times[1] > times[0], "{times:?}");
        while !link.is_up() {
            let next = now + 100 * MS;
            run(&mut link, &mut now, next, Some(MS));
        }
        let later = now + 40_000 * MS;
        run(&mut link, &mut now, later, Some(MS));
        link.take_down(now);
        assert_eq!(link.pongs_needed(), 3);
    }

    #[test]
    fn the_average_follows_the_latency() {
        let mut link = link();
        link.config.ping_precision = 4;
        for _ in 0..100 {
            link.measure(10 * MS);
        }
        assert_eq!(link.latency(), Some(10 * MS));
        for _ in 0..100 {
            link.measure(20 * MS);
        }
        assert!(link.latency().unwrap() > 19 * MS);
    }
}
