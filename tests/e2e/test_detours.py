"""--redirect and --proxy with real inspectors and proxies: haproxy, microsocks, tinyproxy, ssh -D."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from followed import following
from lab import HOST4, NO_PORTS, PROGRAMS, REMOTE4, REMOTE6, UID, Guest, Lab, cmdline
from servers import own_etc

PORT, CLOSED, SOCKS, SOCKS_AUTH, HTTP, INSPECTOR = 8000, 8009, 1080, 1081, 3128, 8080
NAME = "there.test"
HAPROXY = f"""
defaults
  mode http
  timeout client 20s
  timeout server 20s
  timeout connect 20s
frontend inspector
  bind 127.0.0.1:{INSPECTOR} accept-proxy
  bind [::1]:{INSPECTOR} accept-proxy
  http-request return status 200 content-type text/plain lf-string "from %[src] to %[dst] %[dst_port]"
"""
TINYPROXY = f"""
Port {HTTP}
Listen {REMOTE4}
LogFile "{{log}}"
LogLevel Connect
ConnectPort {PORT}
ConnectPort {CLOSED}
BasicAuth guest secret
DisableViaHeader Yes
"""


@pytest.fixture(scope="module", autouse=True)
def services(lab: Lab) -> Iterator[None]:
    """A server that says who asked it, a name for it, an inspector on the host, and proxies on the remote machine."""
    far = [lab.remote.start("answer.py", "name", address, PORT, "far") for address in (REMOTE4, REMOTE6)]
    at = (f"--listen-address={REMOTE4}", "--bind-interfaces", f"--address=/{NAME}/{REMOTE4}")
    lab.remote.serve(
        "dnsmasq", "-k", "-C", "/dev/null", "--no-resolv", "--no-hosts", *at, port=53, proto="udp", caps=True
    )
    lab.resolv(f"nameserver {REMOTE4}\n")
    (lab.directory / "haproxy.cfg").write_text(HAPROXY)
    lab.host.serve("haproxy", "-db", "-f", lab.directory / "haproxy.cfg", port=INSPECTOR)
    lab.remote.serve("microsocks", "-i", REMOTE4, "-p", SOCKS, port=SOCKS)
    lab.remote.serve("microsocks", "-i", REMOTE4, "-p", SOCKS_AUTH, "-u", "guest", "-P", "secret", port=SOCKS_AUTH)
    log = lab.directory / "tinyproxy.log"
    (lab.directory / "tinyproxy.conf").write_text(TINYPROXY.format(log=log))
    lab.remote.serve("tinyproxy", "-d", "-c", lab.directory / "tinyproxy.conf", port=HTTP)
    (lab.directory / "auth").write_text("guest:secret\n")
    (lab.directory / "wrong").write_text("guest:guessed\n")
    yield
    for server in far:
        server.result()


def curl(guest: Guest, url: str, *options: str) -> str:
    return guest.run("curl", "-sS", "-m", "20", "-g", *options, url).stdout


def asked(guest: Guest, address: str, port: int = PORT) -> str:
    """What the server says: "far", and who asked it."""
    to = f"TCP:[{address}]:{port}" if ":" in address else f"TCP:{address}:{port}"
    return guest.run(
        "socat", "-u", "-T20", to, "-"
    ).stdout  # one way: microsocks takes a half-closed connection for closed


def tried(guest: Guest, *these: tuple[str, str, int]) -> list[str]:
    """An errno's name for each, or "answered"."""
    done = guest.run(sys.executable, PROGRAMS / "denied.py", input=json.dumps(these), timeout=120)
    return [what for what, _ in json.loads(done.stdout)["results"]]


@pytest.mark.option("--redirect")
def test_an_inspector_learns_where_a_connection_was_to_go(lab: Lab) -> None:
    with lab.guest("--redirect", f"*:80@127.0.0.1:{INSPECTOR}+proxy-v2", *NO_PORTS) as guest:
        assert curl(guest, f"http://{REMOTE4}/") == f"from {HOST4} to {REMOTE4} 80"
        assert re.fullmatch(rf"from [0-9a-f:]+ to {re.escape(REMOTE6)} 80", curl(guest, f"http://[{REMOTE6}]/"))
        assert asked(guest, REMOTE4).startswith(f"far {HOST4} "), "other ports go straight"


def test_the_policy_is_asked_before_an_inspector_gets_anything(lab: Lab) -> None:
    with lab.guest("--deny", REMOTE4, "--redirect", f"*:80@127.0.0.1:{INSPECTOR}+proxy-v2", *NO_PORTS) as guest:
        assert tried(guest, ("tcp", REMOTE4, 80), ("udp", REMOTE6, 80)) == ["ECONNREFUSED", "EACCES"]


