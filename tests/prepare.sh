#!/usr/bin/env bash
# Finds or installs what `make` needs from the system: `prepare.sh build` or `prepare.sh test`; `prepare.sh reachable` tells whether the tests can run here.
# As root it installs missing Debian packages; otherwise it prints the one line to run first. Last line: the Python to use.
set -eu

# As root the tests become an ordinary user, who has to read the checkout.
reachable() {
    [ "$(id -u)" != 0 ] || setpriv --reuid 65534 --regid 65534 --clear-groups test -r "$PWD/Makefile"
}
cd "$(dirname "$0")/.."
if [ "${1:-}" = reachable ]; then
    reachable
    exit
fi
if [ "${1:-}" = test ] && ! reachable; then
    echo "ordinary users cannot read $PWD, as the tests need: move the checkout, for example to /var/tmp" >&2
    exit 1
fi

declare -A packages=(
    [cc]=gcc [ip]=iproute2 [unshare]=util-linux
    [apparmor_parser]=apparmor [checkmodule]=checkpolicy [semodule_package]=semodule-utils
    [clang]=clang [clang-format]=clang-format [curl]=curl [fish]=fish [git]=git [man]=man-db [zsh]=zsh [debootstrap]=debootstrap [dhclient]=isc-dhcp-client [dhcpcd]=dhcpcd-base [dig]=bind9-dnsutils [dnsmasq]=dnsmasq-base
    [haproxy]=haproxy [iperf3]=iperf3 [microsocks]=microsocks [node]=nodejs [nft]=nftables [passt]=passt [nginx]=nginx-light [patchelf]=patchelf [ping]=iputils-ping [rdisc6]=ndisc6 [setpriv]=util-linux
    [slirp4netns]=slirp4netns [socat]=socat [ssh]=openssh-client [sshd]=openssh-server [strace]=strace [ss]=iproute2 [systemd-socket-activate]=systemd [tinyproxy]=tinyproxy-bin [tcpdump]=tcpdump [tshark]=tshark
    [clang-tidy]=clang-tidy [valgrind]=valgrind
)
build=(cc ip unshare)
tests=(apparmor_parser checkmodule clang clang-format clang-tidy curl fish git man zsh debootstrap dhclient dhcpcd dig dnsmasq haproxy iperf3 jq microsocks nft node nginx passt patchelf ping rdisc6 semodule_package setpriv slirp4netns socat ss ssh sshd strace systemd-socket-activate tcpdump tinyproxy tshark valgrind)
PATH=$PATH:/usr/sbin:/sbin

# The system's Python first: ordinary users can always start it, which root's own installation may not allow.
python() {
    local candidate
    for candidate in ${PYTHON:-/usr/bin/python3 python3}; do
        "$candidate" - 2>/dev/null <<'EOF' && command -v "$candidate" && return 0
import ensurepip, os, sys, sysconfig, venv
sys.exit(sys.version_info < (3, 11) or not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))
EOF
    done
    return 1
}

missing() {
    local tool
    for tool in "${wanted[@]}"; do
        command -v "$tool" >/dev/null || printf '%s\n' "${packages[$tool]}"
    done | sort -u
    # Programs that run on this libc need its headers too.
    echo '#include <stdio.h>' | cc -fsyntax-only -xc - 2>/dev/null || echo libc6-dev
    # Only recommended by clang: libFuzzer and the sanitizers.
    [ ${#wanted[@]} = ${#build[@]} ] || echo 'int LLVMFuzzerTestOneInput(void) { return 0; }' |
        clang -w -fsanitize=fuzzer,address -xc - -o /dev/null 2>/dev/null || echo libclang-rt-dev
    python >/dev/null || printf '%s\n' python3-venv python3-dev
}

wanted=("${build[@]}")
[ "${1:-}" = test ] && wanted+=("${tests[@]}")
lacking=$(missing | tr '\n' ' ')
if [ -n "$lacking" ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "installing $lacking" >&2
        export DEBIAN_FRONTEND=noninteractive
        # shellcheck disable=SC2086
        { apt-get update -q && apt-get install -y -q --no-install-recommends $lacking; } >&2 </dev/null
        lacking=$(missing | tr '\n' ' ')
        [ -z "$lacking" ] || { echo "still missing after the installation: $lacking" >&2; exit 1; }
    else
        echo "missing: run this first: sudo apt-get update && sudo apt-get install -y $lacking" >&2
        exit 1
    fi
fi
if [ ! -e /dev/net/tun ]; then
    echo "missing: /dev/net/tun: run this first: sudo modprobe tun" >&2
    exit 1
fi
# udev makes the device open to all, as every user of a user namespace needs; machines without udev leave it to root.
if [ "$(id -u)" = 0 ] && [ "$(stat -c %a /dev/net/tun)" != 666 ]; then
    chmod 666 /dev/net/tun
fi
python
