#!/bin/sh
# Installs the Debian packages on two fresh hosts with Debian 12 and a real systemd, and makes a cluster
# of them: start, join, crashes, loss of quorum, reboots, upgrade, removal. Run as root; takes minutes.
#
# tests/packages.sh [--no-build] [--shell]
#   --no-build  take the packages that are in target/debian
#   --shell     end with a shell on the first host
#
# PACKAGES_DIR  where the Debian tree (kept for the next run) and the hosts are; default
#               /var/tmp/pmxcfs-packages; must not be on an overlay
# PACKAGES_MIRROR  where packages of Debian come from, if not from debootstrap's default
#
# Hosts are containers of systemd-nspawn on a bridge in a network namespace of their own, with overlays
# over one tree. All of it but that tree goes at the end.
set -eu
cd "$(dirname "$0")/.."
top=$PWD
dir=${PACKAGES_DIR:-/var/tmp/pmxcfs-packages}
target=${CARGO_TARGET_DIR:-target}

build=1 shell=""
for arg in "$@"; do
    case "$arg" in
        --no-build) build="" ;;
        --shell) shell=1 ;;
        *) sed -n '2,15s/^# \{0,1\}//p' "$0" >&2; exit 64 ;;
    esac
done

# ---- before the hosts: what needs the machine's own network ----

prepare() {
    missing=""
    command -v debootstrap >/dev/null || missing="$missing debootstrap"
    command -v systemd-nspawn >/dev/null || missing="$missing systemd-container"
    command -v dpkg-scanpackages >/dev/null || missing="$missing dpkg-dev"
    command -v ip >/dev/null || missing="$missing iproute2"
    if [ -n "$missing" ]; then
        apt-get update
        # shellcheck disable=SC2086 # one word a package
        DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing
    fi
    if [ -n "$build" ]; then
        systemd/packages/build.sh
    fi
    mkdir -p "$dir"
    if [ ! -e "$dir/base/done" ]; then
        rm -rf "$dir/base"
        debootstrap --variant=minbase \
            --include=dbus,iproute2,openssh-server,procps,systemd,systemd-sysv \
            bookworm "$dir/base" ${PACKAGES_MIRROR:+"$PACKAGES_MIRROR"}
        touch "$dir/base/done"
    fi
    # The packages, and the same once more with a higher version, as archives for apt.
    rm -rf "$dir/new" "$dir/old"
    mkdir "$dir/new" "$dir/old"
    cp "$target"/debian/*.deb "$dir/old"
    for deb in "$dir/old"/*.deb; do
        dpkg-deb --raw-extract "$deb" "$dir/unpacked"
        sed -i 's/^Version: .*/&+next/' "$dir/unpacked/DEBIAN/control"
        dpkg-deb --root-owner-group --build "$dir/unpacked" "$dir/new" >/dev/null
        rm -r "$dir/unpacked"
    done
    for archive in old new; do
        (cd "$dir/$archive" && dpkg-scanpackages . >Packages 2>/dev/null)
    done
    # What they need of Debian is fetched here: the hosts reach nothing but each other.
    mkdir -p "$dir/base/packages"
    echo "deb [trusted=yes] file:/packages ./" >"$dir/base/etc/apt/sources.list.d/packages.list"
    mount --bind "$dir/old" "$dir/base/packages"
    chroot "$dir/base" apt-get -q update >"$dir/apt.log"
    chroot "$dir/base" apt-get -q -y --no-install-recommends --download-only install pvecm \
        >>"$dir/apt.log" || { cat "$dir/apt.log"; exit 1; }
    chroot "$dir/base" apt-get -q -y --no-install-recommends --download-only install corosync \
        >>"$dir/apt.log" || { cat "$dir/apt.log"; exit 1; }
    umount "$dir/base/packages"
}

if [ -z "${PACKAGES_INSIDE:-}" ]; then
    prepare
    PACKAGES_INSIDE=1 exec unshare --net --mount --propagation private "$0" --no-build ${shell:+--shell}
fi

# ---- hosts ----

network=10.98.0
password=correct-horse

log() { echo "== $*"; }
fail() {
    echo "FAILED: $*" >&2
    for name in n1 n2 n3; do
        if [ -e "$dir/$name/init" ]; then
            echo "-- $name" >&2
            on $name 'systemctl --no-pager --failed; journalctl --no-pager -n 40 -u pve-cluster \
                -u corosync-lite -u pvecm-serve -u pve-guests' >&2 || true
        fi
    done
    exit 1
}

# on HOST COMMAND...: runs a shell command on a host, with the right input and output
on() {
    host=$1; shift
    nsenter --target "$(cat "$dir/$host/init")" --mount --uts --ipc --net --pid --root --wd \
        env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root DEBIAN_FRONTEND=noninteractive \
        sh -c "$*"
}

