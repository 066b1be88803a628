#!/bin/sh
# root.sh DIRECTORY: a Debian root for arm64 in DIRECTORY/root, with what the end-to-end tests need, and QEMU in DIRECTORY/qemu.
#
# Packages are unpacked, not installed, so nothing of arm64 runs here: guest.sh does the rest at the first boot. As root, for the
# owners of files. What is there already is kept.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
directory=$(cd "$1" && pwd)
suite=trixie
packages="base-files base-passwd bash coreutils dash diffutils findutils grep gzip hostname kmod libc-bin login mawk mount ncurses-base
    passwd perl-base procps sed tar util-linux busybox-static ca-certificates linux-image-cloud-arm64
    bind9-dnsutils curl dnsmasq-base gcc iperf3 iproute2 iputils-ping isc-dhcp-client libc6-dev ndisc6 nftables nginx-light
    slirp4netns socat strace tshark
    python3 python3-pip python3-venv python3-cffi python3-pyroute2 python3-typer python3-dnspython python3-hypothesis python3-jsonschema
    python3-pytest python3-pytest-timeout"

[ "$(id -u)" = 0 ] || { echo "root.sh: only root can make a Debian root" >&2; exit 1; }
exec 9>"$directory.lock"
flock 9
wanted="$suite $(echo $packages)"
if [ "$(cat "$directory/wanted" 2>/dev/null)" != "$wanted" ]; then
    rm -rf "$directory"
    mkdir "$directory"
    root=$directory/root
    # shellcheck disable=SC2086
    sh "$here/../unpack.sh" "$root" $suite arm64 $packages 9>&-
    rm -rf "$root/usr/share/doc" "$root/usr/share/locale" "$root/usr/share/man"
    # What the packages' scripts would do.
    cp "$root/usr/share/base-passwd/passwd.master" "$root/etc/passwd"
    cp "$root/usr/share/base-passwd/group.master" "$root/etc/group"
    echo "user:x:1000:1000::/home/user:/bin/bash" >>"$root/etc/passwd"
    echo "user:x:1000:" >>"$root/etc/group"
    echo "127.0.0.1 localhost" >"$root/etc/hosts"
    echo "nameserver 127.0.0.1" >"$root/etc/resolv.conf"
    mkdir -p "$root/etc/ssl/certs" # pip looks for it, offline too
    cat "$root"/usr/share/ca-certificates/mozilla/*.crt >"$root/etc/ssl/certs/ca-certificates.crt"
    ln -s gcc "$root/usr/bin/cc"
    ln -s mawk "$root/usr/bin/awk"
    mkdir -p "$root/home/user" "$root/work"
    mke2fs -q -t ext4 -d "$root" "$directory/image" 4G
    echo "$wanted" >"$directory/wanted"
fi
sh "$here/../sid.sh" "$directory/qemu" qemu-system-arm 9>&-
