"""Each console and Python block of the README and of docs/ does what the page shows, and so do the examples of the manual pages and
of `pasta-py --help`. docs/dev/pages.md says what they find there.
"""

import contextlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pages
import pytest
from lab import BIG, REMOTE4, Lab, program
from servers import nginx

EXAMPLES = [block for page in pages.PAGES for block in pages.blocks(page) if block.language in pages.RUN]
END = "\x01"  # begins a line that says that a command has ended, and how
#: Takes one command after the other, as a terminal would; each sees what those before it have left.
SHELL = f"""
for command; do
    eval "$command"
    status=$?
    printf '\\n{END}%d\\n' $status
    (exit $status)
done
exit 0
"""
LIMIT_S = 120
#: Of example.org: rules about names and private addresses treat no address of documentation as public.
PUBLIC = ("93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a key and a certificate for example.org and the names below it."""
    where = tmp_path_factory.mktemp("certificate")
    new = ("openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-days", "2")
    names = ("-subj", "/CN=example.org", "-addext", "subjectAltName=DNS:example.org,DNS:*.example.org")
    subprocess.run([*new, *names, "-keyout", where / "key", "-out", where / "pem"], check=True, capture_output=True)
    for each in (where, where / "key", where / "pem"):
        each.chmod(0o755)
    return where


@pytest.fixture
def host(certificate: Path) -> Iterator[Lab]:
    """A host as the examples find it."""
    with Lab() as lab:
        nginx(lab, certificate=certificate)
        page = '<!doctype html><html lang="en"><head><title>Example Domain</title></head></html>'
        lab.remote.run("sh", "-c", f"echo '{page}' >{BIG}/www/index.html; truncate -s 10M {BIG}/www/big.bin")
        for address in PUBLIC:
            lab.remote.setup(f"address add {address} dev lo")
        names = [f"--address=/example.org/{address}" for address in PUBLIC]
        alone = ("--no-daemon", "--conf-file=/dev/null", "--pid-file=", "--no-resolv", "--no-hosts", "--user=")
        lab.remote.serve("dnsmasq", *alone, *names, port=53, proto="udp")
        lab.resolv(f"nameserver {REMOTE4}\n")
        yield lab


def run(lab: Lab, certificate: Path, commands: list[str]) -> list[tuple[list[str], int]]:
    """The lines that each command prints, and its exit status. They share a shell, in a new home directory."""
    lab.host.run("mkdir", "-p", "-m", "700", "home", "run")
    environment = {
        **lab.environment(),
        "HOME": f"{lab.directory}/home",
        "XDG_RUNTIME_DIR": f"{lab.directory}/run",
        "PATH": f"{Path(program()).parent}:{lab.environment()['PATH']}",
        "CURL_CA_BUNDLE": f"{certificate}/pem",
    }
    inside = ("bash", "-c", f"cd home; {SHELL}", "bash", *commands)
    path = lab.directory / "printed"
    with path.open("wb") as file:  # no pipe: what still runs in the background would keep it open
        shell = lab.host.popen(*inside, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    try:
        assert shell.wait(LIMIT_S) == 0
    except subprocess.TimeoutExpired:
        raise AssertionError(f"no end within {LIMIT_S} s: {commands}\n{path.read_text()}") from None
    parts = path.read_text(errors="replace").split(f"\n{END}")
    statuses = [int(part.partition("\n")[0]) for part in parts[1:]]
    texts = [parts[0], *(part.partition("\n")[2] for part in parts[1:-1])]
    return [([line.rstrip() for line in text.splitlines()], status) for text, status in zip(texts, statuses)]


def check(host: Lab, certificate: Path, shown: list[tuple[str, list[str]]], name: object) -> None:
    """Run the commands; each prints what is expected, and succeeds unless the next one shows its status."""
    found = run(host, certificate, [command for command, _ in shown])
    assert len(found) == len(shown)
    for at, ((command, expected), (lines, status)) in enumerate(zip(shown, found)):
        if not pages.matches(expected, lines):
            pytest.fail("\n".join([f"{name}:", f"$ {command}", *lines, "--- but expected is", *expected]), pytrace=False)
        told = at + 1 < len(shown) and shown[at + 1][0] == "echo $?"
        assert status == 0 or told, f"{command}: exit status {status}, which no `echo $?` shows"


@pytest.mark.parametrize("block", EXAMPLES, ids=str)
def test_an_example(host: Lab, certificate: Path, block: pages.Block) -> None:
    check(host, certificate, pages.session(block), block)


#: The examples of the manual pages and of --help, each in a session that shows that it does what the text beside it says.
SESSIONS = {
    "a command": """\
$ pasta-py -- curl -s https://example.org
<!doctype html>...
""",
    "a capture": """\
$ pasta-py --pcap out.pcap -- curl -s https://example.org
<!doctype html>...
pasta-py: capture: ... frames (... bytes) written, 0 left out
$ tcpdump -nr out.pcap 2>/dev/null
...
... > ....443: Flags [S], ...
...
""",
    "a port": """\
$ pasta-py -t 8080 -- python3 -m http.server 8080 2>server.log &
$ curl -s --retry 9 --retry-all-errors http://127.0.0.1:8080/
...
<title>Directory listing for /</title>
...
""",
    "a port for another": """\
$ pasta-py -t 8080:80 -- python3 -m http.server 80 2>server.log &
$ curl -s --retry 9 --retry-all-errors http://127.0.0.1:8080/
...
<title>Directory listing for /</title>
...
""",
    "allowed": """\
$ pasta-py --allow 'example.org:443' -- curl -s https://example.org
<!doctype html>...
$ pasta-py -q --allow 'example.org:443' -- curl -s http://93.184.215.14/
pasta-py: egress: denied once: 93.184.215.14:80/tcp: ...
$ echo $?
7
""",
    "options of a runtime": """\
$ pasta-py --network=pasta:--map-gw,-t,0.0.0.0%eth0/8080 -- sh
""",
    "a process": """\
$ pasta-py 12345
pasta-py: interface: eth0, from the host's eth0, ...
...
$ nsenter -t 12345 -U -n --preserve-credentials ip -brief -4 address show eth0
eth0 ... 192.0.2.2/24
""",
    "a process, as slirp4netns": """\
$ slirp4netns --configure --mtu=65520 --disable-host-loopback 12345 tap0 >slirp.log 2>&1 &
$ inside="nsenter -t 12345 -U -n --preserve-credentials"
$ until $inside ip -4 route show default | grep -q .; do sleep 0.1; done
$ $inside ip -brief address show tap0
tap0 ... 10.0.2.100/24
$ $inside curl -s http://192.0.2.10/
<!doctype html>...
""",
    "rules": """\
$ pasta-py --conf-path pasta.sock -t none -- python3 -m http.server 80 2>server.log &
$ until [ -S pasta.sock ]; do sleep 0.1; done
$ pesto pasta.sock
...
$ pesto --add -t 8080:80 pasta.sock
...
$ curl -s --retry 9 --retry-all-errors http://127.0.0.1:8080/
...
<title>Directory listing for /</title>
...
$ pesto --delete -t 8080:80 pasta.sock
...
$ curl -s http://127.0.0.1:8080/
$ echo $?
7
""",
}


@contextlib.contextmanager
def process(lab: Lab, number: int) -> Iterator[None]:
    """A process with namespaces of its own, which the host sees as this PID."""
    for _ in range(50):  # another process may take the number
        lab.host.run("sh", "-c", f"echo {number - 1} >/proc/sys/kernel/ns_last_pid", caps=True)
        with lab.stray() as guest:
            if lab.inner_pid(guest.pid) == number:
                yield
                return
    raise AssertionError(f"no process gets the number {number}")


@pytest.mark.parametrize("name", SESSIONS)
def test_an_example_of_a_manual_page(host: Lab, certificate: Path, name: str) -> None:
    with process(host, 12345) if "12345" in SESSIONS[name] else contextlib.nullcontext():
        check(host, certificate, pages.commands(SESSIONS[name]), name)


def test_every_example_of_the_manual_pages_and_the_help_is_in_a_session(host: Lab) -> None:
    shown = host.host.run("env", "COLUMNS=200", program("pasta-py"), "--help").stdout
    helped = re.findall(r"^ *(pasta-py -.*?)  ", shown.partition("Examples:")[2].partition("Ports:")[0], re.MULTILINE)
    examples = helped + [each for page in sorted((pages.ROOT / "docs").glob("*.1")) for each in pages.examples(page)]
    assert len(helped) == 3 and len(examples) > 8
    run_ones = [command for text in SESSIONS.values() for command, _ in pages.commands(text)]
    assert [each for each in examples if not any(command.startswith(each) for command in run_ones)] == []
