#!/bin/sh
# Installs what building and testing need and what is not there yet. Sourced by the scripts.
# 'install_missing' for the demo, 'install_missing tests', or 'install_missing packages' to build them.
set -eu

need_package() {
    # $1: a file or command that shows that the package is there; $2: the package
    case "$1" in
        /*) [ -e "$1" ] || missing="$missing $2" ;;
        *) command -v "$1" >/dev/null 2>&1 || missing="$missing $2" ;;
    esac
}

need_pkgconfig() {
    pkg-config --exists "$1" 2>/dev/null || missing="$missing $2"
}

install_missing() {
    missing=""
    need_package cc gcc
    need_package pkg-config pkg-config
    need_pkgconfig libcpg libcpg-dev
    need_pkgconfig libcfg libcfg-dev
    need_pkgconfig libcmap libcmap-dev
    need_pkgconfig libquorum libquorum-dev
    need_pkgconfig libvotequorum libvotequorum-dev
    need_pkgconfig openssl libssl-dev
    need_package /usr/include/security/pam_appl.h libpam0g-dev
    if [ "${1:-}" = packages ]; then
        need_package dpkg-shlibdeps dpkg-dev
    else
        need_package corosync corosync
        need_package ip iproute2
        need_package nft nftables
        need_package nsenter util-linux
        need_package mount mount
        need_package umount mount
        need_package bash bash
    fi
    if [ "${1:-}" = tests ]; then
        need_package rsync rsync
        need_package corosync-qdevice corosync-qdevice
        need_package corosync-qnetd corosync-qnetd
        need_package git git
        need_package python3 python3
        # Clients of the API come from PyPI, into a directory of the tests.
        python3 -c 'import ensurepip, venv' >/dev/null 2>&1 || missing="$missing python3-venv"
        need_package vim vim-tiny
        need_package sqlite3 sqlite3
        need_package /usr/sbin/sshd openssh-server
        need_package ssh openssh-client
        need_package openssl openssl
    fi
    if [ -n "$missing" ]; then
        echo "installing:$missing"
        if [ "$(id -u)" != 0 ]; then
            echo "run this as root, or install these packages first" >&2
            exit 1
        fi
        apt-get update
        # shellcheck disable=SC2086 # one word a package
        DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing
    fi
    if ! command -v cargo >/dev/null 2>&1; then
        echo "cargo is not there: install Rust 1.89 or newer first" >&2
        exit 1
    fi
}
