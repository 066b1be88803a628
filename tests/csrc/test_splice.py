"""The splice: clients of the host's loopback joined with sockets of the guest's namespace, and the other way round.

Real sockets, a real helper, two real network namespaces; the core runs in a thread of its own.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import random
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from guest import GUEST4, GUEST6, Guest, mapped
from isolated import CLONE_NEWNET, ip, isolated

from pasta_py.model import IPPROTO_TCP, IPPROTO_UDP, Listener
from pasta_py.worker import helper, plane

LIMIT_S = 30
SIZE = 10_000_000
KEPT = 2 * 16 + 32  # descriptors of empty pipes (splice.h) and of sockets (helper.h) that wait for the next pair
GUESTS = {False: GUEST4, True: GUEST6}
LOOPBACKS = {False: "127.0.0.1", True: "::1"}
LIBC = ctypes.CDLL(None, use_errno=True)
both = pytest.mark.parametrize("v6", [False, True], ids=["v4", "v6"])


def enter(namespace: int) -> None:
    if LIBC.setns(namespace, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


class Splice:
    """A core with a helper in a second namespace, whose loopback has the guest's addresses too."""

    def __init__(self, **changes: object) -> None:
        null = os.open("/dev/null", os.O_RDWR)
        self.fd = os.dup(null)
        helper.start(null, self.fd)
        self.host = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        if LIBC.unshare(CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "unshare")
        ip(f"link set lo up\naddr add {GUEST4}/32 dev lo\naddr add {GUEST6}/128 dev lo nodad")
        self.inside = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        enter(self.host)
        helper.enter(self.fd, None, self.inside)
        self.guest = Guest(splice=True, **changes)
        self.guest.plane.set_helper(self.fd)
        self.kept: list[socket.socket] = []
        self.going = True
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        self.guest.plane.tick(10)
        while self.going:
            kind, _, data = self.guest.plane.run()
            if kind == plane.LOG:
                self.guest.logs.append(data.decode())

    def __enter__(self) -> Splice:
        return self

    def start(self) -> Splice:
        """From now on the core belongs to its thread: no listener may be added any more."""
        self.thread.start()
        return self

    def stop(self) -> None:
        """The core belongs to the caller's thread again."""
        self.going = False
        if self.thread.is_alive():
            self.thread.join(LIMIT_S)

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error:
            did = {name: count for name, count in self.guest.plane.counters().items() if count}
            error.add_note(f"the core, {'running' if self.thread.is_alive() else 'not running'}: {did} {self.guest.logs}")
        self.stop()
        for sock in self.kept:
            sock.close()
        self.guest.plane.close()

    @contextmanager
    def in_guest(self) -> Iterator[None]:
        """This thread is in the guest's namespace meanwhile."""
        enter(self.inside)
        try:
            yield
        finally:
            enter(self.host)

    def forward(self, v6: bool, kind: socket.SocketKind = socket.SOCK_STREAM, target_port: int = 0) -> tuple[str, int]:
        """A port of the host's loopback, forwarded to target_port of the guest."""
        sock = bound(LOOPBACKS[v6], kind)
        if kind == socket.SOCK_DGRAM:
            sock.setsockopt(*((socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1) if v6 else (socket.IPPROTO_IP, 8, 1)))
        sock.setblocking(False)
        self.kept.append(sock)
        proto = IPPROTO_TCP if kind == socket.SOCK_STREAM else IPPROTO_UDP
        host, port = sock.getsockname()[:2]
        listener = Listener(proto=proto, port=port, target=b"", target_port=target_port)
        self.guest.plane.add_listeners(listener, [sock.fileno()])
        return host, port

    def server(self, v6: bool, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
        with self.in_guest():
            sock = bound(GUESTS[v6], kind)
        self.kept.append(sock)
        return sock

    def pair(self, v6: bool = False) -> tuple[socket.socket, socket.socket]:
        """A client on the host, and what the guest's service accepted from it. Starts the core."""
        server = self.server(v6)
        where = self.forward(v6, target_port=server.getsockname()[1])
        self.start()
        client = connected(where)
        accepted = server.accept()[0]
        accepted.settimeout(LIMIT_S)
        self.kept += [client, accepted]
        return client, accepted


def bound(address: str, kind: socket.SocketKind) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    sock.settimeout(LIMIT_S)
    sock.bind((address, 0))
    if kind == socket.SOCK_STREAM:
        sock.listen(1024)
    return sock


def connected(where: tuple[str, int]) -> socket.socket:
    return socket.create_connection(where, timeout=LIMIT_S)


def is_our_helper(pid: str) -> bool:
    with suppress(FileNotFoundError, ProcessLookupError):
        name, _, rest = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")
        return name.endswith("(pasta-helper") and int(rest.split()[1]) == os.getpid()
    return False


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def until(true: object, what: str) -> None:
    end = time.monotonic() + LIMIT_S
    while not true():  # type: ignore[operator]
        assert time.monotonic() < end, what
        time.sleep(0.01)


def read_all(sock: socket.socket) -> bytes:
    data = bytearray()
    while piece := sock.recv(1 << 18):
        data += piece
    return bytes(data)


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@both
@isolated
def test_ten_megabytes_both_ways_at_once(v6: bool) -> None:
    """The service sees the guest's own address; every byte arrives; no frame touches the tap."""
    with Splice() as splice:
        ends = splice.pair(v6)
        assert ends[1].getpeername()[0] == ends[1].getsockname()[0] == GUESTS[v6]
        sent = [random.Random(i).randbytes(SIZE) for i in range(2)]

        def send(index: int) -> None:
            ends[index].sendall(sent[index])
            ends[index].shutdown(socket.SHUT_WR)

        got: dict[int, bytes] = {}
        threads = [threading.Thread(target=send, args=(i,)) for i in range(2)]
        threads += [threading.Thread(target=lambda i=i: got.setdefault(i, read_all(ends[i]))) for i in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT_S)
        assert [hashlib.sha256(got[1 - i]).digest() for i in range(2)] == [hashlib.sha256(s).digest() for s in sent]
        with pytest.raises(BlockingIOError):
            splice.guest.sock.recv(70000)


@both
@pytest.mark.parametrize("first", [0, 1], ids=["client", "service"])
@isolated
def test_a_half_closed_connection_carries_the_other_half(v6: bool, first: int) -> None:
    with Splice() as splice:
        ends = splice.pair(v6)
        ends[first].sendall(b"question")
        ends[first].shutdown(socket.SHUT_WR)
        assert read_all(ends[1 - first]) == b"question"
        for _ in range(3):
            time.sleep(0.02)
            ends[1 - first].sendall(bytes(100_000))
        ends[1 - first].shutdown(socket.SHUT_WR)
        assert len(read_all(ends[first])) == 300_000
        until(lambda: splice.guest.counter("splice_flows") == 0, "the pair stays")


@pytest.mark.parametrize("ends", [False, True], ids=["open", "ended"])
@pytest.mark.parametrize("first", [0, 1], ids=["client", "service"])
@isolated
def test_urgent_bytes_stay_in_the_stream(first: int, ends: bool) -> None:
    """RFC 6093, 4. splice(2) reads up to the mark, where it says that there is nothing more, or that this is the end."""
    with Splice() as splice:
        pair = splice.pair()
        for _ in range(3):
            pair[first].sendall(b"before")
            pair[first].send(b"!", socket.MSG_OOB)
            pair[first].sendall(b"after")
            if ends:
                pair[first].shutdown(socket.SHUT_WR)
            got = b""
            while len(got) < 12 and (piece := pair[1 - first].recv(100)):
                got += piece
            assert got == b"before!after"
            if ends:
                assert pair[1 - first].recv(10) == b""
                break


@pytest.mark.parametrize("first", [0, 1], ids=["client", "service"])
@isolated
def test_a_reset_is_a_reset_for_the_other_side(first: int) -> None:
    with Splice() as splice:
        ends = splice.pair()
        ends[first].sendall(b"x")
        assert ends[1 - first].recv(10) == b"x"
        reset(ends[first])
        with pytest.raises(ConnectionResetError):
            ends[1 - first].recv(10)
        until(lambda: splice.guest.counter("splice_flows") == 0, "the pair stays")


@pytest.mark.parametrize("first", [0, 1], ids=["client", "service"])
@isolated
def test_a_reset_after_the_other_sides_end(first: int) -> None:
    """One side has ended its half; the other resets: the pair goes."""
    with Splice() as splice:
        ends = splice.pair()
        ends[1 - first].shutdown(socket.SHUT_WR)
        assert ends[first].recv(10) == b""
        reset(ends[first])
        with pytest.raises(ConnectionResetError):
            ends[1 - first].recv(10)
        until(lambda: splice.guest.counter("splice_flows") == 0, "the pair stays")


@isolated
def test_a_reset_while_the_reader_stalls() -> None:
    """The pair is full of bytes that nobody reads; the writer's reset still ends it."""
    with Splice() as splice:
        client, accepted = splice.pair()
        client.settimeout(0.3)
        with suppress(TimeoutError):
            while True:
                client.sendall(bytes(1 << 20))
        reset(client)
        accepted.settimeout(LIMIT_S)
        with pytest.raises(ConnectionResetError):
            read_all(accepted)
        until(lambda: splice.guest.counter("splice_flows") == 0, "the pair stays")


@pytest.mark.parametrize("reader", [0, 1], ids=["client", "service"])
@isolated
def test_a_reader_that_stalls_gets_everything(reader: int) -> None:
    """The writer is held up meanwhile (the kernel's buffers take up to about 70 MB), and the other direction is not."""
    with Splice() as splice:
        ends = splice.pair()
        data = random.Random(1).randbytes(SIZE) * 12
        writer = ends[1 - reader]
        thread = threading.Thread(target=lambda: (writer.sendall(data), writer.shutdown(socket.SHUT_WR)))
        thread.start()
        time.sleep(0.3)
        assert thread.is_alive()
        ends[reader].sendall(b"still here")
        assert writer.recv(100) == b"still here"
        assert read_all(ends[reader]) == data
        thread.join(LIMIT_S)


@isolated
def test_last_words_of_a_service_that_ends_with_its_namespace_arrive() -> None:
    """The core ends before it has looked at the sockets once more: what the service had said, and that it ended, still goes on."""
    with Splice() as splice:
        client, service = splice.pair()
        service.sendall(b"first")
        assert client.recv(10) == b"first"
        splice.stop()
        service.sendall(words := bytes(50_000))
        service.close()
        splice.guest.plane.close()
        assert read_all(client) == words


@both
@isolated
def test_a_port_nobody_serves_resets_the_client(v6: bool) -> None:
    with Splice() as splice:
        where = splice.forward(v6, target_port=9)
        splice.start()
        with pytest.raises(ConnectionResetError), connected(where) as client:
            client.recv(10)
        until(lambda: splice.guest.counter("splice_flows") == 0, "the pair stays")


@isolated
def test_bytes_sent_before_the_service_accepts() -> None:
    """A client that speaks and ends at once loses nothing."""
    with Splice() as splice:
        server = splice.server(False)
        where = splice.forward(False, target_port=server.getsockname()[1])
        splice.start()
        for index in range(50):
            with connected(where) as client:
                client.sendall(str(index).encode())
        for index in range(50):
            with server.accept()[0] as accepted:
                accepted.settimeout(LIMIT_S)
                assert read_all(accepted) == str(index).encode()


@isolated
def test_a_thousand_pairs_and_every_descriptor_given_back() -> None:
    with Splice() as splice:
        server = splice.server(False)
        where = splice.forward(False, target_port=server.getsockname()[1])
        splice.start()
        before = descriptors()
        for _ in range(3):
            pairs = []
            for _ in range(334):
                client = connected(where)
                pairs.append((client, server.accept()[0]))
            until(lambda: splice.guest.counter("splice_flows") == 334, "pairs are missing")
            for client, accepted in pairs:
                client.sendall(b"ping")
                accepted.sendall(b"pong")
            for client, accepted in pairs:
                accepted.settimeout(LIMIT_S)
                assert (client.recv(10), accepted.recv(10)) == (b"pong", b"ping")
            for index, (client, accepted) in enumerate(pairs):
                if index % 3 == 0:
                    reset(client)
                    accepted.close()
                else:
                    client.close()
                    accepted.close()
            until(lambda: splice.guest.counter("splice_flows") == 0, "pairs stay")
            assert descriptors() <= before + KEPT
        assert splice.guest.counter("splice_opened") == 3 * 334


@isolated
def test_the_guests_loopback_with_lo_to_lo() -> None:
    with Splice(lo_to_lo=True) as splice:
        with splice.in_guest():
            server = bound("127.0.0.1", socket.SOCK_STREAM)
        splice.kept.append(server)
        where = splice.forward(False, target_port=server.getsockname()[1])
        splice.start()
        with connected(where), server.accept()[0] as accepted:
            assert accepted.getpeername()[0] == accepted.getsockname()[0] == "127.0.0.1"


@both
@isolated
def test_ports_of_the_guests_loopback_reach_the_hosts(v6: bool) -> None:
    with Splice() as splice:
        server = bound(LOOPBACKS[v6], socket.SOCK_STREAM)
        splice.kept.append(server)
        port = server.getsockname()[1]
        fd = splice.guest.plane.listen_in_guest(IPPROTO_TCP, mapped(LOOPBACKS[v6]), 7300)
        listener = Listener(proto=IPPROTO_TCP, port=7300, target=b"", target_port=port)
        splice.guest.plane.add_listeners(listener, [fd], to_host=True)
        splice.start()
        with splice.in_guest():
            client = connected((LOOPBACKS[v6], 7300))
        with client, server.accept()[0] as accepted:
            assert accepted.getpeername()[0] == LOOPBACKS[v6]
            client.sendall(b"hello")
            client.shutdown(socket.SHUT_WR)
            assert read_all(accepted) == b"hello"
        os.close(fd)


@isolated
def test_the_loopback_address_that_a_client_of_the_guest_has_asked_for_is_kept() -> None:
    """A service at one address alone is reached there; what is asked for at no loopback address is reset."""
    with Splice() as splice:
        server = bound("127.0.0.53", socket.SOCK_STREAM)
        splice.kept.append(server)
        fd = splice.guest.plane.listen_in_guest(IPPROTO_TCP, mapped("0.0.0.0"), 7300)
        listener = Listener(proto=IPPROTO_TCP, port=7300, target=b"", target_port=server.getsockname()[1])
        splice.guest.plane.add_listeners(listener, [fd], to_host=True)
        splice.start()
        with splice.in_guest():
            client = connected(("127.0.0.53", 7300))
            for other in ("127.0.0.1", GUEST4):  # reset by the host, and by the core: the guest's address is one of its lo here
                with pytest.raises(ConnectionResetError), connected((other, 7300)) as astray:
                    astray.recv(1)
        with client, server.accept()[0] as accepted:
            assert accepted.getsockname()[0] == "127.0.0.53"
        os.close(fd)


# UDP


@isolated
def test_a_socket_that_asks_at_two_loopback_addresses_is_answered_from_each() -> None:
    """Also where both services are at one port; what comes to no loopback address is dropped."""
    with Splice() as splice:
        servers = [bound("127.0.0.53", socket.SOCK_DGRAM)]
        servers.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        splice.kept += servers
        port = servers[0].getsockname()[1]
        servers[1].settimeout(LIMIT_S)
        servers[1].bind(("127.0.0.2", port))
        fd = splice.guest.plane.listen_in_guest(IPPROTO_UDP, mapped("0.0.0.0"), 7300)
        listener = Listener(proto=IPPROTO_UDP, port=7300, target=b"", target_port=port)
        splice.guest.plane.add_listeners(listener, [fd], to_host=True)
        splice.start()
        with splice.in_guest():
            client = bound("127.0.0.1", socket.SOCK_DGRAM)
        splice.kept.append(client)
        client.sendto(b"astray", (GUEST4, 7300))
        for address in ("127.0.0.53", "127.0.0.2"):
            client.sendto(address.encode(), (address, 7300))
        for server in servers:
            data, peer = server.recvfrom(100)
            assert data.decode() == server.getsockname()[0]
            server.sendto(b"from " + data, peer)
        answers = {client.recvfrom(100) for _ in servers}
        assert answers == {(b"from " + a.encode(), (a, 7300)) for a in ("127.0.0.53", "127.0.0.2")}
        assert splice.guest.counter("udp_splice_flows") == 2 and splice.guest.counter("udp_unsolicited") == 1
        os.close(fd)


@isolated
def test_a_port_of_udp_in_the_guest_leaves_what_is_there_and_gives_way_where_that_is_wanted() -> None:
    """A program that binds with SO_REUSEADDR keeps its port, and gets one that we have already."""
    with Splice() as splice, splice.in_guest():
        theirs = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
        splice.kept += theirs
        for sock in theirs:
            sock.settimeout(LIMIT_S)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        theirs[0].bind(("127.0.0.1", 7300))
        for address in ("127.0.0.1", "0.0.0.0"):
            with pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)):
                splice.guest.plane.listen_in_guest(IPPROTO_UDP, mapped(address), 7300)
        fd = splice.guest.plane.listen_in_guest(IPPROTO_UDP, mapped("127.0.0.1"), 7301)
        theirs[1].bind(("127.0.0.1", 7301))
        theirs[0].sendto(b"?", ("127.0.0.1", 7301))
        assert theirs[1].recv(10) == b"?"
        os.close(fd)


