#!/bin/sh
# pasta's manual says that the gateway of a multipath default route is the first hop of the highest weight; it takes the last one.
#
# Seen:     passt 0.0~git20261002.cba3570-1 (Debian sid), Linux 6.18. Manual: passt(1), -g: "the first nexthop router returned by the
#           kernel which has the highest weight in the set of paths".
# Input:    ip route add default nexthop via 192.0.2.1 weight 5 nexthop via 192.0.2.3 weight 5
# Expected: default via 192.0.2.1 in the namespace, where only the default route is copied (--no-copy-routes).
# Observed: default via 192.0.2.3.
#
# Needs apt, dpkg, patchelf, iproute2 and unprivileged user namespaces. Exit status 0: it is still so.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
sh "$here/../tests/sid.sh" "$work/sid" passt=0.0~git20261002.cba3570-1
pasta=$work/sid/usr/bin/pasta
"$pasta" --version | head -n 1
"$pasta" --version | grep -q 0.0~git20261002.cba3570-1 || { echo "the archive has another version now" >&2; exit 2; }
seen=$(unshare -Urn sh -ec "
    ip link set lo up
    ip link add eth0 type veth peer name eth1
    ip link set eth1 up
    ip link set eth0 up
    ip address add 192.0.2.2/24 dev eth0
    ip route add default nexthop via 192.0.2.1 weight 5 nexthop via 192.0.2.3 weight 5
    '$pasta' -4 --no-copy-routes --config-net -t none -u none -T none -U none -- ip -4 route show default" 2>/dev/null)
echo "$seen"
[ "$seen" = "default via 192.0.2.3 dev eth0 " ]
