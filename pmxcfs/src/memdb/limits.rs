//! Limits of the tree, as every node of a cluster enforces or advertises them.

/// Largest file, in bytes. A write that would end behind it fails with `EFBIG` on every node.
pub const MAX_FILE_SIZE: u32 = 1 << 20;

/// Sum of all file sizes, in bytes. Checked by the submitting node only, `ENOSPC`.
pub const MAX_TOTAL_BYTES: u64 = 128 << 20;

/// Number of entries, the root counted. Checked by the submitting node only, `ENOSPC`.
pub const MAX_ENTRIES: u64 = 262_144;
