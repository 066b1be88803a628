"""What 10,000 rules cost connections and streams, with tests/e2e and tests/programs in PYTHONPATH:

    python tests/measure/many_rules_speed.py [PAIRS]

Two guests of one host, one without a policy, one with the rules of many_rules.py and one for the far machine behind them. By turns
each opens and closes connections for half a second, then takes a stream for half a second. Prints medians, and that of the pairs'
ratios. $PASTA_UNDER_TEST names the program.
"""

import contextlib
import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import many_rules
from lab import NO_PORTS, REMOTE4, Guest, Lab

PORT, STREAM = 7600, 7601
SERVE = f"""
import socket, sys, threading
def serve(port, work):
    listening = socket.create_server(("{REMOTE4}", port), backlog=1024)
    def run():
        while True:
            sock = listening.accept()[0]
            threading.Thread(target=work, args=(sock,), daemon=True).start()
    threading.Thread(target=run, daemon=True).start()
def pour(sock):
    data = bytes(1 << 20)
    try:
        while True: sock.sendall(data)
    except OSError:
        sock.close()
serve({PORT}, lambda sock: sock.close())
serve({STREAM}, pour)
print("ready", flush=True)
sys.stdin.read()
print("{{}}")
"""
ASK = f"""
import json, socket, time
HALF_S = 0.5
def connections():
    count, end = 0, time.monotonic() + HALF_S
    while time.monotonic() < end:
        with socket.create_connection(("{REMOTE4}", {PORT}), 20) as sock:
            sock.recv(1)
        count += 1
    return count / HALF_S
def stream():
    with socket.create_connection(("{REMOTE4}", {STREAM}), 20) as sock:
        sock.recv(1 << 20)
        got, start = 0, time.monotonic()
        while time.monotonic() < start + HALF_S:
            got += len(sock.recv(1 << 20))
        return got / (time.monotonic() - start)
print(json.dumps([connections(), stream()]))
"""


def ask(guest: Guest) -> tuple[float, float]:
    rate, speed = json.loads(guest.run(sys.executable, "-c", ASK).stdout)
    return rate, speed


@contextlib.contextmanager
def serving(lab: Lab) -> Iterator[None]:
    server = lab.remote.popen(sys.executable, "-c", SERVE)
    assert server.stdout and server.stdout.readline() == "ready\n"
    yield


def tell(taken: "list[tuple[tuple[float, float], tuple[float, float]]]", first: str, second: str) -> None:
    """Print what each of two guests had."""
    for what, index, unit in (("connections", 0, 1.0), ("stream", 1, 125e6)):
        one, other = ([each[which][index] / unit for each in taken] for which in (0, 1))
        ratio = statistics.median(b / a for a, b in zip(one, other, strict=True))
        shown = "a second" if index == 0 else "Gb/s"
        both = f"{statistics.median(one):.1f} {shown} {first}, {statistics.median(other):.1f} {second}"
        print(f"{what}: {both}: {ratio:.2f}")


def main() -> None:
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    with Lab() as lab, serving(lab):
        rules = ("--egress-file", many_rules.file(str(lab.directory), 10_000), "--allow", REMOTE4)
        with lab.guest(*NO_PORTS) as without, lab.guest(*NO_PORTS, *rules) as ruled:
            taken = [(ask(without), ask(ruled)) for _ in range(pairs)]
    tell(taken, "without", "with 10,000 rules")


if __name__ == "__main__":
    main()
