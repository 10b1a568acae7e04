//! Calls of the C library that have no safe form.
#![expect(unsafe_code, reason = "localtime_r and getnameinfo have no safe form")]

use std::ffi::CStr;
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nix::sys::socket::{SockaddrLike as _, SockaddrStorage};

/// Room for a host name, its NUL included.
const NAME_ROOM: libc::socklen_t = 1025;

/// A point in time of this host's zone, as `ctime` writes it, without its line end.
#[must_use]
pub fn date(since_1970: Duration) -> String {
    let seconds = libc::time_t::try_from(since_1970.as_secs()).unwrap_or(0);
    // SAFETY: all bytes zero is a valid value of this structure of numbers and a pointer.
    let mut parts: libc::tm = unsafe { mem::zeroed() };
    // SAFETY: both live until the call ends. It reads the environment, which nothing here changes.
    unsafe { libc::localtime_r(&raw const seconds, &raw mut parts) };
    let part = |names: &[&'static str], index: i32| {
        let index = usize::try_from(index).unwrap_or(0);
        names.get(index).copied().unwrap_or("???")
    };
    format!(
        "{} {} {:2} {:02}:{:02}:{:02} {}",
        part(&DAYS, parts.tm_wday),
        part(&MONTHS, parts.tm_mon),
        parts.tm_mday,
        parts.tm_hour,
        parts.tm_min,
        parts.tm_sec,
        1900 + parts.tm_year
    )
}

/// Name of an address, as the resolver has it; without one the address itself.
pub(super) fn name_of(address: IpAddr) -> String {
    let target = SockaddrStorage::from(SocketAddr::new(address, 0));
    let mut name = [0_u8; NAME_ROOM as usize];
    // SAFETY: the address and the room for the name live until the call ends, and their lengths
    // are given. No service is asked for, so none is written.
    let failed = unsafe {
        libc::getnameinfo(
            target.as_ptr(),
            target.len(),
            name.as_mut_ptr().cast(),
            NAME_ROOM,
            std::ptr::null_mut(),
            0,
            0,
        )
    };
    let found = CStr::from_bytes_until_nul(&name).ok();
    let found = found.filter(|name| failed == 0 && !name.is_empty());
    found.map_or_else(
        || address.to_string(),
        |name| name.to_string_lossy().into_owned(),
    )
}

const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_as_the_c_library_does() {
        // Whatever the zone of this machine is, minutes of the first day of 1970 are these.
        let text = date(Duration::from_secs(0));
        let words: Vec<_> = text.split_whitespace().collect();
        assert_eq!(words.len(), 5, "{text}");
        assert_eq!(text.len(), 24, "{text}");
        assert!(["1969", "1970"].contains(&words[4]), "{text}");
    }

    #[test]
    fn an_address_without_a_name_is_its_own() {
        let address: IpAddr = "192.0.2.77".parse().unwrap();
        assert_eq!(name_of(address), "192.0.2.77");
    }
}
