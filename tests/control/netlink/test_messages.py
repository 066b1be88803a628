"""Our own codec of rtnetlink messages against pyroute2's, and the attributes that are left to pyroute2."""

import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from network_helpers import in_new_namespace, script
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

import pasta_py
from pasta_py.control.netlink import exchange, messages, pyroute2_messages
from pasta_py.control.netlink import links_addresses_routes as rtnl
from pasta_py.control.netlink.messages import RTM_NEWADDR, RTM_NEWLINK, RTM_NEWROUTE, Message

THEIRS = {RTM_NEWLINK: ifinfmsg, RTM_NEWADDR: ifaddrmsg, RTM_NEWROUTE: rtmsg}
ONLY_OURS = ("RTA_NH_ID",)  # nexthop objects, of Linux 5.3, are not in pyroute2

byte, number = st.integers(0, 0xFF), st.integers(0, 0xFFFFFFFF)
name = st.text("abcdefghijklmnopqrstuvwxyz0123456789.:-", min_size=1, max_size=15)
address4 = st.ip_addresses(v=4).map(str)
address6 = st.ip_addresses(v=6).map(str)
mac = st.binary(min_size=6, max_size=6).map(lambda data: data.hex(":"))


def _python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def some(**strategies: st.SearchStrategy[Any]) -> st.SearchStrategy[list[tuple[str, Any]]]:
    """Any of the attributes, in their order."""
    return st.fixed_dictionaries({}, optional=strategies).map(lambda found: list(found.items()))


links = st.tuples(
    st.fixed_dictionaries({"index": st.integers(0, 0x7FFFFFFF), "flags": number, "change": number}),
    some(
        IFLA_ADDRESS=mac,
        IFLA_IFNAME=name,
        IFLA_MTU=number,
        IFLA_TXQLEN=number,
        IFLA_AF_SPEC=byte.map(lambda mode: {"attrs": [["AF_INET6", {"attrs": [["IFLA_INET6_ADDR_GEN_MODE", mode]]}]]}),
    ),
)


def addresses(family: int, address: st.SearchStrategy[str]) -> st.SearchStrategy[tuple[dict[str, int], list[tuple[str, Any]]]]:
    lifetimes = st.fixed_dictionaries({"ifa_preferred": number, "ifa_valid": number})
    return st.tuples(
        st.fixed_dictionaries({"family": st.just(family), "prefixlen": byte, "flags": byte, "scope": byte, "index": number}),
        some(
            IFA_ADDRESS=address,
            IFA_LOCAL=address,
            IFA_LABEL=name,
            IFA_BROADCAST=address,
            IFA_CACHEINFO=lifetimes,
            IFA_FLAGS=number,
            IFA_RT_PRIORITY=number,
            IFA_PROTO=byte,
        ),
    )


def routes(family: int, address: st.SearchStrategy[str]) -> st.SearchStrategy[tuple[dict[str, int], list[tuple[str, Any]]]]:
    fixed = dict.fromkeys(("dst_len", "src_len", "tos", "table", "proto", "scope", "type"), byte)
    metrics = {key: number for key, _kind in list(rtmsg.metrics.nla_map)[1:-1]} | {"RTAX_CC_ALGO": name}
    return st.tuples(
        st.fixed_dictionaries({"family": st.just(family), "flags": number, **fixed}),
        some(
            RTA_DST=address,
            RTA_SRC=address,
            RTA_OIF=number,
            RTA_GATEWAY=address,
            RTA_PRIORITY=number,
            RTA_PREFSRC=address,
            RTA_METRICS=some(**metrics).map(lambda found: {"attrs": [list(each) for each in found]}),
            RTA_TABLE=number,
            RTA_PREF=byte,
            RTA_FLOW=number,
        ),
    )


CASES = st.one_of(
    st.tuples(st.just(RTM_NEWLINK), links),
    st.tuples(st.just(RTM_NEWADDR), st.one_of(addresses(2, address4), addresses(10, address6))),
    st.tuples(st.just(RTM_NEWROUTE), st.one_of(routes(2, address4), routes(10, address6))),
)


def _theirs_encoded(kind: int, fields: dict[str, int], attrs: list[tuple[str, Any]]) -> bytes:
    message = THEIRS[kind]()
    for key, value in fields.items():
        message[key] = value
    message["attrs"] = [list(attr) for attr in attrs]
    message.encode()
    return bytes(message.data)


def _theirs_decoded(kind: int, data: bytes) -> Message:
    message = THEIRS[kind](data)
    message.decode()
    return _plain(message, frozenset(each for each, _kind in messages.LAYOUTS[kind].attrs.values()))


def _plain(message: Any, wanted: frozenset[str] = frozenset()) -> Message:
    """As ours: the attributes named in `wanted`, or all."""
    attrs = {}
    for name, value in message.get("attrs", ()):
        if not wanted or name in wanted:
            attrs[name] = _plain(value) if isinstance(value, dict) and type(value) is not dict else value
    return Message(fields={key: value for key, value in message.items() if isinstance(value, int)}, attrs=attrs)


