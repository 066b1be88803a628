#!/bin/sh
# pyroute2 0.9.7 decodes a route metric that it does not know as a dict with the netlink header, without its value.
#
# Seen:     pyroute2 0.9.7 (the newest release in November 2026), Python 3.11, Linux 6.18.
# Input:    a route with `mtu 1400 fastopen_no_cookie 1` (RTAX_FASTOPEN_NO_COOKIE is in the kernel since 4.15).
# Expected: ("RTAX_FASTOPEN_NO_COOKIE", 1), or a value as bytes, as for unknown attributes elsewhere.
# Observed: [('RTAX_MTU', 1400), ('UNKNOWN', {'header': {'length': 8, 'type': 17}})]: a caller that takes metrics for numbers fails,
#           and one that writes the route back loses the metric, since the value is nowhere.
#
# Needs unprivileged user namespaces and iproute2. Exit status 0: it is still so.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q pyroute2==0.9.7 2>/dev/null
cat >"$work/show.py" <<'PY'
from pyroute2 import IPRoute

with IPRoute() as ip:
    for route in ip.get_routes(family=2):
        if route.get_attr("RTA_DST") == "203.0.113.0":
            print(route.get_attr("RTA_METRICS")["attrs"])
PY
seen=$(unshare -Urn sh -ec "
    ip link add eth0 type veth peer name eth1
    ip link set eth0 up
    ip address add 192.0.2.2/24 dev eth0
    ip route add 203.0.113.0/24 via 192.0.2.1 mtu 1400 fastopen_no_cookie 1
    '$work/venv/bin/python' '$work/show.py'")
echo "$seen"
[ "$seen" = "[('RTAX_MTU', 1400), ('UNKNOWN', {'header': {'length': 8, 'type': 17}})]" ]
