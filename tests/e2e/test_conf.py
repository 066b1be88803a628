"""--conf-path and pesto: rules changed while the program runs, with real traffic; clients that are slow, hostile, or two."""

import contextlib
import json
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
import sid
from lab import HOST4, HOST6, NO_PORTS, PATIENCE_S, PROGRAMS, Guest, Lab, program, wait_until

from pasta_py import pesto_protocol

SOCK = "conf.sock"
EMPTY = f"passt/pasta configuration ({SOCK})\n  HOST\n  SPLICE\n"


@contextlib.contextmanager
def running(lab: Lab, *options: str) -> Iterator[Guest]:
    """A guest with a control socket and, unless told otherwise, no ports at all."""
    log = lab.directory / "conf.log"
    log.unlink(missing_ok=True)
    with lab.guest("-c", SOCK, "-l", log, *(options or NO_PORTS)) as guest:
        yield guest


def log_of(lab: Lab) -> str:
    return (lab.directory / "conf.log").read_text()


def pesto(lab: Lab, *words: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    return lab.host.run(program("pesto"), *words, SOCK, check=check)


def ask(lab: Lab, port: int, address: str = HOST4, proto: str = "tcp", space: str = "remote", patience: float = 0) -> object:
    """None if portserve.py answers there, else what came of it."""
    cell = {"proto": proto, "address": address, "port": port, "size": 1000, "patience": patience}
    done = getattr(lab, space).run(sys.executable, PROGRAMS / "portask.py", input=json.dumps([cell]))
    return json.loads(done.stdout)["results"][0]["error"]


@contextlib.contextmanager
def serving(guest: object, *ports: int, where: str = "any") -> Iterator[None]:
    server = guest.start("portserve.py", where, *ports)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        server.process.kill()
        server.process.wait()


def connected(lab: Lab) -> socket.socket:
    """A client of ours at the control socket."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(PATIENCE_S)
    sock.connect(f"{lab.directory}/{SOCK}")
    return sock


def everything(sock: socket.socket) -> bytes:
    """What comes until the other end closes."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := sock.recv(65536):
            data += piece
    return data


@pytest.mark.parametrize("proto", ["tcp", "udp"])
def test_a_rule_is_added_and_deleted(lab: Lab, proto: str) -> None:
    option = f"-{proto[0]}"
    with running(lab) as guest, serving(guest, 7001, 7002):
        assert ask(lab, 7001, proto=proto) == "ECONNREFUSED"
        shown = pesto(lab, "-s", "--add", option, "7001").stdout
        assert f"{proto.upper()} [*]:7001  =>  7001" in shown.partition("Updated")[2]
        for address in (HOST4, HOST6):
            assert ask(lab, 7001, address, proto) is None
        pesto(lab, "-A", option, f"{HOST4}/7003:7002")
        assert ask(lab, 7003, proto=proto) is None
        assert ask(lab, 7003, HOST6, proto) == "ECONNREFUSED"
        pesto(lab, "-D", option, "7001")
        assert ask(lab, 7001, proto=proto) == "ECONNREFUSED"
        assert ask(lab, 7003, proto=proto) is None
        pesto(lab, "-C", "HOST")
        assert pesto(lab).stdout == EMPTY


def test_established_connections_survive_their_rule_and_the_others_swap(lab: Lab) -> None:
    options = ("-t", "7001", "-t", "7002", *NO_PORTS[2:])
    with running(lab, *options) as guest:
        guest.serve("socat", "TCP-LISTEN:7001,fork", "EXEC:cat", port=7001)
        with contextlib.ExitStack() as stack:
            clients = [
                (space, stack.enter_context(space.popen("socat", "-", f"TCP:{address}:7001")))
                for space, address in ((lab.remote, HOST4), (lab.host, "127.0.0.1"))
            ]

            def echo(word: str) -> None:
                for _space, client in clients:
                    assert client.stdin is not None and client.stdout is not None
                    client.stdin.write(word + "\n")
                    client.stdin.flush()
                    assert client.stdout.readline() == word + "\n"

            echo("before")
            pesto(lab, "-A", "-t", "7005")
            echo("another rule")
            pesto(lab, "-D", "-t", "7001")
            assert ask(lab, 7001) == "ECONNREFUSED"
            echo("its own rule")
            pesto(lab, "-t", "none")
            echo("none at all")
            for _space, client in clients:
                client.kill()


def test_an_unchanged_listener_never_refuses_while_others_come_and_go(lab: Lab) -> None:
    options = ("-t", "7001", *NO_PORTS[2:])
    with running(lab, *options) as guest, serving(guest, 7001, 7002):
        cells = [{"proto": "tcp", "address": HOST4, "port": 7001, "size": 100}] * 300
        asking = lab.remote.popen(sys.executable, PROGRAMS / "portask.py")
        assert asking.stdin is not None
        asking.stdin.write(json.dumps(cells))
        asking.stdin.close()
        asking.stdin = None
        swaps = 0
        while asking.poll() is None:
            # The socket stays; where it leads changes.
            pesto(lab, "-t", "7001:7002" if swaps % 2 else "7001", "-u", "7100-7110")
            swaps += 1
        assert asking.stdout is not None
        results = json.loads(asking.stdout.read())["results"]
        assert swaps > 1
        assert {result["error"] for result in results} == {None}


def test_a_port_that_is_taken_changes_nothing_and_is_told(lab: Lab) -> None:
    options = ("-t", "7001", *NO_PORTS[2:])
    with running(lab, *options) as guest, serving(guest, 7001, 7002, 7003), serving(lab.host, 7002):
        before = pesto(lab).stdout
        refused = pesto(lab, "-t", "7003", "-t", "7002", check=False)
        assert refused.returncode == 1
        assert refused.stderr.count("\n") == 1
        assert "nothing was changed: cannot listen on host TCP [*]:7002: Address already in use: another program" in refused.stderr
        refused = pesto(lab, "-A", "-t", "fe80::1/7003", check=False)
        assert "Invalid argument: a link-local address needs its interface (ADDRESS%INTERFACE)" in refused.stderr
        assert "[*]:7002: Address already in use" in log_of(lab)
        assert pesto(lab).stdout == before
        assert ask(lab, 7001) is None
        assert ask(lab, 7003) == "ECONNREFUSED"


def test_a_port_in_another_form_takes_the_place_of_the_old_one_and_goes_back(lab: Lab) -> None:
    options = ("-t", f"{HOST4}/7001", *NO_PORTS[2:])
    with running(lab, *options) as guest, serving(guest, 7001, 7002), serving(lab.host, 7002):
        assert pesto(lab, "-t", "7001", "-t", "7002", check=False).returncode == 1
        assert ask(lab, 7001) is None
        assert ask(lab, 7001, HOST6) == "ECONNREFUSED"
        pesto(lab, "-t", "7001")
        assert ask(lab, 7001, HOST6) is None


def test_privileged_ports_say_why(lab: Lab) -> None:
    with running(lab) as _guest:
        refused = pesto(lab, "-t", "80", check=False)
        assert refused.returncode == 1
        assert "net.ipv4.ip_unprivileged_port_start" in refused.stderr


def test_the_table_splice_reaches_the_hosts_loopback(lab: Lab) -> None:
    with running(lab) as guest, serving(lab.host, 7001, where="loopback"):
        for proto in ("tcp", "udp"):
            pesto(lab, "-A", f"-{proto[0].upper()}", "7011:7001")
            for address in ("127.0.0.1", "::1"):
                cell = [{"proto": proto, "address": address, "port": 7011, "size": 1000}]
                done = guest.run(sys.executable, PROGRAMS / "portask.py", input=json.dumps(cell))
                assert json.loads(done.stdout)["results"][0]["error"] is None
        pesto(lab, "-C", "SPLICE")
        cell = [{"proto": "tcp", "address": "127.0.0.1", "port": 7011, "size": 1}]
        done = guest.run(sys.executable, PROGRAMS / "portask.py", input=json.dumps(cell))
        assert json.loads(done.stdout)["results"][0]["error"] == "ECONNREFUSED"


def test_automatic_rules_come_and_go(lab: Lab) -> None:
    with running(lab) as guest, serving(guest, 7001):
        pesto(lab, "-t", "auto")
        assert ask(lab, 7001, patience=PATIENCE_S) is None
        # In the way of a named port that takes its place.
        pesto(lab, "-t", "7001:7001")
        assert ask(lab, 7001) is None
        pesto(lab, "-t", "auto,~7001")
        wait_until(lambda: ask(lab, 7001) == "ECONNREFUSED", 3, "the excluded port is closed")
        pesto(lab, "-t", "auto")
        assert ask(lab, 7001, patience=PATIENCE_S) is None
        pesto(lab, "-t", "none")
        assert ask(lab, 7001) == "ECONNREFUSED"


def test_a_port_beside_automatic_ones_is_refused_with_the_command_that_works(lab: Lab) -> None:
    with running(lab, "-t", "auto", "-u", "none", "-T", "auto", "-U", "none") as guest:
        for option, port, side in (("-t", "7003", "in the guest"), ("-T", "7100-7102", "on the host")):
            refused = pesto(lab, "-A", option, port, check=False)
            said = f"'{port}' is forwarded already while a program {side} listens there (auto): to forward it always: "
            assert refused.returncode == 1 and said in refused.stderr and len(refused.stderr.splitlines()) == 1
            words = refused.stderr.strip().rpartition(": ")[2].split()
            assert words[0] == "pesto" and words[-1] == "SOCKET"
            pesto(lab, *words[1:-1])
            assert f":{port}  =>  {port}\n" in pesto(lab).stdout
        with serving(guest, 7003):
            assert ask(lab, 7003) is None


def test_rules_are_bound_to_an_interface(lab: Lab) -> None:
    with running(lab) as guest, serving(guest, 7001):
        pesto(lab, "-t", "%lo/7001")
        assert ask(lab, 7001, "127.0.0.1", space="host") is None
        assert ask(lab, 7001) == "ECONNREFUSED"
        refused = pesto(lab, "-t", "%nosuch0/7001", check=False)
        assert refused.returncode == 1
        assert "no interface 'nosuch0'" in refused.stderr
        assert ask(lab, 7001, "127.0.0.1", space="host") is None


def test_best_effort_takes_what_there_is(lab: Lab) -> None:
    with running(lab) as guest, serving(guest, 7001), serving(lab.host, 7002):
        pesto(lab, "-t", f"{HOST4}/all,~1-6999,~7010-65535")
        assert ask(lab, 7001) is None


def test_the_command_lines_rules_are_shown_and_can_be_deleted(lab: Lab) -> None:
    options = ("-t", "127.0.0.1/7001-7003:8001-8003", "-t", "%lo/7010", "-u", "auto,~7020", "-T", "7030", "-U", "none")
    with running(lab, *options):
        shown = pesto(lab).stdout
        assert "TCP [127.0.0.1]:7001-7003  =>  8001-8003\n" in shown
        assert "TCP [*]%lo:7010  =>  7010\n" in shown
        assert "UDP [*]:1-7019  =>  1-7019  (best effort) (auto-scan)\n" in shown
        assert shown.endswith("  SPLICE\n    TCP [*]%lo:7030  =>  7030\n")
        missing = pesto(lab, "-D", "-t", "127.0.0.1/7001:8001", check=False)
        assert missing.returncode == 1 and "no rule TCP [127.0.0.1]:7001  =>  8001" in missing.stderr
        pesto(lab, *("-D", *options[:-4], "-T", "7030"))
        assert pesto(lab).stdout == EMPTY


@pytest.mark.parametrize("server", ["ours", "passt's"])
def test_the_listing_is_that_of_passts_pesto(lab: Lab, server: str) -> None:
    """But for blanks at the ends of lines."""
    ports = ("-t", "7001:8001", "-t", "127.0.0.1/7002-7004", "-t", "%eth0/7005", "-t", "::/7006:fd00::9/80")
    ports += ("-u", "0.0.0.0/7007:192.0.2.5/7008", "-u", "auto,~7000-7999", "-T", "7009,auto", "-U", "7010")

    def shown(client: object, *words: str) -> list[str]:
        return [line.rstrip() for line in lab.host.run(client, *words, SOCK).stdout.splitlines()]

    with lab.guest("-c", SOCK, *ports, peer=None if server == "ours" else sid.program("passt", "pasta")):
        passts = sid.program("passt", "pesto")
        theirs = shown(passts)
        assert len(theirs) > 10 and "    TCP [*]:7001  =>  8001" in theirs
        assert shown(program("pesto")) == shown(program("pesto"), "-s") == theirs
        assert shown(program("pesto"), "-A") == shown(passts, "-A") == []
        ours = shown(program("pesto"), "-s", "-A", "-t", "7050")
        shown(program("pesto"), "-D", "-t", "7050")
        assert ours == shown(passts, "-s", "-A", "-t", "7050")
        assert {f"Previous configuration ({SOCK})", f"Updated configuration ({SOCK})"} < set(ours)


# ---- the socket ----


@pytest.mark.option("--conf-path")
def test_the_socket_is_its_owners_alone(lab: Lab) -> None:
    with running(lab):
        mode = (lab.directory / SOCK).stat().st_mode
        assert stat.S_IMODE(mode) == 0o600


def test_a_stale_socket_is_replaced_and_a_live_one_is_not(lab: Lab) -> None:
    with running(lab):
        pass
    assert (lab.directory / SOCK).exists()
    with running(lab):
        second = lab.host.run(program(), "--config-net", "-c", SOCK, *NO_PORTS, "--", "true", check=False)
        assert second.returncode == 1
        assert second.stderr.count("\n") == 1
        assert "another program listens there" in second.stderr
        pesto(lab)


@pytest.mark.parametrize(
    ("path", "why"),
    [("plain", "something else than a socket"), ("no/such", "No such file"), ("x" * 120, "longer than 107 bytes")],
)
def test_a_path_that_cannot_be_had_is_one_line(lab: Lab, path: str, why: str) -> None:
    (lab.directory / "plain").write_text("")
    done = lab.host.run(program(), "--config-net", "-c", path, *NO_PORTS, "--", "true", check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and why in done.stderr
    assert (lab.directory / "plain").exists()


# ---- clients ----


def test_a_stalled_client_holds_up_neither_traffic_nor_the_next_client_for_ever(lab: Lab) -> None:
    with running(lab, "-t", "7001", *NO_PORTS[2:]) as guest, serving(guest, 7001), connected(lab) as stalled:
        stalled.sendall(b"\x01\x00")
        assert ask(lab, 7001) is None
        with connected(lab) as second:
            assert len(everything_of(second)) > pesto_protocol.HELLO_BYTES  # after its turn came
        assert ask(lab, 7001) is None
        assert "it is let go" in log_of(lab)
        everything(stalled)  # and it was closed


def everything_of(sock: socket.socket) -> bytes:
    """One whole show, without asking for a change."""
    data = sock.recv(65536)
    sock.shutdown(socket.SHUT_WR)
    return data + everything(sock)


def test_two_clients_are_served_one_after_the_other(lab: Lab) -> None:
    with running(lab), connected(lab) as first:
        assert first.recv(65536)
        second = lab.host.popen(program("pesto"), "-A", "-t", "7002", SOCK)
        time.sleep(0.3)
        assert second.poll() is None
        first.sendall(pesto_protocol.write_update({pesto_protocol.HOST: [], pesto_protocol.SPLICE: []}))
        assert everything(first) == b""
        assert second.wait(30) == 0
        assert "7002" in pesto(lab).stdout


NONSENSE = (
    b"GET / HTTP/1.0\r\n\r\n",
    b"\x02" + bytes(100),
    b"\x01\x00\x01\x00\x00" + bytes(56 * 65536),  # a flood of rules
    b"\x01\xff\xff\xff\xff",
    b"\x01\x00\x00\x00\x01" + bytes(56) + b"\0",
    b"\x01\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00",  # a table twice
    b"\x00\x00",  # more than an update
    b"\x01\x00\x00\x00\x05" + b"\xff" * 279,  # rules cut short, and wrong
)


def test_nonsense_and_floods_change_nothing(lab: Lab) -> None:
    with running(lab, "-t", "7001", *NO_PORTS[2:]) as guest, serving(guest, 7001):
        before = pesto(lab).stdout
        translator = lab.translator()
        memory = translator.rss_kib()
        for data in NONSENSE * 3:
            with connected(lab) as sock, contextlib.suppress(BrokenPipeError, ConnectionResetError):
                sock.sendall(data)
                everything(sock)
        assert pesto(lab).stdout == before
        assert ask(lab, 7001) is None
        assert translator.rss_kib() < memory + 2048
        assert log_of(lab).count("control socket: ") >= len(NONSENSE) * 3


def rule(first: int, last: int, address: bytes = bytes(16), flags: int = pesto_protocol.DUAL_STACK) -> bytes:
    ports = b"".join(port.to_bytes(2, "big") for port in (first, last, first))
    return address + bytes(32) + ports + bytes([6, flags])


def test_rules_for_more_ports_than_there_can_be_are_refused(lab: Lab) -> None:
    with running(lab) as guest, serving(guest, 7001):
        many = [rule(1, 65535, bytes(12) + i.to_bytes(4, "big"), pesto_protocol.WEAK) for i in range(1, pesto_protocol.MAX_RULES)]
        with connected(lab) as sock, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            sock.recv(65536)
            sock.sendall(pesto_protocol.write_update({pesto_protocol.HOST: many}))
            everything(sock)
        assert "more than 262140 ports" in log_of(lab)
        pesto(lab, "-t", "7001")
        assert ask(lab, 7001) is None


def test_as_many_rules_as_are_allowed_are_taken_and_shown(lab: Lab) -> None:
    with running(lab) as guest, serving(guest, 10000):
        many = [rule(port, port) for port in range(10000, 10000 + pesto_protocol.MAX_RULES)]
        with connected(lab) as sock:
            sock.sendall(pesto_protocol.write_update({pesto_protocol.HOST: many}))
            everything(sock)
        assert ask(lab, 10000) is None
        before = lab.translator().descriptors()
        assert pesto(lab).stdout.count("TCP [*]:") == pesto_protocol.MAX_RULES
        pesto(lab, "-t", "none")
        wait_until(lambda: before - lab.translator().descriptors() == pesto_protocol.MAX_RULES, 5, "their sockets are closed")
        assert ask(lab, 10000) == "ECONNREFUSED"


def test_no_descriptor_is_lost(lab: Lab) -> None:
    with running(lab) as guest, serving(guest, 7001), serving(lab.host, 7009):
        pesto(lab, "-C", "HOST", "-C", "SPLICE")  # a change is told by the end of its connection: that one is closed by now
        before = lab.translator().descriptors()
        for _ in range(5):
            pesto(lab, "-t", "7001-7008", "-u", "7001-7008", "-T", "7050")
            assert pesto(lab, "-A", "-t", "7020", "-t", "7009", check=False).returncode == 1
            pesto(lab, "-C", "HOST", "-C", "SPLICE")
        assert lab.translator().descriptors() == before
