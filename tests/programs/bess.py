"""A guest of frames over a socket of packets: asks who has some addresses.

bess.py PATH ADDRESS...     prints {ADDRESS: MAC address of who answers, or null}
"""

import json
import socket
import sys
import time

OUR_MAC = bytes.fromhex("020000000009")
OUR_ADDRESS = "10.0.2.100"


def request(address: str) -> bytes:
    """RFC 826."""
    head = b"\xff" * 6 + OUR_MAC + bytes.fromhex("0806 0001 0800 06 04 0001")
    return head + OUR_MAC + socket.inet_aton(OUR_ADDRESS) + bytes(6) + socket.inet_aton(address)


def main(path: str, *addresses: str) -> None:
    found: dict[str, str | None] = dict.fromkeys(addresses)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        while True:
            try:
                sock.connect(path)
                break
            except ConnectionRefusedError:  # bound, and about to listen
                time.sleep(0.01)
        sock.settimeout(20)
        for address in addresses:
            sock.send(request(address))
            try:
                while found[address] is None:
                    frame = sock.recv(4096)
                    if frame[12:14] == b"\x08\x06" and frame[28:32] == socket.inet_aton(address):
                        found[address] = frame[22:28].hex(":")
            except TimeoutError:
                continue
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
