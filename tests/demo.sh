#!/bin/sh
# Builds, starts three nodes on this machine and shows them at work. Run as root.
# Options are those of the program that it starts: see 'tests/demo.sh --help'.
set -eu
cd "$(dirname "$0")/.."
. tests/setup.sh
install_missing
cargo build --release --locked --package corosync-lite --package pmxcfs --package tests
exec cargo run --quiet --release --locked --package tests --bin lab -- "$@"
