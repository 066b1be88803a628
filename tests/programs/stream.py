"""One TCP stream of SIZE bytes whose reader stalls.

    stream.py send|read ADDRESS PORT SIZE STALL_S listen|connect

The reader stops for STALL_S seconds after half of SIZE. Either end can be the one that listens (it says "ready" first).
Both print {"sha256": HEX, "bytes": N, "longest_send_s": SECONDS}.
"""

import hashlib
import json
import socket
import sys
import time

LIMIT_S = 60
STEP = 1 << 18


def open_stream(address: str, port: int, how: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    if how == "connect":
        return socket.create_connection((address, port), timeout=LIMIT_S)
    listener = socket.create_server((address, port), family=family)
    print("ready", flush=True)
    listener.settimeout(LIMIT_S)
    sock, _ = listener.accept()
    sock.settimeout(LIMIT_S)
    return sock


def main(what: str, address: str, port: int, size: int, stall_s: float, how: str) -> None:
    sock, digest, done, longest = open_stream(address, port, how), hashlib.sha256(), 0, 0.0
    if what == "send":
        block = hashlib.shake_128(b"stall").digest(STEP)
        while done < size:
            piece = (done.to_bytes(8, "big") + block[8:])[: size - done]
            digest.update(piece)
            started = time.monotonic()
            sock.sendall(piece)
            longest = max(longest, time.monotonic() - started)
            done += len(piece)
        sock.shutdown(socket.SHUT_WR)
        if sock.recv(1):
            raise ValueError("bytes where the stream should have ended")
    else:
        stalled = False
        while piece := sock.recv(STEP):
            digest.update(piece)
            done += len(piece)
            if done >= size // 2 and not stalled:
                stalled = True
                time.sleep(stall_s)
    sock.close()
    print(json.dumps({"sha256": digest.hexdigest(), "bytes": done, "longest_send_s": longest}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]), sys.argv[6])
