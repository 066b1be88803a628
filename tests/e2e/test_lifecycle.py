"""What scripts and runtimes see of the process: status, signals, readiness, pidfile, quitting, error lines."""

import os
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sid
from lab import HOST4, NO_PORTS, REMOTE4, REMOTE6, Guest, Lab, program, tool, wait_until

QUIT_S = 3  # a vanished namespace is noticed: one that is polled, is polled each second
MISSING = "No such file or directory"


@pytest.fixture(scope="module")
def root_lab() -> Iterator[Lab]:
    """A host of mapped root, as inside `podman unshare`."""
    with Lab(mapped_root=True) as made:
        yield made


@pytest.fixture
def pidfile(lab: Lab) -> Iterator[Path]:
    path = lab.directory / "pasta.pid"
    yield path
    path.unlink(missing_ok=True)


def refused(lab: Lab, *arguments: object, caps: bool = False) -> str:
    """Run the program, which must refuse with status 1; its one line."""
    done = lab.host.run(program(), *arguments, check=False, caps=caps)
    assert done.returncode == 1, f"{done.returncode}: {done.stderr}"
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("pasta: ")
    return lines[0]


def outer(lab: Lab, inner: int) -> int:
    return lab.descendant(lambda pid: lab.inner_pid(pid) == inner, f"process {inner}")


# Commands


@pytest.mark.parametrize("status", [0, 1, 42, 255])
def test_the_commands_status_is_ours(lab: Lab, status: int) -> None:
    assert lab.host.run(program(), "--", "sh", "-c", f"exit {status}", check=False).returncode == status


def test_a_command_that_a_signal_killed(lab: Lab) -> None:
    done = lab.host.run(program(), "--", "sh", "-c", "kill -KILL $$", check=False)
    assert done.returncode == 128 + signal.SIGKILL


