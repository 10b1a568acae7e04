//! The server's settings.

use crate::failure::Outcome;
use crate::host::Host;
use crate::host::files::{self, PUBLIC};
use crate::host::services::{self, Verb};
use crate::transaction::Transaction;

/// The setting.
const KEYWORD: &str = "PermitRootLogin";
/// The server's unit.
const UNIT: &str = "sshd";

/// Lets root log in, with a password too: nodes that join over SSH need that. Returns whether
/// something was changed.
///
/// # Errors
/// When the file can not be written, or the server not be told.
pub fn permit_root_login(host: &Host, transaction: &mut Transaction) -> Outcome<bool> {
    let path = host.paths.at("etc/ssh/sshd_config");
    let Some(text) = files::read(&path)? else {
        return Ok(false);
    };
    let Some(changed) = permitted(&text) else {
        return Ok(false);
    };
    // Told before as well as after: what is put back last, so the file is back by then.
    transaction.services(Verb::Reload, &[UNIT], Verb::Reload)?;
    transaction.replace(&path, &changed, PUBLIC)?;
    services::control(Verb::Reload, &[UNIT])?;
    Ok(true)
}

/// The new settings, if they must change.
fn permitted(text: &[u8]) -> Option<Vec<u8>> {
    let lines: Vec<&[u8]> = super::keys::lines(text).collect();
    // What follows holds for some connections only.
    let end = lines
        .iter()
        .position(|line| setting(line).0.eq_ignore_ascii_case("match"));
    let end = end.unwrap_or(lines.len());
    let global = || lines.iter().take(end).map(|line| setting(line));
    let in_force = global().find(|(name, _)| name.eq_ignore_ascii_case(KEYWORD));
    if in_force.is_some_and(|(_, value)| value.eq_ignore_ascii_case("yes")) {
        return None;
    }
    let mentioned =
        global().position(|(name, _)| name.trim_start_matches('#').eq_ignore_ascii_case(KEYWORD));
    let new = format!("{KEYWORD} yes");
    let mut changed: Vec<&[u8]> = lines;
    match mentioned {
        Some(position) => changed[position] = new.as_bytes(),
        None => changed.insert(end, new.as_bytes()),
    }
    let mut out = changed.join(&b'\n');
    out.push(b'\n');
    Some(out)
}

/// First and second word of a line; `=` may be between them.
fn setting(line: &[u8]) -> (String, String) {
    let text = String::from_utf8_lossy(line);
    let mut words = text.split(|c: char| c.is_ascii_whitespace() || c == '=');
    let mut next = || {
        words
            .find(|word| !word.is_empty())
            .unwrap_or_default()
            .to_owned()
    };
    (next(), next())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(text: &str) -> Option<String> {
        permitted(text.as_bytes()).map(|text| String::from_utf8(text).unwrap())
    }

    #[test]
    fn the_first_line_that_mentions_it_is_changed() {
        for (before, expected) in [
            ("", Some("PermitRootLogin yes\n")),
            ("Port 22\n", Some("Port 22\nPermitRootLogin yes\n")),
            (
                "Port 22\n#PermitRootLogin prohibit-password\nPermitRootLogin no\n",
                Some("Port 22\nPermitRootLogin yes\nPermitRootLogin no\n"),
            ),
            ("permitrootlogin=no\n", Some("PermitRootLogin yes\n")),
            ("PermitRootLogin yes\n", None),
            ("  permitrootlogin  YES\nPermitRootLogin no", None),
            (
                "PermitRootLogin no\nPermitRootLogin yes\n",
                Some("PermitRootLogin yes\nPermitRootLogin yes\n"),
            ),
            (
                "Port 22\nMatch User x\nPermitRootLogin yes\n",
                Some("Port 22\nPermitRootLogin yes\nMatch User x\nPermitRootLogin yes\n"),
            ),
        ] {
            assert_eq!(after(before).as_deref(), expected, "{before:?}");
        }
    }
}
