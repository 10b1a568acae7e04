//! Totem.
