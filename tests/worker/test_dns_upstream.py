"""Questions to nameservers: what they look like, and what counts as an answer. The nameservers are sockets on the loopback."""

import select
import socket
from collections.abc import Callable, Iterator

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from pasta_py.worker import dns_wire
from pasta_py.worker.dns_upstream import Server, Upstream

NAME = dns_wire.from_text("api.example.test")


class Loop:
    """Watches descriptors as the core does, and has a clock that only moves when told."""

    def __init__(self) -> None:
        self.handlers: dict[int, tuple[Callable[[], None], bool]] = {}
        self.now = 100.0

    def add(self, fd: int, handler: Callable[[], None], *, connect: bool = False) -> None:
        self.handlers[fd] = handler, connect

    def remove(self, fd: int) -> None:
        self.handlers.pop(fd, None)

    def run(self, until: "Callable[[], object] | list[object]") -> None:
        """Until the function says so, or the list is not empty."""
        while not (until() if callable(until) else until):
            readers = [fd for fd, (_, connect) in self.handlers.items() if not connect]
            writers = [fd for fd, (_, connect) in self.handlers.items() if connect]
            ready = select.select(readers, writers, [], 60)
            assert any(ready), "nothing comes"
            for fd in ready[0] + ready[1]:
                self.handlers[fd][0]()


class Nameserver:
    """A UDP and a TCP socket with one port."""

    def __init__(self) -> None:
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.address = self.tcp.getsockname()
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(self.address)
        self.udp.settimeout(60)
        self.tcp.settimeout(60)
        self.raw: list[bytes] = []

    def take(self) -> tuple[dns.message.Message, tuple[str, int]]:
        data, client = self.udp.recvfrom(4096)
        self.raw.append(data)
        return dns.message.from_wire(data), client

    def close(self) -> None:
        self.udp.close()
        self.tcp.close()


@pytest.fixture
def servers() -> Iterator[list[Nameserver]]:
    made = [Nameserver(), Nameserver()]
    yield made
    for each in made:
        each.close()


def upstream(loop: Loop, servers: list[Nameserver]) -> Upstream:
    return Upstream([Server(socket.AF_INET, server.address) for server in servers], loop, lambda: loop.now)


def response(query: dns.message.Message, address: str = "192.0.2.1") -> dns.message.Message:
    answer = dns.message.make_response(query, recursion_available=True)
    answer.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "A", address))
    return answer


def ask(loop: Loop, up: Upstream, **options: bool) -> "list[object]":
    got: list[object] = []
    assert up.ask(NAME, 1, got.append, **options)
    return got


def addresses(answer: object) -> list[str]:
    assert isinstance(answer, dns_wire.Message)
    return [socket.inet_ntoa(record.data) for record in answer.sections[0]]


def test_queries_differ_in_their_id_and_case_only(servers: list[Nameserver]) -> None:
    loop = Loop()
    up = upstream(loop, servers[:1])
    seen, ports = [], set()
    for _ in range(40):
        got = ask(loop, up)
        query, client = servers[0].take()
        assert query.flags == dns.flags.RD | dns.flags.AD and query.payload == 1232 and not query.options
        ports.add(client[1])
        servers[0].udp.sendto(response(query).to_wire(), client)
        loop.run(got)
        assert addresses(got[0]) == ["192.0.2.1"]
        seen.append(servers[0].raw.pop())
    assert len({data[2:].lower() for data in seen}) == 1
    assert len({data[:2] for data in seen}) > 30 and len({data[12:30] for data in seen}) > 20 and len(ports) > 10
    assert not loop.handlers and not up.busy


def test_forged_answers_are_passed_over(servers: list[Nameserver]) -> None:
    loop = Loop()
    up = upstream(loop, servers[:1])
    got = ask(loop, up)
    query, client = servers[0].take()
    right = response(query).to_wire()
    other = response(dns.message.make_query("other.example.test", "A", id=query.id), "198.51.100.9").to_wire()
    for forged in (
        bytes((right[0] ^ 1,)) + right[1:],  # another ID
        other,  # another question
        servers[0].raw[0],  # the question itself
        b"",
        right[:11],
    ):
        servers[0].udp.sendto(forged, client)
    servers[1].udp.sendto(response(query, "198.51.100.9").to_wire(), client)  # another source
    servers[0].udp.sendto(right, client)
    loop.run(got)
    assert addresses(got[0]) == ["192.0.2.1"]


def test_each_server_has_a_second_and_the_last_good_one_comes_first(servers: list[Nameserver]) -> None:
    loop = Loop()
    up = upstream(loop, servers)
    got = ask(loop, up)
    servers[0].take()
    loop.now += 0.9
    up.on_tick()
    assert not select.select([servers[1].udp], [], [], 0)[0]
    loop.now += 0.2
    up.on_tick()
    query, client = servers[1].take()
    servers[1].udp.sendto(response(query).to_wire(), client)
    loop.run(got)
    got = ask(loop, up)
    query, client = servers[1].take()
    servers[1].udp.sendto(response(query).to_wire(), client)
    loop.run(got)
    assert addresses(got[0]) == ["192.0.2.1"]


