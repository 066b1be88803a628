"""`pasta-py doctor` on machines that are broken one way at a time, and the start that fails there: both name the same cause."""

import errno
import json
import os
import platform
import subprocess
from pathlib import Path

import pytest
from process_helpers import PYTHON, ROOT, environment, pasta, user_prefix

from pasta_py.control.planning import resolv_conf
from pasta_py.control.requirements import names, runtimes, settings, tun, user, why_no_namespace
from pasta_py.control.subcommands import doctor

_DOCTOR = "from pasta_py.control.start import typer_command; typer_command.main()"
#: The same without typer and without the versions of other programs, for tests of one check.
_LOOK = (
    "import sys; from pasta_py.control.subcommands import doctor; doctor._versions = dict; found = doctor.look();"
    "print(doctor._as_json(found)); sys.exit(doctor.status(found))"
)
_REFUSE = ROOT / "tests" / "programs" / "refuse.py"
_UNSHARE = {"x86_64": 272, "aarch64": 97}[platform.machine()]
_NEWUSER = 0x10000000
#: A filter that refuses user namespaces and lets unshare(2) be, as security modules do.
NO_USERNS = (PYTHON, "-I", "-S", str(_REFUSE), f"{_UNSHARE}:{_NEWUSER}")
NO_UNSHARE = (PYTHON, "-I", "-S", str(_REFUSE), str(_UNSHARE))


def machine(script: str) -> tuple[str, ...]:
    """Words that run a command as root of a user namespace, with mounts and a network of its own, after `script`."""
    return ("unshare", "-Urmn", "--", "sh", "-ec", f'{script}; exec "$@"', "sh")


def doctor_says(*words: str, prefix: tuple[str, ...] = (), **env: str) -> "subprocess.CompletedProcess[str]":
    command = [*user_prefix(), *prefix, PYTHON, "-c", _DOCTOR, "doctor", *words]
    return subprocess.run(command, env=environment(env), capture_output=True, text=True, timeout=60, check=False)


def look(*prefix: str) -> "subprocess.CompletedProcess[str]":
    command = [*user_prefix(), *prefix, PYTHON, "-c", _LOOK]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=False)


def checks(done: "subprocess.CompletedProcess[str]") -> dict[str, dict[str, str]]:
    assert not done.stderr, done.stderr
    return {check["check"]: check for check in json.loads(done.stdout)["checks"]}


GOOD = (
    "echo '0 0' >/proc/sys/net/ipv4/ping_group_range; ip link set lo up; ip addr add 192.0.2.1/24 dev lo;"
    "ip route add default via 192.0.2.2; mount -t tmpfs none /run; echo nameserver 192.0.2.53 >/run/resolv;"
    "mount --bind /run/resolv /etc/resolv.conf"
)


def test_a_good_machine_gives_it_nothing_to_complain_about() -> None:
    done = doctor_says("--json", prefix=machine(GOOD), PATH="/usr/sbin:/sbin:/usr/bin:/bin")
    assert [check for check in checks(done).values() if check["status"] != "fine"] == []
    assert done.returncode == 0 and json.loads(done.stdout)["wrong"] is False
    text = doctor_says(prefix=machine(GOOD))
    assert text.returncode == 0 and text.stdout.endswith("Nothing is wrong.\n") and "->" not in text.stdout


LACKS = ("this container lacks the device", "start the container with --device /dev/net/tun")
#: What is said where the tests themselves run in a container; (): they do not.
CONTAINER = LACKS if settings.in_container() else ()
NO_NODE = ("the kernel has the driver, but the device is missing", "mknod -m 666 /dev/net/tun c 10 200")
KERNEL = "mount -t tmpfs none /proc/sys/kernel; mkdir /proc/sys/kernel/seccomp; echo {value} >/proc/sys/kernel/{name}"
SELINUX = "mount -t tmpfs none /sys/fs; mkdir -p /sys/fs/selinux/booleans; echo {enforce} >/sys/fs/selinux/enforce"
CHROOT = (
    "mkdir /mnt/root; for d in /*; do if [ -L $d ]; then cp -P $d /mnt/root; elif [ -d $d ] && [ $d != /mnt ]; then"
    " mkdir /mnt/root$d; mount --rbind $d /mnt/root$d; fi; done; set -- chroot /mnt/root \"$@\""
)


