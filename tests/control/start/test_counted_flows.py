"""The counters of flows against the truth: what client and server have counted, and the frames of a capture."""

from __future__ import annotations

import json
import os
import struct
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from process_helpers import command_line, environment, user_prefix

pytestmark = [pytest.mark.as_built, pytest.mark.unsanitized]

GATEWAY = "169.254.2.2"  # of an instance without a network: the host's loopback
ORDERS = ("guest", "host", "guest resets", "host resets")
LARGE = int(os.environ.get("PASTA_TEST_BYTES", 48 << 20))  # of the one large transfer

#: Both ends of a TCP connection. Its head says how much goes up and down, and who ends it how.
COMMON = """
import json, socket, struct, sys, threading
def read(sock, left):
    while left:
        left -= len(sock.recv(min(left, 1 << 20)))
def write(sock, left):
    block = bytes(1 << 16)
    while left:
        left -= sock.send(block[:min(left, 1 << 16)])
def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
def end(sock, mine, order):
    if order == mine + " resets":
        reset(sock)
        return
    try:
        if order == mine:
            sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""
    except ConnectionResetError:
        pass
    sock.close()
"""
GUEST = COMMON + f"""
tcp, udp, large = map(int, sys.argv[1:4])
did = []
for number, order in enumerate({ORDERS!r} * 3 + ("guest",)):
    up, down = (large, 0) if number == 12 else (number * 34567, (number + 3) % 5 * 45678)
    for kind, address in (("tcp", "{GATEWAY}"), ("tcp-splice", "127.0.0.1")):
        sock = socket.create_connection((address, tcp))
        port = sock.getsockname()[1]
        sock.sendall(struct.pack("!QQ16s", up, down, order.encode()))
        write(sock, up)
        read(sock, down + 1)
        told = order == "host resets"  # a reset would overtake what is on its way
        write(sock, told)
        end(sock, "guest", order)
        did.append((kind, port, order, up + 32 + told, down + 1))
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.connect(("{GATEWAY}", udp))
    for size in range(0, 3000, 100):
        sock.send(bytes(size))
        assert len(sock.recv(4000)) == size
    did.append(("udp", sock.getsockname()[1], 30, sum(range(0, 3000, 100))))
print(json.dumps(did))
"""
HOST = COMMON + """
import subprocess
def serve(sock):
    head = b""
    while len(head) < 32:
        head += sock.recv(32 - len(head))
    up, down, order = struct.unpack("!QQ16s", head)
    read(sock, up)
    write(sock, down + 1)
    order = order.rstrip(b"\\0").decode()
    read(sock, order == "host resets")
    end(sock, "host", order)
def accept(listener):
    while True:
        serve(listener.accept()[0])
def echo(sock):
    while True:
        data, source = sock.recvfrom(4000)
        sock.sendto(data, source)
listener = socket.create_server(("127.0.0.1", 0))
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind(("127.0.0.1", 0))
threading.Thread(target=accept, args=[listener], daemon=True).start()
threading.Thread(target=echo, args=[datagrams], daemon=True).start()
ports = {"@TCP": listener.getsockname()[1], "@UDP": datagrams.getsockname()[1]}
argv = [str(ports.get(word, word)) for word in sys.argv[1:]]
sys.exit(subprocess.run(argv, timeout=200).returncode)
"""


def frames_of_tcp(capture: bytes) -> Counter[int]:
    """How many frames a capture has of the flow of each port of the guest.

    With two queues the guest's first acknowledgement can be read when the flow is already over. It belongs to no flow then, nor
    does the reset that answers it: the only one that a flow which is finished sees from us.
    """
    assert capture[:4] in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1")  # times in microseconds, or nanoseconds
    found: Counter[int] = Counter()
    at = 24
    while at < len(capture):
        kept = int.from_bytes(capture[at + 8 : at + 12], "little")
        frame = capture[at + 16 : at + 16 + kept]
        if frame[12:14] == b"\x08\x00" and frame[23] == 6:
            source, target = frame[26:30], struct.unpack("!HH", frame[34:38])
            ours = source == bytes(map(int, GATEWAY.split(".")))
            found[target[ours]] += -1 if ours and frame[47] & 4 else 1
        at += 16 + kept
    return found


@pytest.mark.parametrize("threads", [1, 2])
def test_bytes_packets_and_connections_are_those_of_client_server_and_capture(runtime: Path, threads: int) -> None:
    log, capture = runtime / "flows.json", runtime / "frames.pcap"
    options = ["--threads", str(threads), "--flow-log", str(log), "--pcap", str(capture), "--pcap-snaplen", "60"]
    guest = [command_line("x")[0], "-c", GUEST, "@TCP", "@UDP", str(LARGE)]
    argv = [*command_line("pasta-py", *options, "-T", "@TCP", "-t", "none", "-u", "none", "-U", "none", "--", *guest)]
    done = subprocess.run(
        [*user_prefix(), command_line("x")[0], "-c", HOST, *argv],
        env=environment({"XDG_RUNTIME_DIR": str(runtime)}), capture_output=True, timeout=250, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    did = json.loads(done.stdout)
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert "lost" not in {event["event"] for event in events}
    mine = [event for event in events if event["dest"] in (GATEWAY, "127.0.0.1")]
    opened = Counter((event["protocol"], event["guest_port"]) for event in mine if event["event"] == "opened")
    assert opened == Counter((kind, port) for kind, port, *_ in did)
    closed = {(event["protocol"], event["guest_port"]): event for event in mine if event["event"] == "closed"}
    assert set(closed) == set(opened)
    frames = frames_of_tcp(capture.read_bytes())
    for kind, port, *counted in did:
        event = closed[kind, port]
        if kind == "udp":
            assert [event["sent_packets"], event["sent_bytes"]] == counted
            assert [event["received_packets"], event["received_bytes"]] == counted
            continue
        order, sent, received = counted
        assert (event["sent_bytes"], event["received_bytes"]) == (sent, received), (kind, order)
        expected = {"guest resets": ("guest_reset", "peer_reset"), "host resets": ("peer_reset",)}
        assert event["reason"] in expected.get(order, ("finished", "end")), (kind, order)
        if kind == "tcp" and event["reason"] == "finished":
            assert event["sent_packets"] + event["received_packets"] == frames[port], order
