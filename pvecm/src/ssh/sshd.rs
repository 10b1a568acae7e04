//! The server's settings.
//!
//! They are in one file and those that it includes, as Debian's does with a directory before
//! anything else. What comes first counts, in whichever file it is.

use std::fs;
use std::path::{Path, PathBuf};

use crate::failure::Outcome;
use crate::host::Host;
use crate::host::files;
use crate::host::services::{self, Verb};
use crate::transaction::Transaction;

/// The setting.
const KEYWORD: &str = "PermitRootLogin";
/// The server's unit.
const UNIT: &str = "sshd";
/// How deep files may include others, as the server has it.
const DEPTH_MAX: u32 = 16;

/// A setting that holds for all connections, where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    /// Its file.
    file: PathBuf,
    /// Its line in there, from 0.
    line: usize,
    /// Its name as written.
    pub(super) name: String,
    /// Its first value.
    pub(super) value: String,
}

/// Lets root log in, with a password too: nodes that join over SSH need that. Returns whether
/// something was changed.
///
/// # Errors
/// When a file can not be read or written, or the server not be told.
pub fn permit_root_login(host: &Host, transaction: &mut Transaction) -> Outcome<bool> {
    let Some((path, changed)) = change(host)? else {
        return Ok(false);
    };
    // Told before as well as after: what is put back last, so the file is back by then.
    transaction.services(Verb::Reload, &[UNIT], Verb::Reload)?;
    transaction.rewrite(&path, &changed)?;
    services::control(Verb::Reload, &[UNIT])?;
    Ok(true)
}

/// The file to change and what it is to hold, if root can not log in.
fn change(host: &Host) -> Outcome<Option<(PathBuf, Vec<u8>)>> {
    let path = main_file(host);
    let Some(text) = files::read(&path)? else {
        return Ok(None);
    };
    let settings = settings(host)?;
    let mut known = settings.iter();
    let in_force = known.find(|it| it.name.eq_ignore_ascii_case(KEYWORD));
    Ok(match in_force {
        Some(setting) if setting.value.eq_ignore_ascii_case("yes") => None,
        Some(setting) if setting.file != path => {
            let text = files::read(&setting.file)?.unwrap_or_default();
            Some((setting.file.clone(), with_line(&text, setting.line)))
        }
        _ => permitted(&text).map(|changed| (path, changed)),
    })
}

fn main_file(host: &Host) -> PathBuf {
    host.paths.at("etc/ssh/sshd_config")
}

/// Settings for all connections, in the order in which the server sees them.
///
/// # Errors
/// When a file can not be read.
pub(super) fn settings(host: &Host) -> Outcome<Vec<Setting>> {
    let mut found = Vec::new();
    collect(host, &main_file(host), 0, &mut found)?;
    Ok(found)
}

fn collect(host: &Host, file: &Path, depth: u32, found: &mut Vec<Setting>) -> Outcome {
    let text = files::read(file)?.unwrap_or_default();
    for (number, line) in super::keys::lines(&text).enumerate() {
        let (name, value) = setting(line);
        // What follows holds for some connections only, until the end of the file.
        if name.eq_ignore_ascii_case("match") {
            break;
        }
        if name.eq_ignore_ascii_case("include") {
            let text = String::from_utf8_lossy(line);
            let patterns = text.split_ascii_whitespace().skip(1);
            for pattern in patterns.take_while(|_| depth < DEPTH_MAX) {
                for file in matching(host, pattern.trim_matches('"')) {
                    collect(host, &file, depth + 1, found)?;
                }
            }
        } else if !name.is_empty() && !name.starts_with('#') {
            found.push(Setting {
                file: file.to_owned(),
                line: number,
                name,
                value,
            });
        }
    }
    Ok(())
}

/// Files that a pattern stands for, in order. Only its last part may have wildcards.
fn matching(host: &Host, pattern: &str) -> Vec<PathBuf> {
    let path = if pattern.starts_with('/') {
        host.paths.at(pattern)
    } else {
        host.paths.at("etc/ssh").join(pattern)
    };
    let (Some(directory), Some(last)) = (path.parent(), path.file_name()) else {
        return Vec::new();
    };
    let last = last.to_string_lossy().into_owned();
    let listed = fs::read_dir(directory).into_iter().flatten().flatten();
    let fits = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // As in a shell, a wildcard does not stand for hidden files.
        let is_hidden = name.starts_with('.') && !last.starts_with('.');
        !is_hidden && path.is_file() && is_like(name.as_bytes(), last.as_bytes())
    };
    let mut paths: Vec<PathBuf> = listed.map(|entry| entry.path()).filter(fits).collect();
    paths.sort();
    paths
}

/// Whether a name fits a pattern with `*` and `?`.
fn is_like(name: &[u8], pattern: &[u8]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), None) => is_like(name, rest),
        (Some((b'*', rest)), Some((_, tail))) => is_like(name, rest) || is_like(tail, pattern),
        (Some((b'?', rest)), Some((_, tail))) => is_like(tail, rest),
        (Some((one, rest)), Some((other, tail))) => one == other && is_like(tail, rest),
        _ => false,
    }
}

