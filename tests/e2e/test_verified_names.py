"""Several names at one address: with /tls, /http and --verify-names only those that the rules name are reached there.

The clients are real ones, each with its own TLS: OpenSSL (curl, openssl, Python), GnuTLS (wget), node.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import BIG, FAR4, FAR6, NO_PORTS, PROGRAMS, Guest, Lab, Space, program, routed, wait_until
from test_egress_live import live

NAMES = ("a.test", "b.test", "c.other")
RULES = (*NO_PORTS, "--allow", "*.test:443/tls", "--allow", "a.test:80/http")
PYTHON = """
import socket, ssl, sys
context = ssl.create_default_context(cafile=sys.argv[1])
with context.wrap_socket(socket.create_connection(("a.test", 443), 20), server_hostname=sys.argv[2]) as sock:
    sock.sendall(b"GET / HTTP/1.1\\r\\nHost: " + sys.argv[2].encode() + b"\\r\\nConnection: close\\r\\n\\r\\n")
    sys.stdout.write(b"".join(iter(lambda: sock.recv(4096), b"")).decode())
"""
NODE = """
const tls = require("tls"), fs = require("fs"), [, ca, name] = process.argv;
const sock = tls.connect({host: "a.test", port: 443, servername: name, ca: fs.readFileSync(ca)}, () =>
  sock.write(`GET / HTTP/1.1\\r\\nHost: ${name}\\r\\nConnection: close\\r\\n\\r\\n`));
