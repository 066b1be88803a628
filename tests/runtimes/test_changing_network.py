"""The host's network changes under containers of real podman and rootlesskit, and they go on as after a new start."""

import contextlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator

import pytest
from machine import HOST, REMOTE, Machine, as_user, end, wait_until
from test_podman import HTTPD, get

SOON_S = 1
NAME = "some.example"
WEB = f"http://{NAME}:8000/"
ADDRESSES = f"ip address add {HOST[4]}/24 dev eth0; ip address add {HOST[6]}/64 dev eth0 nodad"
ROUTES = f"ip route add default via {REMOTE[4]}; ip -6 route add default via {REMOTE[6]}"
NO_NETWORK = "ip address flush dev eth0; ip link set eth0 down; : >/etc/resolv.conf"
NETWORK = f"ip link set eth0 up; {ADDRESSES}; {ROUTES}; echo nameserver {REMOTE[4]} >/etc/resolv.conf"
#: A second adapter with a network and a nameserver of its own, and a better default route, as a VPN or a cable brings it.
OTHER = "198.51.100."
OTHER_ADAPTER = (
    "ip link add eth1 type veth peer name eth1 netns remote; ip -n remote link set eth1 up; ip link set eth1 up; "
    f"ip -n remote address add {OTHER}2/24 dev eth1; ip address add {OTHER}1/24 dev eth1; "
    f"ip route add default via {OTHER}2 dev eth1 metric 5; echo nameserver {OTHER}2 >/etc/resolv.conf"
)


def change(machine: Machine, script: str) -> None:
    machine.root_run("sh", "-ec", script)


@pytest.fixture(autouse=True)
def the_usual_network(machine: Machine) -> "Iterator[None]":
    """At the remote end a web server, and a nameserver that knows its name. The host's network is as before in the end."""
    answer = f"/{NAME}/{REMOTE[4]}"
    with contextlib.ExitStack() as stack:
        stack.enter_context(machine.serving("busybox", "httpd", "-f", "-p", "8000", "-h", "/opt", remote=True))
        stack.enter_context(machine.serving("dnsmasq", "-k", "-u", "root", "-R", "-A", answer, remote=True))
        yield
        machine.root_run("ip", "link", "del", "eth1", check=False)
        change(machine, f"{NO_NETWORK}; {NETWORK}")
        machine.run("podman", "rm", "-fa", "-t", "0", check=False)


def addresses(podman: "Callable[..., str]", name: str) -> set[str]:
    """The global addresses of a container. Its interface is tap0 where the host had none to name it after."""
    links = json.loads(podman("exec", name, "/bin/ip", "-j", "address"))
    return {address["local"] for link in links for address in link["addr_info"] if address["scope"] == "global"}


def has(podman: "Callable[..., str]", name: str, *wanted: str) -> None:
    wait_until(lambda: addresses(podman, name) == set(wanted), SOON_S, f"{name} has {wanted}")


def asks(machine: Machine, name: str, url: str = WEB) -> None:
    """The container reaches the web server, soon."""
    command = ("podman", "exec", name, "curl", "-sS", "-m", "5", url)
    wait_until(lambda: "404" in machine.run(*command, check=False).stdout, SOON_S, f"{name} reaches {url}")


@contextlib.contextmanager
def network_of(machine: Machine, kind: str) -> "Iterator[tuple[str, ...]]":
    """What `podman run` gets for a container of that kind. In the end no container and no network of it is left."""
    try:
        if kind == "pod":
            machine.podman("pod", "create", "--name", "pod")
            yield "--pod", "pod"
        elif kind == "bridge":
            machine.podman("network", "create", "net")
            yield "--network", "net"
        else:
            yield ()
    finally:
        machine.run("podman", "rm", "-fa", "-t", "0", check=False)
        machine.run("podman", "network", "rm", "-f", "net", check=False)


@pytest.mark.parametrize("kind", ["container", "pod", "bridge"])
def test_started_without_network_it_has_one_when_the_host_has(machine: Machine, kind: str) -> None:
    change(machine, NO_NETWORK)
    with network_of(machine, kind) as options:
        machine.podman("run", "-d", "--name", "early", *options, "base", "sleep", "1000")
        change(machine, NETWORK)
        if kind != "bridge":  # there the namespace of all bridges has them
            has(machine.podman, "early", HOST[4], HOST[6])
        asks(machine, "early")


def test_rootlesskit_started_without_network_has_one_when_the_host_has(machine: Machine) -> None:
    change(machine, NO_NETWORK)
    inside = f"until curl -sS -m 5 http://{REMOTE[4]}:8000/; do sleep 0.1; done; echo reached"
    process = machine.popen("rootlesskit", "--net=pasta", "--copy-up=/etc", "sh", "-c", f"echo up; {inside}")
    try:
        assert process.stdout and process.stdout.readline() == "up\n"
        change(machine, NETWORK)
        assert process.communicate(timeout=60)[0].endswith("reached\n")
    finally:
        end(process)


