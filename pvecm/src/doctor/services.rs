//! Looks at the API services of other nodes: the time that they tell, and their certificates.
//!
//! Nothing is sent but a request for the first page; nothing that is received is trusted.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use openssl::ssl::{SslConnector, SslMethod, SslVerifyMode};

use super::facts::Seen;
use crate::cert::fingerprint_of;
use crate::host::calendar;

/// Where the service listens.
const PORT: u16 = 8006;
/// How long a node may take for each step.
const PATIENCE: Duration = Duration::from_secs(3);
/// Bytes of the answer that are read at most; its head is far shorter.
const ANSWER_MAX: usize = 16 << 10;

/// Looks at all of these nodes at once.
pub(super) fn look(nodes: BTreeMap<String, IpAddr>) -> BTreeMap<String, Result<Seen, String>> {
    thread::scope(|scope| {
        let looks = nodes.into_iter().map(|(node, address)| {
            let look = scope.spawn(move || look_at(SocketAddr::new(address, PORT)));
            (node, look)
        });
        // All are started before the first is waited for.
        let looks: Vec<_> = looks.collect();
        let join = |look: thread::ScopedJoinHandle<'_, _>| {
            look.join()
                .unwrap_or_else(|_| Err("not looked at".to_owned()))
        };
        looks
            .into_iter()
            .map(|(node, look)| (node, join(look)))
            .collect()
    })
}

fn look_at(at: SocketAddr) -> Result<Seen, String> {
    let stream = TcpStream::connect_timeout(&at, PATIENCE);
    let stream = stream.map_err(|error| format!("no service at {at} ({error})"))?;
    let failed = |error: &dyn std::fmt::Display| format!("the service at {at}: {error}");
    for set in [TcpStream::set_read_timeout, TcpStream::set_write_timeout] {
        set(&stream, Some(PATIENCE)).map_err(|error| failed(&error))?;
    }
    let connector = SslConnector::builder(SslMethod::tls_client());
    let mut connector = connector.map_err(|error| failed(&error))?;
    // Its time is wanted, also when its certificate is not what it should be.
    connector.set_verify(SslVerifyMode::NONE);
    let connector = connector.build().configure();
    let connector = connector.map_err(|error| failed(&error))?;
    let connector = connector
        .use_server_name_indication(false)
        .verify_hostname(false);
    let connected = connector.connect(&at.ip().to_string(), stream);
    let mut stream = connected.map_err(|error| failed(&error))?;
    let shown = stream.ssl().peer_certificate();
    let shown = shown.ok_or_else(|| failed(&"it shows no certificate"))?;
    let fingerprint = fingerprint_of(&shown).map_err(|error| failed(&error))?;
    let request = format!("GET / HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n");
    let sent = calendar();
    stream
        .write_all(request.as_bytes())
        .map_err(|error| failed(&error))?;
    let mut answer = Vec::new();
    let mut part = [0; 1024];
    while answer.len() < ANSWER_MAX && !answer.windows(4).any(|four| four == b"\r\n\r\n") {
        match stream.read(&mut part) {
            Ok(0) | Err(_) => break,
            Ok(length) => answer.extend_from_slice(part.get(..length).unwrap_or_default()),
        }
    }
    let told = date_of(&answer);
    let between = (sent.as_secs_f64() + calendar().as_secs_f64()) / 2.0;
    // The time is told in whole seconds, so on average it is half a second old.
    let ahead = told.map(|told| told.as_secs_f64() + 0.5 - between);
    Ok(Seen {
        ahead,
        fingerprint: fingerprint.to_string(),
    })
}

/// What the head of an answer says of the time.
fn date_of(answer: &[u8]) -> Option<Duration> {
    let text = String::from_utf8_lossy(answer);
    let head = text.split("\r\n\r\n").next()?;
    let date = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("date").then(|| value.trim())
    })?;
    time_of(date)
}

/// Time since 1970 of a date in the form `Sun, 06 Nov 1994 08:49:37 GMT`.
fn time_of(date: &str) -> Option<Duration> {
    let words: Vec<&str> = date.split_whitespace().collect();
    let [_, day, month, year, clock, "GMT"] = words.as_slice() else {
        return None;
    };
    let month = MONTHS.iter().position(|name| name == month)?;
    let clock: Vec<u64> = clock
        .split(':')
        .map(|part| part.parse().ok())
        .collect::<Option<_>>()?;
    let [hour, minute, second] = *clock.as_slice() else {
        return None;
    };
    let (day, year): (u64, u64) = (day.parse().ok()?, year.parse().ok()?);
    let is_time = hour < 24 && minute < 60 && second <= 60;
    if !(1970..=9999).contains(&year) || !(1..=31).contains(&day) || !is_time {
        return None;
    }
    let days = days_before(year, u64::try_from(month).ok()?) + day - 1;
    Some(Duration::from_secs(
        ((days * 24 + hour) * 60 + minute) * 60 + second,
    ))
}

/// Days from 1970 to the first of a month (0 is January).
fn days_before(year: u64, month: u64) -> u64 {
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let of_year = |year: u64| if is_leap(year) { 366 } else { 365 };
    let of_month = |month: u64| match month {
        1 if is_leap(year) => 29,
        1 => 28,
        3 | 5 | 8 | 10 => 30,
        _ => 31,
    };
    (1970..year).map(of_year).sum::<u64>() + (0..month).map(of_month).sum::<u64>()
}

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_answers_are_read() {
        let seconds = |text: &str| time_of(text).map(|time| time.as_secs());
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(
            seconds("Thu, 29 Feb 2024 00:00:00 GMT"),
            Some(1_709_164_800)
        );
        assert_eq!(seconds("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        for refused in [
            "",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49 GMT",
            "Sun, 99 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 99999 08:49:37 GMT",
            "Sun, 06 Nov 1994 18446744073709551615:0:0 GMT",
        ] {
            assert_eq!(seconds(refused), None, "{refused}");
        }
        let answer = b"HTTP/1.1 200 OK\r\nserver: x\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n";
        assert_eq!(date_of(answer), Some(Duration::from_secs(784_111_777)));
        let body = b"HTTP/1.1 200 OK\r\n\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n";
        assert_eq!(date_of(body), None);
    }

    #[test]
    fn a_node_without_a_service_is_not_known() {
        // Nobody listens at this address of the loopback network.
        let nodes = BTreeMap::from([("n2".to_owned(), "127.7.7.7".parse().unwrap())]);
        let seen = look(nodes);
        assert!(
            seen["n2"]
                .as_ref()
                .unwrap_err()
                .contains("no service at 127.7.7.7:8006"),
            "{seen:?}"
        );
    }
}
