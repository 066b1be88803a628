"""Names that are verified, beside an inspector or a proxy, with threads, and when rules change: haproxy, microsocks, tinyproxy."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator

import pytest
import test_verified_names as verified
from lab import FAR4, FAR6, NO_PORTS, Guest, Lab, wait_until
from test_egress_live import Live, ended, live

lab = verified.lab

INSPECTOR, SOCKS, HTTP = 8443, 1080, 3128
#: Passes on to where the PROXY header says.
HAPROXY = f"""
global
  log stdout format raw local0
defaults
  mode tcp
  log global
  log-format "to %[dst] %[dst_port]"
  timeout client 20s
  timeout server 20s
  timeout connect 20s
frontend inspector
  bind 127.0.0.1:{INSPECTOR} accept-proxy
  default_backend there
backend there
  server original 0.0.0.0:0
"""
TINYPROXY = f"Port {HTTP}\nListen {FAR4}\nConnectPort 80\nConnectPort 443\nDisableViaHeader Yes\n"
WAYS = {
    "straight": (),
    "haproxy": ("--redirect", f"*:443@127.0.0.1:{INSPECTOR}+proxy-v2", "--redirect", f"*:80@127.0.0.1:{INSPECTOR}+proxy-v2"),
    "microsocks": ("--proxy", f"socks5://{FAR4}:{SOCKS}"),
    "tinyproxy": ("--proxy", f"http://{FAR4}:{HTTP}"),
}


@pytest.fixture(scope="module", autouse=True)
def middle(lab: Lab) -> None:
    verified.nameserver(lab.remote, lab.directory / "queries of the proxies")
    (lab.directory / "haproxy.cfg").write_text(HAPROXY)
    command = f"exec haproxy -db -f {lab.directory}/haproxy.cfg >{lab.directory}/inspected"
    lab.host.serve("sh", "-c", command, port=INSPECTOR)
    lab.remote.serve("microsocks", "-i", FAR4, "-p", SOCKS, port=SOCKS)
    (lab.directory / "tinyproxy.conf").write_text(TINYPROXY)
    lab.remote.serve("tinyproxy", "-d", "-c", lab.directory / "tinyproxy.conf", port=HTTP)


def curl(lab: Lab, guest: Guest, *words: str) -> "subprocess.CompletedProcess[str]":
    more = ("--cacert", lab.directory / "cert.pem", "-H", "Connection: close", "--connect-to", "::a.test:")
    return guest.run("curl", "-sS", "-4", "-m", "20", *more, *words, check=False)


def seen(lab: Lab, way: str) -> int:
    """How many requests have come to the web server in this way."""
    if way == "haproxy":
        return (lab.directory / "inspected").read_text().count(f"to {FAR4} ")
    path = lab.directory / "seen.log"
    of_proxy = [line.startswith((FAR4, FAR6)) for line in path.read_text().splitlines()] if path.exists() else []
    return of_proxy.count(way != "straight")


@pytest.mark.parametrize("way", [way for way in WAYS if way != "straight"])
def test_a_proxy_or_inspector_gets_what_names_an_allowed_name(lab: Lab, way: str) -> None:
    """Several connections, so that each of two threads has some."""
    rules = ("--verify-names", "--allow", "*.test:443", "--allow", "a.test:80")
    with lab.guest(*NO_PORTS, "--threads", 2, *rules, *WAYS[way]) as guest:
        before = seen(lab, way)
        done = curl(lab, guest, "https://a.test/?[1-6]", "https://b.test/", "http://a.test/?[1-4]")
        assert done.stdout.count("this is a.test") == 10 and done.stdout.count("this is b.test") == 1, done
        wait_until(lambda: seen(lab, way) == before + 11, 5, "each went that way")
        for words in (("https://c.other/?[1-4]",), ("-H", "Host: c.other", "http://a.test/"), ("http://a.test:443/",)):
            done = curl(lab, guest, *words)
            assert done.returncode in (35, 56) and "this is" not in done.stdout and "reset" in done.stderr, done
        requests = (lab.directory / "seen.log").read_text()
        assert "c.other" not in requests and " 400 " not in requests, "not a byte has come there"


class Held:
    """A connection by OpenSSL that stays open between requests."""

    def __init__(self, run: Live, name: str) -> None:
        where = ("-CAfile", run.lab.directory / "cert.pem", "-connect", f"{name}:443", "-servername", name, "-4")
        self.process = run.guest.popen("openssl", "s_client", "-quiet", "-verify_quiet", *where, stderr=subprocess.STDOUT)
        self.name = name
        self.ask()

    def ask(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"GET / HTTP/1.1\r\nHost: {self.name}\r\n\r\n")
        self.process.stdin.flush()
        lines = iter(self.process.stdout.readline, "")
        assert any(line == f"this is {self.name}\n" for line in lines), "the answer"


@contextlib.contextmanager
def two(run: Live) -> "Iterator[tuple[Held, Held]]":
    first, second = Held(run, "a.test"), Held(run, "b.test")
    try:
        yield first, second
    finally:
        for each in (first, second):
            each.process.kill()
            each.process.communicate()


@pytest.mark.parametrize(("way", "threads"), [("straight", 1), ("haproxy", 2), ("microsocks", 2)])
def test_a_verified_connection_ends_with_the_rule_of_its_name(lab: Lab, way: str, threads: int) -> None:
    """Both names have one address. Rules that mean the same, and rules for others, cut nothing."""
    rules = ("--allow", "a.test:443/tls", "--allow", "b.test:443/tls")
    with live(lab, "--threads", threads, *WAYS[way], *rules) as run, two(run) as (first, second):
        assert "the same as before" in run.replace("allow a.test:443/tls", "allow b.test:443/tls")
        said = run.replace("allow b.test:443/tls", "allow a.test:443/tls", "allow c.other:80/http", "default none")
        assert " 0 ended" in said, said
        first.ask()
        second.ask()
        said = run.replace("allow b.test:443/tls")
        assert " 1 ended" in said, said
        assert "errno=104" in ended(first.process)
        second.ask()
        assert "this is b.test" in verified.client(lab, run.guest, "curl", "b.test", "b.test")[1]
        assert " 1 ended" in run.replace("deny *", "default none")
        assert "errno=104" in ended(second.process)