@given(CASES)
def test_what_is_encoded_is_what_pyroute2_encodes(case: Any) -> None:
    kind, (fields, attrs) = case
    assert messages.encode(kind, fields, attrs) == _theirs_encoded(kind, fields, attrs)[16:]


@given(CASES)
def test_what_is_decoded_is_what_pyroute2_decodes(case: Any) -> None:
    kind, (fields, attrs) = case
    data = _theirs_encoded(kind, fields, attrs)
    ours, theirs = messages.decode(kind, data), _theirs_decoded(kind, data)
    assert {key: ours.fields[key] for key in fields} == fields
    assert {key: value for key, value in ours.fields.items() if key in theirs.fields} == theirs.fields
    assert set(ours.attrs) == {key for key, _value in attrs}
    for key in set(ours.attrs) - {"IFLA_AF_SPEC"}:  # its family's settings come in another form, and are never read
        assert ours.attrs[key] == theirs.attrs[key], key


@pytest.mark.parametrize("kind", THEIRS)
def test_every_attribute_has_the_kernels_number(kind: int) -> None:
    numbers = {entry: at for at, (entry, *_kind) in enumerate(THEIRS[kind].nla_map)}
    if isinstance(THEIRS[kind].nla_map[0][0], int):
        numbers = {entry: at for at, entry, *_kind in THEIRS[kind].nla_map}
    ours = {each: at for at, (each, _kind) in messages.LAYOUTS[kind].attrs.items() if each not in ONLY_OURS}
    assert ours.items() <= numbers.items()


@given(st.sampled_from(list(THEIRS)), st.binary(max_size=120))
def test_any_attributes_are_decoded_or_unknown(kind: int, tail: bytes) -> None:
    layout = messages.LAYOUTS[kind]
    data = bytes(16 + layout.fixed.size) + tail
    found = messages.decode(kind, data)
    assert len(found.attrs) + len(found.unknown) <= len(tail) // 4


def test_an_address_of_another_family_is_no_obstacle() -> None:
    mctp = bytes(16) + struct.pack("=BBBBI", 45, 0, 0, 0, 1) + struct.pack("=HHB3x", 5, 2, 8)  # IFA_LOCAL: an endpoint
    assert messages.decode(RTM_NEWADDR, mctp) == Message(
        fields={"family": 45, "prefixlen": 0, "flags": 0, "scope": 0, "index": 1}, attrs={}, unknown=(2,)
    )


def _imported_by_the_reading_of(*commands: str) -> tuple[bool, list[rtnl.Route]]:
    """Whether pyroute2 was asked, and the routes read, after these commands of ip(8)."""
    for command in ("link add eth0 type veth peer name far0", "link set eth0 up", "link set far0 up", *commands):
        script(command)
    asked: list[int] = []
    real, pyroute2_messages.message_class = pyroute2_messages.message_class, lambda kind: asked.append(kind) or real(kind)  # type: ignore[func-returns-value]
    with exchange.Netlink() as kernel:
        rtnl.links(kernel)
        rtnl.addresses(kernel)
        found = [route for family in (rtnl.AF_INET, rtnl.AF_INET6) for route in rtnl.routes(kernel, family)]
    return bool(asked), found


PLAIN = (
    "address add 192.0.2.2/24 dev eth0",
    "route add default via 192.0.2.1 dev eth0 metric 7 mtu 1400 initcwnd 20",
    "address add 2001:db8::2/64 dev eth0 nodad",
    "-6 route add default via 2001:db8::1 dev eth0 metric 9 hoplimit 61",
)


def test_an_ordinary_host_is_read_without_pyroute2() -> None:
    asked, found = in_new_namespace(_imported_by_the_reading_of, *PLAIN)
    assert not asked
    defaults = {str(route.destination): route for route in found if not route.destination.prefixlen}
    assert defaults["0.0.0.0/0"].metrics == (("RTAX_INITCWND", 20), ("RTAX_MTU", 1400))
    assert defaults["::/0"].metrics == (("RTAX_HOPLIMIT", 61),)
    assert [str(hop.gateway) for route in defaults.values() for hop in route.hops] == ["192.0.2.1", "2001:db8::1"]


@pytest.mark.parametrize(
    "command",
    [
        "route add default nexthop via 192.0.2.1 dev eth0 weight 3 nexthop via 192.0.2.9 dev eth0",
        "-4 route add default via inet6 fe80::1 dev eth0",
    ],
)
def test_several_ways_and_gateways_of_another_family_are_pyroute2s(command: str) -> None:
    asked, found = in_new_namespace(_imported_by_the_reading_of, PLAIN[0], command)
    assert asked
    ways = [(str(hop.gateway), hop.weight) for route in found if not route.destination.prefixlen for hop in route.hops]
    assert ways == ([("192.0.2.1", 3), ("192.0.2.9", 1)] if "nexthop" in command else [("fe80::1", 1)])


