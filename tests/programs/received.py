"""Every frame that reaches an interface, as a packet socket shows it (packet(7)), until EOF on standard input.

received.py INTERFACE     {"right": PROTOCOLS, "left": PROTOCOLS, "wrong": SENTENCES}

"left" are checksums of TCP and UDP that are not there, of which the kernel tells those who ask (TP_STATUS_CSUMNOTREADY).
"""

import json
import select
import socket
import struct
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from checker.frame import Frame, decode

SOL_PACKET, PACKET_AUXDATA = 263, 8  # linux/if_packet.h; Python has no names for them
TP_STATUS_CSUMNOTREADY = 8
ETH_P_ALL = 3
FRAME_BYTES = 70000


def protocol(frame: Frame) -> str:
    return next((name for name in ("tcp", "udp", "icmp") if getattr(frame, name)), "other")


def read(sock: socket.socket, found: dict[str, set[str]]) -> None:
    raw, controls, _, address = sock.recvmsg(FRAME_BYTES, 64)
    if address[2] == socket.PACKET_OUTGOING:
        return
    (auxdata,) = (data for level, kind, data in controls if (level, kind) == (SOL_PACKET, PACKET_AUXDATA))
    left = bool(struct.unpack_from("@I", auxdata)[0] & TP_STATUS_CSUMNOTREADY)
    try:
        found["left" if left else "right"].add(protocol(decode(raw, partial=left)))
    except AssertionError as error:
        found["wrong"].add(str(error))


def main(interface: str) -> None:
    found: dict[str, set[str]] = {"right": set(), "left": set(), "wrong": set()}
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as sock:
        sock.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        sock.bind((interface, ETH_P_ALL))
        print("ready", flush=True)
        while True:
            readable = select.select([sock, sys.stdin], [], [])[0]
            if sock in readable:
                read(sock, found)
            elif sys.stdin in readable:
                break
    print(json.dumps({how: sorted(names) for how, names in found.items()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
