"""COUNT connects at once, each given up at once, as programs do that try many addresses.

    giveups.py ADDRESS PORT COUNT
"""

import contextlib
import socket
import sys


def main(address: str, port: str, count: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for _ in range(int(count)):
        with socket.socket(family) as sock, contextlib.suppress(BlockingIOError):
            sock.setblocking(False)
            sock.connect((address, int(port)))


if __name__ == "__main__":
    main(*sys.argv[1:])
