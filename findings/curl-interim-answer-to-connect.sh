#!/bin/sh
# curl takes an interim answer (1xx) of an HTTP proxy to CONNECT for the final one, and gives up.
#
# Seen:     libcurl 8.23.0 (in pycurl 7.49.0, the newest release in November 2026); curl 8.23.0 (Debian sid) and 7.88.1 (Debian 12) alike.
# Input:    a proxy that answers CONNECT with "HTTP/1.1 103 Early Hints", a header, an empty line, and then "HTTP/1.1 200 OK".
# Expected: a tunnel. RFC 9110, 15.2: a client has to be able to read one or more 1xx answers before the final one, even if it expects
#           none. curl does so for a plain request through the same proxy.
# Observed: "CONNECT tunnel failed, response 103".
#
# Needs python3 with pip, and pip's index. Exit status 0: it is still so.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m pip install -q --no-compile --only-binary :all: --target "$work/lib" pycurl==7.49.0 2>/dev/null
PYTHONPATH=$work/lib python3 - <<'PY'
import contextlib
import io
import socket
import threading

import pycurl

INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n"
TUNNEL = b"HTTP/1.1 200 OK\r\n\r\n"
PAGE = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\npage"
TIMEOUT_S = 60


def fetched(tunnel, *answers):
    """What curl gets from http://example.com/ through a proxy that gives these answers, each to one request."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def proxy():
            client, _ = listener.accept()
            with client, contextlib.suppress(ConnectionError):  # curl ends where it gives up
                client.settimeout(TIMEOUT_S)
                for answer in answers:
                    request = b""
                    while not request.endswith(b"\r\n\r\n"):
                        part = client.recv(1024)
                        if not part:
                            return
                        request += part
                    client.sendall(answer)

        thread = threading.Thread(target=proxy, daemon=True)
        thread.start()
        body = io.BytesIO()
        curl = pycurl.Curl()
        curl.setopt(pycurl.URL, "http://example.com/")
        curl.setopt(pycurl.PROXY, f"http://127.0.0.1:{listener.getsockname()[1]}")
        curl.setopt(pycurl.HTTPPROXYTUNNEL, tunnel)
        curl.setopt(pycurl.NOPROXY, "")
        curl.setopt(pycurl.TIMEOUT, TIMEOUT_S)
        curl.setopt(pycurl.WRITEDATA, body)
        try:
            curl.perform()
        except pycurl.error as error:
            return error.args[1]
        finally:
            curl.close()
            thread.join(TIMEOUT_S)
    return body.getvalue()


print(pycurl.version.split()[1])
seen = {
    "plain request, 103 and 200": fetched(False, INTERIM + PAGE),
    "CONNECT, 200": fetched(True, TUNNEL, PAGE),
    "CONNECT, 103 and 200": fetched(True, INTERIM + TUNNEL, PAGE),
}
for what, got in seen.items():
    print(f"{what}: {got!r}")
assert list(seen.values()) == [b"page", b"page", "CONNECT tunnel failed, response 103"]
PY
