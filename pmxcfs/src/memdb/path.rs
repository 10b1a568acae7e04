//! Paths inside the tree: byte strings, components separated by `/`, no leading slash by
//! convention, tolerated where it occurs.

/// The non-empty components of a path, in order.
pub fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/')
        .filter(|part| !part.is_empty())
}

/// Directory part and last component, trailing slashes dropped.
///
/// Without a slash the directory part is empty, which names the root.
#[must_use]
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let mut end = path.len();
    while end > 0 && path[end - 1] == b'/' {
        end -= 1;
    }
    let path = &path[..end];
    match path.iter().rposition(|&byte| byte == b'/') {
        None => (b"", path),
        Some(slash) => {
            let mut dir_end = slash;
            while dir_end > 0 && path[dir_end - 1] == b'/' {
                dir_end -= 1;
            }
            (&path[..dir_end], &path[slash + 1..])
        }
    }
}

/// `dir/name`, or `name` alone below the root.
#[must_use]
pub fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() {
        return name.to_vec();
    }
    [dir, b"/", name].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_drops_trailing_and_doubled_slashes() {
        assert_eq!(split(b"a"), (&b""[..], &b"a"[..]));
        assert_eq!(split(b"a/b"), (&b"a"[..], &b"b"[..]));
        assert_eq!(split(b"a//b/"), (&b"a"[..], &b"b"[..]));
        assert_eq!(split(b"/a"), (&b""[..], &b"a"[..]));
        assert_eq!(split(b"/"), (&b""[..], &b""[..]));
        assert_eq!(split(b""), (&b""[..], &b""[..]));
    }

    #[test]
    fn components_skip_empty_parts() {
        let parts: Vec<_> = components(b"//a/./b//").collect();
        assert_eq!(parts, [&b"a"[..], b".", b"b"]);
    }
}