def test_a_default_route_that_comes_after_the_address_reaches_the_container(machine: Machine) -> None:
    change(machine, f"{NO_NETWORK}; ip link set eth0 up; {ADDRESSES}")
    machine.podman("run", "-d", "--name", "early", "base", "sleep", "1000")
    change(machine, f"{ROUTES}; echo nameserver {REMOTE[4]} >/etc/resolv.conf")
    asks(machine, "early")
    (route,) = json.loads(machine.podman("exec", "early", "/bin/ip", "-j", "route", "show", "default"))
    assert route["gateway"] == REMOTE[4]


@pytest.mark.parametrize("kind", ["container", "bridge"])
def test_another_adapter_with_its_own_nameserver_comes_and_goes(machine: Machine, kind: str) -> None:
    with network_of(machine, kind) as options:
        machine.podman("run", "-d", "--name", "laptop", *options, "base", "sleep", "1000")
        asks(machine, "laptop")
        change(machine, f"{OTHER_ADAPTER}; ip link set eth0 down")
        if kind == "container":
            wait_until(lambda: f"{OTHER}1" in addresses(machine.podman, "laptop"), SOON_S, "the address of the other adapter")
        asks(machine, "laptop", f"http://{OTHER}2:8000/")
        found = ("podman", "exec", "laptop", "nslookup", NAME)
        wait_until(lambda: REMOTE[4] in machine.run(*found, check=False).stdout, SOON_S, "the other nameserver answers")
        change(machine, f"ip link del eth1; {NO_NETWORK}; {NETWORK}")
        if kind == "container":
            wait_until(lambda: HOST[4] in addresses(machine.podman, "laptop"), SOON_S, "the address of the first adapter")
        asks(machine, "laptop")


@pytest.mark.parametrize("kind", ["container", "bridge"])
def test_a_container_that_is_started_after_a_switch_of_adapters_has_a_network(machine: Machine, kind: str) -> None:
    """With both, with the other one alone, and back: no route of the one that has lost is in the way."""
    back = f"ip link set eth1 down; {NO_NETWORK}; {NETWORK}"
    other = f"http://{OTHER}2:8000/"
    with network_of(machine, kind) as options:
        for script, url in ((OTHER_ADAPTER, other), ("ip link set eth0 down", other), (back, WEB)):
            change(machine, script)
            machine.podman("run", "-d", "--name", "new", *options, "base", "sleep", "1000")
            asks(machine, "new", url)
            machine.podman("rm", "-f", "-t", "0", "new")


TUNNEL = {"near": "10.8.0.6", "far": "10.8.0.1"}
TUNNEL_PORT = 5555
#: How VPNs lead everything through their tunnel: two halves that win over the default route, which stays, or another default route.
THROUGH_TUNNEL = {
    "halves": "ip route add 0.0.0.0/1 dev tun0; ip route add 128.0.0.0/1 dev tun0",
    "default": "ip route add default dev tun0 metric 1",
}


def end_of_tunnel(end: str, peer: str) -> "tuple[str, ...]":
    """A program that carries IP packets in datagrams: a VPN without its encryption. Its interface has no MAC address.

    `peer`: the other end's address; "": that of the first datagram.
    """
    carrier = f"UDP4-DATAGRAM:{peer}:{TUNNEL_PORT}" if peer else f"UDP4-LISTEN:{TUNNEL_PORT}"
    return "socat", carrier, f"TUN:{TUNNEL[end]}/24,tun-name=tun0,iff-up"


@pytest.fixture
def far_end(machine: Machine) -> "Iterator[None]":
    with machine.serving(*end_of_tunnel("far", ""), remote=True):
        yield