def test_silent_servers_are_asked_twice_the_second_time_in_lower_case(servers: list[Nameserver]) -> None:
    loop = Loop()
    up = upstream(loop, servers)
    got = ask(loop, up)
    for _ in range(4):
        assert not got
        loop.now += 1.1
        up.on_tick()
    assert got == [None] and not up.busy and not loop.handlers
    for server in servers:
        server.take()
        server.take()
        assert server.raw[1][12:30] == NAME[:18]


def test_a_server_that_changes_the_case_is_asked_in_lower_case_from_then_on(servers: list[Nameserver]) -> None:
    loop = Loop()
    up = upstream(loop, servers[:1])
    for turn in range(3):
        got = ask(loop, up)
        query, client = servers[0].take()
        while turn == 0 and servers[0].raw[-1][12:30] == NAME[:18]:  # one of 65536 is lower-case by chance
            servers[0].udp.sendto(response(query).to_wire(), client)
            loop.run(got)
            got = ask(loop, up)
            query, client = servers[0].take()
        answer = response(query).to_wire()
        lower = answer[:12] + NAME + answer[12 + len(NAME) :]
        servers[0].udp.sendto(lower, client)
        if turn == 0:
            loop.run(lambda: bool(select.select([servers[0].udp], [], [], 0)[0]))
            assert not got
            query, client = servers[0].take()
            servers[0].udp.sendto(response(query).to_wire(), client)
        loop.run(got)
        assert addresses(got[0]) == ["192.0.2.1"] and servers[0].raw[-1][12:30] == NAME[:18]


def test_a_port_that_nobody_listens_on_costs_no_second(servers: list[Nameserver]) -> None:
    loop = Loop()
    up = upstream(loop, servers)
    servers[0].close()
    got = ask(loop, up)
    loop.run(lambda: bool(select.select([servers[1].udp], [], [], 0)[0]))
    query, client = servers[1].take()
    servers[1].udp.sendto(response(query).to_wire(), client)
    loop.run(got)
    assert addresses(got[0]) == ["192.0.2.1"]


def test_a_server_that_cannot_is_followed_by_the_next_and_its_answer_is_the_last_resort(servers: list[Nameserver]) -> None:
    loop = Loop()
    up = upstream(loop, servers)
    got = ask(loop, up)
    for turn in range(4):
        query, client = servers[turn % 2].take()
        failed = dns.message.make_response(query)
        failed.set_rcode(dns.rcode.SERVFAIL)
        servers[turn % 2].udp.sendto(failed.to_wire(), client)
        loop.run(lambda: got or any(select.select([each.udp for each in servers], [], [], 0)[0]))
    assert isinstance(got[0], dns_wire.Message) and got[0].rcode == dns_wire.SERVFAIL


def test_a_server_without_edns_is_asked_without(servers: list[Nameserver]) -> None:
    loop = Loop()
    up = upstream(loop, servers[:1])
    got = ask(loop, up)
    query, client = servers[0].take()
    refused = query.id.to_bytes(2, "big") + b"\x81\x81" + bytes(8)
    servers[0].udp.sendto(refused, client)
    loop.run(lambda: bool(select.select([servers[0].udp], [], [], 0)[0]))
    query, client = servers[0].take()
    assert query.edns == -1
    servers[0].udp.sendto(response(query).to_wire(), client)
    loop.run(got)
    assert addresses(got[0]) == ["192.0.2.1"]


def test_a_truncated_answer_is_asked_for_over_tcp(servers: list[Nameserver]) -> None:
    loop = Loop()
    up = upstream(loop, servers[:1])
    got = ask(loop, up, do=True, cd=True)
    query, client = servers[0].take()
    cut = dns.message.make_response(query)
    cut.flags |= dns.flags.TC
    servers[0].udp.sendto(cut.to_wire(), client)
    loop.run(lambda: bool(select.select([servers[0].tcp], [], [], 0)[0]))
    stream = servers[0].tcp.accept()[0]
    loop.run(lambda: bool(select.select([stream], [], [], 0)[0]))
    data = stream.recv(4096)
    again = dns.message.from_wire(data[2:])
    assert again.flags & dns.flags.CD and again.ednsflags & dns.flags.DO and again.id != query.id
    whole = dns.message.make_response(again)
    whole.answer.append(dns.rrset.from_text(again.question[0].name, 60, "IN", "A", *(f"192.0.2.{i}" for i in range(200))))
    wire = whole.to_wire(max_size=65535)
    for piece in (len(wire).to_bytes(2, "big")[:1], len(wire).to_bytes(2, "big")[1:] + wire[:100], wire[100:]):
        stream.sendall(piece)
        if piece is not wire:
            loop.run(lambda: got or not select.select(list(loop.handlers), [], [], 0.05)[0])
    loop.run(got)
    assert len(addresses(got[0])) == 200
    stream.close()


def test_the_number_of_questions_is_bounded(servers: list[Nameserver]) -> None:
    loop = Loop()
    up = upstream(loop, servers[:1])
    asked = 0
    while up.ask(NAME, 1, lambda _answer: None):
        asked += 1
    assert asked == 256 == len(loop.handlers)
    up.close()
    assert not loop.handlers
