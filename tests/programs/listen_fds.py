"""Binds sockets and runs a command with them as systemd would: listen_fds.py NAME=PROTO/ADDRESS/PORT... -- COMMAND..."""

import os
import socket
import sys

FIRST = 3


def main(words: list[str]) -> None:
    split = words.index("--")
    names, fds = [], []
    for word in words[:split]:
        name, _, rest = word.partition("=")
        proto, address, port = rest.split("/")
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM if proto == "tcp" else socket.SOCK_DGRAM)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind((address, int(port)))
        if proto == "tcp":
            sock.listen(64)
        names.append(name)
        fds.append(sock.detach())
    lifted = [os.dup2(fd, 100 + index) for index, fd in enumerate(fds)]  # out of one another's way
    for index, fd in enumerate(lifted):
        os.dup2(fd, FIRST + index, inheritable=True)
    os.closerange(FIRST + len(fds), 200)
    own = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(fds)), "LISTEN_FDNAMES": ":".join(names)}
    command = words[split + 1 :]
    os.execvpe(command[0], command, {**os.environ, **own})


if __name__ == "__main__":
    main(sys.argv[1:])