@pytest.mark.parametrize("command", ["/nonexistent", "/etc/passwd"])
def test_a_command_that_cannot_be_started(lab: Lab, command: str) -> None:
    done = lab.host.run(program(), "--", command, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "Failed to start command or shell" in line and command in line


def test_a_command_keeps_stdio_environment_and_nothing_else(lab: Lab) -> None:
    # ls sees 0, 1, 2 and the directory itself
    script = f"exec {program()} -- sh -c 'cat; echo $MARK; ls /proc/self/fd; echo oops >&2' 7</etc/passwd"
    done = lab.host.run("env", "MARK=here", "sh", "-c", script, input="typed\n")
    assert done.stdout.split() == ["typed", "here", "0", "1", "2", "3"]
    assert done.stderr == "oops\n"


@pytest.mark.parametrize("entry", ["pasta", "pasta-py"])
@pytest.mark.parametrize("given", [[], ["LC_CTYPE=C"], ["LANG=POSIX"], ["LC_CTYPE=C.UTF-8", "EMPTY="], ["LC_ALL=C", "LC_CTYPE=C"]])
def test_a_command_has_its_callers_environment(lab: Lab, entry: str, given: list[str]) -> None:
    """Python sets LC_CTYPE where it finds the locale C; what is started by a shell has a PWD."""
    words = [*given, "PATH=/usr/bin:/bin", "HOME=/nowhere"]
    shown = lab.host.run("env", "-i", *words, program(entry), *NO_PORTS, "--", "env").stdout.splitlines()
    assert sorted(line for line in shown if not line.startswith("PWD=")) == sorted(words)


def test_no_command_is_a_login_shell(lab: Lab) -> None:
    done = lab.host.run(program(), check=False, input="echo $0; exit 5\n")
    assert (done.stdout, done.returncode) == ("-sh\n", 5)


@pytest.mark.option("--as-pid-1")
def test_an_init_runs_as_process_1(lab: Lab) -> None:
    """busybox is no init under another number. It ends by reboot(2), which the parent of a PID namespace sees as SIGINT."""
    busybox = sid.program("busybox", "busybox")
    etc = lab.directory / "etc"
    etc.mkdir()
    (etc / "inittab").write_text(f"::sysinit:{etc}/rc\n::once:{busybox} poweroff -f\n")
    (etc / "rc").write_text(f"#!{busybox} sh\necho started by $PPID\n{busybox} ip -4 -o addr show scope global\n")
    (etc / "rc").chmod(0o755)
    command = ("sh", "-c", f"mount --bind {etc} /etc && exec {busybox} init")
    refused = lab.host.run(program("pasta-py"), "--", *command, check=False)
    assert "init: must be run as PID 1" in refused.stderr and refused.returncode == 1
    done = lab.host.run(program("pasta-py"), "--as-pid-1", "--", *command, check=False)
    said = done.stdout + done.stderr
    assert "started by 1\n" in said and HOST4 in said
    assert done.returncode == 128 + signal.SIGINT


#: Process 1 has to wait for a child that is not its own, then to pass on a signal that would end it.
UNDER_AN_INIT = """
trap 'echo told; exit 5' TERM
echo $PPID $(readlink /proc/1/exe)
orphan=$(sh -c 'sleep 0.1 >/dev/null & echo $!')
while [ -e /proc/$orphan ]; do sleep 0.1; done
kill -TERM 1
while :; do sleep 0.1; done
"""


@pytest.mark.option("--as-pid-1")
@pytest.mark.parametrize("name", ["tini", "dumb-init"])
def test_an_init_of_containers_runs_as_process_1(lab: Lab, name: str) -> None:
    """The kernel keeps a signal from process 1 that it does not handle."""
    init = sid.program(name, name)
    command = ("--as-pid-1", "--", init, "--", "sh", "-c", UNDER_AN_INIT)
    done = lab.host.run(program("pasta-py"), *command, check=False)
    assert (done.stdout, done.returncode) == (f"1 {init}\ntold\n", 5), done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_term_ends_the_command_too(lab: Lab, number: signal.Signals) -> None:
    process = lab.host.popen(program(), "--", "sh", "-c", "echo up; exec sleep 100")
    assert process.stdout is not None and process.stdout.readline() == "up\n"
    process.send_signal(number)
    assert process.wait(30) == 0
    wait_until(lambda: not lab.translators(), 2, "the worker is gone")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_int_and_hup_have_their_default_action_in_the_foreground(lab: Lab, number: signal.Signals) -> None:
    with lab.stray() as guest:
        process = lab.host.popen(program(), "-f", "--config-net", lab.inner_pid(guest.pid))
        wait_until(lab.translators, 5, "the tap is there")
        time.sleep(0.3)
        process.send_signal(number)
        assert process.wait(30) in (-number, 128 + number)
    wait_until(lambda: not lab.translators(), 2, "the worker is gone")


# A signal that would end us comes before the one that asks us to end, and is the first of the two to be delivered.
IGNORING = """
mkfifo "$0"
{} "$@" >"$0" & read -r _ ignored <"$0"
kill -{} $!
kill -TERM $!
wait $!
echo $ignored $?
"""


@pytest.mark.parametrize("entry", ["pasta", "pasta-py"])
@pytest.mark.parametrize(("launcher", "number"), [("nohup", signal.SIGHUP), ("", signal.SIGINT)])
def test_what_the_caller_has_had_ignored_stays_ignored(lab: Lab, launcher: str, number: signal.Signals, entry: str) -> None:
    """nohup(1), and a script's background jobs, which ignore SIGINT: for us, and for the command that we start."""
    script = IGNORING.format(launcher, number.name.removeprefix("SIG"))
    command = ("sh", "-c", "grep SigIgn /proc/self/status; exec sleep 100")
    fifo = lab.directory / f"ignoring-{entry}-{number.name}"
    done = lab.host.run("sh", "-c", script, fifo, program(entry), *NO_PORTS, "--", *command)
    ignored, status = done.stdout.split()
    assert int(ignored, 16) >> number - 1 & 1
    assert status == "0"
    wait_until(lambda: not lab.translators(), 2, "the worker is gone")


def test_nothing_is_left_when_we_are_killed(lab: Lab) -> None:
    process = lab.host.popen(program(), "--", tool(), "hold", "orphan")
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    command = lab.held("hold", "orphan")
    (entered,) = children_of(process)
    os.kill(entered, signal.SIGKILL)
    process.wait(30)
    wait_until(lambda: not lab.translators(), QUIT_S, "the worker is gone")
    wait_until(lambda: not Path(f"/proc/{command}").exists(), QUIT_S, "the command is gone")


def test_the_workers_death_is_told_and_leaves_the_command_alone(lab: Lab) -> None:
    process = lab.host.popen(program(), "--", "sh", "-c", "echo up; cat; exit 7")
    assert process.stdout is not None and process.stdout.readline() == "up\n"
    os.kill(lab.translator().pid, signal.SIGKILL)
    assert process.stderr is not None and "by signal 9" in process.stderr.readline()
    out, err = process.communicate("still here", timeout=30)
    assert (out, err, process.returncode) == ("still here", "", 7)


def children_of(process: "subprocess.Popen[str]") -> list[int]:
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in found]


