"""One small question to the network, asked with the kernel's own calls; prints a JSON object.

probe.py tcp ADDRESS PORT [WAIT]          {"error": ERRNO NAME or null, "seconds": S}; "silence" after WAIT seconds of it
probe.py udp ADDRESS PORT [WAIT]          the same, from a connected socket that has sent one datagram
probe.py echo ADDRESS PORT SIZE COUNT     {"returned": N}: datagrams that came back as they were
probe.py burst ADDRESS PORT SIZE COUNT    the same, numbered, all sent with one call (UDP_SEGMENT)
probe.py mtu ADDRESS PORT SIZE            {"error": ..., "mtu": IP_MTU}, fragmentation forbidden, sent again until it fails
probe.py ask ADDRESS PORT [WAIT]          {"answer": TEXT}: over TCP, read to the end
probe.py ask-udp ADDRESS PORT [WAIT]      {"answer": TEXT}
probe.py hangup ADDRESS PORT              {"error": ...}: how a TCP connection ends on which nothing is said
"""

import errno
import json
import socket
import sys
import time

ANSWER_S = 20  # for what has to be answered; a caller that expects silence gives a shorter WAIT
IP_MTU_DISCOVER, IP_PMTUDISC_DO, IP_MTU = 10, 2, 14
IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DO, IPV6_MTU = 23, 2, 24
IP_RECVERR, IPV6_RECVERR = 11, 25
UDP_SEGMENT = 103  # linux/udp.h


def make(address: str, kind: int, wait: float = ANSWER_S) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    sock.settimeout(wait)
    return sock


def endpoint(address: str, port: int) -> "tuple[object, ...]":
    """With the scope that follows a link-local address (fe80::1%eth0)."""
    return socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0][4]


def attempt(address: str, port: int, kind: int, wait: float = ANSWER_S, stay: bool = False) -> dict[str, object]:
    started, failed = time.monotonic(), None
    try:
        with make(address, kind, wait) as sock:
            six = ":" in address
            if kind == socket.SOCK_DGRAM:  # else the kernel keeps all errors but a refused port to itself
                sock.setsockopt(
                    *((socket.IPPROTO_IPV6, IPV6_RECVERR, 1) if six else (socket.IPPROTO_IP, IP_RECVERR, 1))
                )
            sock.connect(endpoint(address, port))
            if kind == socket.SOCK_DGRAM:
                sock.send(b"anyone?")
            if kind == socket.SOCK_DGRAM or stay:
                sock.recv(100)
    except TimeoutError as error:
        failed = errno.errorcode.get(error.errno or 0, "silence")
    except OSError as error:
        failed = errno.errorcode[error.errno or 0]
    return {"error": failed, "seconds": time.monotonic() - started}


def echo(address: str, port: int, size: int, count: int) -> dict[str, object]:
    returned = 0
    with make(address, socket.SOCK_DGRAM) as sock:
        sock.connect((address, port))
        for index in range(count):
            data = index.to_bytes(4, "big") * (size // 4)
            sock.send(data)
            returned += sock.recv(65536) == data
    return {"returned": returned}


def burst(address: str, port: int, size: int, count: int) -> dict[str, object]:
    sent = [index.to_bytes(4, "big").ljust(size, b"b") for index in range(count)]
    with make(address, socket.SOCK_DGRAM) as sock:
        sock.connect((address, port))
        sock.sendmsg([b"".join(sent)], [(socket.SOL_UDP, UDP_SEGMENT, size.to_bytes(2, sys.byteorder))])
        return {"returned": sum(sock.recv(65536) == data for data in sent)}


def path_mtu(address: str, port: int, size: int, wait: float = ANSWER_S) -> dict[str, object]:
    six = ":" in address
    level = socket.IPPROTO_IPV6 if six else socket.IPPROTO_IP
    failed, deadline = None, time.monotonic() + wait
    with make(address, socket.SOCK_DGRAM) as sock:
        discover = (IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DO) if six else (IP_MTU_DISCOVER, IP_PMTUDISC_DO)
        sock.setsockopt(level, *discover)
        sock.connect((address, port))
        first = sock.getsockopt(level, IPV6_MTU if six else IP_MTU)
        while failed is None and time.monotonic() < deadline:
            try:
                sock.send(bytes(size))
                time.sleep(0.05)
            except OSError as error:
                failed = errno.errorcode[error.errno or 0]
        mtu = sock.getsockopt(level, IPV6_MTU if six else IP_MTU)
    return {"error": failed, "first": first, "mtu": mtu}


def ask(address: str, port: int, kind: int, wait: float = ANSWER_S) -> dict[str, object]:
    with make(address, kind, wait) as sock:
        sock.connect(endpoint(address, port))
        if kind == socket.SOCK_DGRAM:
            sock.send(b"?")
            return {"answer": sock.recv(1000).decode(), "me": sock.getsockname()[:2]}
        sock.shutdown(socket.SHUT_WR)
        text = b""
        while part := sock.recv(1000):
            text += part
        return {"answer": text.decode(), "me": sock.getsockname()[:2]}


def main(what: str, address: str, *numbers: int) -> None:
    port, wait = numbers[0], float(numbers[1]) if len(numbers) > 1 else ANSWER_S
    if what == "echo":
        result = echo(address, *numbers)
    elif what == "burst":
        result = burst(address, *numbers)
    elif what == "mtu":
        result = path_mtu(address, *numbers)
    elif what in ("ask", "ask-udp"):
        result = ask(address, port, socket.SOCK_STREAM if what == "ask" else socket.SOCK_DGRAM, wait)
    else:
        result = attempt(address, port, socket.SOCK_DGRAM if what == "udp" else socket.SOCK_STREAM, wait, what == "hangup")
    print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
