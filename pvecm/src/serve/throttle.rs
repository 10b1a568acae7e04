//! Guesses of passwords are slowed.
//!
//! Each address has a number of failed logins at hand, which comes back slowly; so has the network
//! around it, and the whole server. Who has none left is refused without a look at the password.
//!
//! Invariants: what one network uses up leaves enough for all others; an address that logged in not
//! long ago is never refused for what others did; the table has a bound.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Failures that an address may have at once, and how long it takes until one is forgotten.
const ADDRESS: Rate = Rate::new(5, 30);
/// The same for the network around it.
const NETWORK: Rate = Rate::new(40, 4);
/// The same for all together. Far above what one network is allowed.
const EVERYBODY: Rate = Rate::new(120, 1);
/// An address that logged in is known for so long.
const KNOWN: Duration = Duration::from_secs(24 * 3600);
/// Addresses and networks that are remembered.
const ENTRIES_MAX: usize = 8192;

#[derive(Clone, Copy, Debug)]
struct Rate {
    at_once: u32,
    forgotten_after: Duration,
}

impl Rate {
    const fn new(at_once: u32, seconds: u64) -> Self {
        Self {
            at_once,
            forgotten_after: Duration::from_secs(seconds),
        }
    }
}

/// Failures that are not forgotten yet: until when it takes to forget all of them.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    empty_at: Instant,
}

impl Bucket {
    /// How long until there is room for one more.
    fn wait(&self, rate: Rate, now: Instant) -> Duration {
        let room = rate.forgotten_after * (rate.at_once - 1);
        self.empty_at.saturating_duration_since(now + room)
    }

    fn add(&mut self, rate: Rate, now: Instant) {
        self.empty_at = self.empty_at.max(now) + rate.forgotten_after;
    }

    fn take_back(&mut self, rate: Rate, now: Instant) {
        let earlier = self.empty_at.checked_sub(rate.forgotten_after);
        self.empty_at = earlier.unwrap_or(now).max(now);
    }
}

/// What is counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Scope {
    Address(IpAddr),
    Network(IpAddr),
}

/// Failed logins that are remembered.
#[derive(Debug)]
pub struct Throttle {
    buckets: BTreeMap<Scope, Bucket>,
    known: BTreeMap<IpAddr, Instant>,
    everybody: Bucket,
}

impl Throttle {
    /// Nobody has failed yet.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            buckets: BTreeMap::new(),
            known: BTreeMap::new(),
            everybody: Bucket { empty_at: now },
        }
    }

    /// Whether somebody may try. It counts as a failure until [`succeeded`](Self::succeeded).
    ///
    /// # Errors
    /// How long to wait.
    pub fn begin(&mut self, from: IpAddr, now: Instant) -> Result<(), Duration> {
        self.forget(now);
        let (address, network) = scopes(from);
        let wait = |scope, rate| {
            let bucket = self.buckets.get(&scope);
            bucket.map_or(Duration::ZERO, |bucket| bucket.wait(rate, now))
        };
        let mut longest = wait(address, ADDRESS);
        if !self.is_known(from, now) {
            longest = longest.max(wait(network, NETWORK));
            longest = longest.max(self.everybody.wait(EVERYBODY, now));
        }
        if !longest.is_zero() {
            return Err(longest);
        }
        for (scope, rate) in [(address, ADDRESS), (network, NETWORK)] {
            let bucket = self.buckets.entry(scope);
            let bucket = bucket.or_insert(Bucket { empty_at: now });
            bucket.add(rate, now);
        }
        self.everybody.add(EVERYBODY, now);
        Ok(())
    }

    /// The one who began has logged in: the failures of that address are forgiven.
    pub fn succeeded(&mut self, from: IpAddr, now: Instant) {
        let (address, network) = scopes(from);
        self.buckets.remove(&address);
        if let Some(bucket) = self.buckets.get_mut(&network) {
            bucket.take_back(NETWORK, now);
        }
        self.everybody.take_back(EVERYBODY, now);
        if self.known.len() < ENTRIES_MAX {
            self.known.insert(subnet(from, 32, 64), now + KNOWN);
        }
    }

    fn is_known(&self, from: IpAddr, now: Instant) -> bool {
        let until = self.known.get(&subnet(from, 32, 64));
        until.is_some_and(|until| *until > now)
    }

    /// Makes room: what is forgotten anyway, then the half with the fewest failures.
    fn forget(&mut self, now: Instant) {
        if self.buckets.len() + 2 <= ENTRIES_MAX {
            return;
        }
        self.known.retain(|_, until| *until > now);
        self.buckets.retain(|_, bucket| bucket.empty_at > now);
        if self.buckets.len() + 2 <= ENTRIES_MAX {
            return;
        }
        let mut moments: Vec<Instant> = self.buckets.values().map(|it| it.empty_at).collect();
        let middle = moments.len() / 2;
        let (_, middle, _) = moments.select_nth_unstable(middle);
        let middle = *middle;
        let mut room = ENTRIES_MAX / 2;
        self.buckets.retain(|_, bucket| {
            // Most may have failed equally often.
            let stays = bucket.empty_at >= middle && room > 0;
            room -= usize::from(stays);
            stays
        });
    }
}

