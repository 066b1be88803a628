"""The program as real root: whom the worker becomes, what it keeps, and the namespaces that `ip netns` made.

Nothing is touched but namespaces that the tests make themselves: the host's side is one too, with only a loopback.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from process_helpers import MAPPED_ROOT, WAIT_S, command_line, environment, pasta, worker_of

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="real root is for those who are")


@ROOT
def test_real_root_can_run_a_command_and_the_worker_is_nobody() -> None:
    host = ["unshare", "-n", "--", *command_line("pasta-py", "--", "sh", "-c", "echo up; read line; exit 4")]
    with subprocess.Popen(
        host, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        status = Path(f"/proc/{worker_of(process.pid)}/status").read_text()
        process.communicate("go\n", timeout=WAIT_S)
    assert process.returncode == 4
    assert re.search(r"^Uid:\t65534\t65534\t65534\t65534$", status, re.MULTILINE)
    assert re.search(r"^CapEff:\t0+$", status, re.MULTILINE)


@ROOT
@pytest.mark.option("--runas")
@pytest.mark.parametrize(
    ("runas", "uid", "gid"),
    [
        ("1234", 1234, 1234),
        ("1234:77", 1234, 77),
        ("daemon", 1, 1),
        ("daemon:nogroup", 1, 65534),
        ("1:bin", 1, 2),
        ("1", 1, 1),
        ("0", 0, 0),
    ],
)
def test_real_roots_worker_is_whom_runas_names(runas: str, uid: int, gid: int) -> None:
    """Its groups are gone, and all its capabilities; the command stays what it was."""
    words = ("--runas", runas, "--", "sh", "-c", "echo up; read line; id -u")
    host = ["unshare", "-n", "--", *command_line("pasta-py", *words)]
    with subprocess.Popen(host, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        status = Path(f"/proc/{worker_of(process.pid)}/status").read_text()
        out, _ = process.communicate("go\n", timeout=WAIT_S)
    assert out == "0\n"
    found = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert (found["Uid"], found["Gid"]) == ("\t".join([str(uid)] * 4), "\t".join([str(gid)] * 4))
    assert found["Groups"].strip() == ""
    assert {int(found[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}


@pytest.mark.parametrize(
    ("runas", "said"),
    [
        ("nobody-here", "there is no user 'nobody-here'"),
        ("0:no-such-group", "there is no group 'no-such-group'"),
        ("0", "only root can become another user"),
    ],
)
def test_a_user_that_cannot_be_is_refused(runas: str, said: str) -> None:
    result = pasta("--runas", runas, "--", "true")
    assert (result.returncode, result.stdout) == (1, "")
    assert said in result.stderr.splitlines()[0]


def test_root_of_a_user_namespace_cannot_become_whom_it_does_not_have() -> None:
    result = pasta("--runas", "77", "--", "true", prefix=MAPPED_ROOT)
    assert result.returncode == 1
    assert "Couldn't become user 77, group 77: Operation not permitted: see --runas" in result.stderr


@pytest.mark.option("--runas")
@pytest.mark.parametrize("runas", ["0", "0:0", "root"])
def test_root_of_a_user_namespace_may_name_itself(runas: str) -> None:
    """Its groups stay: setgroups(2) is denied there, and nothing is to be changed."""
    result = pasta("--runas", runas, "--", "id", "-u", prefix=MAPPED_ROOT)
    assert (result.returncode, result.stdout) == (0, "0\n")


@ROOT
@pytest.mark.option("--netns")
def test_real_root_attaches_to_a_namespace_of_ip_netns_by_its_name() -> None:
    """And quits when it is deleted."""
    script = """
set -e
mount -t tmpfs tmpfs /run
ip netns add guest
"$@" --config-net --netns guest -P /run/pid -t none -u none
ip -n guest -o address | grep -q 'inet '
pid=$(cat /run/pid)
grep -q '^Uid:.65534' /proc/$pid/status
ip netns delete guest
for i in $(seq 100); do [ -e /proc/$pid ] || { echo quit; exit; }; sleep 0.02; done
"""
    line = ["unshare", "-nm", "--", "sh", "-c", script, "sh", *command_line("pasta")]
    result = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stdout) == (0, "quit\n"), result.stderr


@ROOT
def test_nothing_is_left_to_the_helper_of_a_namespace_that_the_initial_user_namespace_owns() -> None:
    """There is no user namespace whose rights it could have instead: it changes to nobody, and keeps low ports alone."""
    script = """
set -e
mount -t tmpfs tmpfs /run
ip netns add guest
"$@" --config-net --netns guest -P /run/pid -t none -u none
cat /proc/$(cat /run/pid)/status
cat /proc/$(pgrep -x pasta-helper)/status
ip netns delete guest
"""
    line = ["unshare", "-nmpf", "--mount-proc", "--", "sh", "-c", script, "sh", *command_line("pasta")]
    result = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    found = re.findall(r"^(Uid|Cap(?:Inh|Prm|Eff|Bnd|Amb)):\t(\w+)", result.stdout, re.MULTILINE)
    worker, helper = dict(found[:6]), dict(found[6:])
    nothing = dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), 0)
    assert {name: int(value, 16) for name, value in worker.items() if name != "Uid"} == nothing
    low_ports = 1 << 10  # CAP_NET_BIND_SERVICE
    assert {name: int(value, 16) for name, value in helper.items() if name != "Uid"} == {
        **nothing, "CapPrm": low_ports, "CapEff": low_ports,
    }  # fmt: skip
    assert {each["Uid"] for each in (worker, helper)} == {"65534"}


@ROOT
def test_real_root_attaches_by_pid_and_has_privileged_ports() -> None:
    """And the worker, which is nobody, serves what was bound for it."""
    server = "import socket; s=socket.create_server(('', 81)); print('up', flush=True); s.accept()[0].send(b'hello')"
    client = "import socket; print(socket.create_connection(('127.0.0.1', 80), 10).recv(9).decode())"
    script = """
set -e
ip link set lo up
mount -t tmpfs tmpfs /run
python=$1; server=$2; client=$3; shift 3
mkfifo /run/up
unshare -n "$python" -c "$server" >/run/up & guest=$!
read -r up </run/up
"$@" -P /run/pid -t 80:81 -u none -T none -U none --config-net $guest
grep '^Uid:' /proc/$(cat /run/pid)/status
"$python" -c "$client"
wait $guest
"""
    words = ["unshare", "-nm", "--", "sh", "-c", script, "sh", sys.executable, server, client, *command_line("pasta")]
    result = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stdout.split()) == (0, ["Uid:", *["65534"] * 4, "hello"]), result.stderr
