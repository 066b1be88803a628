"""Short TCP connections, one after another.

    short.py serve ADDRESS PORT               until EOF on standard input; prints {"served": N}
    short.py connect ADDRESS PORT COUNT       prints {"done": N}; any failure is an exception

Each carries a line both ways. The side that closes first alternates, so that neither runs out of ports in TIME_WAIT.
"""

import json
import socket
import sys
import threading

LIMIT_S = 60


def family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def serve(address: str, port: int) -> None:
    listener = socket.create_server((address, port), family=family(address), backlog=128)
    served, busy = 0, threading.Lock()

    def work() -> None:
        nonlocal served
        while True:
            sock, _ = listener.accept()
            sock.settimeout(LIMIT_S)
            with busy, sock:
                line = sock.recv(100)
                sock.sendall(line)
                if line.startswith(b"client") and sock.recv(1):
                    raise ValueError("bytes where the stream should have ended")
                served += 1

    threading.Thread(target=work, daemon=True).start()
    print("ready", flush=True)
    sys.stdin.read()
    with busy:  # whose client is content, but of which the end has not been seen yet
        print(json.dumps({"served": served}))


def connect(address: str, port: int, count: int) -> None:
    for index in range(count):
        line = f"{'client' if index % 2 else 'server'} {index}\n".encode()
        with socket.create_connection((address, port), timeout=LIMIT_S) as sock:
            sock.sendall(line)
            if sock.recv(100) != line:
                raise ValueError(f"connection {index}: wrong answer")
            if not index % 2 and sock.recv(1):
                raise ValueError("bytes where the stream should have ended")
    print(json.dumps({"done": count}))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2], int(sys.argv[3]))
    else:
        connect(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