class _Nexthops:
    """A kernel with two nexthop objects, 1 and 2, and a group of both, 5."""

    def __init__(self, *weights: int) -> None:
        members = [(number, weight - 1) for number, weight in enumerate(weights, 1)]
        group = b"".join(struct.pack("=IBBxx", number, less & 0xFF, less >> 8) for number, less in members)
        bodies = [_attribute(1, struct.pack("=I", number)) for number, _less in members]
        bodies.append(_attribute(1, struct.pack("=I", 5)) + _attribute(2, group))
        kind = messages.RTM_NEWNEXTHOP
        heads = [struct.pack("=IHHIIQ", 24 + len(body), kind, 0, 0, 0, 0) for body in bodies]
        self.answer = [messages.decode(kind, head + body) for head, body in zip(heads, bodies)]

    def dump(self, kind: int) -> list[Message]:
        assert kind == messages.RTM_GETNEXTHOP
        return self.answer


def _attribute(number: int, payload: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(payload), number) + payload


@pytest.mark.parametrize(
    ("weights", "expected"),
    [((1, 256), (1, 256)), ((1000, 3000), (85, 256)), ((1, 65535), (1, 256))],
    ids=["as they are", "too wide for a route", "one of them tiny"],
)
def test_the_weights_of_a_nexthop_group_fit_into_a_route(weights: tuple[int, int], expected: tuple[int, int]) -> None:
    ways = rtnl._nexthop_objects(_Nexthops(*weights))[5]  # type: ignore[arg-type]
    assert tuple(way.fields["hops"] + 1 for way in ways) == expected


def test_its_classes_load_without_the_rest_of_pyroute2() -> None:
    code = (
        "import sys; from pasta_py.control.netlink import pyroute2_messages as rare; rare.message_class(24);"
        'print({*"asyncio sqlite3 ssl pyroute2.iproute pyroute2".split()} & {*sys.modules})'
    )
    assert _python(code) == "set()"


def test_it_is_found_where_only_site_knows_of_it() -> None:
    """As when a command has started with the search path of the standard library and of its own package."""
    packages = Path(pasta_py.__file__).parent.parent
    code = (
        "import importlib.util, sys; sys.path.append(sys.argv[1]); from pasta_py.control.netlink import pyroute2_messages as rare;"
        "print(importlib.util.find_spec('pyroute2') is not None, rare.message_class(24).__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-IS", "-c", code, packages], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.split() == [str((packages / "pyroute2").exists()), "rtmsg"], done.stderr


def test_pyroute2_imported_afterwards_is_whole() -> None:
    code = (
        "from pasta_py.control.netlink import pyroute2_messages as rare; rare.message_class(24);"
        "import pyroute2; from pyroute2.netlink.rtnl.rtmsg import rtmsg;"
        "print(hasattr(pyroute2, 'IPRoute'), rare.message_class(24) is rtmsg)"
    )
    assert _python(code) == "True True"


def test_a_layout_that_needs_the_initialiser_is_imported_the_ordinary_way() -> None:
    code = """
import sys
class OnceOnly:
    refused = False
    def find_spec(self, name, path=None, target=None):
        if name == "pyroute2.netlink" and not OnceOnly.refused:
            OnceOnly.refused = True
            raise ImportError("not without the initialiser")
sys.meta_path.insert(0, OnceOnly())
from pasta_py.control.netlink import pyroute2_messages as rare
print(OnceOnly.refused, rare.message_class(24).__name__, OnceOnly.refused, "pyroute2.iproute" in sys.modules)
"""
    assert _python(code) == "False rtmsg True True"


def _with_alternative_names(*names: str) -> list[rtnl.Link]:
    script("link add eth0 type veth peer name far0")
    for each in names:
        script(f"link property add dev eth0 altname {each}")
    with exchange.Netlink() as kernel:
        return rtnl.links(kernel)


@pytest.mark.parametrize("names", [(), ("enp0s3",), ("enp0s3", "x" * 127)], ids=len)
def test_alternative_names_belong_to_their_interface(names: tuple[str, ...]) -> None:
    found = {link.name: link.alternatives for link in in_new_namespace(_with_alternative_names, *names)}
    assert found == {"lo": (), "far0": (), "eth0": names}


def test_a_name_that_is_no_text_survives() -> None:
    name = "\udcff" * 15
    encoded = messages.encode(RTM_NEWLINK, {}, [("IFLA_IFNAME", name)])
    assert b"\xff" * 15 + b"\0" in encoded
    assert messages.decode(RTM_NEWLINK, bytes(16) + encoded).attrs["IFLA_IFNAME"] == name
