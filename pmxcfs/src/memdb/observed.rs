//! Counters of the files that clients watch through `.version`.
//!
//! Local to the process and compared by clients for inequality only.

/// The observed paths, in the order in which `.version` prints them.
pub const OBSERVED_PATHS: [&str; 43] = [
    "corosync.conf",
    "corosync.conf.new",
    "storage.cfg",
    "user.cfg",
    "domains.cfg",
    "notifications.cfg",
    "priv/notifications.cfg",
    "priv/shadow.cfg",
    "priv/acme/plugins.cfg",
    "priv/tfa.cfg",
    "priv/token.cfg",
    "priv/wg-keys.cfg",
    "datacenter.cfg",
    "vzdump.cron",
    "vzdump.conf",
    "jobs.cfg",
    "ha/crm_commands",
    "ha/manager_status",
    "ha/resources.cfg",
    "ha/rules.cfg",
    "ha/groups.cfg",
    "ha/fence.cfg",
    "status.cfg",
    "replication.cfg",
    "ceph.conf",
    "sdn/vnets.cfg",
    "sdn/zones.cfg",
    "sdn/controllers.cfg",
    "sdn/subnets.cfg",
    "sdn/ipams.cfg",
    "sdn/mac-cache.json",
    "sdn/pve-ipam-state.json",
    "sdn/dns.cfg",
    "sdn/fabrics.cfg",
    "sdn/route-maps.cfg",
    "sdn/prefix-lists.cfg",
    "sdn/.running-config",
    "virtual-guest/cpu-models.conf",
    "virtual-guest/profiles.cfg",
    "firewall/cluster.fw",
    "mapping/directory.cfg",
    "mapping/pci.cfg",
    "mapping/usb.cfg",
];

/// One counter per observed path, 1 after load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObservedCounters([u32; OBSERVED_PATHS.len()]);

impl Default for ObservedCounters {
    fn default() -> Self {
        Self([1; OBSERVED_PATHS.len()])
    }
}

impl ObservedCounters {
    /// Counts a change of `path`, compared literally; other paths are ignored.
    pub fn record(&mut self, path: &[u8]) {
        let hit = OBSERVED_PATHS
            .iter()
            .position(|observed| observed.as_bytes() == path);
        if let Some(counter) = hit.and_then(|at| self.0.get_mut(at)) {
            *counter = counter.wrapping_add(1);
        }
    }

    /// Counts a change of every path: the whole tree was replaced.
    pub fn record_all(&mut self) {
        for counter in &mut self.0 {
            *counter = counter.wrapping_add(1);
        }
    }

    /// Path and counter, in the order of [`OBSERVED_PATHS`].
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u32)> + '_ {
        OBSERVED_PATHS.iter().copied().zip(self.0.iter().copied())
    }
}
