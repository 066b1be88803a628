"""Rules that control changes while the worker serves: over its socket alone, with real sockets and frames."""

import errno
import os
import socket

import pytest
from lone_worker import Remote, pair, ready, worker
from sample_plan import addr

from pasta_py import model, worker_protocol
from pasta_py.errors import WorkerError

pytestmark = pytest.mark.sanitize_quick

TCP, UDP = model.IPPROTO_TCP, model.IPPROTO_UDP
KINDS = {TCP: socket.SOCK_STREAM, UDP: socket.SOCK_DGRAM}
TARGET = "192.0.2.77"


def bound(proto: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, KINDS[proto])
    sock.bind(("127.0.0.1", 0))
    if proto == TCP:
        sock.listen()
    sock.setblocking(False)
    return sock


def rule(proto: int, port: int, **changes: object) -> model.ForwardRule:
    values: dict[str, object] = {
        "proto": proto, "to_host": False, "address": addr("127.0.0.1"), "ifname": "", "first": port, "last": port,
        "target": addr(TARGET), "target_first": 80, "weak": False, "scan": False,
    }  # fmt: skip
    return model.ForwardRule(**(values | changes))  # type: ignore[arg-type]


def arrival(guest: socket.socket, proto: int) -> tuple[str, int]:
    """Address and port that the next packet of the protocol is for."""
    while True:
        frame = guest.recv(4096)
        if frame[12:14] == b"\x08\x00" and frame[23] == proto:
            return socket.inet_ntoa(frame[30:34]), int.from_bytes(frame[36:38], "big")


def call(proto: int, port: int) -> socket.socket:
    client = socket.socket(socket.AF_INET, KINDS[proto])
    client.connect(("127.0.0.1", port))
    client.send(b"hello")
    return client


def refused(proto: int, port: int) -> bool:
    """Whether nothing has the port any more."""
    with socket.socket(socket.AF_INET, KINDS[proto]) as client:
        try:
            client.connect(("127.0.0.1", port))
            client.send(b"hello")
            client.settimeout(30)
            client.recv(1)  # the ICMP error of a datagram
        except ConnectionRefusedError:
            return True
        except TimeoutError:
            pass
    return False


@pytest.mark.parametrize("proto", [TCP, UDP])
@pytest.mark.parametrize("on6", [True, False])
def test_a_port_comes_and_goes(proto: int, on6: bool) -> None:
    guest, tap = pair()
    with guest, tap, worker() as control:
        ready(control, tap, changing=True, on6=on6)
        remote = Remote(control)
        with bound(proto) as sock:
            port = sock.getsockname()[1]
            asked = rule(proto, port, address=addr("0.0.0.0"))  # which is any address where there is no IPv6
            remote.change(asked, sock.fileno())
            with pytest.raises(WorkerError, match=f"rule .*:{port} .*conflicts with"):
                remote.change(asked, sock.fileno())
        with call(proto, port):
            assert arrival(guest, proto) == (TARGET, 80)
        remote.change(asked)
        assert refused(proto, port)
        with pytest.raises(WorkerError, match=r"^no rule .* to remove"):
            remote.change(asked)


def test_the_others_stay() -> None:
    guest, tap = pair()
    with guest, tap, worker() as control, bound(TCP) as one, bound(TCP) as two:
        ready(control, tap, changing=True)
        ports = [sock.getsockname()[1] for sock in (one, two)]
        for sock, port in zip((one, two), ports, strict=True):
            Remote(control).change(rule(TCP, port), sock.fileno())
            sock.close()
        with call(TCP, ports[0]) as client:
            assert arrival(guest, TCP) == (TARGET, 80)
            Remote(control).change(rule(TCP, ports[1]))
            client.send(b"more")
        assert refused(TCP, ports[1])
        with call(TCP, ports[0]):
            assert arrival(guest, TCP) == (TARGET, 80)


def test_what_is_refused_leaves_no_descriptor_behind() -> None:
    guest, tap = pair()
    reader, writer = os.pipe()
    with guest, tap, worker() as control:
        ready(control, tap, changing=True)
        file = os.memfd_create("plain")
        with pytest.raises(WorkerError, match=os.strerror(errno.EPERM)):  # epoll_ctl(2): a file that is always ready
            Remote(control).change(rule(TCP, 1), file)
        os.close(file)
        good = worker_protocol.encode(rule(TCP, 1))
        for message, count in (
            (good, 2),
            (good, 9),
            (worker_protocol.encode(rule(TCP, 1, last=2)), 1),
            (worker_protocol.encode(rule(TCP, 1, scan=True)), 1),
            (worker_protocol.encode(rule(TCP, 1, to_host=True)), 1),
            (worker_protocol.encode((good, True)), 1),
            (b"nonsense", 1),
            (b"detach", 1),
        ):
            control.sendmsg([message], [worker_protocol.rights([writer] * count)])
            assert control.recv(4096).startswith(b"error no rule")
        os.close(writer)
        os.set_blocking(reader, False)
        assert os.read(reader, 1) == b""  # the other end is closed everywhere
        os.close(reader)
        with bound(TCP) as sock:
            Remote(control).change(rule(TCP, sock.getsockname()[1]), sock.fileno())
            with call(TCP, sock.getsockname()[1]):
                assert arrival(guest, TCP) == (TARGET, 80)
