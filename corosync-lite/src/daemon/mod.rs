//! SHELL: the daemon around the node: command line, configuration, logging, start and end.
//!
//! | module | owns |
//! |---|---|
//! | [`cli`] | the command line |
//! | [`conf`] | reading the configuration and what is beside it |
//! | [`logging`] | which message goes where |
//! | `start` | the order in which all that is set up |
//! | `sinks` | journal, system log, files, standard error, and the thread that writes to them |
//! | [`background`] | the fork |
//! | [`lock`] | one daemon per host |
//! | [`process`] | scheduling, memory and limits of the process |
//! | `sys` | system calls without a safe form: the only `unsafe` code |

pub mod background;
pub mod cli;
pub mod conf;
pub mod lock;
pub mod logging;
pub mod process;
mod sinks;
mod start;
mod sys;

pub use start::run;
