//! The version of a `corosync.conf` as far as applying it goes.

const KEY: &[u8] = b"config_version";

/// The decimal number behind the first `config_version`, blanks and a colon, wherever it stands,
/// in a comment too: nodes of one cluster must take the same version from the same text, and
/// this is what all of them do. [`super::check()`] keeps misleading texts from getting here.
///
/// Numbers too large for 64 bits count as the largest. `None` without a match.
#[must_use]
pub fn config_version(text: &[u8]) -> Option<u64> {
    let mut rest = text;
    while let Some(at) = rest.windows(KEY.len()).position(|window| window == KEY) {
        rest = rest.get(at + KEY.len()..)?;
        if let Some(version) = number_after_colon(rest) {
            return Some(version);
        }
    }
    None
}

fn number_after_colon(text: &[u8]) -> Option<u64> {
    let text = skip_blanks(skip_blanks(text).strip_prefix(b":")?);
    let end = text
        .iter()
        .position(|byte| !byte.is_ascii_digit())
        .unwrap_or(text.len());
    let digits = text.get(..end).filter(|digits| !digits.is_empty())?;
    Some(digits.iter().fold(0, |number: u64, digit| {
        number
            .saturating_mul(10)
            .saturating_add(u64::from(digit - b'0'))
    }))
}

fn skip_blanks(text: &[u8]) -> &[u8] {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t'..=b'\r');
    let start = text
        .iter()
        .position(|byte| !blank(byte))
        .unwrap_or(text.len());
    text.get(start..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn first_match_wins_even_in_a_comment() {
        assert_eq!(
            config_version(b"totem {\n  config_version: 3\n}\n"),
            Some(3)
        );
        assert_eq!(
            config_version(b"# config_version: 77\ntotem {\n config_version: 3\n}"),
            Some(77)
        );
        assert_eq!(config_version(b"my_config_version:5x"), Some(5));
    }

    #[test]
    fn blanks_and_line_ends_are_skipped() {
        assert_eq!(config_version(b"config_version \t:\n\n 12"), Some(12));
        assert_eq!(config_version(b"config_version\x0b\x0c\r:1"), Some(1));
    }

    #[test]
    fn incomplete_matches_are_passed_over() {
        assert_eq!(
            config_version(b"config_version 4\nconfig_version: x\nconfig_version:8"),
            Some(8)
        );
        assert_eq!(config_version(b"config_versionconfig_version:9"), Some(9));
        assert_eq!(config_version(b"config_version"), None);
        assert_eq!(config_version(b"config_version:"), None);
        assert_eq!(config_version(b""), None);
    }

    #[test]
    fn large_numbers_stop_at_the_largest() {
        assert_eq!(
            config_version(b"config_version: 18446744073709551615"),
            Some(u64::MAX)
        );
        assert_eq!(
            config_version(b"config_version: 99999999999999999999999"),
            Some(u64::MAX)
        );
        assert_eq!(config_version(b"config_version: 0000007"), Some(7));
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(config_version(&text).is_none_or(|_| text.len() > KEY.len()));
        }

        #[test]
        fn a_written_version_is_found(before in "[a-z{}\n #]{0,40}", version: u64, after in "([^0-9].{0,20})?") {
            let text = format!("{before}config_version: {version}{after}");
            prop_assert_eq!(config_version(text.as_bytes()), Some(version));
        }
    }
}
