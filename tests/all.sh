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
