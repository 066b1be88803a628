#!/bin/sh
# PySocks 1.7.1 writes the length of a domain name of 128 bytes and more as two bytes into its SOCKS5 request.
#
# Seen:     PySocks 1.7.1 (the newest release in November 2026; what requests[socks] and urllib3 use), Python 3.11; python-socks 3.2.1
#           for comparison.
# Input:    a connection through a SOCKS5 proxy to a name of 203 bytes in labels of 50 (RFC 1035, 2.3.4 allows 255).
# Expected: 05 01 00 03 CB, the name, the port: RFC 1928, 5: one octet with the number of octets of the name. python-socks sends this.
# Observed: 05 01 00 03 C3 8B, the name, the port: the length is encoded as a character of UTF-8. A proxy reads a name of 195 bytes
#           that begins with 8B, and takes the end of the name for the port. A user name or a password of this length has the same
#           fault, and an open report; the domain name has none that was found.
#
# Needs python3 with pip, and pip's index. Exit status 0: it is still so.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m pip install -q --no-compile --target "$work/lib" PySocks==1.7.1 python-socks==3.2.1 2>/dev/null
PYTHONPATH=$work/lib python3 - <<'PY'
import socket
import threading

import python_socks.sync
import socks

NAME = ".".join(letter * 50 for letter in "abcd")
TIMEOUT_S = 60


def request_of(connect):
    """What a client sends after the greeting; the proxy answers nothing to it and closes."""
    requests = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def proxy():
            client, _ = listener.accept()
            with client:
                client.settimeout(TIMEOUT_S)
                client.recv(3)
                client.sendall(b"\x05\x00")
                requests.append(client.recv(1024))

        thread = threading.Thread(target=proxy, daemon=True)
        thread.start()
        try:
            connect(listener.getsockname()[1])
        except (OSError, python_socks.ProxyError):
            pass
        thread.join(TIMEOUT_S)
    return requests[0]


def by_pysocks(port):
    with socks.socksocket() as client:
        client.settimeout(TIMEOUT_S)
        client.set_proxy(socks.SOCKS5, "127.0.0.1", port)
        client.connect((NAME, 80))


def by_python_socks(port):
    python_socks.sync.Proxy.from_url(f"socks5://127.0.0.1:{port}").connect(NAME, 80, timeout=TIMEOUT_S)


seen = {"PySocks": request_of(by_pysocks), "python-socks": request_of(by_python_socks)}
for name, request in seen.items():
    print(f"{name}: {request[:10].hex(' ')} ... {request[-4:].hex(' ')}")
end = NAME.encode() + b"\x00\x50"
assert seen == {"PySocks": b"\x05\x01\x00\x03\xc3\x8b" + end, "python-socks": b"\x05\x01\x00\x03\xcb" + end}
PY
