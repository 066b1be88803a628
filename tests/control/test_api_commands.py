"""The Python API's commands and networks: each is a real start, as this user."""

import asyncio
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from process_helpers import PYTHON, UID, environment, eventually

import pasta_py

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"


def test_run_is_that_of_subprocess_in_a_network_of_its_own(tmp_path: Path) -> None:
    command = ["sh", "-c", "pwd; cat; grep -c : /proc/net/dev; echo $MARK >&2; exit 3"]
    env = {**os.environ, "MARK": "here"}
    done = pasta_py.run(command, input="typed\n", capture_output=True, text=True, cwd=tmp_path, env=env)
    assert (done.args, done.returncode, done.stderr) == (command, 3, "here\n")
    assert done.stdout.split() == [str(tmp_path), "typed", "2"]
    assert os.readlink("/proc/self/ns/net") != pasta_py.run(
        ["readlink", "/proc/self/ns/net"], stdout=subprocess.PIPE, text=True
    ).stdout.strip()


def test_what_subprocess_raises() -> None:
    with pytest.raises(FileNotFoundError) as missing:
        pasta_py.run(["pasta-nonexistent"])
    assert missing.value.filename == "pasta-nonexistent"
    with pytest.raises(subprocess.CalledProcessError) as failed:
        pasta_py.run(["sh", "-c", "echo out; exit 5"], check=True, stdout=subprocess.PIPE)
    assert (failed.value.returncode, failed.value.stdout) == (5, b"out\n")
    with pytest.raises(subprocess.TimeoutExpired, match="'sleep', '300'"):
        pasta_py.run(["sleep", "300"], timeout=0.2)


def test_a_process_is_shown_by_its_command() -> None:
    with pasta_py.Popen(["true"]) as process:
        assert process.args == ["true"] and "['true']" in repr(process)


