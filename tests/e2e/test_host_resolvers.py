"""Names in a guest whose resolv.conf names a resolver on the host's loopback: dnsmasq at one address alone, systemd-resolved."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import REMOTE4, Guest, Lab, Space, wait_until

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import sid

NAME, BIG_NAME = "service.example", "big.example"
WEB_PORT, PAGE = 8000, "from the remote machine"
RECORDS = [f"{number:03d}{'x' * 200}" for number in range(12)]  # together more than a packet of 1500 bytes
QUESTIONS = {
    "UDP": (NAME, "A"),
    "TCP": (NAME, "A", "+tcp"),
    "truncated, then TCP": (BIG_NAME, "TXT", "+noedns"),
    "EDNS": (BIG_NAME, "TXT", "+bufsize=8192"),
}
RESOLVED_ADDRESS = "127.0.0.53"
RESOLVED = f"""\
[Resolve]
DNS={REMOTE4}
Domains=~.
DNSSEC=no
LLMNR=no
MulticastDNS=no
"""


def name_server(space: Space, address: str) -> "subprocess.Popen[str]":
    """dnsmasq at one address alone. Port 53 of the lab's host is privileged."""
    options = [
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--bind-interfaces",
        f"--listen-address={address}",
        "--edns-packet-max=8192",
        f"--host-record={NAME},{REMOTE4}",
        *(f"--txt-record={BIG_NAME},{record}" for record in RECORDS),
        "--pid-file=",
        "--user=",
        "--group=",
    ]
    process = space.popen("dnsmasq", *options, caps=True)
    wait_for(process, space, address)
    return process


def wait_for(process: "subprocess.Popen[str]", space: Space, address: str) -> None:
    """Return when the resolver answers."""
    wait_until(lambda: process.poll() is not None or dig(space, address, NAME) == [REMOTE4], 10, f"a resolver at {address}")
    assert process.poll() is None, process.communicate()


def dig(space: Space, address: str, *question: str) -> list[str]:
    """The records of the answer, sorted; complaints are among them."""
    return sorted(space.run("dig", f"@{address}", "+short", "+tries=2", "+time=5", *question, check=False).stdout.splitlines())


def resolved(lab: Lab) -> "subprocess.Popen[str]":
    """systemd-resolved, which asks a name server on the remote machine."""
    made = [f"/run/systemd{below}" for below in ("", "/resolve", "/resolved.conf.d")]  # the first two are its unit's affair
    lab.host.run("mkdir", "-p", "-m", "777", *made, caps=True)
    lab.host.run("sh", "-c", f"cat > {made[-1]}/lab.conf", input=RESOLVED)
    process = lab.host.popen(sid.program("systemd-resolved", "systemd-resolved"), caps=True)
    wait_for(process, lab.host, RESOLVED_ADDRESS)
    return process


@contextlib.contextmanager
def resolver(lab: Lab, where: str) -> Iterator[str]:
    """A resolver on the host's loopback, and its address."""
    with contextlib.ExitStack() as stack:

        def kept(process: "subprocess.Popen[str]") -> None:
            stack.callback(process.communicate)
            stack.callback(process.terminate)

        if where == "systemd-resolved":
            kept(name_server(lab.remote, REMOTE4))
            kept(resolved(lab))
            yield RESOLVED_ADDRESS
        else:
            kept(name_server(lab.host, where))
            yield where


@pytest.fixture(scope="module")
def page(lab: Lab) -> None:
    """At the service, on the remote machine."""
    pages = lab.directory / "pages"
    pages.mkdir(mode=0o755)
    (pages / "index.html").write_text(PAGE)
    lab.remote.serve(sys.executable, "-m", "http.server", "--bind", REMOTE4, "--directory", pages, WEB_PORT, port=WEB_PORT)


@pytest.fixture(params=["127.0.0.53", "127.0.1.1", "::1", "systemd-resolved"])
def named(lab: Lab, page: None, request: pytest.FixtureRequest) -> Iterator[str]:
    with resolver(lab, request.param) as address:
        lab.resolv(f"nameserver {address}\n")
        yield address
        lab.resolv("")


def check_names(guest: Guest, address: str) -> None:
    """Every kind of question gets what the host gets, and programs find the service."""
    for what, question in QUESTIONS.items():
        got = dig(guest, address, *question)
        assert got == dig(guest.lab.host, address, *question), what
        assert len(got) == (len(RECORDS) if BIG_NAME in question else 1), what
    assert guest.run("getent", "ahostsv4", NAME).stdout.split()[0] == REMOTE4
    assert guest.run("curl", "-sS", "--max-time", "20", f"http://{NAME}:{WEB_PORT}/").stdout == PAGE


@pytest.mark.parametrize("ways", [(), ("-T", "53", "-U", "53")], ids=["auto", "given"])
def test_names_by_a_resolver_on_the_hosts_loopback(lab: Lab, named: str, ways: tuple[str, ...]) -> None:
    """The guest's resolv.conf is the host's."""
    with lab.guest("-t", "none", "-u", "none", *ways) as guest:
        check_names(guest, named)
