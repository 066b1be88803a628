#!/bin/sh
# iproute2 6.1's JSON of a route into a lightweight tunnel has the key "dst" twice; iproute2 7.3 nests the tunnel's keys.
#
# Seen:     iproute2 6.1.0-3 (Debian 12), Linux 6.18; 7.3.0 for comparison.
# Input:    ip route add 198.51.100.0/24 encap ip id 7 dst 192.0.2.9 dev eth0; ip -j route show
# Observed: 6.1: {"dst":"198.51.100.0/24","encap":"ip",...,"dst":"192.0.2.9",...}. A parser that keeps the last of two equal keys (RFC
#           8259, 4 leaves it open; Python's does) reads the tunnel's end as the route's destination, and "encap" is a string.
#           7.3: "encap" is an object that holds encap_type, id, src, dst. A reader of both versions needs both forms.
#
# Needs apt and dpkg of Debian 12 and unprivileged user namespaces. Exit status 0: it is still so.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
(cd "$work" && apt-get download -q iproute2=6.1.0-3 >/dev/null 2>&1) || { echo "iproute2 6.1.0-3 cannot be fetched here" >&2; exit 2; }
dpkg-deb -x "$work"/iproute2_*.deb "$work/root"
ip=$work/root/bin/ip
[ -x "$ip" ] || ip=$work/root/sbin/ip
shown=$(unshare -Urn sh -ec "
    '$ip' link add eth0 type veth peer name eth1
    '$ip' link set eth0 up
    '$ip' address add 192.0.2.2/24 dev eth0
    '$ip' route add 198.51.100.0/24 encap ip id 7 dst 192.0.2.9 dev eth0
    '$ip' -j route show 198.51.100.0/24")
"$ip" -V
echo "$shown"
read=$(echo "$shown" | python3 -c 'import json, sys; route = json.load(sys.stdin)[0]; print(route["dst"], route["encap"])')
echo "as Python reads it: dst and encap are $read"
[ "$read" = "192.0.2.9 ip" ]
