"""`make test-clients`: applications under an egress policy.

Chromium and Firefox, whose ClientHellos are read as they come out of the worker; HTTP/3 by curl and nginx of Debian sid; FTP by
curl and vsftpd; TURN by coturn's client and server, and a WebRTC call of Chromium through it; psql and
PostgreSQL.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from clients_under_rules import FETCHED, LIBRARIES
from lab import BIG, FAR4, FAR6, HOST4, NO_PORTS, PROGRAMS, Guest, Lab, program, routed

NEW = FETCHED.with_name(FETCHED.name + "-sid") / "usr"  # tests/sid.sh
NAMES = ("a.test", "b.test", "shop.test", "ftp.test", "turn.test", "db.test")
HELLOS, CONTROL, PASSIVE, TURN = 8443, 2121, 50000, 3478
BROWSER_S = 400  # for a browser to come up and show a page, on a machine however busy; what waits goes on at once
ECH, KEY_SHARE, ML_KEM = 0xFE0D, 51, 0x11EC  # RFC 9849; RFC 8446; X25519MLKEM768 of the IANA's registry
SEGMENT_BYTES = 1460

_RECORD = f"""
import socket
server = socket.create_server(("{FAR4}", {HELLOS}))
server.settimeout({BROWSER_S + 20})
print("ready", flush=True)
while True:
    client, _ = server.accept()
    data = b""
    while len(data) < 5 or len(data) < 5 + int.from_bytes(data[3:5], "big"):
        part = client.recv(65536)
        if not part:
            break
        data += part
    client.close()
    print(data.hex(), flush=True)
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(routed) as made:
        made.host.sysctl(ipv4__ip_unprivileged_port_start=0)
        server = made.host.popen(sys.executable, PROGRAMS / "nameserver.py", "127.0.0.53", made.directory / "queries")
        assert server.stdin and server.stdout
        server.stdin.write("".join(f"{name} A {FAR4}\n{name} AAAA {FAR6}\n" for name in NAMES) + "\n")
        server.stdin.flush()
        assert server.stdout.readline() == "ready\n"
        made.resolv("nameserver 127.0.0.53\n")
        yield made


def allow(*rules: str) -> tuple[str, ...]:
    return (*NO_PORTS, *(word for rule in rules for word in ("--allow", rule)))


