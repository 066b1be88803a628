"""Asks portserve.py, many times; reads a JSON array of cells, prints {"results": [...]} in the same order.

A cell: {"proto": "tcp"|"udp", "address": A, "port": P, "size": BYTES}, and where wanted "from": ADDRESS, "patience": SECONDS during
which the port may come up, "wait": SECONDS for an answer or a refusal.
A result: {"error": null, "peer": ..., "at": ..., "me": [ADDRESS, PORT], "equal": BOOL, "after": SECONDS}, or
{"error": NAME}, NAME being an errno's, "silence", or "late ERRNO" for a TCP connection that was accepted and then failed.
"""

import errno
import json
import random
import socket
import sys
import time

WAIT_S = 20  # for an answer or a refusal, of which one has to come
AGAIN_S = 1.5  # the same while the port may still come up
DATAGRAM = 1000
WINDOW = 16  # datagrams under way
STEP = 1 << 18
DATA = random.Random(3).randbytes(1 << 20)


def name(error: OSError) -> str:
    return "silence" if isinstance(error, TimeoutError) and not error.errno else errno.errorcode[error.errno or 0]


def content(size: int) -> bytes:
    """`size` bytes in which no 1 MiB is like another."""
    return b"".join((i.to_bytes(8, "big") + DATA[8:]) for i in range(-(-size // len(DATA))))[:size]


def stream(address: str, port: int, size: int, source: str, wait: float) -> dict[str, object]:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    with sock:
        sock.settimeout(wait)
        if source:
            sock.bind((source, 0))
        try:
            sock.connect((address, port))
        except OSError as error:
            return {"error": name(error)}
        sock.settimeout(WAIT_S)
        try:
            sent = content(size)
            sock.sendall(sent)
            sock.shutdown(socket.SHUT_WR)
            got = bytearray()
            while piece := sock.recv(STEP):
                got += piece
            me = sock.getsockname()[:2]
        except OSError as error:
            return {"error": f"late {name(error)}"}
    head, _, body = bytes(got).partition(b"\n")
    if not head:
        return {"error": "late end"}
    return {"error": None, "me": me, "equal": body == sent, **json.loads(head)}


def datagrams(address: str, port: int, size: int, source: str, wait: float) -> dict[str, object]:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        sock.settimeout(wait)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        if source:
            sock.bind((source, 0))
        try:
            sock.connect((address, port))
            sock.send(b"who")
            head = json.loads(sock.recv(1000))
            sent = content(size)
            expected = [sent[at : at + DATAGRAM] for at in range(0, size, DATAGRAM)]
            got: list[bytes] = []
            for index, piece in enumerate(expected):
                sock.send(piece)
                if index - len(got) >= WINDOW:
                    got.append(sock.recv(65536))
            while len(got) < len(expected):
                got.append(sock.recv(65536))
        except OSError as error:
            return {"error": name(error)}
        return {"error": None, "me": sock.getsockname()[:2], "equal": sorted(got) == sorted(expected), **head}


def ask(cell: dict[str, object]) -> dict[str, object]:
    started = time.monotonic()
    patience = float(str(cell.get("patience", 0)))
    how = stream if cell["proto"] == "tcp" else datagrams
    where = str(cell["address"]), int(str(cell["port"])), int(str(cell["size"])), str(cell.get("from", ""))
    while True:
        result = how(*where, float(str(cell.get("wait", AGAIN_S if patience else WAIT_S))))
        took = time.monotonic() - started
        if result["error"] is None or took > patience:
            return {**result, "after": took}
        time.sleep(0.02)


if __name__ == "__main__":
    print(json.dumps({"results": [ask(cell) for cell in json.load(sys.stdin)]}))
