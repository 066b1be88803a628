"""Multicast and broadcast of the guest on the host's network: what leaves, as what, and what comes back."""

import contextlib
import socket
import struct
import sys
from collections.abc import Iterator

import pytest
import sid
import slirp
from lab import (
    GATEWAY4,
    GATEWAY6,
    HOST4,
    HOST6,
    NO_PORTS,
    REMOTE4,
    REMOTE6,
    UID,
    Guest,
    Lab,
    Space,
    dual,
    wait_until,
    wire,
)

SSDP, MDNS4, MDNS6, SITE6 = "239.255.255.250", "224.0.0.251", "ff02::fb", "ff05::c"
ALL, SUBNET = "255.255.255.255", "192.0.2.255"
#: Where an answer comes from: not the address and port that was asked, as SSDP has it. Addresses of the remote, too.
ELSEWHERE = {4: GATEWAY4, 6: GATEWAY6}
MEMBERS = (f"{SSDP}/1900", f"{MDNS4}/5353", f"{MDNS6}/5353", f"{SITE6}/1900", "9999", "::/9999")
Heard = list[dict[str, object]]


@pytest.fixture(scope="module")
def guest(lab: Lab) -> Iterator[Guest]:
    with lab.guest(*NO_PORTS) as made:
        yield made


@pytest.fixture(scope="module")
def options_lab() -> Iterator[Lab]:
    """For guests of a test's own."""
    with Lab() as made:
        yield made


class Member:
    """A machine, or the host itself, that hears and answers while the test uses it."""

    def __init__(
        self, where: Space, groups: tuple[str, ...], answers: dict[int, str], text: str, interface: str
    ) -> None:
        self._script = where.start("group_member.py", interface, answers[4], answers[6], text, *groups)

    def heard(self) -> Heard:
        found = self._script.result()["heard"]
        assert isinstance(found, list)
        return found


@contextlib.contextmanager
def member(
    where: Space,
    *groups: str,
    answers: dict[int, str] = ELSEWHERE,
    text: str = "here",
    interface: str = "eth0",
) -> Iterator[Member]:
    made = Member(where, groups or MEMBERS, answers, text, interface)
    try:
        yield made
    finally:
        made._script.process.kill()
        made._script.process.wait()


def answer(result: dict[str, object]) -> tuple[str, str]:
    """Address and text."""
    got = result["answer"]
    assert isinstance(got, list), result
    return got[0], got[2]


@pytest.mark.parametrize(
    ("group", "port", "ttl"),
    [(SSDP, 1900, 4), (MDNS4, 5353, 255), (MDNS4, 5353, 1), (MDNS6, 5353, 255), (SITE6, 1900, 3)],
)
def test_a_group_is_asked_and_a_member_answers_from_an_address_of_its_own(
    lab: Lab, guest: Guest, group: str, port: int, ttl: int
) -> None:
    """TTL as the guest set it; the port is the host kernel's choice, though the guest asks from the group's own."""
    with member(lab.remote) as remote:
        address, text = answer(guest.script("group_ask.py", port, f"{group}/{port}/{ttl}"))
        (heard,) = remote.heard()
    assert text == "here"
    assert (heard["to"], heard["ttl"]) == (group, ttl)
    assert heard["from_port"] != port
    if group == MDNS6:  # of the link, as the guest's own source is
        assert address.startswith("fe80::") and str(heard["from"]).startswith("fe80::")
    else:
        assert address == ELSEWHERE[6 if ":" in group else 4]
        assert heard["from"] == (HOST6 if ":" in group else HOST4)


@pytest.mark.parametrize(("group", "port"), [(MDNS4, 5353), (MDNS6, 5353)])
def test_the_host_s_own_member_hears_it_and_keeps_its_port(lab: Lab, guest: Guest, group: str, port: int) -> None:
    """As from any program of the host: it is looped back. The port is the member's alone, and stays so."""
    with member(lab.host, f"{group}/{port}", answers={4: HOST4, 6: HOST6}) as responder:
        address, text = answer(guest.script("group_ask.py", port, f"{group}/{port}/1"))
        (heard,) = responder.heard()
    assert text == "here" and heard["to"] == group
    # The host's link-local address is its own; its other address is the guest's, too, so another means the host.
    assert address == (heard["from"] if ":" in group else GATEWAY4)
    with member(lab.host, f"{group}/{port}"):  # bound without SO_REUSEADDR, as long as the guest's flow lives
        pass


