//! Captured rings.