# await SECONDS WHAT HOST COMMAND...: until the command succeeds
await() {
    seconds=$1 what=$2; shift 2
    end=$(($(date +%s) + seconds))
    until on "$@" >"$dir/await.log" 2>&1; do
        if [ "$(date +%s)" -ge "$end" ]; then
            cat "$dir/await.log" >&2
            fail "not within $seconds seconds: $what"
        fi
        sleep 0.3
    done
}

check() {
    what=$1; shift
    on "$@" >"$dir/check.log" 2>&1 || { cat "$dir/check.log" >&2; fail "$what"; }
    echo "   $what"
}

refuse() {
    what=$1; shift
    if on "$@" >"$dir/check.log" 2>&1; then
        cat "$dir/check.log" >&2
        fail "$what"
    fi
    echo "   $what"
}

make() { # NUMBER
    host=$dir/n$1
    mkdir -p "$host/upper" "$host/work" "$host/root"
    mount -t overlay -o "lowerdir=$dir/base,upperdir=$host/upper,workdir=$host/work" overlay "$host/root"
    root=$host/root
    echo "n$1" >"$root/etc/hostname"
    printf "127.0.0.1 localhost\n$network.1 n1\n$network.2 n2\n$network.3 n3\n" >"$root/etc/hosts"
    printf '[Match]\nName=host0\n[Network]\nAddress=%s.%s/24\nLinkLocalAddressing=no\n' \
        "$network" "$1" >"$root/etc/systemd/network/10-host0.network"
    systemctl --quiet --root="$root" enable systemd-networkd 2>/dev/null
    rm -f "$root"/etc/ssh/ssh_host_* "$root/etc/machine-id"
    touch "$root/etc/machine-id"
    mkdir -p "$root/var/log/journal"
    chroot "$root" ssh-keygen -A >/dev/null
    echo "root:$password" | chroot "$root" chpasswd
    # A unit of a user that must not run without quorum.
    printf '[Unit]\nAfter=pve-guests.service\n[Service]\nType=oneshot\nRemainAfterExit=yes\n%s\n' \
        'ExecStart=true' >"$root/etc/systemd/system/guest.service"
    printf '[Install]\nWantedBy=multi-user.target\n' >>"$root/etc/systemd/system/guest.service"
    systemctl --quiet --root="$root" enable guest
}

boot() { # NAME
    archive=$(cat "$dir/archive")
    systemd-nspawn --quiet --register=no --keep-unit --machine="$1" --directory="$dir/$1/root" \
        --network-bridge=hosts --bind=/dev/fuse --bind-ro="$dir/$archive:/packages" \
        --capability=CAP_IPC_LOCK,CAP_SYS_NICE --resolv-conf=off --timezone=off --console=pipe \
        --boot </dev/null >"$dir/$1/console" 2>&1 &
    nspawn=$!
    echo "$nspawn" >"$dir/$1/nspawn"
    end=$(($(date +%s) + 60))
    until init=$(pgrep --parent "$nspawn" --exact systemd) \
        && echo "$init" >"$dir/$1/init" && on "$1" 'test -S /run/systemd/private' 2>/dev/null; do
        if [ "$(date +%s)" -ge "$end" ] || ! kill -0 "$nspawn" 2>/dev/null; then
            cat "$dir/$1/console" >&2
            rm -f "$dir/$1/init"
            fail "$1 does not boot"
        fi
        sleep 0.2
    done
}

# Waits until a host has ended, after it was told to.
ended() { # NAME SECONDS
    end=$(($(date +%s) + $2))
    while kill -0 "$(cat "$dir/$1/nspawn")" 2>/dev/null; do
        [ "$(date +%s)" -lt "$end" ] || fail "$1 does not end within $2 seconds"
        sleep 0.2
    done
    wait "$(cat "$dir/$1/nspawn")" || true
    rm -f "$dir/$1/init"
}

poweroff() { # NAME SECONDS
    on "$1" 'systemctl poweroff' || true
    ended "$1" "$2"
}