@pytest.mark.parametrize(
    ("prefix", "check", "text", "remedy"),
    [
        *(
            pytest.param(
                machine(f"echo 0 >/proc/sys/user/max_{word}_namespaces"), f"{kind} namespaces",
                f"user.max_{word}_namespaces is 0", f"sudo sysctl -w user.max_{word}_namespaces=15000", id=f"limit-{word}",
            )
            for kind, word in why_no_namespace.LIMITS.items()
        ),
        pytest.param(
            machine("echo 1 >/proc/sys/user/max_user_namespaces; set -- unshare -U \"$@\""), "user namespaces",
            "user.max_user_namespaces is used up", "sudo sysctl -w user.max_user_namespaces=", id="used-up",
        ),
        pytest.param(
            (*machine(KERNEL.format(name="unprivileged_userns_clone", value=0)), *NO_USERNS), "user namespaces",
            "kernel.unprivileged_userns_clone is 0", "sudo sysctl -w kernel.unprivileged_userns_clone=1", id="debian",
        ),
        pytest.param(
            (*machine(KERNEL.format(name="apparmor_restrict_unprivileged_userns", value=1)), *NO_USERNS), "user namespaces",
            "kernel.apparmor_restrict_unprivileged_userns is 1, and no AppArmor profile",
            "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0", id="ubuntu",
        ),
        pytest.param(
            (*machine(SELINUX.format(enforce=1)), *NO_USERNS), "user namespaces",
            "SELinux (enforcing) seems to forbid it", "sudo ausearch -m avc -ts recent", id="selinux",
        ),
        pytest.param(
            (*machine(SELINUX.format(enforce=1) + "; echo 1 1 >/sys/fs/selinux/booleans/deny_userns"), *NO_USERNS),
            "user namespaces", "the boolean deny_userns is on", "sudo setsebool -P deny_userns off", id="selinux-boolean",
        ),
        pytest.param(
            NO_UNSHARE, "user namespaces", "a filter on system calls (seccomp), as of a container or a service, forbids unshare(2)",
            "--security-opt seccomp=unconfined", id="seccomp",
        ),
        pytest.param(
            NO_USERNS, "user namespaces", "a filter on system calls (seccomp), as of a container or a service, seems to forbid it",
            "RestrictNamespaces=no", id="seccomp-by-flag",
        ),
        pytest.param(
            machine("mount -t tmpfs none /mnt;" + CHROOT), "user namespaces", "this is a chroot",
            "enter it with unshare -m and pivot_root", id="chroot",
        ),
        pytest.param(
            machine("mount -t tmpfs none /dev/net; [ -e /sys/class/misc/tun ]"), tun.DEVICE,
            *(CONTAINER or NO_NODE), id="no-node",
        ),
        pytest.param(
            machine("mount -t tmpfs none /dev/net; mount -t tmpfs none /sys/class/misc"), tun.DEVICE,
            *(CONTAINER or ("the kernel's driver tun is not loaded", "sudo modprobe tun")), id="no-driver",
        ),
        pytest.param(
            machine("mount -t tmpfs none /dev/net; mount -t tmpfs none /run; : >/run/.containerenv"), tun.DEVICE,
            *LACKS, id="container",
        ),
        pytest.param(
            machine("mount -t tmpfs none /dev/net; : >/dev/net/tun; mount --bind /dev/null /dev/net/tun"), tun.DEVICE,
            "it is another device", "sudo rm /dev/net/tun && sudo mkdir -p /dev/net", id="other-device",
        ),
    ],
)  # fmt: skip
def test_the_cause_is_named_by_doctor_and_in_the_same_words_by_the_start_that_fails(
    prefix: tuple[str, ...], check: str, text: str, remedy: str
) -> None:
    done = look(*prefix)
    found = checks(done)
    wrong = [each for each in found.values() if each["status"] == "wrong" and each["check"] != "names"]
    assert [each["check"] for each in wrong] == [check], done.stdout
    assert text in found[check]["text"] and remedy in found[check]["remedy"]
    assert done.returncode == 1
    start = pasta("--", "true", prefix=prefix)
    (line,) = [line for line in start.stderr.splitlines() if ": warning: " not in line]
    assert start.returncode == 1
    assert line.endswith(f"{found[check]['text']}: {found[check]['remedy']}"), line