# Joining a namespace


def attach(lab: Lab, *arguments: object, caps: bool = False) -> "subprocess.CompletedProcess[str]":
    """Run the program, which goes to the background; it must let go of its output, or this never returns."""
    return lab.host.run(program(), "--config-net", *arguments, caps=caps)


def assert_online(guest: Guest) -> None:
    for address in (REMOTE4, REMOTE6):
        guest.run("ping", "-c1", "-W20", address)


def test_attach_by_pid_in_the_background(lab: Lab, pidfile: Path) -> None:
    with lab.stray() as guest:
        done = attach(lab, "--pid", pidfile, lab.inner_pid(guest.pid))
        assert "tentative" not in guest.run("ip", "addr").stdout  # usable as soon as we return
        assert_online(guest)
        text = pidfile.read_text()
        assert stat.S_IMODE(pidfile.stat().st_mode) == 0o600
        assert text == f"{int(text)}\n"
        worker = lab.translator().pid
        assert outer(lab, int(text)) == worker
        for number in (signal.SIGINT, signal.SIGHUP):
            os.kill(worker, number)
        assert_online(guest)
        assert done.stdout == ""
        os.kill(worker, signal.SIGTERM)
        wait_until(lambda: not lab.translators(), 2, "the worker is gone after SIGTERM")
        assert pidfile.exists()


@pytest.mark.parametrize("entry", ["pasta", "pasta-py"])
def test_ps_shows_the_command_line_as_it_was_called(lab: Lab, entry: str) -> None:
    with lab.stray() as guest:
        words = ["-q", "--config-net", *NO_PORTS, "--hostname", "as-called", str(lab.inner_pid(guest.pid))]
        lab.host.run(program(entry), *words)
        shown = lab.host.run("ps", "-o", "comm=,args=", "-p", lab.inner_pid(lab.translator().pid)).stdout.split()
        assert shown == [entry, program(entry), *words]


def test_the_worker_quits_with_the_process_it_joined(lab: Lab) -> None:
    with lab.stray() as guest:
        attach(lab, lab.inner_pid(guest.pid))
        assert_online(guest)
    wait_until(lambda: not lab.translators(), QUIT_S, "the worker is gone with the namespace's process")


@pytest.mark.parametrize(
    "option",
    [pytest.param((), id="quits"), pytest.param(("--no-netns-quit",), id="stays", marks=pytest.mark.option("--no-netns-quit"))],
)
def test_namespaces_by_path(lab: Lab, pidfile: Path, option: tuple[str, ...]) -> None:
    with lab.stray() as guest:
        pid = lab.inner_pid(guest.pid)
        attach(lab, *option, "-P", pidfile, "--userns", f"/proc/{pid}/ns/user", "--netns", f"/proc/{pid}/ns/net")
        assert_online(guest)
        worker = lab.translator().pid
    if option:
        time.sleep(QUIT_S)
        os.kill(worker, signal.SIGTERM)
    wait_until(lambda: not lab.translators(), QUIT_S, "the worker is gone")


@pytest.mark.parametrize("way", ["name", "path"])
@pytest.mark.parametrize("lazily", [False, True], ids=["unmount", "lazy-unmount"])
def test_a_named_namespace_and_its_end(root_lab: Lab, way: str, lazily: bool) -> None:
    root_lab.host.run("ip", "netns", "add", "box")
    attach(root_lab, "--netns", "box" if way == "name" else "/run/netns/box")
    inside = ("ip", "netns", "exec", "box")
    for address in (REMOTE4, REMOTE6):
        root_lab.host.run(*inside, "ping", "-c1", "-W20", address)
    assert len(root_lab.translators()) == 1
    root_lab.host.run("umount", *(["-l"] if lazily else []), "/run/netns/box")
    root_lab.host.run("rm", "/run/netns/box")
    wait_until(lambda: not root_lab.translators(), QUIT_S, "the worker is gone with the namespace's path")


