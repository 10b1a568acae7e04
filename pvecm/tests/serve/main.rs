//! The API over HTTPS, in this process, on a loopback address, with files below a temporary
//! directory: what clients see, and what hostile ones do not get.

#![expect(
    clippy::unwrap_used,
    reason = "functions that tests share fail the test as tests do"
)]

mod calls;
mod hostile;
mod support;
mod tokens;
