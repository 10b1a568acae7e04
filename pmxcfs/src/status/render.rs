//! The texts of `.version` and `.members`. Clients parse them, so the bytes are fixed.

use std::fmt::{Result, Write};

use super::{ClusterConfig, Status, json, kvstore::KeyTable};

/// Counters outside the status group that `.version` shows.
#[derive(Debug, Clone, Copy)]
pub struct VersionCounters<'a> {
    /// Changes of the guest list.
    pub vmlist: u32,
    /// Observed files with their changes, in the order in which clients know them.
    pub files: &'a [(&'a str, u32)],
}

impl Status {
    /// The text of `.version`.
    #[must_use]
    pub fn version_text(&self, counters: VersionCounters<'_>) -> String {
        json::text(|out| self.write_version(out, counters))
    }

    fn write_version(&self, out: &mut String, counters: VersionCounters<'_>) -> Result {
        write!(out, "{{\n\"starttime\": {},\n", self.start_time)?;
        write!(
            out,
            "\"clinfo\": {},\n\"vmlist\": {},\n",
            self.clinfo, counters.vmlist
        )?;
        for (path, version) in counters.files {
            writeln!(out, "\"{}\": {version},", json::escape(path.as_bytes()))?;
        }
        out.push_str("\"kvstore\": {\n");
        write_keys(out, &self.node_name, self.kv.own())?;
        for node in self.cluster.iter().flat_map(|cluster| &cluster.nodes) {
            let table = self
                .kv
                .peer(node.id)
                .filter(|table| table.rows().next().is_some());
            if let Some(table) = table.filter(|_| node.name != self.node_name) {
                out.push_str(",\n");
                write_keys(out, &node.name, table)?;
            }
        }
        out.push_str("}\n}\n");
        Ok(())
    }

    /// The text of `.members`.
    #[must_use]
    pub fn members_text(&self, quorate: bool) -> String {
        json::text(|out| self.write_members(out, quorate))
    }

    fn write_members(&self, out: &mut String, quorate: bool) -> Result {
        write!(
            out,
            "{{\n\"nodename\": \"{}\",\n",
            json::escape(self.node_name.as_bytes())
        )?;
        let Some(cluster) = &self.cluster else {
            out.push_str("\"version\": 0\n}\n");
            return Ok(());
        };
        let ClusterConfig {
            name,
            version,
            nodes,
        } = cluster;
        writeln!(out, "\"version\": {},", self.clinfo)?;
        writeln!(
            out,
            "\"cluster\": {{ \"name\": \"{}\", \"version\": {version}, \"nodes\": {}, \
             \"quorate\": {} }},",
            json::escape(name.as_bytes()),
            nodes.len(),
            u8::from(quorate),
        )?;
        out.push_str("\"nodelist\": {\n");
        for (at, node) in nodes.iter().enumerate() {
            let separator = if at == 0 { "" } else { ",\n" };
            let name = json::escape(node.name.as_bytes());
            let online = u8::from(self.is_online(node.id));
            write!(
                out,
                "{separator}  \"{name}\": {{ \"id\": {}, \"online\": {online}",
                node.id
            )?;
            if let Some(address) = self.kv.address(&node.name) {
                write!(out, ", \"ip\": \"{}\"", json::escape(address))?;
            }
            out.push('}');
        }
        out.push_str("\n  }\n}\n");
        Ok(())
    }
}

fn write_keys(out: &mut String, node: &str, table: &KeyTable) -> Result {
    writeln!(out, "\"{}\": {{", json::escape(node.as_bytes()))?;
    for (at, (key, row)) in table.rows().enumerate() {
        let separator = if at == 0 { "" } else { ",\n" };
        write!(out, "{separator}\"{}\": {}", json::escape(key), row.version)?;
    }
    out.push_str("}\n");
    Ok(())
}