@contextlib.contextmanager
def avahi(lab: Lab, name: str) -> Iterator[None]:
    """avahi-daemon on the remote, with this host name; it shares port 5353 with nothing of ours."""
    files = {
        "passwd": f"avahi:x:{UID}:{UID}::/:/bin/sh\n",
        "group": f"avahi:x:{UID}:\n",
        "avahi.conf": f"[server]\nhost-name={name}\nallow-interfaces=eth0\nenable-dbus=no\n[wide-area]\nenable-wide-area=no\n",
    }
    for file, text in files.items():
        (lab.directory / file).write_text(text)
    daemon = (
        sid.program("avahi-daemon", "avahi-daemon"),
        "--no-drop-root",
        "--no-chroot",
        "--no-rlimits",
        "-f",
        "avahi.conf",
    )
    mounts = 'mount --bind passwd /etc/passwd; mount --bind group /etc/group; exec "$@"'
    log = lab.directory / "avahi.log"
    with open(log, "wb") as file_object:
        process = lab.remote.popen("unshare", "-m", "sh", "-ec", mounts, "sh", *daemon, caps=True, stderr=file_object)

    def started() -> bool:
        assert process.poll() is None, log.read_text()
        return "Server startup complete" in log.read_text()

    try:
        wait_until(started, 10, "avahi-daemon has claimed its name")
        yield
    finally:
        process.terminate()
        process.wait()


MDNS_ASK = """
import socket, struct, sys
group, kind = sys.argv[1], int(sys.argv[2])
six = ":" in group
with socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.settimeout(20)
    sock.bind(("", 5353))
    if six:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
    else:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
    name = bytes([7]) + b"printer" + bytes([5]) + b"local" + bytes(1)
    question = struct.pack("!6H", 7, 0, 1, 0, 0, 0) + name + struct.pack("!HH", kind, 0x8001)
    index = next(index for index, name in socket.if_nameindex() if name != "lo")
    sock.sendto(question, (group, 5353, 0, index) if six else (group, 5353))
    print(sock.recv(2000).hex())
"""


def test_avahi_answers_a_question_from_port_5353(lab: Lab, guest: Guest) -> None:
    """An A and an AAAA record (RFC 1035, 3.2.2; RFC 3596, 2.1), asked to come by unicast (RFC 6762, 5.4)."""
    with avahi(lab, "printer"):
        for group, kind, address in ((MDNS4, 1, REMOTE4), (MDNS6, 28, REMOTE6)):
            reply = bytes.fromhex(guest.run(sys.executable, "-I", "-S", "-c", MDNS_ASK, group, kind).stdout)
            assert struct.unpack_from("!H", reply, 6)[0] >= 1  # answers
            assert socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address) in reply


def test_upnpc_finds_a_device(lab: Lab, guest: Guest) -> None:
    """miniupnpc's client, with a device that answers a search (M-SEARCH) from another of its addresses."""
    place = f"http://{ELSEWHERE[4]}:49152/device.xml"
    lines = ("HTTP/1.1 200 OK", "CACHE-CONTROL: max-age=60", "EXT:", f"LOCATION: {place}", "ST: upnp:rootdevice")
    reply = "\r\n".join((*lines, "USN: uuid:1::upnp:rootdevice", "", ""))
    with member(lab.remote, f"{SSDP}/1900", text=reply):
        done = guest.run(sid.program("miniupnpc", "upnpc"), "-l", check=False)
    assert f"desc: {place}" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(("size", "count"), [(1400, 20), (65_500, 1)])
@pytest.mark.parametrize("group", [SSDP, SITE6])
def test_bursts_and_fragments_to_a_group_arrive_as_they_were_sent(
    lab: Lab, guest: Guest, group: str, size: int, count: int
) -> None:
    """One frame of the guest with many datagrams, and a datagram of more than the link takes at once."""
    with member(lab.remote) as remote:
        answer(guest.script("group_ask.py", 0, f"{group}/1900/2/{size}/{count}"))
        answer(guest.script("group_ask.py", 0, f"{REMOTE6 if ':' in group else REMOTE4}/1900/64/7"))
        *heard, _ = remote.heard()
    assert [(each["to"], each["size"]) for each in heard] == [(group, size)] * count


