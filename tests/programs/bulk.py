"""Bytes both ways over one TCP connection for as long as wanted, each compared with what it should be.

    bulk.py ADDRESS PORT listen|connect [RATE [PATIENCE]]      RATE: bytes a second that this side sends; default 0: what it can;
                                                               PATIENCE: seconds for what is on its way at the end

The side that listens says "ready" first, the one that connects "flows" at the first bytes from the other side. EOF on standard
input ends the sending of this side; the connection ends when both have ended. Prints a JSON object: {"sent": N, "received": N,
"marks": [[CLOCK_MONOTONIC in seconds, received so far]...], "errors": [text]}. What a side received is right if it is as much as
the other sent: a wrong byte is an error.
"""

import hashlib
import json
import socket
import sys
import threading
import time

STEP = 1 << 18
MARK_S = 0.01
LIMIT_S = 120
PERIOD = 2 * STEP - 1
PATTERN = hashlib.shake_128(b"bulk").digest(PERIOD) * 2


class Stream:
    def __init__(self, sock: socket.socket, rate: float, tells: bool) -> None:
        self.sock, self.rate, self.tells = sock, rate, tells
        self.sent = self.received = 0
        self.marks: list[tuple[float, int]] = []
        self.errors: list[str] = []
        self.ended = threading.Event()

    def send(self) -> None:
        started = time.monotonic()
        while not self.ended.is_set():
            step = STEP
            if self.rate:
                time.sleep(0.01)
                step = max(0, min(STEP, int((time.monotonic() - started) * self.rate) - self.sent))
            at = self.sent % PERIOD
            self.sent += self.sock.send(PATTERN[at : at + step])
        self.sock.shutdown(socket.SHUT_WR)

    def receive(self) -> None:
        due = 0.0
        while data := self.sock.recv(STEP):
            now, at = time.monotonic(), self.received % PERIOD
            if data != PATTERN[at : at + len(data)]:
                raise ValueError(f"a wrong byte within {len(data)} after {self.received}")
            if self.tells and not self.received:
                print("flows", flush=True)
            self.received += len(data)
            if now >= due:
                self.marks.append((now, self.received))
                due = now + MARK_S

    def guard(self, what: str) -> None:
        try:
            getattr(self, what)()
        except (OSError, ValueError) as error:
            self.errors.append(f"{what}: {error}")

    def run(self, patience: float) -> None:
        threads = [threading.Thread(target=self.guard, args=(what,), daemon=True) for what in ("send", "receive")]
        for thread in threads:
            thread.start()
        sys.stdin.read()
        self.ended.set()
        for thread in threads:
            thread.join(patience)
        print(json.dumps({"sent": self.sent, "received": self.received, "marks": self.marks, "errors": self.errors}))


def main(address: str, port: int, how: str, rate: float = 0, patience: float = LIMIT_S) -> None:
    if how == "listen":
        listener = socket.create_server((address, port), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
        print("ready", flush=True)
        listener.settimeout(LIMIT_S)
        sock, _ = listener.accept()
    else:
        sock = socket.create_connection((address, port), timeout=LIMIT_S)
    sock.settimeout(LIMIT_S)
    Stream(sock, rate, how == "connect").run(patience)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], *map(float, sys.argv[4:]))
