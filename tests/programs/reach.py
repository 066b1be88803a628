"""What passes an interface, and frames and questions from a guest that ignores its own routes.

    reach.py watch INTERFACE      until EOF on standard input; prints {"packets": N, "first": [HEX, up to five]} of what comes in
    reach.py named INTERFACE ADDRESS...  until EOF; prints {"named": those of the addresses that stand in a packet that came in}
    reach.py leave INTERFACE      the same of what goes out to a loopback address
    reach.py send INTERFACE       frames in hexadecimal on standard input, one a line, sent as they are, but that a source of zeroes
                                  becomes the interface's MAC address; prints {"sent": N}
    reach.py ask [LEAST]          a JSON array of [KIND, ADDRESS, PORT] on standard input, prints {"answered": [those that were]},
                                  after a while, or when LEAST were; KIND is tcp, udp or ping
"""

import fcntl
import json
import select
import socket
import sys
import time

PACKET_OUTGOING = 4
QUIET_S = 0.7
PATIENCE_S = 20  # for answers that have to come
PAUSE_S = 0.0005  # between frames: more than the tap's queue holds would be lost before anybody saw them
SO_BROADCAST = 6
HEAD_BYTES = 80  # an IPv6 header and a neighbour solicitation
SIOCGIFHWADDR = 0x8927


def own_error(data: bytes) -> bool:
    """Whether it is the kernel's own news for a socket of this host: that a neighbour does not answer."""
    if data[0] >> 4 == 4:
        return data[9] == 1 and data[20] == 3 and data[12:16] == data[16:20] and data[12] != 127
    return data[6] == 58 and data[40] == 1 and data[8:24] == data[24:40]


def to_loopback(data: bytes) -> bool:
    return data[16] == 127 if data[0] >> 4 == 4 else data[24:40] == bytes(15) + b"\1"


def watch(interface: str, leave: bool = False) -> None:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
    sock.bind((interface, 3))
    print("ready", flush=True)
    first, packets = [], 0
    while True:
        readable = select.select([sock, sys.stdin], [], [])[0]
        if sock in readable:
            data, address = sock.recvfrom(65536)
            out = address[2] == PACKET_OUTGOING  # each passes lo twice
            if (out and to_loopback(data)) if leave else not (out or own_error(data)):
                packets += 1
                first.append(data[:60].hex())
        elif sys.stdin in readable:
            break
    print(json.dumps({"packets": packets, "first": first[:5]}))


def named(interface: str, *addresses: str) -> None:
    """Anywhere in its first bytes: ARP and neighbour discovery name the address that they look for."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
    sock.bind((interface, 3))
    wanted = {address: socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address) for address in addresses}
    found: set[str] = set()
    print("ready", flush=True)
    while True:
        readable = select.select([sock, sys.stdin], [], [])[0]
        if sock in readable:
            data, address = sock.recvfrom(65536)
            if address[2] != PACKET_OUTGOING:
                found |= {name for name, packed in wanted.items() if packed in data[:HEAD_BYTES]}
        elif sys.stdin in readable:
            break
    print(json.dumps({"named": sorted(found)}))


def send(interface: str) -> None:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    sock.bind((interface, 0))
    request = fcntl.ioctl(sock, SIOCGIFHWADDR, interface.encode().ljust(40, b"\0"))
    ours, sent = request[18:24], 0
    for line in sys.stdin:
        frame = bytes.fromhex(line)
        sock.send(frame[:6] + (frame[6:12] if any(frame[6:12]) else ours) + frame[12:])
        sent += 1
        time.sleep(PAUSE_S)
    time.sleep(QUIET_S)
    print(json.dumps({"sent": sent}))


def begin(kind: str, address: str, port: int) -> socket.socket | None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    proto = (socket.IPPROTO_ICMPV6 if ":" in address else socket.IPPROTO_ICMP) if kind == "ping" else 0
    sock = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM, proto)
    sock.setblocking(False)
    try:
        there = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0][4]  # with the scope of a link-local address
        if kind == "tcp":
            sock.connect(there)
            return sock
        sock.setsockopt(socket.SOL_SOCKET, SO_BROADCAST, 1)
        data = bytes((128 if ":" in address else 8, 0)) + bytes(6) if kind == "ping" else b"?"
        sock.sendto(data, there)
    except BlockingIOError:
        pass
    except OSError:
        return None  # its own kernel refuses
    return sock


def is_answered(kind: str, sock: socket.socket) -> bool:
    try:
        if kind == "tcp":
            sock.getpeername()
        else:
            sock.recv(1000)
    except OSError:
        return False
    return True


def ask(least: str = "0") -> None:
    begun = [(question, begin(*question)) for question in json.load(sys.stdin)]
    waiting = [(question, sock) for question, sock in begun if sock]
    answered: list[list[object]] = []
    deadline = time.monotonic() + (PATIENCE_S if int(least) else QUIET_S)
    while time.monotonic() < deadline and not 0 < int(least) <= len(answered):
        time.sleep(0.02)
        now = [each for each in waiting if is_answered(each[0][0], each[1])]
        waiting = [each for each in waiting if each not in now]
        answered += [question for question, _ in now]
    print(json.dumps({"answered": answered}))


if __name__ == "__main__":
    what = {"watch": watch, "named": named, "leave": lambda name: watch(name, leave=True), "send": send, "ask": ask}
    what[sys.argv[1]](*sys.argv[2:])