@both
@isolated
def test_datagrams_of_many_clients_are_answered_to_each(v6: bool) -> None:
    """Each client is a peer of its own for the service, at the guest's own address; answers come from the port asked."""
    with Splice() as splice:
        server = splice.server(v6, socket.SOCK_DGRAM)
        where = splice.forward(v6, socket.SOCK_DGRAM, server.getsockname()[1])
        splice.start()
        clients = [bound(LOOPBACKS[v6], socket.SOCK_DGRAM) for _ in range(100)]
        splice.kept += clients
        for index, client in enumerate(clients):
            client.connect(where)
            client.send(b"%d" % index)
        peers = {}
        for _ in clients:
            data, peer = server.recvfrom(100)
            assert peer[0] == GUESTS[v6]
            peers[data] = peer
        assert len(set(peers.values())) == len(peers) == 100
        for data, peer in peers.items():
            server.sendto(b"to " + data, peer)
        for index, client in enumerate(clients):
            assert client.recv(100) == b"to %d" % index
        with pytest.raises(BlockingIOError):
            splice.guest.sock.recv(70000)


@isolated
def test_a_helper_that_is_stopped_is_waited_for_once() -> None:
    """The guest's root may send it SIGSTOP where it sees it: the core has more to do. Once it goes on, so does everything."""
    with Splice() as splice:
        server = splice.server(False, socket.SOCK_DGRAM)
        where = splice.forward(False, socket.SOCK_DGRAM, server.getsockname()[1])
        splice.start()

        def say(count: int) -> list[socket.socket]:
            clients = [bound("127.0.0.1", socket.SOCK_DGRAM) for _ in range(count)]
            splice.kept.extend(clients)
            for client in clients:
                client.connect(where)
                client.send(b"hello")
            return clients

        (pid,) = (int(name) for name in os.listdir("/proc") if name.isdecimal() and is_our_helper(name))
        os.kill(pid, signal.SIGSTOP)
        say(100)
        until(lambda: splice.guest.counter("udp_limit") == 100, "a peer waits: for 2 s each it would take 200 s")
        os.kill(pid, signal.SIGCONT)
        (client,) = say(1)
        client.setblocking(False)
        server.setblocking(False)

        def served() -> bool:
            client.send(b"hello")  # what came before the helper went on was refused
            with suppress(BlockingIOError):
                server.sendto(b"answer", server.recvfrom(10)[1])
            with suppress(BlockingIOError):
                return client.recv(10) == b"answer"
            return False

        until(served, "the core asks no more")


