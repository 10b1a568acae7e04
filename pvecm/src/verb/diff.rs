//! The difference of two texts, for people.

use std::fmt::Write as _;

/// Lines that are not in both, in their order, with `-` before those of `before` and `+` before
/// those of `after`.
pub(super) fn diff(before: &[u8], after: &[u8]) -> String {
    let (before, after) = (
        String::from_utf8_lossy(before),
        String::from_utf8_lossy(after),
    );
    let (before, after): (Vec<&str>, Vec<&str>) =
        (before.lines().collect(), after.lines().collect());
    let common = common(&before, &after);
    let (mut row, mut column) = (0, 0);
    let mut text = String::new();
    while row < before.len() || column < after.len() {
        let at = |row: usize, column: usize| common.get(row).and_then(|line| line.get(column));
        match (before.get(row), after.get(column)) {
            (Some(old), Some(new)) if old == new => {
                row += 1;
                column += 1;
            }
            (Some(old), new) if new.is_none() || at(row + 1, column) >= at(row, column + 1) => {
                // Writing to a string does not fail.
                writeln!(text, "-{old}").ok();
                row += 1;
            }
            (_, new) => {
                writeln!(text, "+{}", new.unwrap_or(&"")).ok();
                column += 1;
            }
        }
    }
    text
}

/// How many lines the ends of both texts have in common, from each line of each.
fn common(before: &[&str], after: &[&str]) -> Vec<Vec<usize>> {
    let mut table = vec![vec![0; after.len() + 1]; before.len() + 1];
    for (row, old) in before.iter().enumerate().rev() {
        for (column, new) in after.iter().enumerate().rev() {
            table[row][column] = if old == new {
                table[row + 1][column + 1] + 1
            } else {
                table[row + 1][column].max(table[row][column + 1])
            };
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_shown() {
        assert_eq!(diff(b"a\nb\nc\n", b"a\nc\nd\n"), "-b\n+d\n");
        assert_eq!(diff(b"a\n", b"a\n"), "");
        assert_eq!(diff(b"", b"x\ny\n"), "+x\n+y\n");
        assert_eq!(diff(b"x\n", b"y\n"), "-x\n+y\n");
        assert_eq!(diff(b"x\ny\nx\n", b"x\n"), "-y\n-x\n");
    }
}
