//! Modes by path. Nothing is stored: owner is root, group is www-data, the mode follows from the
//! path and from whether the tree accepts changes.

use crate::memdb::components;

/// Suffixes that make a file an OpenVZ script.
const SCRIPT_SUFFIXES: [&[u8]; 6] = [
    b"mount",
    b"umount",
    b"start",
    b"stop",
    b"premount",
    b"postumount",
];

/// Whether only root may see what is behind that path: `priv` or `nodes/X/priv`, or below them.
#[must_use]
pub fn is_private(path: &[u8]) -> bool {
    let mut parts = components(path);
    match parts.next() {
        Some(b"priv") => true,
        Some(b"nodes") => parts.nth(1) == Some(b"priv"),
        _ => false,
    }
}

/// Whether a file of that name is executable for its owner: `vps.S` or `ID.S`.
#[must_use]
pub fn is_script(name: &[u8]) -> bool {
    let Some(dot) = name.iter().position(|&byte| byte == b'.') else {
        return false;
    };
    let (stem, suffix) = (&name[..dot], &name[dot + 1..]);
    let is_id = matches!(stem.first(), Some(b'1'..=b'9')) && stem.iter().all(u8::is_ascii_digit);
    (stem == b"vps" || is_id) && SCRIPT_SUFFIXES.contains(&suffix)
}

/// Mode bits of a directory; the root, an empty path, always has all of its bits.
#[must_use]
pub fn dir_mode(path: &[u8], writable: bool) -> u16 {
    let mode = if is_private(path) { 0o700 } else { 0o755 };
    masked(mode, writable || path.is_empty())
}

/// Mode bits of a file.
#[must_use]
pub fn file_mode(path: &[u8], writable: bool) -> u16 {
    let mode = if is_private(path) { 0o600 } else { 0o640 };
    let (_, name) = crate::memdb::split(path);
    let script = if is_script(name) { 0o100 } else { 0 };
    masked(mode | script, writable)
}

/// Mode bits of the links in the root. Clients see by them whether the node has quorum.
#[must_use]
pub fn link_mode(writable: bool) -> u16 {
    masked(0o755, writable)
}

fn masked(mode: u16, writable: bool) -> u16 {
    if writable { mode } else { mode & !0o222 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_is_decided_by_whole_components() {
        for path in [
            &b"priv"[..],
            b"priv/x",
            b"nodes/n1/priv",
            b"nodes/n1/priv/a/b",
        ] {
            assert!(is_private(path), "{path:?}");
        }
        for path in [
            &b"private"[..],
            b"sub/priv",
            b"nodes/n1/privy",
            b"nodes/n1/y/priv",
            b"nodes/priv",
            b"",
        ] {
            assert!(!is_private(path), "{path:?}");
        }
    }

    #[test]
    fn scripts_are_named_by_id_or_vps() {
        for name in [&b"vps.mount"[..], b"101.postumount", b"1.start"] {
            assert!(is_script(name), "{name:?}");
        }
        for name in [
            &b"0101.mount"[..],
            b"x.mount",
            b"101.conf",
            b"101.mount.x",
            b".mount",
        ] {
            assert!(!is_script(name), "{name:?}");
        }
    }

    #[test]
    fn modes_lose_write_bits_with_writability() {
        assert_eq!([dir_mode(b"", true), dir_mode(b"", false)], [0o755, 0o755]);
        assert_eq!(
            [dir_mode(b"a", true), dir_mode(b"a", false)],
            [0o755, 0o555]
        );
        assert_eq!(
            [dir_mode(b"priv", true), dir_mode(b"priv", false)],
            [0o700, 0o500]
        );
        assert_eq!(
            [file_mode(b"a", true), file_mode(b"a", false)],
            [0o640, 0o440]
        );
        assert_eq!(
            [file_mode(b"priv/a", true), file_mode(b"priv/a", false)],
            [0o600, 0o400]
        );
        assert_eq!(
            [file_mode(b"x/1.stop", true), file_mode(b"x/1.stop", false)],
            [0o740, 0o540]
        );
        assert_eq!([link_mode(true), link_mode(false)], [0o755, 0o555]);
    }
}