def test_a_name_is_redirected_and_an_inspector_that_is_not_there_is_a_refusal(lab: Lab) -> None:
    with lab.guest("--redirect", f"{NAME}:81@127.0.0.1:{CLOSED}", *NO_PORTS) as guest:
        done = guest.run("curl", "-sS", "-m", "20", f"http://{NAME}:81/", check=False)
        assert done.returncode == 7, done


PROXIES = (
    (("--proxy", f"socks5://{REMOTE4}:{SOCKS}"), ""),
    (("--proxy", f"socks5://{REMOTE4}:{SOCKS_AUTH}"), "auth"),
    (("--proxy", f"http://{REMOTE4}:{HTTP}"), "auth"),
)


def said(lab: Lab, options: tuple[str, ...], auth: str) -> tuple[str, ...]:
    return (*options, *(("--proxy-auth-file", str(lab.directory / auth)) if auth else ()), *NO_PORTS)


@pytest.mark.option("--proxy")
@pytest.mark.option("--proxy-auth-file")
@pytest.mark.parametrize(("options", "auth"), PROXIES)
def test_connections_go_through_the_proxy_and_its_no_is_the_guest_s(
    lab: Lab, options: tuple[str, ...], auth: str
) -> None:
    with lab.guest(*said(lab, options, auth)) as guest:
        assert asked(guest, REMOTE4).split()[:2] != ["far", HOST4], "the proxy asked"
        assert asked(guest, REMOTE6).split()[0] == "far"
        assert asked(guest, NAME).startswith("far ")
        assert tried(guest, ("tcp", REMOTE4, CLOSED)) == ["ECONNREFUSED"]
        assert tried(guest, ("udp", REMOTE4, PORT), ("ping", REMOTE4, 0)) == ["EHOSTUNREACH", "EHOSTUNREACH"]


@pytest.mark.parametrize(("options", "auth"), [(PROXIES[1][0], "wrong"), (PROXIES[2][0], "wrong"), (PROXIES[2][0], "")])
def test_without_the_right_credentials_nothing_passes(lab: Lab, options: tuple[str, ...], auth: str) -> None:
    with lab.guest(*said(lab, options, auth)) as guest:
        assert tried(guest, ("tcp", REMOTE4, PORT)) == ["ECONNREFUSED"]


@pytest.mark.parametrize("url", [f"socks5://{REMOTE4}:{CLOSED}", f"http://{REMOTE4}:{CLOSED}", f"socks5://{REMOTE4}:{PORT}",
                                 f"http://{REMOTE4}:{PORT}"])  # fmt: skip
def test_where_no_proxy_answers_nothing_goes_straight(lab: Lab, url: str) -> None:
    """Nothing listens there, or what does is no proxy."""
    with lab.guest("--proxy", url, *NO_PORTS) as guest:
        assert tried(guest, ("tcp", REMOTE4, PORT)) == ["ECONNREFUSED"]


def test_the_proxy_is_asked_for_the_name(lab: Lab) -> None:
    with lab.guest(*said(lab, PROXIES[2][0], "auth")) as guest:
        assert asked(guest, NAME).startswith("far ")
    assert f"CONNECT {NAME}:{PORT}" in Path(lab.directory / "tinyproxy.log").read_text()


def test_a_name_that_only_the_proxy_knows_is_for_programs_that_speak_to_it_themselves(lab: Lab) -> None:
    log, inner = lab.directory / "tinyproxy.log", "localhost"  # the proxy's own
    url, http = f"http://{inner}:{CLOSED}/", f"http://guest:secret@{REMOTE4}:{HTTP}"
    with lab.guest(*said(lab, PROXIES[2][0], "auth")) as guest:
        assert guest.run("getent", "ahosts", "inner.test", check=False).returncode == 2
    with lab.guest("--allow", f"{REMOTE4}:{HTTP}/tcp", *NO_PORTS) as guest:
        guest.run("curl", "-sS", "-m", "20", "--noproxy", "", "-x", http, url)
    assert f"http://{inner}:{CLOSED}/" in log.read_text()


@pytest.fixture(scope="module")
def ssh_proxy(lab: Lab) -> str:
    """ssh -D on the host, to an sshd on the remote machine. Both want to know who runs them."""
    own_etc(lab)
    where = lab.directory
    user = f"tester:x:{UID}:{UID}::{where}:/bin/sh"
    lab.host.run(
        "sh", "-ec", f"echo '{user}' | cat - /etc/passwd >{where}/passwd; cat {where}/passwd >/etc/passwd", caps=True
    )
    for name in ("host", "user"):
        lab.host.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", where / f"{name}.key")
    (where / "sshd.conf").write_text(
        f"ListenAddress {REMOTE4}:2222\nHostKey {where}/host.key\nAuthorizedKeysFile {where}/user.key.pub\n"
        "UsePAM no\nStrictModes no\nPidFile none\n"
    )
    lab.remote.serve("/usr/sbin/sshd", "-D", "-e", "-f", where / "sshd.conf", port=2222)
    known = (
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        f"UserKnownHostsFile={where}/known",
        "-F",
        "none",
        "-i",
        where / "user.key",
    )
    lab.host.serve("ssh", "-N", "-D", "127.0.0.1:1082", "-p", "2222", *known, f"tester@{REMOTE4}", port=1082)
    return "socks5://127.0.0.1:1082"


