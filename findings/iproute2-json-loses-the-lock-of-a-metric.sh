#!/bin/sh
# iproute2's JSON of a route does not say that a metric is locked: `mtu 1400` and `mtu lock 1400` look the same.
#
# Seen:     iproute2 6.1.0-3 (Debian 12), and 7.3.0 alike, Linux 6.18.
# Input:    ip route add 198.51.100.0/24 via 192.0.2.1 mtu lock 1400, and without lock; ip route show; ip -j route show
# Expected: a difference in both: with the lock the kernel does no path MTU discovery (ip-route(8), mtu). The text has it.
# Observed: "mtu lock 1400" and "mtu 1400" in the text, "metrics":[{"mtu":1400}] for both in JSON. A program that saves a route as JSON
#           and puts it back turns path MTU discovery on.
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
"$ip" -V
unshare -Urn sh -ec "
    '$ip' link add eth0 type veth peer name eth1
    '$ip' link set eth1 up
    '$ip' link set eth0 up
    '$ip' address add 192.0.2.2/24 dev eth0
    for lock in lock ''; do
        '$ip' route replace 198.51.100.0/24 via 192.0.2.1 mtu \$lock 1400
        '$ip' route show 198.51.100.0/24
        '$ip' -j route show 198.51.100.0/24
        echo
    done" >"$work/seen"
cat "$work/seen"
[ "$(grep -c 'mtu lock 1400' "$work/seen")" = 1 ]
[ "$(grep -c 'mtu 1400' "$work/seen")" = 1 ]
[ "$(grep '^\[' "$work/seen" | sort -u | wc -l)" = 1 ]
grep -q '"metrics":\[{"mtu":1400}\]' "$work/seen"
