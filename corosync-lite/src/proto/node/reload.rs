//! A new configuration while the node runs.

use std::time::Instant;

use super::log::Level;
use super::surface::Output;
use super::{Node, words};
use crate::config::{Change, Refusal, Reload, ReloadPlan};
use crate::proto::cfg::Reloaded;

impl Node {
    /// Takes over a configuration that was read after [`Output::Reload`], compared with
    /// [`Node::config`].
    pub fn reload(&mut self, now: Instant, reload: &Reload) {
        self.apply(now, &reload.plan);
        for note in &reload.notes {
            self.say(words::of_reload(note));
        }
        self.cmap.reloaded(Ok(&self.config));
        let keys_changed = reload.keys_changed();
        self.finish(now, Reloaded::Applied { keys_changed });
    }

    /// The configuration could not be read, or must not be used; the running one stays.
    pub fn reload_failed(&mut self, now: Instant, refusal: &Refusal) {
        self.say((Level::Error, format!("reload refused: {refusal}")));
        self.cmap.reloaded(Err(refusal));
        self.finish(now, Reloaded::Refused);
    }

    /// Goes on with what has come meanwhile.
    fn finish(&mut self, now: Instant, result: Reloaded) {
        self.cfg.reload_done(result);
        // The next reload waits for its own file only.
        let held = self.held.take();
        self.settle(now);
        if let Some(held) = held {
            self.take_in(now, held);
        }
    }

    /// Puts a configuration in force.
    pub(super) fn apply(&mut self, now: Instant, plan: &ReloadPlan) {
        let sockets = self.sockets();
        let rekey = plan.changes.contains(&Change::Crypto);
        let config = plan.config.clone();
        if let Err(error) = self.transport.reconfigure(now, &config, self.local, rekey) {
            // The configuration was checked: only the cryptographic library can be against it.
            self.say((Level::Error, format!("transport: {error}")));
        }
        let parameters = super::settings::ring(&config);
        self.srp.reconfigure(parameters);
        self.quorum.reload(&config);
        self.config = config;
        if self.sockets() != sockets {
            self.outputs.push_back(Output::Sockets);
        }
    }
}
