//! Whether packets as large as an interface takes them get through to another node.
//!
//! The size that gets through is that of the smallest hop, and hops that drop what is larger do not
//! always say so: then short messages pass, long ones vanish, and a cluster behaves strangely. Tried
//! with echo requests that may not be split: a short one and one of the interface's full size.

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::thread;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect,
    recv, sendmsg, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

use super::wait::now;

/// How long answers are waited for.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Largest packet there can be.
const PACKET_MAX: usize = 65_535;
/// Bytes of the echo's own header.
const ECHO: usize = 8;
/// Bytes of the headers of the two versions of IP.
const IP_V4: usize = 20;
const IP_V6: usize = 40;
/// Types of requests and answers of the two versions of IP.
const REQUEST_V4: u8 = 8;
const ANSWER_V4: u8 = 0;
const REQUEST_V6: u8 = 128;
const ANSWER_V6: u8 = 129;
/// Numbers of the two requests.
const SHORT: u16 = 1;
const FULL: u16 = 2;
/// Payload of the short request.
const SHORT_LENGTH: usize = 56;

/// Tries all pairs at once, from the first address to the second. Where short packets get through and
/// full ones do not: the size of those. Nothing where all is well, or nothing is known.
#[must_use]
pub fn too_large(pairs: &[(IpAddr, IpAddr)]) -> Vec<Option<usize>> {
    let tries: Vec<_> = pairs
        .iter()
        .copied()
        .map(|(from, to)| thread::spawn(move || one(from, to)))
        .collect();
    tries
        .into_iter()
        .map(|one| one.join().ok().and_then(Result::ok).flatten())
        .collect()
}

fn one(from: IpAddr, to: IpAddr) -> io::Result<Option<usize>> {
    let Some(size) = mtu(from) else {
        return Ok(None);
    };
    let header = ECHO + if to.is_ipv4() { IP_V4 } else { IP_V6 };
    let socket = open(from, to)?;
    send(&socket, to, SHORT, SHORT_LENGTH)?;
    if let Some(length) = size.checked_sub(header) {
        send(&socket, to, FULL, length)?;
    }
    let (has_short, has_full) = answers(&socket, to)?;
    Ok((has_short && !has_full).then_some(size))
}

/// Bytes that the interface of an address takes in a packet.
fn mtu(address: IpAddr) -> Option<usize> {
    let mut interfaces = nix::ifaddrs::getifaddrs().ok()?;
    let found = interfaces.find(|it| it.address.as_ref().and_then(super::ip) == Some(address))?;
    let mtu = super::interface_mtu(&found.interface_name)?;
    usize::try_from(mtu).ok().map(|mtu| mtu.min(PACKET_MAX))
}

fn open(from: IpAddr, to: IpAddr) -> io::Result<OwnedFd> {
    let (family, protocol) = if to.is_ipv4() {
        (AddressFamily::Inet, SockProtocol::Icmp)
    } else {
        (AddressFamily::Inet6, SockProtocol::IcmpV6)
    };
    let socket = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
    let storage = |address: IpAddr| SockaddrStorage::from(SocketAddr::new(address, 0));
    bind(socket.as_raw_fd(), &storage(from))?;
    connect(socket.as_raw_fd(), &storage(to))?;
    corosync_lite::net::set_mtu_probe(socket.as_fd(), to.is_ipv4())?;
    Ok(socket)
}

/// The mark of this process's requests.
fn mark() -> [u8; 2] {
    let [.., high, low] = std::process::id().to_be_bytes();
    [high, low]
}

fn send(socket: &OwnedFd, to: IpAddr, number: u16, length: usize) -> io::Result<()> {
    let kind = if to.is_ipv4() { REQUEST_V4 } else { REQUEST_V6 };
    let packet = request(kind, mark(), number, length);
    let parts = [IoSlice::new(&packet)];
    sendmsg::<SockaddrStorage>(socket.as_raw_fd(), &parts, &[], MsgFlags::empty(), None)?;
    Ok(())
}

