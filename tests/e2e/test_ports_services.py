"""Ports in use: a web server's log, many peers, endpoint independence, inherited sockets, refusals at the start."""

import json
import re
import sys

import pytest
from lab import HOST4, HOSTS, NO_PORTS, PROGRAMS, REMOTE4, REMOTES, Guest, Lab, program, tool, wait_until, wire
from ports import FAMILIES, PROTOS, SEEN, Cell, ask, faults, judge

ONLY_T = ("-u", "none", "-T", "none", "-U", "none")
OTHER4, OTHER6 = "203.0.113.2", "2001:db8:f::2"  # the host's, on a second device


def nginx_in_guest(lab: Lab, guest: Guest, port: int) -> None:
    conf = lab.directory / "guest-nginx.conf"
    paths = "".join(f"{n}_temp_path {lab.directory}/{n};" for n in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    conf.write_text(
        f"daemon off; master_process off; user root root; pid {lab.directory}/guest-nginx.pid; events {{}}\n"
        f"http {{ log_format peer '$remote_addr $request_uri'; access_log {lab.directory}/peers.log peer; {paths}\n"
        f"server {{ listen {port}; listen [::]:{port}; location / {{ return 200 'hello'; }} }} }}\n"
    )
    guest.serve("nginx", "-c", conf, "-p", lab.directory, "-e", f"{lab.directory}/guest-nginx.log", port=port)


def test_a_web_server_logs_its_clients_own_addresses() -> None:
    """Of both families, an ordinary user, a device-bound rule; at another device's address the request is refused."""
    with Lab() as lab:
        wire(lab, name="eth1", peer="eth1")
        lab.host.setup(f"addr add {OTHER4}/24 dev eth1\naddr add {OTHER6}/64 dev eth1 nodad")
        lab.remote.setup("addr add 203.0.113.10/24 dev eth1\naddr add 2001:db8:f::10/64 dev eth1 nodad")
        with lab.guest("-t", "%eth0/8080:80", *ONLY_T) as guest:
            nginx_in_guest(lab, guest, 80)
            for family in FAMILIES:
                url = f"http://[{HOSTS[6]}]:8080/v6" if family == 6 else f"http://{HOST4}:8080/v4"
                done = lab.remote.run("curl", "-sS", "-g", "--max-time", 20, "--interface", REMOTES[family], url)
                assert done.stdout == "hello"
            for url in (f"http://{OTHER4}:8080/", f"http://[{OTHER6}]:8080/"):
                done = lab.remote.run("curl", "-sS", "-g", "--max-time", 20, url, check=False)
                assert done.returncode == 7, done  # curl: no connection
            log = lab.directory / "peers.log"
            wait_until(lambda: len(log.read_text().splitlines()) >= 2, 5, "two lines in nginx's log")
            assert log.read_text().splitlines() == [f"{REMOTES[4]} /v4", f"{REMOTES[6]} /v6"]


PEERS = """
import socket, sys
address, port, source, count = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
socks = []
for index in range(count):
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.settimeout(20)
    sock.bind((source, 0))
    sock.connect((address, port))
    sock.send(b"%d" % index)
    if index % 20 == 19:
        for at, each in enumerate(socks[-19:] + [sock], index - 19):
            assert each.recv(100) == b"%d" % at
    socks.append(sock)
for index, sock in enumerate(socks):
    sock.send(b"again %d" % index)
    assert sock.recv(100) == b"again %d" % index
print("{}")
"""


@pytest.mark.parametrize("family", FAMILIES)
def test_many_peers_on_one_udp_port(lab: Lab, family: int) -> None:
    """400 peers at once; connected sockets take answers only from the address and port that they asked."""
    with lab.guest("-u", 7400, "-t", "none", "-T", "none", "-U", "none") as guest:
        server = guest.start("portserve.py", "any", "udp", 7400)
        words = ("-c", PEERS, HOSTS[family], 7400, REMOTES[family], 400)
        assert lab.remote.run(sys.executable, *words).stdout == "{}\n"
        server.result()


ONE_PORT = """
import json, socket, sys
port, addresses = int(sys.argv[1]), sys.argv[2:]
sock = socket.socket(socket.AF_INET6 if ":" in addresses[0] else socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(20)
sock.bind(("", 7450))
seen = []
for address in addresses * 2:
    sock.sendto(b"who", (address, port))
    data, peer = sock.recvfrom(1000)
    assert peer[:2] == (address, port), peer
    seen.append(json.loads(data)["peer"])
print(json.dumps(seen))
"""


@pytest.mark.parametrize("family", FAMILIES)
def test_two_remotes_see_one_port_of_the_guest_as_one(lab: Lab, family: int) -> None:
    """Endpoint-independent mapping (RFC 4787, 4.1)."""
    second = {4: "192.0.2.11", 6: "2001:db8::11"}[family]
    lab.remote.setup(f"addr add {second}/{24 if family == 4 else '64'} dev eth0{'' if family == 4 else ' nodad'}")
    servers = [lab.remote.start("portserve.py", address, "udp", 7451) for address in (REMOTES[family], second)]
    with lab.guest(*NO_PORTS) as guest:
        out = guest.run(sys.executable, "-c", ONE_PORT, 7451, REMOTES[family], second).stdout
        peers = {(address, port) for address, port in json.loads(out)}
        assert len(peers) == 1 and next(iter(peers))[0] == HOSTS[family]
    for server in servers:
        server.result()


def test_inherited_sockets_are_forwarded(lab: Lab) -> None:
    """By the number in their name, or to their own port; clients keep their addresses."""
    sockets = ("web-8080=tcp/::/7500", f"plain=tcp/{HOST4}/7501", "dns-8053=udp/0.0.0.0/7502")
    token = "guest-inherited"
    command = (
        program(),
        "--config-net",
        *NO_PORTS,
        "--",
        tool(),
        "hold",
        token,
    )
    process = lab.host.popen(sys.executable, PROGRAMS / "listen_fds.py", *sockets, "--", *command)
    assert process.stdout and process.stdin and process.stderr
    assert process.stdout.readline() == "held\n", process.communicate(timeout=30)[1]
    guest = Guest(lab, process, lab.held("hold", token))
    server = guest.start("portserve.py", "any", 8080, 7501, 8053)
    cells = [Cell("inherited", "remote", "tcp", family, 7500, answered=True) for family in FAMILIES]
    cells += [Cell("inherited", "remote", "tcp", 4, 7501, answered=True)]
    cells += [Cell("inherited", "remote", "udp", 4, 7502, answered=True)]
    results = ask(lab.remote, cells)
    assert not [f"{c}: {w}" for c, r in zip(cells, results, strict=True) for w in judge(c, r, SEEN["remote"])]
    local = [Cell("inherited", "host", "tcp", 4, 7501, answered=True)]
    assert not faults(lab, local, SEEN)
    server.result()
    process.stdin.close()
    assert process.wait(30) == 0


REFUSED = (
    (("-t", "0"), "0"),
    (("-t", "8080-8070"), "8080-8070"),
    (("-t", "auto", "-t", "8080"), "8080"),
    (("-t", "8080", "-t", "127.0.0.1/8080"), "8080"),
    (("-t", "127.0.0.1/8080,::1/8081"), "::1/8081"),
    (("-t", "8080", "-t", "none"), "none"),
    (("-T", "127.0.0.1/8080"), "127.0.0.1/8080"),
    (("-t", "%nonesuch/8080"), "nonesuch"),
    (("-t", f"{REMOTE4}/8080"), REMOTE4),
)


@pytest.mark.parametrize(
    ("words", "named"), REFUSED, ids=lambda value: " ".join(value) if isinstance(value, tuple) else None
)
@pytest.mark.parametrize("proto", PROTOS)
def test_what_is_refused_at_the_start(lab: Lab, words: tuple[str, ...], named: str, proto: str) -> None:
    """With status 1 and a line that quotes it; what is wrong with the command line is followed by the usage."""
    words = tuple(re.sub("^-t$", "-u", re.sub("^-T$", "-U", word)) if proto == "udp" else word for word in words)
    done = lab.host.run(program(), *words, "--", "true", check=False)
    assert done.returncode == 1
    line, *more = done.stderr.splitlines()
    assert named in line
    assert not more or (more[0].startswith("Usage:") and "--help" in more[-1])
