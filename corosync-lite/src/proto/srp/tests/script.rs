//! Scripted steps.