/// An address, which with IPv6 is all that one machine may call its own, and the network around it.
fn scopes(from: IpAddr) -> (Scope, Scope) {
    (
        Scope::Address(subnet(from, 32, 64)),
        Scope::Network(subnet(from, 24, 48)),
    )
}

/// The address of a client for counting: the same for all that one machine can choose from.
#[must_use]
pub fn client(from: IpAddr) -> IpAddr {
    subnet(from, 32, 64)
}

fn subnet(from: IpAddr, bits4: u32, bits6: u32) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - bits4).unwrap_or(0);
            Ipv4Addr::from_bits(ip.to_bits() & mask).into()
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - bits6).unwrap_or(0);
            Ipv6Addr::from_bits(ip.to_bits() & mask).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::wait::now;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn tries(throttle: &mut Throttle, from: IpAddr, now: Instant) -> usize {
        (0..1000)
            .take_while(|_| throttle.begin(from, now).is_ok())
            .count()
    }

    #[test]
    fn an_address_may_fail_a_few_times_and_then_slowly() {
        let start = now();
        let mut throttle = Throttle::new(start);
        let from = ip("192.0.2.1");
        assert_eq!(tries(&mut throttle, from, start), 5);
        let wait = throttle.begin(from, start).unwrap_err();
        assert_eq!(wait, ADDRESS.forgotten_after);
        assert_eq!(tries(&mut throttle, from, start + wait), 1);
        let later = start + Duration::from_secs(3600);
        assert_eq!(tries(&mut throttle, from, later), 5);
        // The same one, written differently.
        assert_eq!(tries(&mut throttle, ip("::ffff:192.0.2.1"), later), 0);
    }

    #[test]
    fn one_network_does_not_lock_out_another() {
        let start = now();
        let mut throttle = Throttle::new(start);
        for last in 0..=255u8 {
            tries(&mut throttle, IpAddr::from([192, 0, 2, last]), start);
            let v6 = format!("2001:db8:1:{last:x}::1");
            tries(&mut throttle, ip(&v6), start);
        }
        assert_eq!(tries(&mut throttle, ip("192.0.2.77"), start), 0);
        assert_eq!(tries(&mut throttle, ip("2001:db8:1:ffff::1"), start), 0);
        assert_eq!(tries(&mut throttle, ip("198.51.100.1"), start), 5);
    }

    #[test]
    fn who_logged_in_before_gets_in_whatever_others_do() {
        let start = now();
        let mut throttle = Throttle::new(start);
        let root = ip("192.0.2.9");
        throttle.begin(root, start).unwrap();
        throttle.succeeded(root, start);
        for third in 0..=255u8 {
            for last in 0..10u8 {
                tries(&mut throttle, IpAddr::from([198, 51, third, last]), start);
                tries(&mut throttle, IpAddr::from([192, 0, 2, 10 + last]), start);
            }
        }
        assert_eq!(tries(&mut throttle, ip("203.0.113.1"), start), 0);
        assert_eq!(tries(&mut throttle, root, start), 5);
    }

    #[test]
    fn a_login_forgives_earlier_failures() {
        let start = now();
        let mut throttle = Throttle::new(start);
        let from = ip("192.0.2.1");
        for _ in 0..100 {
            for _ in 0..4 {
                throttle.begin(from, start).unwrap();
            }
            throttle.succeeded(from, start);
            // Failures of the network are not.
            throttle.buckets.clear();
            throttle.everybody.empty_at = start;
        }
    }

    #[test]
    fn the_table_has_a_bound() {
        let start = now();
        let mut throttle = Throttle::new(start);
        for number in 0..20_000u32 {
            let from = Ipv4Addr::from_bits(number.wrapping_mul(2_654_435_761));
            throttle.everybody.empty_at = start;
            throttle.begin(from.into(), start).ok();
            assert!(throttle.buckets.len() <= ENTRIES_MAX);
        }
    }
}