def test_multicast_leaves_where_the_guest_s_addresses_come_from() -> None:
    """Also where a route of the host's leads it elsewhere."""

    def two(lab: Lab) -> None:
        dual(lab)
        wire(lab, name="eth1", peer="eth1")
        lab.host.setup(
            "addr add 198.51.100.2/24 dev eth1\nroute add 224.0.0.0/4 dev eth1\n-6 route add ff05::/16 dev eth1 table local"
        )

    with Lab(two) as lab, lab.guest(*NO_PORTS) as guest, member(lab.remote) as remote:
        for group in (SSDP, SITE6):
            answer(guest.script("group_ask.py", 0, f"{group}/1900/2"))
        assert [each["interface"] for each in remote.heard()] == ["eth0", "eth0"]


# What does not leave. A last question, to the machine itself, is answered: all before it would have arrived by then.


@pytest.mark.option("--no-multicast")
@pytest.mark.parametrize("options", [("--no-multicast",), ("--no-multicast", "--broadcast")])
def test_no_multicast_leaves_where_it_is_switched_off(options_lab: Lab, options: tuple[str, ...]) -> None:
    with options_lab.guest(*NO_PORTS, *options) as guest, member(options_lab.remote) as remote:
        for groups, machine in (((SSDP, MDNS4), REMOTE4), ((MDNS6, SITE6), REMOTE6)):
            questions = [f"{group}/{port}/4" for group in groups for port in (1900, 5353, 9999)]
            answer(guest.script("group_ask.py", 0, *questions, f"{machine}/9999/64"))
        assert {str(each["to"]) for each in remote.heard()} == {REMOTE4, REMOTE6}


def test_slirp4netns_passes_no_multicast_on(options_lab: Lab) -> None:
    with options_lab.stray() as guest, member(options_lab.remote) as remote:
        running = slirp.start(options_lab, "ours", "-c", options_lab.inner_pid(guest.pid), "tap0")
        answer(guest.script("group_ask.py", 0, f"{SSDP}/1900/4", f"{REMOTE4}/9999/64"))
        running.end()
        assert [each["to"] for each in remote.heard()] == [REMOTE4]


@pytest.mark.parametrize("to", [ALL, SUBNET])
def test_broadcast_goes_nowhere_and_no_error_answers_it(lab: Lab, guest: Guest, to: str) -> None:
    """RFC 1122, 3.2.2. What answers first is the port that is closed."""
    with member(lab.remote) as remote:
        result = guest.script("group_ask.py", 0, f"{to}/9999/64", "--", REMOTE4, 4999)
        assert result == {"answer": None, "refused": ["ECONNREFUSED", REMOTE4, 4999]}
        assert remote.heard() == []


@pytest.mark.option("--broadcast")
@pytest.mark.parametrize("to", [ALL, SUBNET])
def test_broadcast_arrives_where_it_is_asked_for(options_lab: Lab, to: str) -> None:
    with options_lab.guest(*NO_PORTS, "--broadcast") as guest, member(options_lab.remote) as remote:
        assert answer(guest.script("group_ask.py", 0, f"{to}/9999/9")) == (ELSEWHERE[4], "here")
        (heard,) = remote.heard()
    assert (heard["to"], heard["ttl"], heard["from"]) == (to, 9, HOST4)


@pytest.mark.option("--broadcast")
def test_broadcast_of_a_subnet_that_only_the_guest_has_is_for_all_on_the_host_s_link(options_lab: Lab) -> None:
    options = ("-a", "10.0.2.15/24", "-g", "10.0.2.2", "--broadcast")
    with options_lab.guest(*NO_PORTS, *options) as guest, member(options_lab.remote) as remote:
        answer(guest.script("group_ask.py", 0, "10.0.2.255/9999/9"))
        assert [each["to"] for each in remote.heard()] == [ALL]


def test_dhcp_never_leaves(options_lab: Lab) -> None:
    """Of the guest, whatever else may leave; to a broadcast address, or a group."""
    ports = (67, 68, 546, 547)
    with (
        options_lab.guest(*NO_PORTS, "--broadcast") as guest,
        member(options_lab.remote, *map(str, ports), "9999") as four,
    ):
        questions = [f"{to}/{port}/4" for to in (ALL, SUBNET, "224.0.0.1") for port in (*ports, 9999)]
        answer(guest.script("group_ask.py", 0, *questions, f"{REMOTE4}/9999/64"))
        heard = four.heard()
        assert [each["to"] for each in heard] == [ALL, SUBNET, "224.0.0.1", REMOTE4]
    members = [f"ff02::1:2/{port}" for port in (546, 547, 9999)]
    with options_lab.guest(*NO_PORTS) as guest, member(options_lab.remote, *members) as six:
        answer(guest.script("group_ask.py", 0, *(f"ff02::1:2/{port}/4" for port in (546, 547, 9999))))
        assert len(six.heard()) == 1