def test_as_podman_calls_it(root_lab: Lab) -> None:
    root_lab.resolv(f"nameserver {REMOTE4}\n")
    root_lab.host.run("ip", "netns", "add", "podman")
    fixed = (
        "--dns-forward",
        "169.254.1.1",
        *NO_PORTS,
        "--no-map-gw",
        "--quiet",
    )
    done = attach(root_lab, *fixed, "--netns", "/run/netns/podman", "--map-guest-addr", "169.254.1.2")
    assert done.stdout + done.stderr == ""
    server = root_lab.host.start("answer.py", "name", "192.0.2.2", 7401, "host")
    asked = root_lab.host.run(
        "ip", "netns", "exec", "podman", "socat", "-u", "TCP:169.254.1.2:7401,connect-timeout=20", "STDOUT"
    )
    assert asked.stdout.startswith("host 192.0.2.2 ")
    server.result()
    root_lab.host.run("ip", "netns", "del", "podman")
    wait_until(lambda: not root_lab.translators(), QUIT_S, "the worker is gone after teardown")


@pytest.mark.option("--stderr")
def test_as_rootlesskit_calls_it(lab: Lab) -> None:
    assert lab.host.run(program(), "--version").stdout.strip()
    with lab.stray() as guest:
        attach(
            lab,
            *(
                "--stderr",
                "--ns-ifname=tap0",
                "--mtu=65520",
                "--address=10.0.2.100",
                "--netmask=24",
                "--gateway=10.0.2.2",
            ),
            *("--dns-forward=10.0.2.3", "--no-map-gw", "--ipv4-only", "--tcp-ports=none", "--udp-ports=none"),
            lab.inner_pid(guest.pid),
        )
        assert "10.0.2.100/24" in guest.run("ip", "-br", "addr", "show", "dev", "tap0").stdout
        assert "default via 10.0.2.2" in guest.run("ip", "route").stdout
        guest.run("ping", "-c1", "-W20", REMOTE4)
    wait_until(lambda: not lab.translators(), QUIT_S, "the worker is gone")


# Errors: one line each


def test_a_second_translator_finds_the_tap_busy(lab: Lab) -> None:
    with lab.stray() as guest:
        pid = lab.inner_pid(guest.pid)
        attach(lab, "--ns-ifname", "tap7", pid)
        line = refused(lab, "--config-net", "--ns-ifname", "tap7", pid)
        assert "tap7" in line and "busy" in line
        assert_online(guest)
    wait_until(lambda: not lab.translators(), QUIT_S, "the worker is gone")


def test_a_missing_namespace(lab: Lab) -> None:
    assert f"Couldn't open network namespace /nonexistent: {MISSING}" in refused(lab, "--netns", "/nonexistent")


def test_a_pid_that_is_gone(lab: Lab) -> None:
    assert "4194000" in refused(lab, 4194000)


def test_an_option_that_does_not_exist(lab: Lab) -> None:
    done = lab.host.run(program(), "--nonsense", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("pasta: unrecognized option '--nonsense'\n")


@pytest.mark.parametrize("option", ["--pid", "--pcap", "--log-file"])
def test_a_file_that_cannot_be_written(lab: Lab, option: str) -> None:
    line = refused(lab, option, "/nonexistent/file", "--", "true")
    assert "/nonexistent/file" in line and MISSING in line


def test_a_pidfile_that_cannot_be_written_fails_before_the_namespace_is_touched(lab: Lab) -> None:
    with lab.stray() as guest:
        line = refused(lab, "--config-net", "-P", "/proc/nope", lab.inner_pid(guest.pid))
        assert "/proc/nope" in line
        assert guest.run("ip", "-br", "link").stdout.count("\n") == 1  # lo alone


def test_a_machine_without_tun(root_lab: Lab) -> None:
    script = f"mount -t tmpfs none /dev/net && exec {program()} -- true"
    done = root_lab.host.run("unshare", "-m", "sh", "-c", script, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "/dev/net/tun" in line


def test_user_namespaces_are_not_allowed(root_lab: Lab) -> None:
    script = f"echo 0 > /proc/sys/user/max_user_namespaces && exec {program()} -- true"
    done = root_lab.host.run("unshare", "-Ur", "sh", "-c", script, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "user namespace" in line


def test_quiet_and_nothing_to_say(lab: Lab) -> None:
    lab.resolv("nameserver 192.0.2.53\n")  # or the start warns of none
    done = lab.host.run(program(), "--quiet", "--config-net", "--", "true")
    lab.resolv("")
    assert done.stdout + done.stderr == ""
