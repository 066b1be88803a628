"""`nameserver.py ADDRESS SEEN`: a nameserver at port 53 over UDP and TCP that does what it is told, which real ones do not.

Standard input: lines "NAME TYPE DATA"; "*.NAME" stands for all names below, and in its DATA "#" for a number that counts up; a TYPE
"!AAAA" makes queries of that type NXDOMAIN. Then an empty line. SEEN gets each query in hexadecimal, "udp" or "tcp" before it.
Answers have the case of the query, and TTL 300, or what is said behind a slash at the name (NAME/0). NAME/5*8: TTL 5, and 8 of the
records at a time, in turn.
"""

import functools
import socket
import sys
import threading
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import dns.rdata
import dns.rdatatype
import dns.rrset

ZONE: dict[str, list[tuple[int, str, str]]] = {}
COUNT = iter(range(1, 1 << 30))
TURNS: dict[str, int] = {}  # records in an answer


@functools.cache
def record(kind: str, data: str) -> dns.rdata.Rdata:
    """On a busy machine reading the text of hundreds of records takes longer than the second that a nameserver has."""
    return dns.rdata.from_text("IN", kind, data)


def found(name: str) -> list[tuple[int, str, str]]:
    if name in ZONE:
        return ZONE[name]
    while "." in name:
        name = name.partition(".")[2]
        if f"*.{name}" in ZONE:
            number = next(COUNT)
            return [(ttl, kind, data.replace("#", str(number % 250 + 1))) for ttl, kind, data in ZONE[f"*.{name}"]]
    return []


def answer(data: bytes) -> dns.message.Message:
    query = dns.message.from_wire(data)
    reply = dns.message.make_response(query, recursion_available=True)
    reply.ednsflags &= ~dns.flags.DO  # it signs nothing (RFC 3225, 3)
    (question,) = query.question
    wanted, name = dns.rdatatype.to_text(question.rdtype), question.name
    for _ in range(20):
        records = found(str(name).rstrip(".").lower())
        above = any(each.endswith("." + str(name).rstrip(".").lower()) for each in ZONE)
        if (not records and not above) or any(kind == f"!{wanted}" for _ttl, kind, _data in records):
            reply.set_rcode(dns.rcode.NXDOMAIN)
            break
        rows = [row for row in records if row[1] == wanted] or [row for row in records if row[1] == "CNAME"]
        some = TURNS.get(str(name).rstrip(".").lower(), 0)
        if some and rows:
            first = next(COUNT) * some % len(rows)
            rows = (rows + rows)[first : first + some]
        for ttl, kind, rdata in rows:
            reply.answer.append(dns.rrset.from_rdata(name, ttl, record(kind, rdata)))
        if not rows or rows[0][1] != "CNAME" or wanted == "CNAME":
            break
        name = dns.name.from_text(rows[0][2])
    if not reply.answer:
        reply.authority.append(dns.rrset.from_text("test.", 300, "IN", "SOA", "ns.test. root.test. 1 3600 600 86400 300"))
    return reply


def main() -> None:
    address, seen = sys.argv[1], Path(sys.argv[2]).open("a", buffering=1)  # noqa: SIM115 (to the end)
    for line in sys.stdin:
        if not line.strip():
            break
        name, kind, rdata = line.strip().split(" ", 2)
        name, _, rest = name.partition("/")
        ttl, _, some = rest.partition("*")
        TURNS[name] = int(some or 0)
        ZONE.setdefault(name, []).append((int(ttl or 300), kind, rdata))
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    udp = socket.socket(family, socket.SOCK_DGRAM)
    udp.bind((address, 53))
    tcp = socket.create_server((address, 53), family=family)
    print("ready", flush=True)

    def streams() -> None:
        while True:
            client, _ = tcp.accept()
            with client:
                size = int.from_bytes(client.recv(2, socket.MSG_WAITALL), "big")
                data = client.recv(size, socket.MSG_WAITALL)
                seen.write(f"tcp {data.hex()}\n")
                wire = answer(data).to_wire(max_size=65535)
                client.sendall(len(wire).to_bytes(2, "big") + wire)

    threading.Thread(target=streams, daemon=True).start()
    while True:
        data, peer = udp.recvfrom(4096)
        seen.write(f"udp {data.hex()}\n")
        reply = answer(data)
        room = dns.message.from_wire(data).payload or 512
        wire = reply.to_wire(max_size=65535)
        if len(wire) > room:
            reply.answer.clear()
            reply.flags |= dns.flags.TC
            wire = reply.to_wire()
        udp.sendto(wire, peer)


main()