def test_ssh_is_a_proxy(lab: Lab, ssh_proxy: str) -> None:
    with lab.guest("--proxy", ssh_proxy, *NO_PORTS) as guest:
        assert asked(guest, REMOTE4).split()[:2] != ["far", HOST4], "the remote machine asked itself"
        assert asked(guest, REMOTE6).startswith("far ")
        assert tried(guest, ("tcp", REMOTE4, CLOSED)) == ["ECONNREFUSED"]


@pytest.mark.option("--no-proxy")
def test_what_no_proxy_names_goes_straight(lab: Lab) -> None:
    with lab.guest(*said(lab, PROXIES[0][0], ""), "--no-proxy", REMOTE4) as guest:
        assert asked(guest, REMOTE4).startswith(f"far {HOST4} ")
        assert tried(guest, ("udp", REMOTE4, PORT)) == ["answered"]


def test_the_decision_log_says_that_the_proxy_refused(lab: Lab) -> None:
    """And the log says why UDP does not pass."""
    log, text = "/run/big/decisions", lab.directory / "refused.log"
    with lab.guest(*said(lab, PROXIES[0][0], ""), "--decision-log", log, "-l", text) as guest:
        assert tried(guest, ("tcp", REMOTE4, CLOSED), ("udp", REMOTE4, PORT)) == ["ECONNREFUSED", "EHOSTUNREACH"]
        assert tried(guest, ("tcp", REMOTE6, CLOSED), ("udp", REMOTE6, PORT)) == ["ECONNREFUSED", "EACCES"]
    assert f"UDP to {REMOTE4} is refused: --proxy and --redirect carry only TCP" in text.read_text()
    lines = [json.loads(line) for line in lab.host.run("cat", log).stdout.splitlines()]
    reasons = {
        (line["protocol"], line["port"]): (line["verdict"], line["reason"])
        for line in lines
        if line["event"] == "connect"
    }
    assert reasons == {("tcp", CLOSED): ("denied", "proxy"), ("udp", PORT): ("denied", "proxy")}


def test_credentials_are_in_no_process_s_arguments(lab: Lab) -> None:
    with lab.guest(*said(lab, PROXIES[1][0], "auth")) as guest:
        assert asked(guest, REMOTE4).startswith("far ")
        ours = [cmdline(pid) for pid in lab.descendants() if "microsocks" not in cmdline(pid)]
        assert any("--proxy-auth-file" in words for words in ours) and not any(
            "secret" in word for words in ours for word in words
        )


_SAY_WHO = """
import socket
l = socket.create_server(("203.0.113.10", 7500))
print("ready", flush=True)
while True:
    c, peer = l.accept()
    c.sendall(peer[0].encode() + b"\\n")
    c.close()
"""


@pytest.mark.parametrize("options", [("--proxy", f"socks5://{REMOTE4}:{SOCKS}", "--no-proxy", "@lan"),
                                     ("--redirect", "@internet:7500@127.0.0.1:7501")])  # fmt: skip
def test_the_groups_of_what_goes_straight_follow_the_host(options: tuple[str, ...]) -> None:
    """A network that the host joins is @lan from then on, and no longer @internet."""
    with following(extra=options) as f:
        lab = f.lab
        lab.remote.setup("addr add 203.0.113.10/24 dev eth0")
        f.change(f"route add 203.0.113.0/24 via {REMOTE4}")
        server = lab.remote.popen(sys.executable, "-c", _SAY_WHO)
        assert server.stdout and server.stdout.readline() == "ready\n"
        lab.remote.serve("microsocks", "-i", REMOTE4, "-p", SOCKS, port=SOCKS)
        lab.host.serve("socat", "TCP-LISTEN:7501,bind=127.0.0.1,fork", "SYSTEM:echo inspector", port=7501)
        assert asked(f.guest, "203.0.113.10", 7500) in ("203.0.113.10\n", "inspector\n")
        f.change("addr add 203.0.113.2/24 dev eth0")
        f.says("address 203.0.113.2/24 is new")
        assert asked(f.guest, "203.0.113.10", 7500) == f"{HOST4}\n"
