"""Clients at given addresses: what servers answer them.

clients.py PORT WAIT    a JSON array of [KIND, SOURCE, DESTINATION] on standard input, KIND is tcp or udp; prints an array of the
                        second words of the answers, the address at which answer.py has seen the client; null: none in WAIT seconds
"""

import json
import socket
import sys


def asked(kind: str, source: str, destination: str, port: int, wait: float) -> str | None:
    """Scoped addresses (fe80::1%eth0) are understood."""
    type_ = socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM
    family, _, _, _, here = socket.getaddrinfo(source, 0, type=type_)[0]
    there = socket.getaddrinfo(destination, port, type=type_)[0][4]
    with socket.socket(family, type_) as sock:
        sock.settimeout(wait)
        sock.bind(here)
        try:
            sock.connect(there)
            sock.send(b"?")
            return sock.recv(1000).decode().split()[1]
        except OSError:
            return None


if __name__ == "__main__":
    questions = json.load(sys.stdin)
    print(json.dumps([asked(*question, int(sys.argv[1]), float(sys.argv[2])) for question in questions]))
