#!/bin/sh
# Runs every test. Run as root: the tests mount file systems and make network namespaces.
set -eu
cd "$(dirname "$0")/.."
. tests/setup.sh
install_missing tests
# What is missing on this machine fails the tests instead of being skipped.
export PMXCFS_TEST_ALL=1
cargo build --locked --workspace
cargo test --locked --workspace "$@"
if [ $# -eq 0 ]; then
    # Clusters again on the other messaging daemon, and on rings of both. How old locks become does
    # not depend on it, and takes long.
    for messaging in corosync-lite corosync-lite:corosync; do
        echo "messaging: $messaging"
        COROSYNC_BIN=$messaging cargo test --locked --package tests \
            --test cluster --test nodes -- --skip age_of_locks
    done
fi
