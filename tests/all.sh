#!/bin/sh
# Runs every test. Run as root: the tests mount file systems and make network namespaces.
# With arguments: one run of 'cargo test' with them.
set -eu
cd "$(dirname "$0")/.."
. tests/setup.sh
install_missing tests
# What is missing on this machine fails the tests instead of being skipped.
export PMXCFS_TEST_ALL=1
cargo build --locked --workspace
if [ $# -gt 0 ]; then
    exec cargo test --locked --workspace "$@"
fi
cargo test --locked --workspace --no-run

# Tests of whole clusters wait most of the time, for tokens, timeouts and locks. So they run in lanes
# side by side; each lane's output is shown when it has ended.
logs=$(mktemp -d)
lanes=""
trap 'for lane in $lanes; do kill -- "-$lane" 2>/dev/null || :; done; rm -rf "$logs"' EXIT
trap 'exit 130' INT TERM

lane() {
    # $1: name; standard input: its commands
    script="set -eu
$(cat)"
    setsid sh -c "$script" >"$logs/$1" 2>&1 &
    lanes="$lanes $!"
    eval "lane_$1=$!"
}

lane rings <<'END'
# Most of its time it waits, as that of the next lane.
cargo test --locked --package tests --test ring -- --test-threads=3
cargo test --locked --package tests --test corosync_lite --test pvecm_state --test rings --test sim
END
lane pvecm <<'END'
cargo test --locked --package tests --test pvecm -- --test-threads=3
cargo test --locked --package tests --test certificates --test serve
END
lane nodes <<'END'
cargo test --locked --package tests --test cluster --test nodes
# Clusters again on corosync-lite. How old locks become does not depend on it, and takes long.
COROSYNC_BIN=corosync-lite cargo test --locked --package tests \
    --test cluster --test nodes -- --skip age_of_locks
# And on a ring of both messaging daemons. All of it: tests/all.sh --test nodes with that variable.
COROSYNC_BIN=corosync-lite:corosync cargo test --locked --package tests --test cluster
COROSYNC_BIN=corosync-lite:corosync cargo test --locked --package tests --test nodes -- faults
END
lane units <<'END'
cargo test --locked --workspace --exclude tests
cargo test --locked --package tests --lib \
    --test crash --test daemon --test fuzz --test harness
END

failed=""
for name in rings pvecm nodes units; do
    eval "pid=\$lane_$name"
    wait "$pid" || failed="$failed $name"
    echo "=== tests: $name"
    cat "$logs/$name"
done
if [ -n "$failed" ]; then
    echo "tests failed in:$failed" >&2
    exit 1
fi
