//! Services of test hosts, which have no systemd.
//!
//! A small program takes the place of `systemctl` on a host. It reads unit files, a subset of
//! systemd's, and runs services as systemd does: in the order of `Before=`, on conditions, ready
//! when they say so, their output in a log. It does not watch them: nothing is started again.
//!
//! | module | owns |
//! |---|---|
//! | `unit` | unit files |
//! | `manager` | starting and ending services; the program `lab-systemctl` |
//! | `lab` | hosts with services, as nodes are before they are in a cluster |

mod lab;
mod manager;
mod unit;

pub use lab::{Messaging, PveLab};
pub use manager::{LOGS, systemctl};
