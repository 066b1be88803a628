"""Lists of thousands of flows from a real instance: their time beside that of a bare JSON encoder, and what traffic notices."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from process_helpers import command_line, environment, user_prefix

pytestmark = [pytest.mark.as_built, pytest.mark.unsanitized]

GATEWAY = "169.254.2.2"  # of an instance without a network: the host's loopback
FLOWS = 4000
#: Opens connections, then sends a byte back and forth on one of them and prints how long each took, from line to line.
GUEST = f"""
import json, resource, socket, sys, time
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
kept = [socket.create_connection(("{GATEWAY}", int(sys.argv[1]))) for _ in range(int(sys.argv[2]))]
print("up", flush=True)
kept[0].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
for line in sys.stdin:
    took, end = [], time.monotonic() + float(line)
    while time.monotonic() < end:
        begin = time.monotonic()
        kept[0].send(b"x")
        kept[0].recv(1)
        took.append((time.monotonic() - begin) * 1000)
    print(json.dumps(sorted(took)), flush=True)
"""
#: The host: an echo on the first connection; lists alone; round trips without lists and beside lists.
HOST = """
import json, resource, socket, subprocess, sys, threading, time
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
path, count = sys.argv[1:3]
listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
kept = []
def echo():
    kept[0].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while data := kept[0].recv(10):
        kept[0].send(data)
def serve():
    while True:
        kept.append(listener.accept()[0])
        if len(kept) == 1:
            threading.Thread(target=echo, daemon=True).start()
threading.Thread(target=serve, daemon=True).start()
def listed(shut=False):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        begin, got = time.monotonic(), [b""]
        sock.sendall(b'{"command":"flows"}\\n')
        if shut:
            sock.shutdown(socket.SHUT_WR)
            time.sleep(0.1)  # the answer has no room: the rest waits for the reader
        while not got[-1].endswith(b'"more":false}\\n'):
            got.append(sock.recv(1 << 20))
        return (time.monotonic() - begin) * 1000, b"".join(got)
def trips(seconds):
    process.stdin.write(f"{seconds}\\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())
words = [word.replace("@PORT", str(listener.getsockname()[1])).replace("@COUNT", count) for word in sys.argv[3:]]
with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
    assert process.stdout.readline() == "up\\n"
    shut = [flow for line in listed(shut=True)[1].splitlines() for flow in json.loads(line)["flows"]]
    lists = [listed() for _ in range(9)]
    flows = [flow for line in lists[0][1].splitlines() for flow in json.loads(line)["flows"]]
    bare = []
    for _ in lists:
        begin = time.monotonic()
        json.dumps(flows)
        bare.append((time.monotonic() - begin) * 1000)
    alone, beside = trips(1), []
    asking = threading.Thread(target=lambda: beside.append(trips(1)))
    asking.start()
    during = []
    while asking.is_alive():
        during.append(listed()[0])
    print(json.dumps({
        "flows": len({flow["flow"] for flow in flows}), "shut": len(shut),
        "list": sorted(took for took, _ in lists), "json": sorted(bare), "alone": alone,
        "beside": beside[0], "during": sorted(during),
    }))
    process.stdin.close()
    sys.exit(process.wait(30))
"""


def middle(values: list[float], part: float = 0.5) -> float:
    return values[int(len(values) * part)]


@pytest.mark.quiet
def test_a_list_takes_less_than_encoding_it_would_in_python_and_holds_up_no_traffic(runtime: Path) -> None:
    """Round trips go on while list follows list: they do not wait for its end."""
    path = str(runtime / "own.sock")
    guest = [command_line("x")[0], "-c", GUEST, "@PORT", "@COUNT"]
    instance = command_line("pasta-py", "--quiet", "--control", path, "--", *guest)
    argv = [*user_prefix(), command_line("x")[0], "-c", HOST, path, str(FLOWS), *instance]
    env = environment({"XDG_RUNTIME_DIR": str(runtime)})
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    print({name: value if isinstance(value, int) else [middle(value), middle(value, 0.95)] for name, value in found.items()})
    assert (found["flows"], found["shut"]) == (FLOWS, FLOWS)
    assert middle(found["list"]) < 2 * middle(found["json"])
    assert middle(found["beside"]) < middle(found["alone"], 0.9) + middle(found["during"]) / 5
