"""passt --vhost-user --threads: pairs of queues, each with a thread. The machine is vhost_tap.c, with a thread for each too.

Which thread a connection belongs to follows from its ports and a random key, so tests have many of them.
"""

import signal
from pathlib import Path

import pytest
from lab import BIG, PATIENCE_S, REMOTE4, REMOTES, Guest, Lab, program, wait_until
from machines import machine, passt
from servers import make_file, nginx

pytestmark = [pytest.mark.option("--vhost-user"), pytest.mark.option("--threads")]

ALL = 2**64 - 1
NO_OFFLOADS = 1 << 22  # several pairs
STREAMS = 12  # that all belong to one of two threads happens once in 2,000 runs, and then once more
SIZE = 4_000_000
URLS = {4: f"http://{REMOTES[4]}", 6: f"http://[{REMOTES[6]}]"}


@pytest.fixture(scope="module")
def digest(lab: Lab) -> str:
    nginx(lab)
    return make_file(lab, "www/queues.bin", SIZE)


def switches(lab: Lab) -> dict[str, int]:
    """Voluntary switches of each thread of the worker, by name: how often it has slept, so whether it works."""
    found = {}
    for pid in lab.descendants():
        for task in Path(f"/proc/{pid}/task").iterdir():
            name = (task / "comm").read_text().strip()
            if name.startswith("pasta-shard"):
                lines = (task / "status").read_text().splitlines()
                found[name] = next(int(line.split()[1]) for line in lines if line.startswith("voluntary"))
    return found


def files_pass(lab: Lab, guest: Guest, digest: str, family: int) -> None:
    """Many at once, each way, unharmed."""
    url = URLS[family]
    down = f"curl -sS -f --max-time 200 {url}/queues.bin | sha256sum"
    up = f"curl -sS -f --max-time 200 -T {BIG}/www/queues.bin {url}/up-$i.bin"
    script = f"for i in $(seq {STREAMS}); do {{ {down}; {up}; }} & done; wait"
    said = guest.run("bash", "-o", "pipefail", "-ec", script, timeout=240).stdout
    assert said.split() == [digest, "-"] * STREAMS
    names = [f"{BIG}/www/up-{i}.bin" for i in range(1, STREAMS + 1)]
    assert {line.split()[0] for line in lab.host.run("sha256sum", *names).stdout.splitlines()} == {digest}
    lab.host.run("rm", *names)


@pytest.mark.parametrize(("features", "mtu", "family"), [(ALL, 1500, 4), (ALL, 65520, 6), (NO_OFFLOADS, 1500, 6)])
def test_two_pairs_have_two_threads(lab: Lab, digest: str, features: int, mtu: int, family: int) -> None:
    options = ("--vhost-user", "--threads", 2, "-m", mtu)
    with passt(lab, *options) as made, machine(lab, made.socket, mtu=mtu, vhost_user=features, pairs=2) as guest:
        before = switches(lab)
        files_pass(lab, guest, digest, family)
        after = switches(lab)
        assert list(before) == ["pasta-shard1"] and after["pasta-shard1"] > before["pasta-shard1"] + STREAMS
        guest.run("ping", f"-{family}", "-c1", "-W20", "-s", "3000", REMOTES[family])


@pytest.mark.parametrize("mtu", [1500, 65520])
def test_a_machine_with_one_pair_has_the_flows_of_all_threads(lab: Lab, digest: str, mtu: int) -> None:
    options = ("--vhost-user", "--threads", 2, "-m", mtu)
    with passt(lab, *options) as made, machine(lab, made.socket, mtu=mtu, vhost_user=ALL) as guest:
        files_pass(lab, guest, digest, 4)


def test_connections_of_both_threads_outlive_a_machine_that_reconnects(lab: Lab) -> None:
    with passt(lab, "--vhost-user", "--threads", 2) as made, machine(lab, made.socket, vhost_user=ALL, pairs=2) as guest:
        listener = lab.remote.popen("socat", "TCP-LISTEN:7171,reuseaddr,fork", "EXEC:cat")
        wait_until(lambda: lab.remote.run("ss", "-tlnH", "sport = :7171").stdout, 5, "socat")
        clients = [guest.popen("socat", "-t20", "-", f"TCP:{REMOTE4}:7171") for _ in range(STREAMS)]
        for number, word in enumerate(("one\n", "two\n", "three\n"), 1):
            for client in clients:
                assert client.stdin
                client.stdin.write(word)
                client.stdin.flush()
            for client in clients:
                assert client.stdout and client.stdout.readline() == word
            guest.tap.send_signal(signal.SIGUSR1)  # type: ignore[attr-defined]
            made.wait_said("accepted connection", number + 1)
        for client in clients:
            assert client.stdin
            client.stdin.close()
            client.wait(PATIENCE_S)
        listener.kill()


def test_forwarded_connections_of_both_threads_reach_the_machine(lab: Lab) -> None:
    options = ("--vhost-user", "--threads", 2, "-t", "7183:80")
    with passt(lab, *options) as made, machine(lab, made.socket, vhost_user=ALL, pairs=2) as guest:
        server = guest.popen("socat", "TCP-LISTEN:80,fork", "SYSTEM:echo in the machine", caps=True)
        wait_until(lambda: guest.run("ss", "-tlnH", "sport = :80").stdout, 5, "socat")
        script = f"for i in $(seq {STREAMS}); do socat -t20 - TCP:192.0.2.2:7183 </dev/null; done"
        assert lab.remote.run("bash", "-ec", script).stdout == "in the machine\n" * STREAMS
        server.kill()


def test_several_threads_need_the_queues_of_vhost_user(lab: Lab) -> None:
    done = lab.host.run(program("passt"), "-f", "--threads", "2", check=False)
    assert done.returncode == 1 and "--threads is for vhost-user mode only" in done.stderr