def decided(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# ---- browsers ----


def extensions(hello: bytes) -> dict[int, bytes]:
    """Those of a ClientHello in one record (RFC 8446, 4.1.2)."""
    at = 5 + 4 + 2 + 32
    at += 1 + hello[at]
    at += 2 + int.from_bytes(hello[at : at + 2], "big")
    at += 1 + hello[at] + 2
    found = {}
    while at < len(hello):
        kind, size = (int.from_bytes(hello[i : i + 2], "big") for i in (at, at + 2))
        found[kind] = hello[at + 4 : at + 4 + size]
        at += 4 + size
    return found


def chromium(guest: Guest, lab: Lab, url: str, *words: str) -> subprocess.Popen[str]:
    """It writes the page as it shows it, and ends."""
    flags = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")
    profile = f"--user-data-dir={lab.directory}/chromium"
    return guest.popen("timeout", BROWSER_S, "chromium", *flags, profile, *words, url, stderr=subprocess.DEVNULL)


def page(guest: Guest, lab: Lab, url: str, *words: str) -> str:
    return chromium(guest, lab, url, "--dump-dom", *words).communicate(timeout=BROWSER_S + 20)[0]


def firefox(guest: Guest, lab: Lab, url: str) -> subprocess.Popen[str]:
    profile = lab.directory / "firefox"
    guest.run("mkdir", "-p", profile)
    path = next(FETCHED.glob("usr/lib/firefox*/firefox-esr"))
    words = ("--headless", "--no-remote", "--profile", profile, url)
    return guest.popen("env", f"LD_LIBRARY_PATH={LIBRARIES}", "timeout", BROWSER_S, path, *words, stderr=subprocess.DEVNULL)


@contextmanager
def server(lab: Lab, code: str) -> Iterator[Iterator[str]]:
    """A server in the remote; the lines that it writes."""
    process = lab.remote.popen(sys.executable, "-c", code)
    assert process.stdout and process.stdout.readline() == "ready\n"
    try:
        yield process.stdout
    finally:
        process.kill()


@pytest.mark.parametrize("browser", [chromium, firefox])
def test_a_browser_s_hello_of_several_segments_names_what_it_wants(
    lab: Lab, browser: Callable[[Guest, Lab, str], subprocess.Popen[str]]
) -> None:
    """With ECH as GREASE and a post-quantum key share; nothing leaves before the name is read."""
    with server(lab, _RECORD) as lines, lab.guest(*allow(f"a.test:{HELLOS}/tls"), "-m", 1500) as guest:
        running = browser(guest, lab, f"https://a.test:{HELLOS}/")
        hello = bytes.fromhex(next(line for line in lines if line.strip()))
        running.terminate()
        running.wait(30)
    found = extensions(hello)
    assert b"a.test" in found[0] and ECH in found and ML_KEM.to_bytes(2, "big") in found[KEY_SHARE]
    assert len(hello) > SEGMENT_BYTES


def test_a_browser_s_hello_with_another_name_does_not_leave(lab: Lab) -> None:
    log = lab.directory / "browser.json"
    with server(lab, _RECORD), lab.guest(*allow(f"a.test:{HELLOS}/tls"), "--decision-log", log) as guest:
        assert guest.run("getent", "ahostsv4", "a.test").stdout.startswith(FAR4)
        page(guest, lab, f"https://c.other:{HELLOS}/", f"--host-resolver-rules=MAP c.other {FAR4}")
    assert {(each["verdict"], each["named"]) for each in decided(log) if each["reason"] == "other_name"} == {
        ("denied", "c.other")
    }


# ---- HTTP/3 ----


def certificate(lab: Lab) -> Path:
    path = lab.directory / "shop.pem"
    if not path.exists():
        new = (
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
        )
        names = "subjectAltName=DNS:shop.test"
        lab.host.run(*new, "-subj", "/CN=shop", "-addext", names, "-keyout", f"{lab.directory}/shop.key", "-out", path)
    return path


@pytest.fixture(scope="module")
def shop(lab: Lab) -> Path:
    """nginx with HTTP/3; its certificate."""
    path, where = certificate(lab), lab.directory
    temporary = " ".join(
        f"{kind}_temp_path {BIG}/h3-{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (where / "h3.conf").write_text(
        f"daemon off; master_process off; user root root; pid {BIG}/h3.pid; error_log {where}/h3.log;\n"
        f"events {{ worker_connections 64; }}\nhttp {{ access_log {where}/h3-seen.log; {temporary}\n"
        f"server {{ listen 443 quic reuseport; listen 443 ssl; listen [::]:443 quic reuseport; listen [::]:443 ssl; http2 on;\n"
        f"ssl_certificate {path}; ssl_certificate_key {where}/shop.key; add_header alt-svc 'h3=\":443\"; ma=86400';\n"
        'location / { default_type text/html; return 200 "over $server_protocol\\n"; } } }\n'
    )
    lab.remote.serve(NEW / "sbin/nginx", "-c", where / "h3.conf", "-p", where, "-e", where / "h3.log", port=443)
    return path


def curl3(shop: Path, *words: str) -> tuple[object, ...]:
    return (NEW / "bin/curl", "-sS", "-m", "30", "--cacert", shop, *words, "https://shop.test/")


def test_http_3_passes_where_a_rule_allows_udp(lab: Lab, shop: Path) -> None:
    for family in ("-4", "-6"):
        with lab.guest(*allow("shop.test:443")) as guest:
            assert guest.run(*curl3(shop, "--http3-only", family)).stdout == "over HTTP/3.0\n"


@pytest.mark.parametrize("rule", ["shop.test:443/tcp", "shop.test/tls"])
def test_where_udp_is_denied_clients_fall_back_to_tcp(lab: Lab, shop: Path, rule: str) -> None:
    """One that knows only QUIC fails at once, and the end says which rule it lacks."""
    command = (
        " ".join(map(str, curl3(shop, "--http3", "-4"))) + "; " + " ".join(map(str, curl3(shop, "--http3-only", "-4")))
    )
    done = lab.host.run(program("pasta-py"), *allow(rule), "--", "sh", "-c", command, check=False)
    assert done.stdout == "over HTTP/2.0\n", done
    assert done.returncode and "curl: (" in done.stderr
    assert f"{FAR4}:443/udp" in done.stderr or "shop.test:443/udp" in done.stderr, done.stderr


def test_chromium_speaks_quic_where_a_rule_allows_it(lab: Lab, shop: Path) -> None:
    key = (
        "openssl x509 -pubkey -noout -in {} | openssl pkey -pubin -outform der | openssl dgst -sha256 -binary | base64"
    )
    spki = lab.host.run("sh", "-c", key.format(shop)).stdout.strip()
    words = (f"--ignore-certificate-errors-spki-list={spki}", "--origin-to-force-quic-on=shop.test:443")
    with lab.guest(*allow("shop.test:443")) as guest:
        assert "over HTTP/3.0" in page(guest, lab, "https://shop.test/", *words)
    with lab.guest(*allow("shop.test/tls")) as guest:
        assert "over HTTP" not in page(guest, lab, "https://shop.test/", *words)  # it may not fall back here
        assert "over HTTP/2.0" in page(guest, lab, "https://shop.test/", words[0])


# ---- FTP ----


@pytest.fixture(scope="module")
def ftp(lab: Lab) -> None:
    where = lab.directory / "ftp"
    where.mkdir()
    where.chmod(0o755)
    (where / "file").write_text("the file\n")
    user = lab.remote.run("sh", "-c", "getent passwd | cut -d: -f1 | sed -n 1p").stdout.strip()
    conf = (
        f"listen=YES\nlisten_port={CONTROL}\nlisten_address={FAR4}\nrun_as_launching_user=YES\nanonymous_enable=YES\n"
        f"no_anon_password=YES\nanon_root={where}\nftp_username={user}\nnopriv_user={user}\nsecure_chroot_dir={where}\n"
        f"connect_from_port_20=NO\npasv_min_port={PASSIVE}\npasv_max_port={PASSIVE + 9}\nseccomp_sandbox=NO\nbackground=NO\n"
        "write_enable=NO\nport_promiscuous=YES\nxferlog_enable=NO\n"
    )
    lab.remote.run("sh", "-c", f"cat >{lab.directory}/vsftpd.conf", input=conf)  # it has to belong to who starts it
    libraries = f"LD_LIBRARY_PATH={LIBRARIES}"
    lab.remote.serve("env", libraries, FETCHED / "usr/sbin/vsftpd", lab.directory / "vsftpd.conf", port=CONTROL)


URL = f"ftp://ftp.test:{CONTROL}/file"


def test_ftp_needs_the_ports_of_its_data_connections(lab: Lab, ftp: None) -> None:
    """Passive mode: they go to the server's address, at ports that it chooses, and a rule has to name these."""
    command = ("curl", "-sS", "-m", "20", URL)
    done = lab.host.run(program("pasta-py"), *allow(f"ftp.test:{CONTROL}"), "--", *command, check=False)
    assert done.returncode and "the file" not in done.stdout
    assert re.search(rf"{re.escape(FAR4)}:5000\d/tcp: --allow ftp.test:5000\d", done.stderr), done.stderr
    with lab.guest(*allow(f"ftp.test:{CONTROL}", f"ftp.test:{PASSIVE}-{PASSIVE + 9}")) as guest:
        assert guest.run(*command).stdout == "the file\n"
        assert guest.run(*command, "--disable-epsv").stdout == "the file\n"


def test_active_ftp_comes_in_by_a_forwarded_port_alone(lab: Lab, ftp: None) -> None:
    command = (NEW / "bin/curl", "-sS", "-4", "-m", "20", URL, "-P", f"{HOST4}:50100-50100")
    with lab.guest(*allow(f"ftp.test:{CONTROL}")) as guest:
        shown = guest.run(*command, check=False).stderr
        assert "RETR response: 425" in shown, shown  # the server cannot open a data connection (RFC 959, 5.4)
    with lab.guest("-t", "50100", *NO_PORTS[2:], "--allow", f"ftp.test:{CONTROL}") as guest:
        assert guest.run(*command).stdout == "the file\n"


# ---- TURN and WebRTC ----


@pytest.fixture(scope="module")
def turn(lab: Lab) -> tuple[object, ...]:
    """A TURN server; how to start a program of coturn."""
    coturn = ("env", f"LD_LIBRARY_PATH={LIBRARIES}")
    words = ("-n", "-L", FAR4, "-p", TURN, "-a", "-u", "guest:secret", "-r", "turn.test", "--allow-loopback-peers", "--no-tls",
             "--no-dtls", "--log-file=stdout", "--pidfile", lab.directory / "turn.pid", "--min-port=49152", "--max-port=49252",
             "--no-cli", f"--db={lab.directory}/turn.db")  # fmt: skip
    lab.remote.serve(*coturn, FETCHED / "usr/bin/turnserver", *words, port=TURN, proto="udp")
    return coturn


def test_a_relay_works_by_the_name_of_its_server(lab: Lab, turn: tuple[object, ...]) -> None:
    lab.remote.serve(*turn, FETCHED / "usr/bin/turnutils_peer", "-L", FAR4, "-p", "3480", port=3480, proto="udp")
    words = ("-u", "guest", "-w", "secret", "-e", FAR4, "-r", "3480", "-n", "20", "-c", "turn.test")
    client = (*turn, FETCHED / "usr/bin/turnutils_uclient", *words)
    with lab.guest(*allow(f"turn.test:{TURN}")) as guest:
        assert "tot_recv_msgs=20" in guest.run(*client).stdout
    with lab.guest(*allow(f"turn.test:{TURN}/tcp")) as guest:
        assert "tot_recv_msgs=20" not in guest.run(*client, check=False).stdout


CALL = """<script>
const relay = {urls: 'turn:turn.test:%d?transport=udp', username: 'guest', credential: 'secret'};
const config = {iceTransportPolicy: 'relay', iceServers: [relay]};
const [a, b] = [new RTCPeerConnection(config), new RTCPeerConnection(config)];
for (const [from, to] of [[a, b], [b, a]]) from.onicecandidate = (e) => e.candidate && to.addIceCandidate(e.candidate);
b.ondatachannel = (e) => { e.channel.onmessage = (m) => { new Image().src = 'http://turn.test:8000/' + m.data } };
const channel = a.createDataChannel('x');
channel.onopen = () => channel.send('heard');
(async () => {
    await a.setLocalDescription(await a.createOffer()); await b.setRemoteDescription(a.localDescription);
    await b.setLocalDescription(await b.createAnswer()); await a.setRemoteDescription(b.localDescription);
})();
</script>"""

_HEARD = f"""
import socket
server = socket.create_server(("{FAR4}", 8000))
server.settimeout({BROWSER_S + 20})
print("ready", flush=True)
while True:
    client, _ = server.accept()
    print(client.recv(65536).split()[1].decode(), flush=True)
    client.close()
"""


def test_a_call_of_chromium_comes_up_through_a_relay(lab: Lab, turn: tuple[object, ...]) -> None:
    """Two ends in one page, which may only use relayed addresses: what one says the other hears."""
    (lab.directory / "call.html").write_text(CALL % TURN)
    log = lab.directory / "call.json"
    rules = allow(f"turn.test:{TURN}", "turn.test:8000/tcp")
    with server(lab, _HEARD) as lines, lab.guest(*rules, "-4", "--decision-log", log) as guest:
        browser = chromium(guest, lab, f"file://{lab.directory}/call.html")
        assert next(lines) == "/heard\n"
        browser.terminate()
        browser.wait(30)
    reached = {
        (each["name"], each["port"])
        for each in decided(log)
        if each["event"] == "connect" and each["verdict"] == "allowed"
    }
    assert reached == {("turn.test", TURN), ("turn.test", 8000)}


# ---- a database ----


@pytest.fixture(scope="module")
def database(lab: Lab) -> None:
    """PostgreSQL with TLS."""
    places = [place for root in (FETCHED, Path("/")) for place in root.glob("usr/lib/postgresql/*/bin")]
    where = next(place for place in places if (place / "initdb").exists())
    data, libraries = lab.directory / "database", ("env", f"LD_LIBRARY_PATH={LIBRARIES}")
    lab.remote.run(*libraries, where / "initdb", "-D", data, "-U", "guest", "-A", "trust", "-N", timeout=300)
    pem, key = certificate(lab), lab.directory / "shop.key"
    allowed = f"echo host all all 0.0.0.0/0 trust >>{data}/pg_hba.conf"
    lab.remote.run("sh", "-ec", f"{allowed}; cp {key} {data}/key; chmod 600 {data}/key")
    tls = ("ssl=on", f"ssl_cert_file={pem}", "ssl_key_file=key")
    said = (*tls, f"listen_addresses={FAR4}", "unix_socket_directories=", "fsync=off")
    words = (word for each in said for word in ("-c", each))
    lab.remote.serve(*libraries, where / "postgres", "-D", data, *words, port=5432)


PSQL = ("psql", "-At", "-c", "select ssl from pg_stat_ssl where pid = pg_backend_pid()")
DATABASE = "host=db.test user=guest dbname=postgres sslmode=require connect_timeout=40"
OTHER = DATABASE.replace("db.test", "other.test")


def test_a_database_asks_for_tls_before_it_names_anything(lab: Lab, database: None) -> None:
    """Eight bytes go first, so a rule with /tls cannot pass it, and says so at once. --verify-names leaves it alone."""
    with lab.guest(*allow("db.test:5432"), "--verify-names") as guest:
        assert guest.run(*PSQL, DATABASE).stdout == "t\n"
        assert "could not translate host name" in guest.run(*PSQL, OTHER, check=False).stderr
    log = lab.directory / "database.json"
    with lab.guest(*allow("db.test:5432/tls"), "-4", "--decision-log", log) as guest:
        assert "closed the connection" in guest.run(*PSQL, DATABASE, check=False, timeout=39).stderr
    denied = [each for each in decided(log) if each["event"] == "connect" and each["verdict"] == "denied"]
    assert [each["reason"] for each in denied] == ["not_verified"]