def test_text_for_a_terminal_has_an_arrow_before_each_command_and_no_control_characters() -> None:
    hostile = "mount -t tmpfs none /run; printf 'nameserver 192.0.2.1' >/run/resolv; mount --bind /run/resolv /etc/resolv.conf"
    done = doctor_says(prefix=machine(f"{hostile}; echo 0 >/proc/sys/user/max_net_namespaces"))
    assert "-> sudo sysctl -w user.max_net_namespaces=15000\n" in done.stdout
    assert done.stdout.endswith("Wrong: network namespaces.\n")
    assert doctor._printable("a\x1b[2Jb\u202ec") == "a?[2Jb?c"


def test_wrong_words_are_refused_and_help_is_there() -> None:
    done = doctor_says("--jsn")
    assert done.returncode == 2 and done.stderr.startswith("pasta-py doctor: No such option: --jsn"), done.stderr
    done = doctor_says("--help")
    assert done.returncode == 0 and "pasta-py doctor" in done.stdout and "--json" in done.stdout


# ---- names ----


@pytest.mark.parametrize(
    ("content", "status", "text", "remedy"),
    [
        (None, "wrong", "there is no ", "echo 'nameserver ADDRESS' | sudo tee -a "),
        ("", "wrong", " names no nameserver, and nothing listens at 127.0.0.1", "echo 'nameserver ADDRESS' | sudo tee -a "),
        ("nameserver 127.0.0.53\n", "wrong", "nothing listens at 127.0.0.53, port 53", "sudo systemctl restart systemd-resolved"),
        ("nameserver 127.0.0.1\n", "wrong", "nothing listens at 127.0.0.1, port 53", "sudo systemctl restart dnsmasq"),
        ("nameserver 192.0.2.1\nnameserver ::1\n", "fine", "names 192.0.2.1, ::1", ""),
    ],
    ids=["missing", "empty", "stub", "local", "other"],
)
def test_each_kind_of_resolver_is_told(
    content: str | None, status: str, text: str, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "resolv.conf"
    if content is not None:
        path.write_text(content)
    monkeypatch.setattr(resolv_conf, "PATH", str(path))
    monkeypatch.setattr(names, "text_of", lambda _path: "head")  # no socket in the tables
    found = names.check()
    assert (found.status, text in found.text, remedy in found.remedy) == (status, True, True), found


def test_a_link_to_a_file_that_a_service_should_have_made_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "resolv.conf"
    path.symlink_to("/run/systemd/resolve/none.conf")
    monkeypatch.setattr(resolv_conf, "PATH", str(path))
    monkeypatch.setattr(names, "text_of", lambda _path: "head")
    found = names.check()
    assert "is a link to /run/systemd/resolve/none.conf, which is not there" in found.text
    assert found.remedy == "sudo systemctl restart systemd-resolved"


def test_a_resolver_that_listens_is_fine() -> None:
    listen = (
        "import socket, subprocess, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('127.0.0.53', 53));"
        "sys.exit(subprocess.call(sys.argv[1:]))"
    )
    script = "ip link set lo up; mount -t tmpfs none /run; echo nameserver 127.0.0.53 >/run/r; mount --bind /run/r /etc/resolv.conf"
    found = checks(look(*machine(script), PYTHON, "-c", listen))["names"]
    assert found["status"] == "fine" and "127.0.0.53 (systemd-resolved's stub)" in found["text"]
    found = checks(look(*machine(script)))["names"]
    assert found["status"] == "wrong" and "nothing listens at 127.0.0.53" in found["text"]


# ---- this user ----


def test_ping_sockets_that_are_not_allowed_cost_the_guests_pings() -> None:
    found = checks(look(*machine(":")))["ping"]  # a new network namespace allows none
    assert found["status"] == "limited" and ", without group " in found["text"]
    assert found["remedy"] == "sudo sysctl -w net.ipv4.ping_group_range='0 2147483647'"


def test_the_text_about_low_ports_is_that_of_the_start_that_cannot_bind_one() -> None:
    start = pasta("-t", "80", "--", "true")
    assert str(settings.low_port(1024, 80)) in start.stderr
    found = checks(look())["ports"]
    if os.geteuid() == 0:  # the tests become an ordinary user
        assert str(settings.low_port(1024, 80)) in found["text"] and found["status"] == "fine"


def test_few_descriptors_limit_the_connections() -> None:
    found = checks(look("prlimit", "--nofile=200:200"))["descriptors"]
    assert found["status"] == "limited" and found["text"].startswith("ulimit -Hn is 200: ")


def test_ids_for_containers_are_counted_and_a_free_range_is_proposed(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"/etc/subuid": "other:100000:65536\nme:165536:1000\n", "/etc/subgid": "me:200000:65536\n"}
    files["/etc/os-release"] = "ID=fedora\n"
    monkeypatch.setattr(user, "text_of", files.get)
    monkeypatch.setattr(user, "name", lambda: "me")
    monkeypatch.setattr(user.shutil, "which", lambda _name, path: None)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    ids, newuidmap, _newgidmap, *_rest = user.check(containers=True)
    assert (ids.status, ids.text) == ("wrong", "/etc/subuid gives me fewer than 65536 IDs")
    assert ids.remedy == "sudo usermod --add-subuids 265536-331071 --add-subgids 265536-331071 me"
    assert (newuidmap.status, newuidmap.remedy) == ("wrong", "sudo dnf install shadow-utils")
    files["/etc/subuid"] = "1000:100000:65536\n"
    assert user.check(containers=True)[0].status == "fine"
    files["/etc/nsswitch.conf"] = "passwd: files\nsubid: sss\n"
    assert user.check(containers=True)[0].text == "subordinate IDs come from sss (nsswitch.conf)"
    assert [found.check for found in user.check(containers=False)] == ["ping", "ports", "descriptors"]


def test_a_mapper_without_its_right_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "newuidmap"
    program.write_text("")
    program.chmod(0o755)
    monkeypatch.setattr(user.shutil, "which", lambda _name, path: str(program))
    found = user._mapper("newuidmap")
    assert found and found.remedy == f"sudo chmod u+s {program}" and "neither the set-user-ID bit nor cap_setuid" in found.text


# ---- the device ----


@pytest.mark.parametrize(
    ("mode", "text", "remedy"),
    [(0o600, "its mode is 600, so this user may not", "sudo chmod 666 "), (0o666, "a security module or the file", "mknod")],
)
def test_a_closed_device_is_told(mode: int, text: str, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = tmp_path / "tun"
    device.write_text("")
    device.chmod(mode)
    monkeypatch.setattr(tun, "DEVICE", str(device))
    monkeypatch.setattr(tun, "text_of", lambda _path: None)
    monkeypatch.setattr(tun, "in_container", lambda: False)
    found = tun.cause(errno.EACCES)
    assert found and text in found.text and remedy in found.remedy
    assert tun.cause(errno.EPERM) and tun.cause(errno.EIO) is None and not tun.is_tun(str(device))


@pytest.mark.parametrize(
    ("number", "loaded", "container", "text", "remedy"),
    [
        (errno.ENOENT, True, False, *NO_NODE),
        (errno.ENOENT, False, False, "the kernel's driver tun is not loaded", "sudo modprobe tun"),
        (errno.ENODEV, False, False, "the kernel's driver tun is not loaded", "sudo modprobe tun"),
        (errno.ENOENT, False, True, *LACKS),
        (errno.ENODEV, False, True, "the kernel's driver tun is not loaded", "sudo modprobe tun"),
    ],
)
def test_a_missing_device_is_told_apart_from_a_missing_driver(
    number: int, loaded: bool, container: bool, text: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tun, "exists", lambda _path: loaded)
    monkeypatch.setattr(tun, "in_container", lambda: container)
    found = tun.cause(number)
    assert found and found.text == text and found.remedy.endswith(remedy)


def test_kinds_that_the_kernel_lacks_and_a_missing_proc() -> None:
    assert "this kernel has no network namespaces" in why_no_namespace.cause("network", errno.EINVAL).text
    assert why_no_namespace.cause("user", errno.ENOENT).remedy == "mount -t proc proc /proc"


# ---- which pasta ----


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that is all of $PATH, with a podman, and a home without configuration."""
    for name, says in (("podman", "podman version 5.4.2"), ("ours/pasta", "pasta (pasta-py) 9"), ("theirs/pasta", "pasta 2025")):
        path = tmp_path / "bin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\necho '{says}'\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for name in ("CONTAINERS_HELPER_BINARY_DIR", "CONTAINERS_CONF", "CONTAINERS_CONF_OVERRIDE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(runtimes, "_DIRECTORIES", [])
    return tmp_path


def test_the_pasta_that_podman_takes_follows_its_configuration(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = runtimes.check()
    assert (found.status, found.text) == ("wrong", "it finds no program `pasta`")
    assert "helper_binaries_dir = [" in found.remedy
    conf = programs / "containers" / "containers.conf"
    (programs / "containers" / "containers.conf.d").mkdir(parents=True)
    conf.write_text(f'[engine]\nhelper_binaries_dir = ["{programs}/bin/theirs"]\n[network]\npasta_options = ["--map-gw", "-6"]\n')
    (found,) = runtimes.check()
    assert found.text == f"it takes {programs}/bin/theirs/pasta (not pasta-py), with --map-gw -6"
    drop_in = programs / "containers" / "containers.conf.d" / "x.conf"
    drop_in.write_text(f'[engine]\nhelper_binaries_dir = ["{programs}/bin/ours"]\n')
    assert f"{programs}/bin/ours/pasta (pasta-py)" in runtimes.check()[0].text
    later = programs / "containers" / "containers.conf.d" / "y.conf"
    later.write_text(f'[engine]\nhelper_binaries_dir = ["{programs}/bin/theirs", {{append = true}}]\n')
    assert f"{programs}/bin/ours/pasta (pasta-py)" in runtimes.check()[0].text
    monkeypatch.setenv("CONTAINERS_HELPER_BINARY_DIR", str(programs / "bin" / "theirs"))
    assert f"{programs}/bin/theirs/pasta (not pasta-py)" in runtimes.check()[0].text
    conf.write_text("[engine\n")
    assert runtimes.check()[0].status == "wrong" and runtimes.check()[0].remedy == f"edit {conf}"


def test_rootlesskit_takes_what_is_first_in_the_path(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (programs / "bin" / "podman").rename(programs / "bin" / "rootlesskit")
    assert runtimes.check()[0].text == "it finds no program `pasta` in $PATH"
    monkeypatch.setenv("PATH", f"{programs}/bin:{programs}/bin/ours")
    drop_in = programs / "systemd" / "user" / "docker.service.d"
    drop_in.mkdir(parents=True)
    (drop_in / "net.conf").write_text('[Service]\nEnvironment="DOCKERD_ROOTLESS_ROOTLESSKIT_NET=pasta"\n')
    (found,) = runtimes.check()
    assert found.text == f"--net=pasta takes {programs}/bin/ours/pasta (pasta-py); rootless Docker uses --net=pasta"
    assert runtimes.versions()["rootlesskit"] == "podman version 5.4.2"
