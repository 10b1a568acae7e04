"""Uses every call: calls.py ADDRESS OTHER-ADDRESS PASSWORD"""

import sys

from proxmoxer import ProxmoxAPI, ResourceException
from proxmoxer.tools import Tasks

address, other, password = sys.argv[1:]


def connect(to, secret):
    return ProxmoxAPI(to, user="root@pam", password=secret, verify_ssl=False, timeout=30)


def fails(call, status, text):
    try:
        call()
    except ResourceException as error:
        assert error.status_code == status, error
        assert text in f"{error.content} {error.errors}", error
        return
    sys.exit(f"no error: {text}")


api = connect(address, password)
config = api.cluster.config
version = api.version.get()
assert version["program"] == "pvecm" and version["version"].count(".") == 2, version
names = [entry["name"] for entry in config.get()]
assert names == ["nodes", "totem", "join", "qdevice", "apiversion"], names
nodes = config.nodes.get()
assert [node["node"] for node in nodes] == ["n1", "n2"], nodes
assert nodes[0]["ring0_addr"] == address and nodes[0]["nodeid"] == "1", nodes
totem = config.totem.get()
assert totem["version"] == "2", totem
info = config.join.get()
assert info["preferred_node"] == "n1", info
preferred = next(node for node in info["nodelist"] if node["name"] == "n1")
assert preferred["pve_addr"] == address, info
assert len(preferred["pve_fp"].split(":")) == 32, info
assert config.join.get(node="n2")["preferred_node"] == "n2"
assert config.qdevice.get() == {}
status = api.cluster.status.get()
cluster = next(entry for entry in status if entry["type"] == "cluster")
assert cluster["quorate"] == 1 and cluster["nodes"] == 2, status
online = {entry["name"]: entry["online"] for entry in status if entry["type"] == "node"}
assert online == {"n1": 1, "n2": 1}, status

assert api.cluster.nextid.get() == "100"
api.cluster.options.put(**{"next-id": "lower=500,upper=600", "description": "one\ntwo: 2"})
options = api.cluster.options.get()
assert options["next-id"] == {"lower": "500", "upper": "600"}, options
assert options["description"] == "one\ntwo: 2\n", options
assert api.cluster.nextid.get() == "500"
api.cluster.options.put(delete="next-id,description")
assert api.cluster.nextid.get() == "100"
fails(lambda: api.cluster.options.put(fencing="none"), 400, "fencing")

# A ticket of one node is good on the others.
ticket, _ = api.get_tokens()
elsewhere = connect(other, ticket)
version = totem["config_version"]
assert elsewhere.cluster.config.totem.get()["config_version"] == version

fails(
    lambda: config.nodes("n3").post(new_node_ip="10.77.0.3", apiversion=1),
    500,
    "no links given but multiple links found on other nodes",
)
links = {"link0": "10.77.0.3", "link1": "10.78.0.3,priority=1"}
joined = elsewhere.cluster.config.nodes("n3").post(apiversion=1, **links)
assert len(joined["corosync_authkey"]) > 0, joined
assert max(map(ord, joined["corosync_authkey"])) < 256
assert "n3" in joined["corosync_conf"], joined
assert [node["node"] for node in config.nodes.get()] == ["n1", "n2", "n3"]
fails(
    lambda: config.nodes("n3").post(apiversion=1, **links),
    500,
    "can't add existing node 'n3'",
)
fails(
    lambda: config.nodes("n4").post(link0="10.77.0.1", link1="10.78.0.4", apiversion=1),
    500,
    "address '10.77.0.1' already used",
)
fails(lambda: config.nodes("n4").post(votes="many"), 400, "votes")
assert config.nodes("n3").delete() is None
assert [node["node"] for node in config.nodes.get()] == ["n1", "n2"]
fails(lambda: config.nodes("n1").delete(), 500, "Cannot delete myself from cluster!")

fails(lambda: config.post(clustername="again"), 500, "already exists")


def join(hostname):
    task = config.join.post(
        hostname=hostname, fingerprint=preferred["pve_fp"], password="wrong-guess"
    )
    assert Tasks.decode_upid(task)["type"] == "clusterjoin", task
    done = Tasks.blocking_status(api, task, timeout=120, polling_interval=0.2)
    log = Tasks.decode_log(api.nodes("n1").tasks(task).log.get(limit=0))
    assert done["status"] == "stopped" and "wrong-guess" not in log, (done, log)
    return done["exitstatus"], log


result, log = join(other)
assert result == "OK" and "already a member" in log, (result, log)
result, log = join("10.77.0.99")
assert result != "OK" and "TASK ERROR: " in log, (result, log)
fails(lambda: api.nodes("n1").tasks("UPID:x").status.get(), 400, "unable to parse worker upid")
fails(lambda: api.pools.get(), 501, "not implemented")
