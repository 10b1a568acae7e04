//! `corosync.conf`: text, keys, meaning, checks, and the way from one to the next.
//!
//! | module | owns |
//! |---|---|
//! | `syntax` | the text, lossless and editable |
//! | `keys` | the keys of the configuration map, typed |
//! | `model` | what they mean: [`Config`], with every default filled in |
//! | `read` | from keys to meaning |
//! | `check` | what a daemon may not be started with |
//! | `warn` | what it may be started with, but hardly as it was meant |
//! | `plan` | what a new configuration changes in a running daemon |
//! | `reload` | from the text of a new file, or a key written at run time, to a plan and what is told |
//!
//! Both generations are read: what Corosync 2 called rings, and the links of Corosync 3. Keys that
//! mean nothing any more, or never did, are named in [`Config::warnings`].
//!
//! Nothing here does I/O: what has to be asked of the machine goes through [`Host`].

mod check;
mod error;
mod host;
mod keys;
mod model;
mod plan;
mod read;
mod reload;
mod syntax;
mod warn;

#[cfg(test)]
pub(crate) mod test_host;

pub use error::{ConfigError, Place, Problem};
pub use host::{Host, IpVersion};
pub use keys::{Entry, Keys, Value};
pub use model::{
    Cipher, Config, Crypto, Device, Hash, Link, LinkMode, Node, Quorum, Switches, TieBreaker,
    Timers, Totem, Transport, Warning,
};
pub use plan::{Change, CutOff, Refused, ReloadPlan, plan};
pub use reload::{Note, Refusal, Reload};
pub use syntax::{Document, Item, Line, Part, Section};
