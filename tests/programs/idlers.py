"""COUNT clients at once of a server that returns what it receives; each sends a byte and waits for it.

    idlers.py ADDRESS PORT COUNT SERVED

Prints "ready" when SERVED of them have been served, which stay. From the end of standard input on they leave, one after the
other, and so does who is served later; at the end it prints {"served": COUNT}.
"""

import json
import resource
import select
import socket
import sys


def main(address: str, port: str, count: str, enough: str) -> None:
    clients: dict[int, socket.socket] = {}
    poll, served, leaving = select.poll(), 0, False
    for _ in range(int(count)):
        sock = socket.create_connection((address, int(port)))
        sock.sendall(b"?")
        clients[sock.fileno()] = sock
        poll.register(sock, select.POLLIN)
    staying: list[socket.socket] = []
    while served < int(count):
        for fd, _ in poll.poll():
            if fd == 0:
                poll.unregister(0)
                leaving = True
                continue
            sock = clients.pop(fd)
            poll.unregister(fd)
            assert sock.recv(10) == b"?"
            staying.append(sock)
            served += 1
            if served == int(enough):
                poll.register(0, select.POLLIN)
                print("ready", flush=True)
        while leaving and staying:
            staying.pop().close()
    print(json.dumps({"served": served}))


if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    main(*sys.argv[1:])