clean() {
    for name in n1 n2 n3; do
        if [ -e "$dir/$name/init" ]; then
            kill -KILL "$(cat "$dir/$name/init")" 2>/dev/null || true
            ended "$name" 20 || true
        fi
        umount "$dir/$name/root" 2>/dev/null || true
        rm -rf "${dir:?}/$name"
    done
    rm -rf "$dir/new" "$dir/old" "$dir/archive" "$dir"/*.log
}
trap clean EXIT
trap 'exit 1' INT TERM


# ---- what is expected ----

mounted='test "$(findmnt --noheadings --output FSTYPE /etc/pve)" = fuse'
quorate='test "$(stat --format %a /etc/pve/local)" = 755'
update='apt-get -q -o Dir::Etc::SourceList=/dev/null -o APT::Get::List-Cleanup=no update'
install="$update && apt-get -q -y --no-install-recommends install corosync-lite pmxcfs pvecm"

ip link set lo up
ip link add hosts type bridge
ip link set hosts up
for number in 1 2 3; do
    rm -rf "${dir:?}/n$number"
    make "$number"
done
echo old >"$dir/archive"

log "install on a fresh host"
boot n1
await 60 "n1 is up" n1 'systemctl is-active --quiet multi-user.target'
check "packages install" n1 "$install"
await 20 "the mount" n1 "$mounted"
check "the file system serves, alone and writable" n1 \
    "systemctl is-active pve-cluster && $quorate && echo x >/etc/pve/x"
check "the service for joins runs" n1 'systemctl is-active pvecm-serve'
await 20 "port 8006" n1 'ss --listening --tcp --numeric | grep -q :8006'
check "units are enabled" n1 'systemctl is-enabled corosync-lite pve-cluster pvecm-serve pve-guests'
check "messaging waits for a configuration" n1 'test "$(systemctl is-active corosync-lite)" = inactive'
check "nothing has failed" n1 'test -z "$(systemctl --failed --quiet --plain)"'
check "units are in order" n1 'cd /usr/lib/systemd/system && systemd-analyze verify --man=no \
    corosync-lite.service pve-cluster.service pvecm-serve.service pve-guests.service'
on n1 'systemd-analyze --no-pager security corosync-lite pve-cluster pvecm-serve pve-guests' 2>/dev/null \
    | grep 'Overall' || true
check "folder for run-time files" n1 'test "$(stat --format "%a %U %G" /run/pve)" = "750 root www-data"'
check "programs have pages and completions" n1 'test -e /usr/share/man/man1/pvecm.1.gz \
    -a -e /usr/share/man/man8/pmxcfs.8.gz -a -e /usr/share/bash-completion/completions/pvecm'

log "a cluster of one, and a second node over HTTPS"
check "the cluster is made" n1 'pvecm create trial'
await 30 "quorum of one" n1 "systemctl is-active --quiet corosync-lite && $quorate"
check "the name of Corosync means corosync-lite" n1 \
    'test "$(systemctl show --property=Id --value corosync)" = corosync-lite.service'
boot n2
await 60 "n2 is up" n2 'systemctl is-active --quiet multi-user.target'
check "packages install" n2 "$install"
fingerprint=$(on n1 'pvecm join-info' | sed -n 's/.*"pve_fp": *"\([^"]*\)".*/\1/p' | head -n 1)
echo "$password" >"$dir/n2/root/root/password"
check "it joins" n2 "pvecm add n1 --password-file /root/password --fingerprint $fingerprint"
await 60 "quorum on n2" n2 "$quorate"
check "n2 writes" n2 'echo of-n2 >/etc/pve/y'
await 10 "n1 has it" n1 'test "$(cat /etc/pve/y)" = of-n2 && test "$(cat /etc/pve/x)" = x'
await 60 "the service for joins is back on n2" n2 'systemctl is-active pvecm-serve'

check "a number is given to one node alone" n1 'test "$(pvecm nextid --reserve)" = 100'
await 10 "n2 gets the next one" n2 'test "$(pvecm nextid)" = 101 && test "$(pvecm nextid --reserve)" = 101'
check "the address for migrations is that in the network" n2 \
    'echo "migration: network=10.98.0.0/24" >/etc/pve/datacenter.cfg && \
    test "$(pvecm mtunnel --get_migration_ip)" = "ip: '"'$network.2'"'"'

log "services that die come back"
for unit in corosync-lite pve-cluster pvecm-serve; do
    await 30 "$unit runs" n1 "systemctl is-active $unit"
    check "$unit is killed" n1 "systemctl show --property=MainPID --value $unit >/tmp/pid && \
        kill -KILL \"\$(cat /tmp/pid)\""
    await 120 "$unit is back" n1 "systemctl is-active $unit && \
        ! systemctl show --property=MainPID --value $unit | grep -q -x -f /tmp/pid"
    await 30 "quorum" n1 "$mounted && $quorate"
    echo "   $unit is back"
done
check "both see each other's files" n1 'echo again >/etc/pve/y'
await 10 "n2 has it" n2 'test "$(cat /etc/pve/y)" = again'

log "start of the system without and with quorum"
poweroff n1 60
await 60 "n2 has lost quorum" n2 'test "$(stat --format %a /etc/pve/local)" = 555'
check "n2 reads" n2 'test "$(cat /etc/pve/y)" = again'
refuse "n2 does not write" n2 'echo no >/etc/pve/y'
poweroff n2 60
boot n1
await 60 "the mount" n1 "$mounted"
await 120 "n1 waits for quorum" n1 'test "$(systemctl show --property=SubState --value pve-guests)" = start'
check "what needs quorum waits" n1 'test "$(systemctl is-active guest)" = inactive'
begin=$(date +%s)
poweroff n1 60
echo "   a shutdown does not wait for quorum: $(($(date +%s) - begin)) s"
boot n1
boot n2
for name in n1 n2; do
    await 120 "$name is up" $name 'systemctl is-active --quiet multi-user.target'
    check "$name has quorum, and what needs it runs" $name \
        "$quorate && systemctl is-active pve-guests guest"
    refuse "nobody took the mount away at the last end of $name" $name \
        'journalctl --unit pve-cluster | grep "unmounted by somebody else"'
done

log "upgrade"
echo new >"$dir/archive"
poweroff n1 60
boot n1
await 120 "n1 is up" n1 'systemctl is-active --quiet multi-user.target'
on n1 'systemctl show --property=MainPID --value pve-cluster corosync-lite pvecm-serve >/tmp/pid'
check "packages are upgraded" n1 "$install && dpkg-query --show pmxcfs pvecm corosync-lite"
check "the new version is there" n1 'test "$(dpkg-query --show pmxcfs corosync-lite pvecm | grep -c next)" = 3'
await 60 "quorum" n1 "$mounted && $quorate && systemctl is-active pvecm-serve"
refuse "all services were started again" n1 'systemctl show --property=MainPID --value pve-cluster \
    corosync-lite pvecm-serve | grep -v "^$" | grep -q -x -f /tmp/pid'
check "nothing has failed" n1 'test -z "$(systemctl --failed --quiet --plain)"'

log "removal, purge, return"
on n1 'sha256sum /etc/corosync/* /etc/pve/y >/root/sums; ls -R /var/lib/pve-cluster >/root/files'
check "packages are removed" n1 'apt-get -q -y remove pvecm pmxcfs corosync-lite'
check "nothing is mounted, nothing runs" n1 '! findmnt /etc/pve && ! pgrep -x "pmxcfs|corosync-lite|pvecm"'
check "packages are purged" n1 'apt-get -q -y purge pvecm pmxcfs corosync-lite && ! ls /etc/pam.d/proxmox-ve-auth'
check "data stay" n1 'sha256sum --check --ignore-missing /root/sums && test -s /var/lib/pve-cluster/config.db \
    && test -s /etc/corosync/authkey'
check "packages install again" n1 "$install"
await 60 "the cluster is back" n1 "$mounted && $quorate && sha256sum --check /root/sums"
check "data of before are there" n1 'test "$(cat /etc/pve/y)" = again'
check "nothing has failed" n1 'test -z "$(systemctl --failed --quiet --plain)"'

log "Debian's Corosync on a host of its own"
boot n3
await 60 "n3 is up" n3 'systemctl is-active --quiet multi-user.target'
check "Corosync installs" n3 'apt-get -q -y --no-install-recommends install corosync'
check "its example is removed" n3 'systemctl stop corosync && rm /etc/corosync/corosync.conf'
check "packages install without corosync-lite" n3 "$update"' && apt-get -q -y --no-install-recommends \
    install pmxcfs pvecm && test ! -e /usr/bin/corosync-lite'
check "the cluster is made" n3 'pvecm create other'
await 30 "quorum of one" n3 "$quorate && pgrep -x corosync"
check "corosync-lite installs beside it" n3 'apt-get -q -y --no-install-recommends install corosync-lite'
check "Corosync stays in use" n3 'systemctl is-active corosync && pgrep -x corosync && \
    ! systemctl is-active corosync-lite && ! systemctl is-enabled corosync-lite'
check "corosync-lite takes its place" n3 'systemctl disable --now corosync && \
    systemctl enable --now corosync-lite'
await 30 "quorum of one" n3 "$quorate && pgrep -x corosync-lite && ! pgrep -x corosync"
check "the name of Corosync means corosync-lite" n3 \
    'test "$(systemctl show --property=Id --value corosync)" = corosync-lite.service'
poweroff n3 60
boot n3
await 120 "n3 is up" n3 "systemctl is-active --quiet multi-user.target"
check "corosync-lite runs after a start of the system" n3 "$quorate && pgrep -x corosync-lite && ! pgrep -x corosync"

if [ -n "$shell" ]; then
    log "a shell on n1; all is taken away when it ends"
    on n1 'exec sh -i' || true
fi
log "all of it worked"
