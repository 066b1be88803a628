"""How long clients wait for the end of each attempt, and what it is.

    denied.py     a JSON array of [KIND, ADDRESS, PORT] or [KIND, ADDRESS, PORT, WAIT] on standard input; KIND is tcp, udp or
                  ping. Prints {"results": [[WHAT, MILLISECONDS], ...]}; WHAT is "answered", "end" without an answer, "silence"
                  after WAIT seconds, or the name of an errno
"""

import errno
import json
import socket
import sys
import time

WAIT_S = 20  # for what has to come; a caller that expects silence gives a shorter WAIT
SO_BROADCAST = 6


def attempt(kind: str, address: str, port: int, wait: float = WAIT_S) -> str:
    v6 = ":" in address
    proto = (socket.IPPROTO_ICMPV6 if v6 else socket.IPPROTO_ICMP) if kind == "ping" else 0
    family, style = socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM
    with socket.socket(family, style, proto) as sock:
        sock.settimeout(wait)
        try:
            if kind != "tcp":
                sock.setsockopt(socket.SOL_SOCKET, SO_BROADCAST, 1)
            sock.connect(socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0][4])
            if kind != "tcp":
                sock.send(bytes((128 if v6 else 8, 0)) + bytes(6) if kind == "ping" else b"?")
            if not sock.recv(1000):
                return "end"
        except TimeoutError:
            return "silence"
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        return "answered"


def main() -> None:
    results = []
    for question in json.load(sys.stdin):
        began = time.monotonic()
        what = attempt(*question)
        results.append([what, (time.monotonic() - began) * 1000])
    print(json.dumps({"results": results}))


if __name__ == "__main__":
    main()
