"""A resolv.conf of a command's own, over any shape of the host's, and after the host has replaced that."""

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from network_helpers import in_new_namespace

from pasta_py.control.guest import syscalls
from pasta_py.control.guest.own_resolv_conf import OwnResolv
from pasta_py.control.planning.resolv_conf import View

ROOT = "/mnt"  # of the host's files here
PATH = f"{ROOT}/etc/resolv.conf"
OURS = "nameserver 169.254.1.1\n"
STUB = f"{ROOT}/run/resolve/stub.conf"
_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_SHARED = 0x1, 0x20, 0x1000, 0x100000


def _text(path: str) -> str | None:
    """Without the comment at its head."""
    try:
        with open(path) as file:
            return "".join(line for line in file if line[:1] != "#")
    except (FileNotFoundError, NotADirectoryError):
        return None


def _write(path: str, text: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)


def _replace(path: str, text: str) -> None:
    _write(f"{path}.new", text)
    os.rename(f"{path}.new", path)


def _private() -> None:
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("", "/", "", syscalls.MS_SLAVE | syscalls.MS_REC)


class Command:
    """A process in a mount namespace of its own, that has been given a resolv.conf and looks after it."""

    def __init__(self, *, shares: bool = False) -> None:
        asked, self._ask = os.pipe()
        self._answer, answering = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._ask)
            try:
                self._run(asked, answering, shares)
            finally:
                os._exit(1)
        os.close(answering)
        assert self._line() == "started"

    def _run(self, asked: int, answering: int, shares: bool) -> None:
        _private()
        if shares:
            syscalls.mount("", "/", "", _MS_SHARED | syscalls.MS_REC)
        own = OwnResolv(View(forwarder="169.254.1.1"), PATH)
        own.start()
        os.write(answering, b"started\0")
        while path := os.read(asked, 4096).decode():
            if signal.sigtimedwait((signal.SIGIO,), 0):
                own.changed()
            os.write(answering, f"{_text(path)}\0".encode())

    def _line(self) -> str:
        text = b""
        while not text.endswith(b"\0"):
            part = os.read(self._answer, 4096)
            assert part, "the command has ended"
            text += part
        return text[:-1].decode()

    def reads(self, path: str = PATH) -> str:
        os.write(self._ask, path.encode())
        return self._line()


def _on_a_host(case: Callable[[], Any]) -> Any:
    def job() -> Any:
        _private()
        syscalls.mount("tmpfs", ROOT, "tmpfs", 0, "mode=755")
        syscalls.mount("", ROOT, "", _MS_SHARED)
        os.mkdir(f"{ROOT}/etc")
        return case()

    return in_new_namespace(job)


def _link(target: str, path: str = PATH) -> None:
    os.symlink(target, path)


SHAPES: dict[str, Callable[[], None]] = {
    "file": lambda: _write(PATH, "nameserver 127.0.0.53\n"),
    "empty": lambda: _write(PATH, ""),
    "relative link": lambda: (_write(STUB, "nameserver 127.0.0.53\n"), _link("../run/resolve/stub.conf"))[0],
    "absolute link": lambda: (_write(STUB, "nameserver 127.0.0.53\n"), _link(STUB))[0],
    "two links": lambda: (
        _write(STUB, "nameserver 127.0.0.53\n"),
        _link("resolve/stub.conf", f"{ROOT}/run/resolv.conf"),
        _link("../run/resolv.conf"),
    )[0],
}


@pytest.mark.parametrize("shape", SHAPES)
def test_ours_is_over_the_hosts_and_the_host_sees_nothing_of_it(shape: str) -> None:
    def case() -> tuple[str, str | None]:
        SHAPES[shape]()
        before = _text(PATH)
        seen = Command().reads()
        assert _text(PATH) == before
        return seen, before

    assert _on_a_host(case)[0] == OURS


@pytest.mark.parametrize("shape", SHAPES)
def test_ours_is_there_again_after_the_host_has_replaced_its_own(shape: str) -> None:
    def case() -> list[str]:
        SHAPES[shape]()
        command = Command()
        seen = [command.reads()]
        for domain in ("one", "two"):
            _replace(os.path.realpath(PATH), f"nameserver 127.0.0.53\nsearch {domain}.test\n")
            seen.append(command.reads())
        _write(PATH, "search three.test\n")  # in place
        seen.append(command.reads())
        os.unlink(PATH)  # perhaps a link
        seen.append(command.reads())
        _replace(PATH, "nameserver 192.0.2.53\n")
        seen.append(command.reads())
        return seen

    searching = [f"{OURS}search {domain}.test\n" for domain in ("one", "two", "three")]
    assert _on_a_host(case) == [OURS, *searching, "None", "nameserver 192.0.2.53\n"]


def test_a_file_that_is_missing_is_waited_for_and_never_made() -> None:
    def case() -> list[str]:
        _link("../run/resolve/stub.conf")
        command = Command()
        seen = [command.reads()]
        assert not os.path.exists(f"{ROOT}/run")
        for directory in ("run", "run/resolve"):
            os.mkdir(f"{ROOT}/{directory}")
            seen.append(command.reads())
        _replace(STUB, "nameserver 127.0.0.53\n")
        seen.append(command.reads())
        os.unlink(STUB)
        os.rmdir(os.path.dirname(STUB))
        seen.append(command.reads())
        _write(STUB, "nameserver 127.0.0.53\n")
        seen.append(command.reads())
        os.unlink(PATH)
        seen.append(command.reads())
        assert os.listdir(f"{ROOT}/etc") == []
        return seen

    assert _on_a_host(case) == ["None", "None", "None", OURS, "None", OURS, "None"]


def test_what_is_no_regular_file_is_left_alone() -> None:
    def case() -> tuple[str, str]:
        _link("/dev/null")
        command = Command()
        return command.reads(), command.reads("/proc/self/mountinfo")

    text, mounts = _on_a_host(case)
    assert text == "" and "/dev/null" not in mounts


def test_a_read_only_host_is_no_hindrance() -> None:
    def case() -> str:
        _write(PATH, "nameserver 127.0.0.53\n")
        syscalls.mount("", ROOT, "", _MS_REMOUNT | _MS_RDONLY)
        return Command().reads()

    assert _on_a_host(case) == OURS


def test_a_host_whose_file_is_a_mount_changes_it_in_place() -> None:
    def case() -> list[str]:
        for path in (f"{ROOT}/elsewhere", PATH):
            _write(path, "nameserver 127.0.0.53\n")
        syscalls.mount(f"{ROOT}/elsewhere", PATH, "", _MS_BIND)
        command = Command()
        seen = [command.reads()]
        _write(f"{ROOT}/elsewhere", "search one.test\n")
        return [*seen, command.reads()]

    assert _on_a_host(case) == [OURS, f"{OURS}search one.test\n"]


def test_nothing_of_it_shows_in_a_command_that_shares_its_mounts() -> None:
    def case() -> tuple[str, str]:
        _write(PATH, "nameserver 127.0.0.53\n")
        command = Command(shares=True)
        _replace(PATH, "nameserver 127.0.0.53\n")
        return command.reads(), command.reads("/proc/self/mountinfo")

    text, mounts = _on_a_host(case)
    assert text == OURS and [line.split()[4] for line in mounts.splitlines() if f" {ROOT}/etc" in line] == [PATH]