sock.on("data", (data) => process.stdout.write(data));
sock.on("error", (error) => { console.error(error.code); process.exit(1); });
"""


def servers(lab: Lab) -> None:
    """nginx in the remote: a page of its own for each name, over HTTP and TLS, with one certificate for all."""
    new = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    names = ",".join(f"DNS:{name}" for name in NAMES)
    cert = lab.directory / "cert.pem"
    files = ("-keyout", f"{lab.directory}/key.pem", "-out", cert)
    lab.host.run(*new, "-subj", "/CN=test", "-addext", f"subjectAltName={names}", *files)
    temporary = " ".join(f"{kind}_temp_path {BIG}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    each = "".join(
        f"server {{ listen 80; listen [::]:80; listen 443 ssl; listen [::]:443 ssl; server_name {name};"
        f' location / {{ default_type text/plain; return 200 "this is {name}\\n"; }} }}\n'
        for name in NAMES
    )
    conf = lab.directory / "names.conf"
    conf.write_text(
        f"daemon off; master_process off; user root root; pid {BIG}/names.pid; error_log {lab.directory}/names.log;\n"
        f"events {{ worker_connections 64; }}\nhttp {{ access_log {lab.directory}/seen.log; {temporary}\n"
        f"ssl_certificate {cert}; ssl_certificate_key {lab.directory}/key.pem;\n{each}}}\n"
    )
    lab.remote.serve("nginx", "-c", conf, "-p", lab.directory, "-e", f"{lab.directory}/names.log", port=443)


def nameserver(space: Space, log: Path) -> None:
    server = space.popen(sys.executable, PROGRAMS / "nameserver.py", "127.0.0.53", log)
    assert server.stdin and server.stdout
    server.stdin.write("".join(f"{name} A {FAR4}\n{name} AAAA {FAR6}\n" for name in NAMES) + "\n")
    server.stdin.flush()
    assert server.stdout.readline() == "ready\n"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(routed) as made:
        made.host.sysctl(ipv4__ip_unprivileged_port_start=0)
        nameserver(made.host, made.directory / "queries")
        servers(made)
        made.resolv("nameserver 127.0.0.53\n")
        yield made


def client(lab: Lab, guest: Guest, which: str, name: str, at: str = "a.test") -> tuple[int, str]:
    """Ask the address of `at` for this name over TLS; the client's exit status and output."""
    ca = lab.directory / "cert.pem"
    argv: tuple[object, ...]
    if which in ("curl", "curl6"):
        family = "-6" if which == "curl6" else "-4"
        argv = ("curl", "-sS", "-m", "20", "--cacert", ca, family, "--connect-to", f"::{at}:", f"https://{name}/")
    elif which == "wget":
        argv = ("wget", "-qO-", "--timeout=20", "--tries=1", f"--ca-certificate={ca}", f"https://{name}/")
    elif which == "openssl":
        request = f"printf 'GET / HTTP/1.1\\r\\nHost: {name}\\r\\nConnection: close\\r\\n\\r\\n'"
        where = f"-CAfile {ca} -connect {at}:443 -servername {name}"
        argv = ("sh", "-ec", f"{request} | openssl s_client -quiet -verify_quiet {where} 2>&1")
    elif which == "python":
        argv = (sys.executable, "-c", PYTHON, ca, name)
    else:
        argv = ("node", "-e", NODE, ca, name)
    done = guest.run(*argv, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def guest(lab: Lab) -> Iterator[Guest]:
    with lab.guest(*RULES) as made:
        yield made


@pytest.mark.parametrize("which", ["curl", "curl6", "openssl", "python", "node"])
def test_a_client_reaches_the_names_of_the_rules_and_no_other_at_the_same_address(lab: Lab, guest: Guest, which: str) -> None:
    if which == "node" and not shutil.which("node"):
        pytest.fail("node is missing: CONTRIBUTING.md lists what the tests need")
    for name in ("a.test", "b.test"):
        status, shown = client(lab, guest, which, name)
        assert status == 0 and f"this is {name}" in shown, shown
    status, shown = client(lab, guest, which, "c.other")
    assert "this is" not in shown and (status or which == "openssl"), shown
    assert "reset" in shown.lower() or "errno=104" in shown, shown  # OpenSSL shows the number of ECONNRESET


def test_gnutls_is_understood(lab: Lab, guest: Guest) -> None:
    assert "this is b.test" in client(lab, guest, "wget", "b.test")[1]


def test_the_host_field_counts_for_http(lab: Lab, guest: Guest) -> None:
    curl, log = ("curl", "-sS", "-m", "20", "-4", "http://a.test/?by-host"), lab.directory / "seen.log"
    assert guest.run(*curl).stdout == "this is a.test\n"
    wait_until(lambda: "?by-host" in log.read_text(), 5, "nginx, which logs when it has answered")
    before = log.read_text()
    for more in (("-H", "Host: c.other"), ("-H", "Host: b.test"), ("-H", "Host:"), ("--request-target", "http://c.other/")):
        done = guest.run(*curl, *more, check=False)
        assert done.returncode == 56 and "reset" in done.stderr, done.stderr
    assert log.read_text() == before  # not a byte has come there


def test_only_tcp_and_only_these_ports(guest: Guest) -> None:
    assert guest.run("curl", "-sS", "-m", "20", "http://b.test/", check=False).returncode == 56  # the port is open for a.test
    assert guest.run("curl", "-sS", "-m", "20", "http://b.test:8080/", check=False).returncode == 7
    assert guest.script("probe.py", "udp", FAR4, 443, 1).get("error")


@pytest.mark.option("--verify-names")
def test_verify_names_makes_proofs_of_the_ports_443_and_80(lab: Lab) -> None:
    plain = ("--allow", "a.test:443", "--allow", "a.test:80")
    for options, verified in ((plain, False), ((*plain, "--verify-names"), True)):
        with lab.guest(*NO_PORTS, *options) as guest:
            for url in ("http://a.test/", "https://a.test/"):
                argv = ("curl", "-sS", "-m", "20", "--cacert", lab.directory / "cert.pem", url)
                assert guest.run(*argv).stdout == "this is a.test\n"
            status, shown = client(lab, guest, "curl", "c.other")
            assert (status, "this is c.other" in shown) == ((35, False) if verified else (0, True)), shown
            done = guest.run("curl", "-sS", "-m", "20", "-H", "Host: c.other", "http://a.test/", check=False)
            assert (done.returncode == 56) == verified, done.stderr


def test_what_was_denied_is_told_with_the_name_that_was_asked_for(lab: Lab) -> None:
    log, ca = lab.directory / "verify.json", lab.directory / "cert.pem"
    command = f"curl -sS -4 -m 20 --cacert {ca} --connect-to ::a.test: https://c.other/; curl -sS -4 -m 20 http://a.test:443/; true"
    done = lab.host.run(program("pasta"), "--config-net", *RULES, "--decision-log", log, "--", "sh", "-c", command)
    assert f"denied once: {FAR4}:443/tcp: --allow: 'allow *.test:443/tls' wants TLS that names it" in done.stderr
    assert "and it named c.other: " in done.stderr
    assert "--allow c.other:443/tls would allow it" in done.stderr and "it was something else" in done.stderr
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    denied = [line for line in lines if line["event"] == "connect" and line["verdict"] == "denied"]
    assert [(line["reason"], line.get("named"), line["name"], line["rule"]) for line in denied] == [
        ("other_name", "c.other", "a.test", "allow *.test:443/tls"), ("not_verified", None, "a.test", "allow *.test:443/tls"),
    ]  # fmt: skip
    assert denied[0]["hint"] == "--allow c.other:443/tls"
    assert not [line for line in lines if line["event"] == "connect" and line["verdict"] == "allowed"]


def test_explain_says_that_names_are_verified(lab: Lab) -> None:
    with live(lab, "--verify-names", "--allow", "a.test:443", "--allow", "b.test:22") as run:
        assert "verified: its TLS has to name it" in run.say("explain", "a.test:443/tcp")
        assert "verified" not in run.say("explain", "b.test:22/tcp")
        assert json.loads(run.say("explain", "--json", "a.test:443"))["connect"]["verified"] == "tls"
        run.say("add", "c.other:80")
        assert "verified: its HTTP has to name it" in run.say("explain", "c.other:80/tcp")