/// A text with another line in the place of one.
fn with_line(text: &[u8], number: usize) -> Vec<u8> {
    let new = format!("{KEYWORD} yes");
    let mut out = Vec::new();
    for (at, line) in super::keys::lines(text).enumerate() {
        out.extend(if at == number { new.as_bytes() } else { line });
        out.push(b'\n');
    }
    out
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
    use crate::host::test_node::test_node;

    fn after(text: &str) -> Option<String> {
        permitted(text.as_bytes()).map(|text| String::from_utf8(text).unwrap())
    }

    fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, Host) {
        let (directory, host) = test_node("n1", &["etc/ssh/sshd_config.d"]);
        for (name, text) in files {
            fs::write(host.paths.at("etc/ssh").join(name), text).unwrap();
        }
        (directory, host)
    }

    /// Value in force, and the file that it is in.
    fn in_force(files: &[(&str, &str)]) -> Option<(String, String)> {
        let (_directory, host) = host(files);
        let found = settings(&host).unwrap().into_iter();
        let mut found = found.filter(|it| it.name.eq_ignore_ascii_case(KEYWORD));
        let found = found.next()?;
        let file = found.file.file_name().unwrap().to_string_lossy();
        Some((file.into_owned(), found.value))
    }

    const MAIN: &str = "Include /etc/ssh/sshd_config.d/*.conf\nPermitRootLogin yes\n";

    #[test]
    fn what_comes_first_counts_in_whichever_file_it_is() {
        let said = |file: &str, value: &str| Some((file.to_owned(), value.to_owned()));
        assert_eq!(
            in_force(&[("sshd_config", MAIN)]),
            said("sshd_config", "yes")
        );
        let second = ("sshd_config.d/50-cloud.conf", "# x\npermitrootlogin no\n");
        assert_eq!(
            in_force(&[("sshd_config", MAIN), second]),
            said("50-cloud.conf", "no")
        );
        let first = ("sshd_config.d/10-a.conf", "PermitRootLogin=yes\n");
        assert_eq!(
            in_force(&[("sshd_config", MAIN), second, first]),
            said("10-a.conf", "yes")
        );
        // Neither other names, nor what holds for some only, nor a file after the setting.
        let other = ("sshd_config.d/10-a.conf.bak", "PermitRootLogin no\n");
        let some = (
            "sshd_config.d/20-b.conf",
            "Match User x\nPermitRootLogin no\n",
        );
        assert_eq!(
            in_force(&[("sshd_config", MAIN), other, some]),
            said("sshd_config", "yes")
        );
        let late = "PermitRootLogin no\nInclude sshd_config.d/*\n";
        assert_eq!(
            in_force(&[("sshd_config", late), first]),
            said("sshd_config", "no")
        );
        let loops = "Include sshd_conf?g\nPermitRootLogin no\n";
        assert_eq!(
            in_force(&[("sshd_config", loops)]),
            said("sshd_config", "no")
        );
        assert_eq!(in_force(&[]), None);
    }

    #[test]
    fn the_line_in_force_is_changed_in_its_file() {
        let drop_in = (
            "sshd_config.d/50-cloud.conf",
            "Port 22\nPermitRootLogin no # x\nb c\n",
        );
        let (_directory, host) = host(&[("sshd_config", MAIN), drop_in]);
        let (path, text) = change(&host).unwrap().unwrap();
        assert!(path.ends_with(drop_in.0));
        assert_eq!(text, b"Port 22\nPermitRootLogin yes\nb c\n");
        fs::write(&path, text).unwrap();
        assert_eq!(change(&host).unwrap(), None);
        fs::remove_file(&path).unwrap();
        assert_eq!(change(&host).unwrap(), None);
        fs::write(
            main_file(&host),
            "Include sshd_config.d/*.conf\n#PermitRootLogin no\n",
        )
        .unwrap();
        let (path, text) = change(&host).unwrap().unwrap();
        assert_eq!(path, main_file(&host));
        assert_eq!(text, b"Include sshd_config.d/*.conf\nPermitRootLogin yes\n");
    }

    #[test]
    fn a_file_stays_what_it_is_but_for_its_content() {
        use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
        let (_directory, host) = host(&[("private", "PermitRootLogin no\n")]);
        let ssh = host.paths.at("etc/ssh");
        let (file, link) = (ssh.join("private"), ssh.join("sshd_config.d/50-a.conf"));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        // Others may not give files away.
        drop(chown(&file, Some(12), Some(34)));
        symlink("../private", &link).unwrap();
        let look = || {
            let found = fs::metadata(&file).unwrap();
            (found.mode(), found.uid(), found.gid())
        };
        let before = look();
        let journal = host.paths.at("journal");
        let mut transaction = Transaction::begin(&journal, "pvecm add n1").unwrap();
        transaction
            .rewrite(&link, b"PermitRootLogin yes\n")
            .unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read(&file).unwrap(), b"PermitRootLogin yes\n");
        assert_eq!(look(), before);
        assert_eq!(transaction.put_back(), Vec::<String>::new());
        assert!(link.is_symlink());
        assert_eq!(fs::read(&file).unwrap(), b"PermitRootLogin no\n");
        assert_eq!(look(), before);
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