/// An echo request. The kernel makes the checksum of the newer version by itself.
fn request(kind: u8, mark: [u8; 2], number: u16, length: usize) -> Vec<u8> {
    let mut packet = vec![kind, 0, 0, 0];
    packet.extend(mark);
    packet.extend(number.to_be_bytes());
    packet.resize(ECHO + length, 0x55);
    let sum = checksum(&packet).to_be_bytes();
    packet[2..4].copy_from_slice(&sum);
    packet
}

/// The Internet's checksum.
fn checksum(packet: &[u8]) -> u16 {
    let words = packet.chunks(2).map(|pair| {
        let low = pair.get(1).copied().unwrap_or(0);
        u64::from(u16::from_be_bytes([pair[0], low]))
    });
    let mut sum: u64 = words.sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).map_or(0, |sum| !sum)
}

/// Which of the two were answered.
fn answers(socket: &OwnedFd, to: IpAddr) -> io::Result<(bool, bool)> {
    let end = now() + PATIENCE;
    let mut room = vec![0; PACKET_MAX];
    let (mut short, mut full) = (false, false);
    while !(short && full) {
        let left = end.saturating_duration_since(now());
        if left.is_zero() {
            break;
        }
        let left = TimeVal::microseconds(i64::try_from(left.as_micros()).unwrap_or(1).max(1));
        setsockopt(socket, sockopt::ReceiveTimeout, &left)?;
        let length = match recv(socket.as_raw_fd(), &mut room, MsgFlags::empty()) {
            Ok(length) => length,
            Err(nix::errno::Errno::EAGAIN) => break,
            Err(nix::errno::Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        };
        match number_of(room.get(..length).unwrap_or_default(), to.is_ipv4(), mark()) {
            Some(SHORT) => short = true,
            Some(FULL) => full = true,
            _ => {}
        }
    }
    Ok((short, full))
}

/// The number of the request that a packet answers.
fn number_of(packet: &[u8], v4: bool, mark: [u8; 2]) -> Option<u16> {
    // The older version shows its header, whose length is in its first byte.
    let skipped = match packet.first() {
        Some(first) if v4 => usize::from(first & 0x0f) * 4,
        _ => 0,
    };
    let kind = if v4 { ANSWER_V4 } else { ANSWER_V6 };
    match packet.get(skipped..)? {
        [found, _, _, _, a, b, high, low, ..] if *found == kind && [*a, *b] == mark => {
            Some(u16::from_be_bytes([*high, *low]))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_a_checksum_that_adds_up() {
        for length in [0, 1, 56, 1472] {
            let packet = request(REQUEST_V4, [1, 2], FULL, length);
            assert_eq!(packet.len(), ECHO + length);
            assert_eq!(checksum(&packet), 0);
        }
    }

    #[test]
    fn answers_are_known_by_their_mark() {
        let mut packet = vec![0x45; 20];
        packet.extend([ANSWER_V4, 0, 9, 9, 1, 2, 0, 2, 0x55]);
        assert_eq!(number_of(&packet, true, [1, 2]), Some(FULL));
        assert_eq!(number_of(&packet, true, [1, 3]), None);
        assert_eq!(number_of(&packet[..27], true, [1, 2]), None);
        assert_eq!(number_of(&[], true, [1, 2]), None);
        let newer = [ANSWER_V6, 0, 9, 9, 1, 2, 0, 1];
        assert_eq!(number_of(&newer, false, [1, 2]), Some(SHORT));
        assert_eq!(number_of(&newer, true, [1, 2]), None);
    }

    /// Needs the right to open such a socket; says so where it has not.
    #[test]
    fn full_packets_get_through_to_this_machine() {
        let here: IpAddr = "127.0.0.1".parse().unwrap();
        match one(here, here) {
            Ok(found) => assert_eq!(found, None),
            Err(error) => eprintln!("not tried: {error}"),
        }
    }
}