@both
@isolated
def test_datagrams_keep_their_sizes(v6: bool) -> None:
    with Splice() as splice:
        server = splice.server(v6, socket.SOCK_DGRAM)
        where = splice.forward(v6, socket.SOCK_DGRAM, server.getsockname()[1])
        splice.start()
        with bound(LOOPBACKS[v6], socket.SOCK_DGRAM) as client:
            client.connect(where)
            for size in (0, 1, 1400, 9000, 65507):
                data = os.urandom(size)
                client.send(data)
                got, peer = server.recvfrom(70000)
                assert got == data
                server.sendto(data[::-1], peer)
                assert client.recv(70000) == data[::-1]


@both
@isolated
def test_a_datagram_to_a_port_nobody_serves_is_refused(v6: bool) -> None:
    """Datagrams have no connection to refuse: the client hears of it if its socket can be told, and nothing breaks."""
    with Splice() as splice:
        server = splice.server(v6, socket.SOCK_DGRAM)
        port = server.getsockname()[1]
        where = splice.forward(v6, socket.SOCK_DGRAM, port)
        with bound(LOOPBACKS[v6], socket.SOCK_DGRAM) as client:
            client.connect(where)
            client.send(b"one")
            splice.guest.pump()
            assert server.recv(10) == b"one"
            server.close()
            for _ in range(3):
                client.send(b"nobody")
                splice.guest.pump()
            with splice.in_guest():
                again = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM)
                again.settimeout(LIMIT_S)
                again.bind((GUESTS[v6], port))
            with again:
                client.send(b"two")
                splice.guest.pump()
                assert again.recv(10) == b"two"
