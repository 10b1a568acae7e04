//! Changes of the configuration while the transport runs.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::config::{check_link, wire_id};
use super::host::Host;
use super::link::{Link, LinkConfig, LinkDownReason};
use super::outbox::smallest_mtu;
use super::pmtud::Pmtud;
use super::seal::Suite;
use super::{Addresses, ConfigError, Event, Knet, LinkMode};
use crate::wire::NodeId;

impl Knet {
    /// Adds a host, or changes its addresses. Links whose address stays are not disturbed.
    ///
    /// # Errors
    /// When its id does not fit, or a link is not configured. Nothing is changed then.
    pub fn set_host(
        &mut self,
        now: Instant,
        node: NodeId,
        addresses: &Addresses,
    ) -> Result<(), ConfigError> {
        wire_id(node)?;
        if node == self.local {
            return Err(ConfigError::Local(node));
        }
        let unknown = |link: &&u8| !self.link_configs.contains_key(link);
        if let Some(link) = addresses.keys().find(unknown) {
            return Err(ConfigError::UnknownLink {
                host: node,
                link: *link,
            });
        }
        let host = self.hosts.entry(node).or_insert_with(Host::new);
        let stays = |number: u8, link: &Link| addresses.get(&number) == Some(&link.remote);
        remove_links(&mut self.events, node, host, stays);
        for (number, remote) in addresses {
            if let Some(config) = self.link_configs.get(number)
                && !host.links.contains_key(number)
            {
                let smallest = smallest_mtu(*remote);
                let pmtud = Pmtud::new(smallest, self.pmtud_interval, self.fixed_mtu);
                host.links
                    .insert(*number, Link::new(*remote, *config, pmtud, self.epoch));
            }
        }
        self.refresh(now);
        Ok(())
    }

    /// Forgets a host.
    pub fn remove_host(&mut self, now: Instant, node: NodeId) {
        if let Some(mut host) = self.hosts.remove(&node) {
            remove_links(&mut self.events, node, &mut host, |_, _| false);
            if host.reachable {
                self.events.push_back(Event::HostDown(node));
            }
        }
        self.refresh(now);
    }

    /// Adds a link or changes its settings. They are in force at once.
    ///
    /// # Errors
    /// When there can be no link of this number or with these timers.
    pub fn set_link(
        &mut self,
        now: Instant,
        number: u8,
        config: LinkConfig,
    ) -> Result<(), ConfigError> {
        check_link(number, &config)?;
        self.link_configs.insert(number, config);
        for host in self.hosts.values_mut() {
            if let Some(link) = host.links.get_mut(&number) {
                link.config = config;
            }
        }
        self.refresh(now);
        Ok(())
    }

    /// Removes a link of all hosts.
    pub fn remove_link(&mut self, now: Instant, number: u8) {
        self.link_configs.remove(&number);
        for (node, host) in &mut self.hosts {
            remove_links(&mut self.events, *node, host, |other, _| other != number);
        }
        self.refresh(now);
    }

    /// Changes how links are chosen.
    pub fn set_link_mode(&mut self, mode: LinkMode) {
        self.link_mode = mode;
    }

    /// Changes the search for the largest packet, or ends it with a fixed size. Links search anew.
    pub fn set_mtu(&mut self, now: Instant, interval: Duration, fixed: Option<u16>) {
        if (interval, fixed) == (self.pmtud_interval, self.fixed_mtu) {
            return;
        }
        (self.pmtud_interval, self.fixed_mtu) = (interval, fixed);
        let links = self.hosts.values_mut().flat_map(|it| it.links.values_mut());
        links.for_each(|link| {
            link.pmtud = Pmtud::new(smallest_mtu(link.remote), interval, fixed);
        });
        self.refresh(now);
    }

    /// First step of a change of keys: accepts `suite` too, also for what came a moment ago.
    pub fn prepare_keys(&mut self, now: Instant, suite: Suite) {
        self.outbox.seal.prepare(suite);
        self.next_keys_used = false;
        for (from, datagram) in self.unread.take(now) {
            // What is dropped is counted.
            self.handle_datagram(now, from, &datagram).ok();
        }
    }

    /// Second step: sends with the new suite.
    pub fn activate_keys(&mut self, now: Instant) {
        self.outbox.seal.activate();
        self.refresh(now);
    }

    /// Last step: accepts the old suite no longer.
    pub fn cleanup_keys(&mut self) {
        self.outbox.seal.cleanup();
    }
}

fn remove_links(
    events: &mut VecDeque<Event>,
    node: NodeId,
    host: &mut Host,
    stays: impl Fn(u8, &Link) -> bool,
) {
    host.links.retain(|number, link| {
        let stays = stays(*number, link);
        if !stays && link.is_up() {
            events.push_back(Event::LinkDown {
                host: node,
                link: *number,
                reason: LinkDownReason::Removed,
            });
        }
        stays
    });
}
