"""Listening sockets that others have a hand in: one that is shut down by a process that shares it, a helper that is late."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import resource
import select
import socket
import threading
import time

import pytest
from guest import Guest, mapped, server

from pasta_py.model import IPPROTO_TCP, Listener
from pasta_py.worker import plane

IDLE_S = 0.4


def idle(guest: Guest) -> float:
    """Processor time of a core that has nothing to do for a while."""
    guest.plane.tick(int(IDLE_S * 1000))
    before = time.process_time()
    kind = 0
    while kind != plane.TICK:
        kind, _, data = guest.plane.run()
        if kind == plane.LOG:
            guest.logs.append(data.decode())
    guest.plane.tick(0)
    return time.process_time() - before


def test_a_listener_that_another_process_shuts_down_does_not_keep_the_core_busy() -> None:
    with Guest() as guest, server() as listener, listener.dup() as shared:
        guest.listen(IPPROTO_TCP, listener, 8080)
        calm = idle(guest)
        shared.shutdown(socket.SHUT_RD)  # systemd's copy of an inherited socket
        assert idle(guest) < calm + IDLE_S / 2
        assert [line for line in guest.logs if "was shut down by another process" in line]
        guest.plane.remove_listener(listener.fileno())


def test_an_answer_of_the_helper_that_comes_too_late_is_not_taken_for_the_next_one() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    made: list[socket.socket] = []
    late = threading.Event()

    def helper() -> None:
        """Answers the first request when it may."""
        for _ in range(2):
            theirs.recv(1000)
            late.wait()
            sock = socket.socket()
            sock.bind(("127.0.0.1", 0))
            made.append(sock)
            socket.send_fds(theirs, [bytes(4)], [sock.fileno()])

    thread = threading.Thread(target=helper)
    with Guest() as guest, ours, theirs:
        guest.plane.set_helper(ours.fileno())
        thread.start()
        with pytest.raises(TimeoutError):
            guest.plane.listen_in_guest(IPPROTO_TCP, mapped("127.0.0.1"), 1)
        late.set()
        select.select([ours], [], [])
        fd = guest.plane.listen_in_guest(IPPROTO_TCP, mapped("127.0.0.1"), 2)
        thread.join()
        with contextlib.ExitStack() as stack:
            for sock in made:
                stack.enter_context(sock)
            assert os.fstat(fd).st_ino == os.fstat(made[1].fileno()).st_ino
            os.close(fd)


FIRST_FD, PORTS = 700, 24


@pytest.mark.parametrize("seed", range(4))
def test_consecutive_ports_lead_where_they_should_whatever_is_removed_and_added(seed: int) -> None:
    """Ports whose descriptors follow each other are one listener inside: any of them may go, and come back."""
    chance = random.Random(seed)
    with Guest() as guest, contextlib.ExitStack() as stack:
        sockets = []
        for number in range(PORTS):
            made = stack.enter_context(server())
            made.setblocking(False)
            assert os.dup2(made.fileno(), FIRST_FD + number) == FIRST_FD + number
            stack.callback(os.close, FIRST_FD + number)
            sockets.append(made)
        fds = list(range(FIRST_FD, FIRST_FD + PORTS))
        whole = Listener(proto=IPPROTO_TCP, port=1, target=b"", target_port=8000, count=PORTS)
        guest.plane.add_listeners(whole, fds)
        there = set(range(PORTS))
        for _ in range(40):
            number = chance.randrange(PORTS)
            if number in there:
                guest.plane.remove_listener(fds[number])
            else:
                guest.plane.add_listeners(whole, [fds[number]], offset=number)
            there ^= {number}
        with pytest.raises(OSError):
            guest.plane.remove_listener(FIRST_FD + PORTS)
        clients = []
        for listening in sockets:
            client = stack.enter_context(socket.create_connection(listening.getsockname()))
            clients.append(client.getsockname()[1])  # two may have the same, to different ports
        syns = {(segment.sport, segment.dport) for segment in guest.wait_segments(len(there))}
        assert syns == {(clients[number], 8000 + number) for number in there}


MANY, MORE_THAN = 2000, 20


def test_a_range_of_ports_goes_from_either_end_at_the_same_cost() -> None:
    """Programs that forward a range close it from its first port on; new tags for all others each time would take seconds."""
    fds = list(range(FIRST_FD, FIRST_FD + MANY))
    many = Listener(proto=IPPROTO_TCP, port=1, target=b"", target_port=8000, count=MANY)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(limits[1], 2 * MANY), limits[1]))
    took = []
    with server() as listening, Guest() as guest, contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        for fd in fds:
            os.dup2(listening.fileno(), fd)
            stack.callback(os.close, fd)
        for order in (fds[::-1], fds):
            guest.plane.add_listeners(many, fds)
            begun = time.process_time()
            for fd in order:
                guest.plane.remove_listener(fd)
            took.append(time.process_time() - begun)
    assert took[1] < MORE_THAN * took[0], took


class Heap(ctypes.Structure):
    """struct mallinfo2 of mallinfo(3)."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "mapped", "usmblks", "fsmblks", "used", "free", "keepcost")
    ]


MALLINFO = ctypes.CDLL(None).mallinfo2
MALLINFO.restype = Heap


def heap_bytes() -> int:
    """What malloc has given out."""
    found = MALLINFO()
    return int(found.used + found.mapped)


def test_a_port_in_the_middle_of_others_goes_without_memory() -> None:
    """Whoever removes a listener closes it, so that there is no way to refuse it."""
    fds = list(range(FIRST_FD, FIRST_FD + 300))
    with server() as listening, contextlib.ExitStack() as stack:
        listening.setblocking(False)
        for fd in fds:
            os.dup2(listening.fileno(), fd)
            stack.callback(os.close, fd)
        for _ in range(2):  # what Python itself takes, it has the second time
            with Guest() as guest:
                many = Listener(proto=IPPROTO_TCP, port=1, target=b"", target_port=8000, count=len(fds))
                guest.plane.add_listeners(many, fds)
                before = heap_bytes()
                for fd in fds[1::2]:
                    guest.plane.remove_listener(fd)
                taken = heap_bytes() - before
                for fd in fds[::2]:
                    guest.plane.remove_listener(fd)
    assert taken < 1000  # a listener has 28
