"""Starts slirp4netns, ours or the real one, with its ready and exit descriptors, and ends it.

slirp_hold.py PROGRAM ARGUMENT...     READY and EXIT among the arguments stand for the descriptors

Prints {"ready": what came through the ready descriptor, "pid": its PID}; then takes one line: "close" closes its end of the exit
descriptor's pipe, "write" writes to it, "wait" does nothing, "kill N" sends a signal, end of input is "close". Prints {"status":
exit status, "out": ..., "err": ...}; the status is null where it is still there after 3 s, and is ended then.
"""

import json
import os
import subprocess
import sys
import tempfile

LIMIT_S = 3


def main(program: str, *arguments: str) -> None:
    ready, ready_theirs = os.pipe()
    exit_theirs, exit_ours = os.pipe()
    places = {"READY": str(ready_theirs), "EXIT": str(exit_theirs)}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(
            [program, *(places.get(word, word) for word in arguments)],
            pass_fds=(ready_theirs, exit_theirs),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )
        os.close(ready_theirs)
        os.close(exit_theirs)
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
