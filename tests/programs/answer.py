"""A server on one port, UDP and TCP, until EOF on standard input.

answer.py echo ADDRESS PORT       UDP: every datagram goes back; prints {"largest": BYTES}
answer.py joined ADDRESS PORT     UDP: the same, and what the kernel has joined (UDP_GRO) in one send (UDP_SEGMENT)
answer.py name ADDRESS PORT WHO   UDP and TCP: answers "WHO PEER-ADDRESS PEER-PORT"; prints {}
"""

import contextlib
import json
import select
import socket
import struct
import sys

UDP_SEGMENT, UDP_GRO = 103, 104  # linux/udp.h; Python has no names for them


def answer_joined(udp: socket.socket) -> int:
    """Sends back what came in one piece in one piece; its bytes."""
    data, controls, _, peer = udp.recvmsg(65536, 64)
    sizes = [struct.unpack("@i", value)[0] for level, kind, value in controls if (level, kind) == (socket.SOL_UDP, UDP_GRO)]
    udp.sendmsg([data], [(socket.SOL_UDP, UDP_SEGMENT, struct.pack("@H", size)) for size in sizes], 0, peer)
    return len(data)


def main(what: str, address: str, port: int, who: str = "") -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    udp = socket.socket(family, socket.SOCK_DGRAM)
    tcp = socket.socket(family, socket.SOCK_STREAM)
    for sock in (udp, tcp):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address, port))
    tcp.listen(16)
    if what == "joined":
        udp.setsockopt(socket.SOL_UDP, UDP_GRO, 1)
    print("ready", flush=True)
    largest = 0
    while True:
        readable = select.select([udp, tcp, sys.stdin], [], [])[0]
        if udp in readable and what == "joined":
            largest = max(largest, answer_joined(udp))
        elif udp in readable:
            data, peer = udp.recvfrom(65536)
            largest = max(largest, len(data))
            udp.sendto(data if what == "echo" else f"{who} {peer[0]} {peer[1]}".encode(), peer)
        if tcp in readable:
            connection, peer = tcp.accept()
            with connection, contextlib.suppress(OSError):  # a client that resets
                connection.settimeout(20)
                connection.sendall(f"{who} {peer[0]} {peer[1]}".encode())
                connection.shutdown(socket.SHUT_WR)
                connection.recv(1)
        if sys.stdin in readable:
            break
    print(json.dumps({"largest": largest}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), *sys.argv[4:])
