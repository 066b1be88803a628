"""Servers on many ports, UDP and TCP, both families, until EOF on standard input; prints "ready", then {}.

portserve.py any|loopback|ADDRESS PORT...      [tcp|udp before the ports: only these]

TCP: reads to the end, then says who asked, in one line of JSON, and sends everything back.
UDP: "who" is answered with the same JSON, any other datagram with itself.
The JSON object: {"peer": [ADDRESS, PORT], "at": [ADDRESS, PORT]}; "at" is null for UDP.
"""

import json
import selectors
import socket
import sys
import threading

LIMIT_S = 30
STEP = 1 << 18
WHERE = {"any": ("0.0.0.0", "::"), "loopback": ("127.0.0.1", "::1")}


def bound(address: str, kind: socket.SocketKind, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    if kind == socket.SOCK_STREAM:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    else:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    if ":" in address:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind((address, port))
    if kind == socket.SOCK_STREAM:
        sock.listen(128)
    return sock


def serve_stream(sock: socket.socket) -> None:
    with sock:
        try:
            sock.settimeout(LIMIT_S)
            pieces = []
            while piece := sock.recv(STEP):
                pieces.append(piece)
            head = {"peer": sock.getpeername()[:2], "at": sock.getsockname()[:2]}
            sock.sendall(json.dumps(head).encode() + b"\n")
            for piece in pieces:
                sock.sendall(piece)
        except OSError as error:  # the client's loss: it tells
            print(f"portserve: {error}", file=sys.stderr)


def serve_datagram(sock: socket.socket) -> None:
    data, peer = sock.recvfrom(65536)
    sock.sendto(json.dumps({"peer": peer[:2], "at": None}).encode() if data == b"who" else data, peer)


def main(where: str, *words: str) -> None:
    kinds = {"tcp": [socket.SOCK_STREAM], "udp": [socket.SOCK_DGRAM]}.get(words[0])
    ports = words[1:] if kinds else words
    selector = selectors.DefaultSelector()
    for address in WHERE.get(where, (where,)):
        for port in ports:
            for kind in kinds or [socket.SOCK_STREAM, socket.SOCK_DGRAM]:
                selector.register(bound(address, kind, int(port)), selectors.EVENT_READ)
    selector.register(sys.stdin, selectors.EVENT_READ)
    print("ready", flush=True)
    while True:
        for key, _ in selector.select():
            sock = key.fileobj
            if not isinstance(sock, socket.socket):
                print("{}")
                return
            if sock.type == socket.SOCK_STREAM:
                threading.Thread(target=serve_stream, args=(sock.accept()[0],), daemon=True).start()
            else:
                try:
                    serve_datagram(sock)
                except OSError as error:  # what an earlier answer met
                    print(f"portserve: {error}", file=sys.stderr)


if __name__ == "__main__":
    main(*sys.argv[1:])
