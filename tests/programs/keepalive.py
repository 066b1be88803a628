"""One TCP connection that waits, with keepalive times of its own; prints "ready" and at its end {"ended": HOW}.

    keepalive.py connect|listen ADDRESS PORT [IDLE INTERVAL COUNT]

It returns what it receives. At the end of standard input it sends a byte itself: HOW is "answer" when that has come back,
"end" at the end of the stream, or the name of an error.
"""

import errno
import json
import select
import socket
import sys


def opened(role: str, address: str, port: int) -> socket.socket:
    if role == "connect":
        sock = socket.create_connection((address, port))
        print("ready", flush=True)
        return sock
    with socket.create_server((address, port), family=socket.AF_INET6 if ":" in address else socket.AF_INET) as listener:
        print("ready", flush=True)
        return listener.accept()[0]


def wait(sock: socket.socket) -> str:
    poll, asked = select.poll(), False
    for fd in (0, sock.fileno()):
        poll.register(fd, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd == 0:
                poll.unregister(0)
                asked = sock.send(b"?") == 1
                continue
            data = sock.recv(100)
            if asked or not data:
                return "answer" if data else "end"
            sock.sendall(data)


def main(role: str, address: str, port: str, *times: str) -> None:
    sock = opened(role, address, int(port))
    for option, value in zip((socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT), times, strict=False):
        sock.setsockopt(socket.IPPROTO_TCP, option, int(value))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, bool(times))
    try:
        ended = wait(sock)
    except OSError as error:
        ended = errno.errorcode[error.errno or 0]
    print(json.dumps({"ended": ended}))


if __name__ == "__main__":
    main(*sys.argv[1:])
