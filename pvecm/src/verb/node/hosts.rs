//! What `/etc/hosts` says of a name.

use std::net::IpAddr;

/// What to change so that a name stands for an address.
pub(super) fn advice(text: &[u8], name: &str, address: IpAddr) -> String {
    let text = String::from_utf8_lossy(text);
    let found = text.lines().zip(1..).find_map(|(line, number)| {
        let mut words = line.split('#').next()?.split_ascii_whitespace();
        let at: IpAddr = words.next()?.parse().ok()?;
        let names: Vec<&str> = words.collect();
        let is_it = at.is_ipv4() == address.is_ipv4() && names.contains(&name);
        is_it.then(|| {
            (
                number,
                line.trim(),
                format!("{address} {}", names.join(" ")),
            )
        })
    });
    match found {
        Some((number, line, wanted)) => {
            format!("change line {number} of /etc/hosts from '{line}' to '{wanted}'")
        }
        None => {
            format!("add the line '{address} {name}' to /etc/hosts, before others that name it")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_to_change_is_named() {
        let text = "127.0.0.1 localhost\n# 10.0.0.1 n1\n::1 n1\n10.0.0.1\tn1.lan n1 # mine\n";
        let said = |name: &str| advice(text.as_bytes(), name, "10.0.0.9".parse().unwrap());
        assert_eq!(
            said("n1"),
            "change line 4 of /etc/hosts from '10.0.0.1\tn1.lan n1 # mine' to '10.0.0.9 n1.lan n1'"
        );
        assert!(said("n2").starts_with("add the line '10.0.0.9 n2' to /etc/hosts"));
    }
}
