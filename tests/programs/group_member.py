"""A machine of the host's network that hears multicast and broadcast, and answers each datagram from an address of its choice.

group_member.py INTERFACE ANSWER4 ANSWER6 TEXT [GROUP/]PORT...    until its input ends

A port alone hears what comes to any IPv4 address, with ::/ before it what comes to any IPv6 address.

An answer has the text. To a group it comes from these addresses and a port that the kernel chooses, else from where it was
asked. Prints what was heard, in order: {"heard": [{"to", "from", "from_port", "ttl", "size", "interface"}]}; "to" is as the IP
header has it.
"""

import json
import selectors
import socket
import struct
import sys

IP_PKTINFO, IP_RECVTTL, IPV6_RECVPKTINFO, IPV6_RECVHOPLIMIT = 8, 12, 49, 51
IP_TTL, IPV6_PKTINFO, IPV6_HOPLIMIT = 2, 50, 52


def member(group: str, port: int, interface: str) -> socket.socket:
    """Bound without any option that lets others have the port, too."""
    index = socket.if_nametoindex(interface)
    six = ":" in group
    sock = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
    if six:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
    sock.bind(("", port))
    if group == "::":
        pass
    elif six:
        request = socket.inet_pton(socket.AF_INET6, group) + struct.pack("=I", index)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)
    elif group:
        request = socket.inet_aton(group) + struct.pack("=4xi", index)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
    return sock


def hear(sock: socket.socket) -> tuple[dict[str, object], tuple[str, int]]:
    data, control, _, address = sock.recvmsg(70000, 512)
    found: dict[str, object] = {"from": address[0].partition("%")[0], "from_port": address[1], "size": len(data)}
    for level, kind, value in control:
        if (level, kind) == (socket.IPPROTO_IP, IP_PKTINFO):
            index, _, to = struct.unpack("=i4s4s", value)
            found |= {"to": socket.inet_ntoa(to), "interface": socket.if_indextoname(index)}
        elif (level, kind) == (socket.IPPROTO_IPV6, IPV6_PKTINFO):
            to, index = struct.unpack("=16si", value)
            found |= {"to": socket.inet_ntop(socket.AF_INET6, to), "interface": socket.if_indextoname(index)}
        elif (level, kind) in ((socket.IPPROTO_IP, IP_TTL), (socket.IPPROTO_IPV6, IPV6_HOPLIMIT)):
            found["ttl"] = struct.unpack("=i", value)[0]
    return found, address


def reply(sock: socket.socket, to: str, address: tuple[str, int], answer: str, text: str) -> None:
    """From where it was asked, if that was a machine."""
    six = ":" in to
    packed = socket.inet_pton(sock.family, to)
    if not (packed[0] == 0xFF if six else packed[0] >= 224 or packed[3] == 255):
        control = (
            (socket.IPPROTO_IPV6, IPV6_PKTINFO, packed + bytes(4))
            if six
            else (0, IP_PKTINFO, bytes(4) + packed + bytes(4))
        )
        sock.sendmsg([text.encode()], [control], 0, address)
        return
    with socket.socket(sock.family, socket.SOCK_DGRAM) as out:
        if not address[0].startswith("fe80:"):
            out.bind((answer, 0))
        out.sendto(text.encode(), address)


def main(interface: str, answer4: str, answer6: str, text: str, *groups: str) -> None:
    heard = []
    with selectors.DefaultSelector() as selector:
        selector.register(sys.stdin, selectors.EVENT_READ)
        for each in groups:
            group, _, port = each.rpartition("/")
            selector.register(member(group, int(port), interface), selectors.EVENT_READ)
        print("ready", flush=True)
        # Its input ends after what was sent before: that is heard first.
        while sys.stdin not in (ready := [key.fileobj for key, _ in selector.select()]) or len(ready) > 1:
            for sock in ready:
                if not isinstance(sock, socket.socket):
                    continue
                found, address = hear(sock)
                heard.append(found)
                reply(sock, str(found["to"]), address, answer6 if sock.family == socket.AF_INET6 else answer4, text)
    print(json.dumps({"heard": heard}))


if __name__ == "__main__":
    main(*sys.argv[1:])
