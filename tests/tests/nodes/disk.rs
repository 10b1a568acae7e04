//! Disks of nodes that fail.
