"""Starts slirp4netns, ours or the real one, with its ready and exit descriptors, and ends it.

slirp_hold.py PROGRAM ARGUMENT...     READY and EXIT among the arguments stand for the descriptors, TAP:PID:NAME for that of a
                                      tap in the namespace of a process

Prints {"ready": what came through the ready descriptor, "pid": its PID}; then takes one line: "close" closes its end of the exit
descriptor's pipe, "write" writes to it, "wait" does nothing, "kill N" sends a signal, end of input is "close". Prints {"status":
exit status, "out": ..., "err": ...}; the status is null where it is still there after LIMIT_S, and is ended then.
"""

import ctypes
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile

LIMIT_S = 20
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 2, 0x1000


def open_tap(pid: str, name: str) -> int:
    """By a child, since no process comes back from a user namespace."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        if os.fork() == 0:
            libc = ctypes.CDLL(None, use_errno=True)
            for kind in ("user", "net"):
                if libc.setns(os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY), 0):
                    raise OSError(ctypes.get_errno(), f"setns {kind}")
            tap = os.open("/dev/net/tun", os.O_RDWR)
            fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
            socket.send_fds(theirs, [b"x"], [tap])
            os._exit(0)
        theirs.close()
        _data, fds, _flags, _address = socket.recv_fds(ours, 1, 1)
        os.wait()
    return fds[0]


def main(program: str, *arguments: str) -> None:
    ready, ready_theirs = os.pipe()
    exit_theirs, exit_ours = os.pipe()
    places = {"READY": str(ready_theirs), "EXIT": str(exit_theirs)}
    taps = {word: open_tap(*word.split(":")[1:]) for word in arguments if word.startswith("TAP:")}
    places |= {word: str(fd) for word, fd in taps.items()}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(
            [program, *(places.get(word, word) for word in arguments)],
            pass_fds=(ready_theirs, exit_theirs, *taps.values()),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )
        for fd in (ready_theirs, exit_theirs, *taps.values()):
            os.close(fd)
        told = b"".join(iter(lambda: os.read(ready, 10), b""))
        print(json.dumps({"ready": told.decode(), "pid": process.pid}), flush=True)
        word, _, number = sys.stdin.readline().strip().partition(" ")
        if word == "write":
            os.write(exit_ours, b"x")
        elif word == "kill":
            process.send_signal(int(number))
        elif word != "wait":
            os.close(exit_ours)
        try:
            status: int | None = process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            status = None
            process.kill()
            process.wait()
        out.seek(0)
        err.seek(0)
        print(json.dumps({"status": status, "out": out.read(1 << 16), "err": err.read(1 << 16)}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