def test_options_are_keyword_arguments(tmp_path: Path) -> None:
    capture = tmp_path / "out.pcap"
    done = pasta_py.run(
        ["ip", "-o", "link", "show", "api0"], mtu=1400, ns_ifname="api0", pcap=capture, map_gw=False,
        dns=["192.0.2.53", "192.0.2.54"], stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert " mtu 1400 " in done.stdout and capture.stat().st_size >= 24


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({"mtu": 5}, "invalid value '5' for --mtu: expected 0, or a number from 68"),
        ({"mtu": True}, "mtu=True: --mtu takes a value: expected N"),
        ({"map_gw": 1}, "map_gw=1: --map-gw takes no value: expected True or False"),
        ({"mut": 1500}, "mut=1500: there is no option --mut"),
        ({"help": True}, "help=True: there is no option --help"),
        ({"pcap": b"x"}, "pcap=b'x': expected a text, a number, or several of them"),
        ({"interface": "nosuch0"}, "the host has no interface 'nosuch0'"),
        ({"network": 5}, "network 5: expected a text such as"),
        ({"network": "bridge"}, "invalid value 'bridge' for --network"),
        ({"ports": "8080:80"}, "ports '8080:80': expected a list"),
        ({"ports": [8080]}, "ports [8080]: expected a list"),
        ({"ports": ["0:8000-8010"]}, "port mapping '0:8000-8010': a free port is for one port of the guest"),
        ({"ports": ["192.0.2.77:0:80"]}, "port mapping '192.0.2.77:0:80': Cannot assign requested address"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_refused(keywords: dict[str, object], said: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(pasta_py.PastaError) as refused:
        pasta_py.run(["true"], **keywords)
    assert said in str(refused.value) and "\n" not in str(refused.value)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("args", ["true", [], [b"true"], ["true", 1], None], ids=repr)
def test_a_command_is_a_list_of_words(args: object) -> None:
    with pytest.raises(pasta_py.UsageError, match="^command "):
        pasta_py.run(args)  # type: ignore[arg-type]


@pytest.mark.parametrize("netns", [True, False, 0, -1], ids=repr)
def test_what_is_no_pid_is_refused(netns: int) -> None:
    with pytest.raises(pasta_py.UsageError, match="expected a PID, a path or a name"):
        pasta_py.connect(netns)


def test_a_network_runs_commands_and_publishes_free_ports() -> None:
    script = "import socket\nserver = socket.create_server(('', 8000))\nprint('up', flush=True)\n"
    script += "server.accept()[0].sendall(b'hello')"
    with pasta_py.Network(ports=["127.0.0.1:0:8000", "127.0.0.1:0:53/udp"], mtu=1300) as net:
        assert [(port.address, port.target, port.protocol) for port in net.ports] == [
            ("127.0.0.1", 8000, "tcp"), ("127.0.0.1", 53, "udp"),
        ]  # fmt: skip
        assert net.port(8000) == net.ports[0].port and repr(net) == f"<Network of process {net.pid}>"
        with pytest.raises(pasta_py.UsageError, match="port 80 of the guest is not published"):
            net.port(80)
        with net.popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None and server.stdout.readline() == "up\n"
            with socket.create_connection(("127.0.0.1", net.port(8000)), timeout=30) as client:
                assert client.recv(100) == b"hello"
        names = net.run(["readlink", "/proc/self/ns/net", "/proc/self/ns/user"], capture_output=True, text=True, check=True).stdout
        assert names.split() == [os.readlink(f"/proc/{net.pid}/ns/{kind}") for kind in ("net", "user")]
        assert net.run(["cat"], input="typed", text=True, stdout=subprocess.PIPE).stdout == "typed"
        with pytest.raises(PermissionError):
            net.run(["/etc/passwd"])
        pid = net.pid
    assert net.closed and repr(net) == "<Network closed>" and not Path(f"/proc/{pid}").exists()


def test_a_network_that_cannot_be_made_leaves_nothing() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(pasta_py.HostError, match="Address already in use"), socket.create_server(("127.0.0.1", 0)) as taken:
        pasta_py.Network(ports=[f"127.0.0.1:{taken.getsockname()[1]}:80"])
    assert len(os.listdir("/proc/self/fd")) == before


def test_threads_and_asyncio_make_networks_at_the_same_time() -> None:
    seen: list[str] = []
    # Each network stays until all are there: the kernel gives the number of a namespace that has ended to the next one.
    together = threading.Barrier(4)

    def one() -> None:
        with pasta_py.Network() as net:
            seen.append(net.run(["readlink", "/proc/self/ns/net"], stdout=subprocess.PIPE, text=True, check=True).stdout)
            together.wait(60)

    threads = [threading.Thread(target=one) for _ in range(3)]
    for thread in threads:
        thread.start()

    async def some() -> None:
        async with await asyncio.to_thread(pasta_py.Network) as net:
            command = net.command(["readlink", "/proc/self/ns/net"])
            process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
            seen.append((await process.communicate())[0].decode())
            failed = await asyncio.create_subprocess_exec(*net.command(["pasta-nonexistent"]), stderr=subprocess.PIPE)
            assert (await failed.communicate())[1] == b"pasta-py: pasta-nonexistent: No such file or directory\n"
            assert failed.returncode == 127
            await asyncio.to_thread(together.wait, 60)

    asyncio.run(some())
    for thread in threads:
        thread.join(60)
    assert len(seen) == len(set(seen)) == 4


def test_a_translator_that_is_killed_ends_the_network() -> None:
    with pasta_py.Network() as net:
        os.kill(net.pid, 9)
        eventually(lambda: net.closed, "the translator ends with the namespace")


def test_what_the_package_exports() -> None:
    assert set(pasta_py.__all__) <= set(dir(pasta_py))
    assert all(getattr(pasta_py, name).__doc__ for name in pasta_py.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = pasta_py.nothing


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("command_output.py", "hello from the host\n"),
        ("capture_frames.py", "sent to 192.0.2.200: True\n"),
        ("asyncio_commands.py", "user 0 there, 2 interfaces: lo and one more\n"),
    ],
)
def test_examples_print_what_they_say(name: str, printed: str) -> None:
    as_user = ["setpriv", "--reuid", str(UID), "--regid", str(UID), "--clear-groups", "--"] if os.geteuid() == 0 else []
    line = [*as_user, PYTHON, str(EXAMPLES / name)]
    done = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=120, check=False, cwd="/")
    assert (done.stdout, done.returncode) == (printed, 0), done.stderr


def test_the_example_for_pytest_passes() -> None:
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null", "test_own_network.py"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(line, cwd=EXAMPLES, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert "2 passed" in done.stdout, done.stdout
