#!/bin/sh
# PySocks and python-socks take the reply to HTTP CONNECT for what one read gives: data behind it is lost, the rest of it becomes data.
#
# Seen:     PySocks 1.7.1 and python-socks 3.2.1 (the newest releases in November 2026), Python 3.11.
# Input:    a proxy that answers CONNECT with "HTTP/1.1 200 OK", a header and an empty line, and then relays "220 ready": (1) all in one
#           send, as a proxy's relay or TCP may join them where the server speaks first (SMTP, SSH, FTP); (2) the reply's first line, and
#           all the rest when the client has taken it or ten seconds have passed.
# Expected: the client reads "220 ready" in both. RFC 9110, 9.3.6: the tunnel begins right after the empty line. TCP keeps no
#           boundaries of what was sent.
# Observed: (1) both read nothing: the data was in a buffer that is thrown away. (2) python-socks: connect() is content with the first
#           line, and the program reads the rest of the reply as if the server had sent it. So does PySocks.
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

FIRST, REST, DATA = b"HTTP/1.1 200 OK\r\n", b"Via: 1.1 proxy.example\r\n\r\n", b"220 ready\r\n"
TIMEOUT_S = 60


def read_through(connect, *parts):
    """What a client reads through a proxy that sends `parts`, the second when connect() has returned or ten seconds have passed."""
    connected = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def proxy():
            client, _ = listener.accept()
            with client:
                client.settimeout(TIMEOUT_S)
                request = b""
                while not request.endswith(b"\r\n\r\n"):
                    request += client.recv(1024)
                for part in parts:
                    client.sendall(part)
                    connected.wait(10)

        thread = threading.Thread(target=proxy, daemon=True)
        thread.start()
        with connect(listener.getsockname()[1]) as client:
            client.settimeout(TIMEOUT_S)
            connected.set()
            read = b"".join(iter(lambda: client.recv(1024), b""))
        thread.join(TIMEOUT_S)
    return read


def pysocks(port):
    client = socks.socksocket()
    client.settimeout(TIMEOUT_S)
    client.set_proxy(socks.HTTP, "127.0.0.1", port)
    client.connect(("mail.example", 25))
    return client


def python_socks_(port):
    return python_socks.sync.Proxy.from_url(f"http://127.0.0.1:{port}").connect("mail.example", 25, timeout=TIMEOUT_S)


for connect in (pysocks, python_socks_):
    joined = read_through(connect, FIRST + REST + DATA)
    apart = read_through(connect, FIRST, REST + DATA)
    print(f"{connect.__name__}: in one {joined}, apart {apart}")
    assert (joined, apart) == (b"", REST + DATA)
PY
