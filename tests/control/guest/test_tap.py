"""The tap: made in a namespace with its offloads, and descriptors given with --fd."""

import fcntl
import os
import re
import socket
import struct

import pytest
from process_helpers import guest

from pasta_py.control.guest import namespaces, syscalls, tap
from pasta_py.errors import HostError, UsageError

_TUNSETIFF = 0x400454CA
_TUNGETIFF = 0x800454D2
_TUNGETVNETHDRSZ = 0x800454D7


def _inside(pid: int, name: str, times: int = 1) -> list[tap.Tap]:
    def job():  # type: ignore[no-untyped-def]
        made = [tap.create(name) for _ in range(times)]
        return tuple((each.vnet_hdr, each.uso, each.tunnels, each.mac) for each in made), [each.fd for each in made]

    target = namespaces.by_pid(pid)
    try:
        values, fds = namespaces.call_inside(target, job)
    finally:
        target.close()
    return [tap.Tap(fd, vnet_hdr=v[0], uso=v[1], tunnels=v[2], mac=v[3]) for fd, v in zip(fds, values, strict=True)]


def test_a_tap_is_made_inside_with_virtio_headers() -> None:
    with guest() as pid:
        (made,) = _inside(pid, "tap7")
        try:
            reply = fcntl.ioctl(made.fd, _TUNGETIFF, bytes(40))
            assert reply[:16].rstrip(b"\0") == b"tap7"
            assert made.vnet_hdr
            assert len(made.mac) == 6 and made.mac[0] & 3 == 2  # unicast, locally administered
            assert not os.get_inheritable(made.fd)
        finally:
            os.close(made.fd)


def test_a_busy_name_is_refused_with_a_hint() -> None:
    with guest() as pid, pytest.raises(HostError, match=r"TUNSETIFF: Device or resource busy: .* -I"):
        _inside(pid, "tap7", times=2)


def _queues(pid: int, name: str, count: int) -> tap.Tap:
    def job():  # type: ignore[no-untyped-def]
        made = tap.create(name, count)
        return (made.vnet_hdr, made.uso, made.mac), made.fds

    target = namespaces.by_pid(pid)
    try:
        (vnet_hdr, uso, mac), fds = namespaces.call_inside(target, job)
    finally:
        target.close()
    return tap.Tap(fds[0], vnet_hdr=vnet_hdr, uso=uso, mac=mac, more=fds[1:])


def test_one_tap_has_as_many_queues_as_asked_for() -> None:
    with guest() as pid:
        made = _queues(pid, "tap7", 16)
        try:
            assert len(made.fds) == 16 and made.vnet_hdr and len(made.mac) == 6
            for fd in made.fds:
                reply = fcntl.ioctl(fd, _TUNGETIFF, bytes(40))
                assert reply[:16].rstrip(b"\0") == b"tap7"
                assert struct.unpack_from("H", reply, 16)[0] & 0x100  # IFF_MULTI_QUEUE
        finally:
            for fd in made.fds:
                os.close(fd)


def test_queues_do_not_join_a_tap_that_is_there() -> None:
    with guest() as pid:
        made = _queues(pid, "tap7", 2)
        try:
            for count in (1, 2):
                with pytest.raises(HostError, match=r"TUNSETIFF: .* -I"):
                    _queues(pid, "tap7", count)
        finally:
            for fd in made.fds:
                os.close(fd)


def test_a_device_that_is_something_else_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tap, "_DEVICE", "/dev/null")
    with pytest.raises(HostError, match=r"Inappropriate ioctl for device: it is another device: sudo rm /dev/net/tun"):
        tap.create("tap7")


def test_an_impossible_name_is_refused() -> None:
    with guest() as pid, pytest.raises(HostError, match=r"'a/b'.*Invalid argument"):
        _inside(pid, "a/b")


def test_a_given_tap_is_taken_as_it_is_set_up() -> None:
    with guest() as pid:
        (made,) = _inside(pid, "tap7")
        adopted = tap.adopt(made.fd)
        try:
            assert (adopted.vnet_hdr, adopted.uso, adopted.tunnels) == (made.vnet_hdr, made.uso, made.tunnels)
            assert adopted.mac == made.mac
        finally:
            os.close(adopted.fd)
            os.close(made.fd)


@pytest.mark.parametrize("missing", ["", "tunnels", "segments of UDP", "everything"])
def test_what_the_kernel_does_not_offer_is_left_out(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    """An offload that no kernel knows stands for one that an older kernel does not know."""
    if missing:
        name = {"tunnels": "_TUNNELS", "segments of UDP": "_USO", "everything": "_TSO"}[missing]
        monkeypatch.setattr(tap, name, 1 << 30)
    with guest() as pid:
        (made,) = _inside(pid, "tap7")
        try:
            header = struct.unpack("i", fcntl.ioctl(made.fd, _TUNGETVNETHDRSZ, bytes(4)))[0]
            assert header == (24 if made.tunnels else 10)
            assert not made.tunnels or (made.uso and not missing)
            assert not made.uso or missing in ("", "tunnels")
        finally:
            os.close(made.fd)


def _device(pid: int, flags: int) -> int:
    def job():  # type: ignore[no-untyped-def]
        fd = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", b"t0", flags))
        return None, [fd]

    target = namespaces.by_pid(pid)
    try:
        return namespaces.call_inside(target, job)[1][0]
    finally:
        target.close()


def test_a_given_tun_device_is_refused() -> None:
    with guest() as pid:
        fd = _device(pid, 0x1001)
        try:
            with pytest.raises(UsageError, match="carries no Ethernet frames"):
                tap.adopt(fd)
        finally:
            os.close(fd)


def test_a_stream_socket_or_file_is_refused_and_a_seqpacket_socket_taken() -> None:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with one, other, pytest.raises(UsageError, match="frames need boundaries"):
        tap.adopt(one.fileno())
    with open(os.devnull) as file, pytest.raises(UsageError, match="frames need boundaries"):
        tap.adopt(file.fileno())
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other:
        adopted = tap.adopt(one.fileno())
        assert (adopted.vnet_hdr, adopted.mac) == (False, b"")
        os.close(adopted.fd)


def test_a_closed_descriptor_is_refused() -> None:
    with pytest.raises(UsageError, match=re.escape("--fd 999: Bad file descriptor")):
        tap.adopt(999)


def test_syscalls_report_the_kernels_reason() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        syscalls.setns(-1, 0)
