#!/bin/sh
# Builds the Debian packages of the three programs and puts them into target/debian.
# systemd/packages/build.sh [--deb-version VERSION] [--no-build]
#   --deb-version  instead of that of the workspace
#   --no-build     pack the programs that are in target/release already
set -eu
cd "$(dirname "$0")/../.."
. tests/setup.sh

version="" build=1
while [ $# -gt 0 ]; do
    case "$1" in
        --deb-version) version=$2; shift 2 ;;
        --no-build) build=""; shift ;;
        *) sed -n '2,5s/^# //p' "$0" >&2; exit 64 ;;
    esac
done

install_missing packages
target=${CARGO_TARGET_DIR:-target}
# The same packer everywhere; it stays in the target folder.
cargo_deb="cargo-deb 3.8.0"
if [ "$("$target/tools/bin/cargo-deb" --version 2>/dev/null)" != "$cargo_deb" ]; then
    cargo install "${cargo_deb% *}" --locked --version "${cargo_deb#* }" --root "$target/tools" \
        --target-dir "$target/tools/build"
    rm -r "$target/tools/build"
fi
if [ -n "$build" ]; then
    cargo build --release --locked \
        --package corosync-lite --package pmxcfs --package pvecm --package pages
fi
rm -rf "$target/release/manual"
"$target/release/pages" "$target/release/manual"
gzip --best --no-name "$target"/release/manual/man/*
for name in corosync-lite pmxcfs pvecm; do
    rm -f "$target/debian/${name}_"*.deb
    "$target/tools/bin/cargo-deb" --package "$name" --no-build --locked --strip \
        --output "$target/debian/" ${version:+--deb-version "$version"}
done