@pytest.mark.parametrize(("way", "kind"), [("halves", "container"), ("default", "bridge")])
def test_a_container_starts_beside_a_vpn_and_goes_on_without_it(machine: Machine, far_end: None, way: str, kind: str) -> None:
    with network_of(machine, kind) as options, contextlib.ExitStack() as stack:
        near = end_of_tunnel("near", REMOTE[4])
        client = machine.popen(*near, root=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        stack.callback(machine.root_run, "ip", "route", "del", REMOTE[4], "dev", "eth0", check=False)
        stack.callback(end, client)
        wait_until(lambda: machine.root_run("ip", "link", "show", "tun0", check=False).returncode == 0, SOON_S, "the tunnel is up")
        change(machine, f"ip route add {REMOTE[4]} dev eth0; {THROUGH_TUNNEL[way]}")
        machine.podman("run", "-d", "--name", "new", *options, "base", "sleep", "1000")
        asks(machine, "new", f"http://{TUNNEL['far']}:8000/")
        asks(machine, "new")
        end(client)  # its interface and its routes go with it
        asks(machine, "new")


def test_a_vpn_in_a_container_of_a_network_leaves_the_others_theirs(machine: Machine, far_end: None) -> None:
    """A container carries everything through its tunnel. Others of its network reach it by name, and the world past it."""
    machine.podman("network", "create", "net")
    inside = f"ip route add {REMOTE[4]} via $(ip route | sed -n 's/^default via \\([^ ]*\\).*/\\1/p'); "
    inside += f"httpd -p 80 -h /www; {' '.join(end_of_tunnel('near', REMOTE[4]))} & "
    inside += "until ip link show tun0; do sleep 0.1; done; ip route replace default dev tun0; wait"
    try:
        rights = ("--cap-add", "NET_ADMIN", "--device", "/dev/net/tun")
        machine.podman("run", "-d", "--name", "vpn", "--network", "net", *rights, "base", "sh", "-ec", inside)
        machine.podman("run", "-d", "--name", "other", "--network", "net", "base", "sleep", "1000")
        asks(machine, "vpn", f"http://{TUNNEL['far']}:8000/")
        asks(machine, "other")
        hello = ("podman", "exec", "other", "curl", "-sS", "-m", "5", "http://vpn/")
        wait_until(lambda: machine.run(*hello, check=False).stdout == "hello\n", SOON_S, "they reach each other")
    finally:
        machine.run("podman", "rm", "-fa", "-t", "0", check=False)
        machine.run("podman", "network", "rm", "-f", "net", check=False)


@pytest.mark.parametrize("kind", ["container", "bridge"])
def test_the_host_is_reached_by_its_name_also_when_its_address_has_changed(machine: Machine, kind: str) -> None:
    url = "http://host.containers.internal:8001/"
    moved = f"ip address del {HOST[4]}/24 dev eth0; ip address add 192.0.2.33/24 dev eth0; ip route add default via {REMOTE[4]}"
    with network_of(machine, kind) as options, machine.serving("busybox", "httpd", "-f", "-p", "8001", "-h", "/opt"):
        machine.podman("run", "-d", "--name", "guest", *options, "base", "sleep", "1000")
        asks(machine, "guest", url)
        change(machine, moved)
        if kind == "container":
            has(machine.podman, "guest", "192.0.2.33", HOST[6])
        asks(machine, "guest", url)


@pytest.fixture
def cgroup(machine: Machine) -> "Iterator[str]":
    """A cgroup of the user's own, which elsewhere systemd gives him: `podman pause` needs one."""
    name = f"/pasta-py-{os.getpid()}"
    path = f"/sys/fs/cgroup{name}"
    machine.root_run("sh", "-ec", f"mkdir -p {path}/session; chown -R 1000:1000 {path}")
    yield name
    machine.run("podman", "rm", "-fa", "-t", "0", check=False)
    empty = f"find {path} -depth -type d -exec rmdir {{}} + 2>/dev/null; test ! -e {path}"
    wait_until(lambda: machine.root_run("sh", "-c", empty, check=False).returncode == 0, 5, "the cgroup is empty")


def test_a_container_that_has_been_renamed_paused_and_restarted_follows(machine: Machine, cgroup: str) -> None:
    def podman(*words: object) -> str:
        """A user's podman in his cgroup."""
        enter = f'echo $$ >/sys/fs/cgroup{cgroup}/session/cgroup.procs; exec "$@"'
        command = ("sh", "-ec", enter, "sh", *as_user("podman", *words))
        return machine.root_run(*command).stdout.strip()

    podman("run", "-d", "--name", "before", "--cgroup-parent", cgroup, "base", "sleep", "1000")
    podman("rename", "before", "after")
    podman("pause", "after")
    assert podman("ps", "-a", "--format", "{{.Status}}", "--filter", "name=after") == "Paused"
    change(machine, "ip address add 192.0.2.77/24 dev eth0")
    podman("unpause", "after")
    has(podman, "after", HOST[4], HOST[6], "192.0.2.77")
    podman("restart", "-t", "0", "after")
    has(podman, "after", HOST[4], HOST[6], "192.0.2.77")
    change(machine, "ip address add 192.0.2.78/24 dev eth0")
    has(podman, "after", HOST[4], HOST[6], "192.0.2.77", "192.0.2.78")


def test_the_network_is_restarted_under_it(machine: Machine) -> None:
    """The link is deleted and made again: published ports and the way out work as before."""
    machine.podman("run", "-d", "--name", "server", "-p", "8080:80", "base", *HTTPD)
    wait_until(lambda: get(machine, f"http://{HOST[4]}:8080/", remote=True) == "hello", SOON_S, "it answers")
    again = "ip link del eth0; ip link add eth0 type veth peer name eth0 netns remote; ip link set eth0 up; "
    again += "ip -n remote link set eth0 up; "
    again += f"ip -n remote address add {REMOTE[4]}/24 dev eth0; ip -n remote address add {REMOTE[6]}/64 dev eth0 nodad; "
    change(machine, again + f"{ADDRESSES}; {ROUTES}")
    wait_until(lambda: get(machine, f"http://{HOST[4]}:8080/", remote=True) == "hello", SOON_S, "it answers again")
    asks(machine, "server")
