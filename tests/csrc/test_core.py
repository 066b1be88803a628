"""core/: flow table, timers, address mapping, each against a model that is too simple to be wrong."""

from __future__ import annotations

import internals
import pytest
from guest import mapped
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

module = internals.build()
ffi, lib = module.ffi, module.lib
KEY = ffi.new("struct siphash_key *", {"k": [1, 2]})
LIMIT = 200


def key(number: int) -> object:
    return ffi.new("struct flow_key *", {"guest_port": number % 65536, "dest_port": number // 65536})


class FlowModel(RuleBasedStateMachine):
    """The table finds exactly what a dict would, never moves an object, and never hands out a stale one."""

    def __init__(self) -> None:
        super().__init__()
        self.table = ffi.new("struct flow_table *")
        assert lib.flow_table_init(self.table, 80, LIMIT, KEY) == 0
        self.known: dict[int, object] = {}
        self.stale: list[tuple[int, int]] = []

    @rule(numbers=st.lists(st.integers(0, 500), max_size=80))
    def add(self, numbers: list[int]) -> None:
        for n in numbers:
            if n in self.known:
                continue
            flow = lib.flow_add(self.table, key(n))
            assert (flow == ffi.NULL) == (len(self.known) == LIMIT)
            if flow != ffi.NULL:
                self.known[n] = flow

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        n = data.draw(st.sampled_from(sorted(self.known)))
        flow = self.known.pop(n)
        self.stale.append((flow.index, flow.generation))  # type: ignore[attr-defined]
        lib.flow_remove(self.table, flow)

    @invariant()
    def agrees_with_a_dict(self) -> None:
        assert self.table.used == len(self.known)
        for n in range(0, 501, 7):
            assert lib.flow_find(self.table, key(n)) == self.known.get(n, ffi.NULL)
        for flow in self.known.values():
            assert lib.flow_at(self.table, flow.index) == flow  # type: ignore[attr-defined]
        for index, generation in self.stale[-20:]:
            assert lib.flow_at_generation(self.table, index, generation) == ffi.NULL

    def teardown(self) -> None:
        lib.flow_table_free(self.table)


class TimerModel(RuleBasedStateMachine):
    """Every timer fires once, not before its deadline, and never after it was stopped; the wait is never too long."""

    def __init__(self) -> None:
        super().__init__()
        self.heap = ffi.new("struct timer_heap *")
        self.timers = ffi.new("struct timer[40]")
        assert lib.timer_heap_reserve(self.heap, 40) == 0
        self.deadline: dict[int, int] = {}
        self.now = 0

    @rule(which=st.integers(0, 39), after=st.integers(0, 1000))
    def set(self, which: int, after: int) -> None:
        lib.timer_set(self.heap, ffi.addressof(self.timers, which), self.now + after)
        self.deadline[which] = self.now + after

    @rule(which=st.integers(0, 39))
    def stop(self, which: int) -> None:
        lib.timer_stop(self.heap, ffi.addressof(self.timers, which))
        self.deadline.pop(which, None)

    @rule(step=st.integers(0, 400))
    def pass_time(self, step: int) -> None:
        self.now += step
        fired = set()
        while (timer := lib.timer_due(self.heap, self.now)) != ffi.NULL:
            fired.add((int(ffi.cast("uintptr_t", timer)) - int(ffi.cast("uintptr_t", self.timers))) // ffi.sizeof("struct timer"))
        assert fired == {i for i, at in self.deadline.items() if at <= self.now}
        for i in fired:
            del self.deadline[i]

    @invariant()
    def wait_ends_in_time(self) -> None:
        assert lib.x_timer_next_ms(self.heap) <= min(self.deadline.values(), default=2**63 - 1)
        assert self.heap.count == len(self.deadline)

    def teardown(self) -> None:
        lib.timer_heap_free(self.heap)


TestFlowModel = FlowModel.TestCase
TestFlowModel.settings = settings(max_examples=50, stateful_step_count=20, deadline=None)
TestTimerModel = TimerModel.TestCase
TestTimerModel.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)

TCP, UDP, ICMP = 6, 17, 1


def mapping(**fields: tuple[str, str]) -> object:
    p = ffi.new("struct address_mapping *")
    for name, pair in fields.items():
        for family in (0, 1):
            if pair[family]:
                getattr(p, name)[family].b = list(mapped(pair[family]))
    return p


GUEST = ("192.0.2.1", "2001:db8::1")
FULL = dict(
    map_host_loopback=("192.0.2.254", "fe80::1"), map_guest_addr=("169.254.1.2", "fc00::2"),
    dns_forward=("169.254.1.1", "fc00::53"), dns_host=("127.0.0.53", "2001:db8::53"),
)  # fmt: skip


def outbound(p: object, proto: int, dst: str, port: int) -> str | None:
    to = ffi.new("struct endpoint *")
    if not lib.mapping_outbound(p, proto, ffi.new("struct endpoint *", [[list(mapped(dst))], port]), to):
        return None
    assert to.port == port
    import ipaddress

    raw = ipaddress.IPv6Address(bytes(to.addr.b))
    return str(raw.ipv4_mapped or raw)


def with_virtual(p: object, *addresses: str) -> object:
    for address in addresses:
        assert lib.addr_list_add(ffi.addressof(p, "virtual_addrs"), ffi.new("struct addr *", [list(mapped(address))])) == 0
    return p


@pytest.mark.parametrize(
    ("proto", "dst", "port", "expected"),
    [
        (TCP, "198.51.100.7", 80, "198.51.100.7"),
        (TCP, "2001:db8:1::7", 80, "2001:db8:1::7"),
        (TCP, "192.0.2.254", 80, "127.0.0.1"),
        (ICMP, "192.0.2.254", 0, "127.0.0.1"),
        (UDP, "fe80::1", 80, "::1"),
        (TCP, "169.254.1.2", 80, "192.0.2.1"),
        (UDP, "169.254.1.1", 53, "127.0.0.53"),
        (TCP, "169.254.1.1", 853, "127.0.0.53"),
        (UDP, "198.51.100.53", 54, "198.51.100.53"),
        (UDP, "169.254.1.1", 54, None),
        (ICMP, "169.254.1.1", 53, None),
        (TCP, "fe80::9855:9aff:fe55:9a55", 80, None),
        (UDP, "fc00::53", 53, "2001:db8::53"),
        (TCP, "127.0.0.1", 80, None),
        (UDP, "127.0.0.53", 53, None),
        (TCP, "::1", 80, None),
        (TCP, "0.0.0.0", 80, None),
        (UDP, "255.255.255.255", 9, None),
        (UDP, "ff02::1", 9, None),
        (TCP, "::", 9, None),
        (TCP, "::7f00:1", 9, None),
    ],
)
def test_outbound_rules(proto: int, dst: str, port: int, expected: str | None) -> None:
    p = with_virtual(mapping(host=("192.0.2.1", "2001:db8::1"), **FULL), "169.254.1.1", "169.254.1.2", "fe80::9855:9aff:fe55:9a55")
    p.dns_tls = True
    assert outbound(p, proto, dst, port) == expected
    lib.mapping_free(p)


def test_without_dns_over_tls_the_forwarding_address_has_port_53_only() -> None:
    p = with_virtual(mapping(**FULL), "169.254.1.1")
    assert outbound(p, UDP, "169.254.1.1", 53) == outbound(p, TCP, "169.254.1.1", 53) == "127.0.0.53"
    assert outbound(p, TCP, "169.254.1.1", 853) is None
    assert outbound(p, TCP, "fc00::53", 853) == "fc00::53"
    lib.mapping_free(p)


@pytest.mark.parametrize(
    ("proto", "group", "port", "leaves"),
    [
        (UDP, "239.255.255.250", 1900, True), (UDP, "224.0.0.251", 5353, True),
        (UDP, "ff02::fb", 5353, True), (UDP, "ff0e::1", 9, True),
        (UDP, "224.0.0.1", 67, False), (UDP, "224.0.0.1", 68, False), (UDP, "ff05::1:3", 547, False), (UDP, "ff02::1", 546, False),
        (UDP, "ff01::1", 9, False), (UDP, "ff10::1", 9, False), (UDP, "255.255.255.255", 9, False),
        (TCP, "224.0.0.251", 80, False), (ICMP, "224.0.0.1", 0, False), (ICMP, "ff02::1", 0, False),
    ],
)  # fmt: skip
def test_multicast_leaves_only_where_it_may_and_only_with_udp(proto: int, group: str, port: int, leaves: bool) -> None:
    p = mapping(**FULL)
    assert outbound(p, proto, group, port) is None
    p.multicast = p.broadcast = True  # type: ignore[attr-defined]
    assert outbound(p, proto, group, port) == (group if leaves else None)


def test_broadcast_leaves_only_where_it_may_and_never_for_dhcp() -> None:
    p = mapping(**FULL)
    assert not lib.mapping_broadcast(p, 9)
    p.broadcast = True  # type: ignore[attr-defined]
    assert [port for port in (9, 67, 68, 69, 546, 547) if lib.mapping_broadcast(p, port)] == [9, 69]


def test_nameserver_at_the_mapped_gateway_is_left_alone_for_dns_only() -> None:
    p = mapping(map_host_loopback=("192.0.2.254", ""), dns_host=("192.0.2.254", ""))
    assert outbound(p, UDP, "192.0.2.254", 53) == "192.0.2.254"
    assert outbound(p, UDP, "192.0.2.254", 54) == "127.0.0.1"


def test_a_virtual_address_leads_nowhere_but_for_dns() -> None:
    p = with_virtual(mapping(dns_forward=("10.0.2.2", ""), dns_host=("127.0.0.53", "")), "10.0.2.2", "fd00::2")
    assert outbound(p, TCP, "10.0.2.2", 80) is None
    assert outbound(p, ICMP, "fd00::2", 0) is None
    assert outbound(p, UDP, "10.0.2.2", 53) == "127.0.0.53"
    assert outbound(p, TCP, "10.0.2.3", 80) == "10.0.2.3"
    assert lib.mapping_is_virtual(p, ffi.new("struct addr *", [list(mapped("fd00::2"))]))
    assert not lib.mapping_is_virtual(p, ffi.new("struct addr *", [list(mapped("10.0.2.3"))]))
    lib.mapping_free(p)


def test_the_address_that_stands_for_the_host_leads_nowhere_where_the_host_has_none() -> None:
    p = mapping(map_guest_addr=FULL["map_guest_addr"])
    assert outbound(p, TCP, "169.254.1.2", 80) is None
    assert outbound(p, TCP, "fc00::2", 80) is None


@given(st.ip_addresses(), st.integers(0, 65535), st.sampled_from([TCP, UDP, ICMP]))
def test_without_mappings_nothing_reaches_the_host_itself(address: object, port: int, proto: int) -> None:
    to = outbound(mapping(), proto, str(address), port) if ":" not in str(address) or "::ffff:" not in str(address) else None
    assert to is None or to == str(address)
    assert to is None or not (to.startswith(("127.", "0.")) or to in ("::", "::1"))


@pytest.mark.parametrize(
    ("address", "possible"),
    [
        ("192.0.2.7", True), ("2001:db8::7", True), ("fe80::7", True), ("240.0.0.7", True),
        ("240.0.0.8", False), ("255.255.255.255", False), ("192.0.2.254", False), ("fe80::1", False), ("169.254.1.1", False),
        ("0.0.0.0", False), ("0.1.2.3", False), ("::", False), ("127.0.0.1", False), ("::1", False), ("224.0.0.1", False),
        ("ff02::1", False),
    ],
)  # fmt: skip
def test_what_a_guest_can_send_from(address: str, possible: bool) -> None:
    """Not from what is ours, nor broadcast, nor reserved, unless it was given an address of a reserved network."""
    p = with_virtual(mapping(), "169.254.1.1")
    for name, given_ in (("barred_sources", "192.0.2.254"), ("barred_sources", "fe80::1"), ("guest_addrs", "240.0.0.7")):
        assert lib.addr_list_add(ffi.addressof(p, name), ffi.new("struct addr *", [list(mapped(given_))])) == 0
    assert lib.mapping_is_source(p, ffi.new("struct addr *", [list(mapped(address))])) == possible
    lib.mapping_free(p)


def shown_as(p: object, src: str) -> bytes | None:
    out = ffi.new("struct addr *")
    known = lib.mapping_inbound_source(p, ffi.new("struct addr *", [list(mapped(src))]), out)
    return bytes(out.b) if known else None


@pytest.mark.parametrize(
    ("src", "shown"),
    [
        ("198.51.100.7", "198.51.100.7"),
        ("127.0.0.1", "192.0.2.254"),
        ("127.1.2.3", "192.0.2.254"),
        ("::1", "fe80::1"),
        ("192.0.2.1", "169.254.1.2"),
        ("192.0.2.5", "169.254.1.2"),
        ("192.0.2.6", "169.254.1.2"),
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8::1", "fc00::2"),
        ("2001:db8::7", "2001:db8::7"),
        ("fe80::7", "fe80::7"),
        ("fe80::8", "fc00::2"),
        ("2001:db8:9::9", "2001:db8:9::9"),
    ],
)
def test_inbound_sources(src: str, shown: str) -> None:
    """Two addresses the guest is known to have, and those that it was seen to use."""
    p = mapping(guest_seen=("192.0.2.6", "2001:db8::1"), **FULL)
    p.guest_seen[2].b = list(mapped("fe80::8"))
    for address in ("192.0.2.1", "192.0.2.5"):
        assert lib.addr_list_add(ffi.addressof(p, "guest_addrs"), ffi.new("struct addr *", [list(mapped(address))])) == 0
    assert shown_as(p, src) == mapped(shown)
    lib.mapping_free(p)


@pytest.mark.parametrize(("src", "shown"), [("127.0.0.1", "192.0.2.254"), ("2001:db8::1", "fe80::1"), ("::1", "fe80::1")])
def test_inbound_source_without_a_mapping_is_the_gateway(src: str, shown: str) -> None:
    p = mapping(guest_seen=GUEST, gateway=("192.0.2.254", "fe80::1"))
    assert shown_as(p, src) == mapped(shown)


def test_an_address_that_the_guest_has_is_shown_as_the_hosts_loopback_where_nothing_else_stands_for_it() -> None:
    p = mapping(guest_seen=GUEST, map_host_loopback=FULL["map_host_loopback"], gateway=("192.0.2.253", "fe80::2"))
    assert shown_as(p, "192.0.2.1") == mapped("192.0.2.254")
    assert shown_as(p, "2001:db8::1") == mapped("fe80::1")


def test_a_link_local_client_reaches_the_link_local_address_of_the_guest() -> None:
    """Answers come from there: the guest's kernel chooses it (RFC 6724, 5)."""
    p = mapping(guest_seen=("192.0.2.1", "2001:db8::1"))
    target = {src: ffi.new("struct addr *", [list(mapped(src))]) for src in ("198.51.100.7", "2001:db8:9::9", "fe80::7")}
    assert bytes(lib.mapping_guest_addr(p, target["fe80::7"]).b) == mapped("2001:db8::1")
    p.guest_seen[2] = lib.addr_linklocal6_of(bytes.fromhex("020000000001"))
    assert bytes(lib.mapping_guest_addr(p, target["fe80::7"]).b) == mapped("fe80::ff:fe00:1")
    assert bytes(lib.mapping_guest_addr(p, target["2001:db8:9::9"]).b) == mapped("2001:db8::1")
    assert bytes(lib.mapping_guest_addr(p, target["198.51.100.7"]).b) == mapped("192.0.2.1")


def test_a_guest_without_a_global_address_is_reached_at_its_link_local_one() -> None:
    """A local client only where the interface is known, without which its socket could not be connected."""
    p = mapping(guest_seen=("192.0.2.1", "::"))
    link_local = mapped("fe80::ff:fe00:1")
    p.guest_seen[2] = lib.addr_linklocal6_of(bytes.fromhex("020000000001"))
    for source in ("fe80::7", "2001:db8:9::9"):
        target = ffi.new("struct addr *", [list(mapped(source))])
        assert bytes(lib.mapping_guest_addr(p, target).b) == link_local
    assert bytes(lib.mapping_local_addr(p, False).b) == bytes(16)
    p.guest_scope6 = 2
    assert bytes(lib.mapping_local_addr(p, False).b) == link_local
    assert bytes(lib.mapping_local_addr(p, True).b) == mapped("192.0.2.1")
    p.guest_seen[1] = ffi.new("struct addr *", [list(mapped("2001:db8::1"))])[0]
    assert bytes(lib.mapping_local_addr(p, False).b) == mapped("2001:db8::1")


def test_inbound_source_with_neither_mapping_nor_gateway_is_refused() -> None:
    assert shown_as(mapping(), "127.0.0.1") is None


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(1, 30)), max_size=60), st.sampled_from([200, 500, 1000, 10000]))
def test_a_flood_limit_gives_its_burst_and_its_rate_and_no_more(pauses: list[tuple[int, int]], per_s: int) -> None:
    limit, burst, now, full = ffi.new("struct flood_limit *"), 25, 5000, 25.0
    for pause_ms, asked in pauses:
        now += pause_ms
        full = min(burst, full + pause_ms * per_s / 1000)
        given_ = sum(lib.x_flood_limit_take(limit, now, per_s, burst) for _ in range(asked))
        assert given_ == min(asked, int(full))
        full -= given_
