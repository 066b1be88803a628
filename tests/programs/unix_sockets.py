"""`unix_sockets.py listen PATH...`: listen at UNIX sockets ("@NAME": an abstract one), say "ready", end with the input; prints {}.

`unix_sockets.py connect PATH...`: prints {PATH: "connected" or the name of the error}.
"""

import errno
import json
import socket
import sys


def address(text: str) -> str:
    return f"\0{text[1:]}" if text.startswith("@") else text


def outcome(path: str) -> str:
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(address(path))
        except OSError as error:
            return errno.errorcode[error.errno or 0]
    return "connected"


def main() -> None:
    what, *paths = sys.argv[1:]
    if what == "connect":
        print(json.dumps({path: outcome(path) for path in paths}))
        return
    listening = []
    for path in paths:
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(address(path))
        sock.listen()
        listening.append(sock)
    print("ready", flush=True)
    sys.stdin.read()
    print("{}")


main()
