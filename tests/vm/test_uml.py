"""User-mode Linux behind passt --vhost-user: a guest at native speed, whose driver takes every offload."""

import pytest
import uml
from lab import BIG, GATEWAY4, HOST4, REMOTE4, REMOTE6, Lab
from machines import passt
from servers import make_file, nginx

pytestmark = [
    pytest.mark.as_built,
    pytest.mark.unsanitized,
    pytest.mark.option("--vhost-user"),
    pytest.mark.timeout(600),
]

SIZE = 200_000_000
DHCP = """#!/bin/sh
[ "$1" != bound ] || { ip addr add $ip/$mask dev $interface; ip route add default via $router; ip link set $interface mtu $mtu; }
"""


@pytest.mark.parametrize("mtu", [1500, 9000, 65520])
def test_large_files_both_ways(lab: Lab, mtu: int) -> None:
    nginx(lab)
    digest = make_file(lab, "www/uml.bin", SIZE)
    hook = lab.directory / "uml-dhcp"
    hook.write_text(DHCP)
    hook.chmod(0o755)
    up = [f"{BIG}/www/uml-{family}.bin" for family in (4, 6)]
    script = f"""set -e
{uml.fetch()}/usr/bin/busybox udhcpc -i eth0 -n -q -f -t 20 -O mtu -s {hook} >/dev/null 2>&1
ip -o -4 addr show dev eth0; ip route show default; ip -o link show dev eth0 | sed 's/.* mtu \\([0-9]*\\) .*/\\1/'
for i in $(seq 100); do ip -6 addr show dev eth0 scope global | grep -v tentative | grep -q inet6 && break; sleep 0.1; done
ping -c1 -W20 {REMOTE4} >/dev/null; ping -c1 -W20 {REMOTE6} >/dev/null
for host in {REMOTE4} [{REMOTE6}]; do curl -sS -f --max-time 100 http://$host/uml.bin | sha256sum; done
curl -sS -f --max-time 100 -T {BIG}/www/uml.bin http://{REMOTE4}/uml-4.bin
curl -sS -f --max-time 100 -T {BIG}/www/uml.bin http://[{REMOTE6}]/uml-6.bin
"""
    with passt(lab, "--vhost-user", "-m", mtu) as made:
        said = uml.run(lab, made.socket, script).splitlines()
        made.wait_said("Client connection closed")
    assert f"{HOST4}/24" in said[0] and f"via {GATEWAY4} " in said[1] and said[2] == str(mtu), said
    assert [line.split()[0] for line in said[3:5]] == [digest] * 2, said
    for path in up:
        assert lab.host.run("sha256sum", path).stdout.split()[0] == digest
        lab.host.run("rm", path)
