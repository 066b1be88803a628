"""Each console and Python block of the README and of docs/ does what the page shows. docs/dev/pages.md says what it finds there."""

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
LIMIT_S = 60
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
        lab.remote.run("sh", "-c", f"echo hello >{BIG}/www/index.html; truncate -s 10M {BIG}/www/big.bin")
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


@pytest.mark.parametrize("block", EXAMPLES, ids=str)
def test_an_example(host: Lab, certificate: Path, block: pages.Block) -> None:
    shown = pages.session(block)
    found = run(host, certificate, [command for command, _ in shown])
    assert len(found) == len(shown)
    for at, ((command, expected), (lines, status)) in enumerate(zip(shown, found)):
        if not pages.matches(expected, lines):
            pytest.fail("\n".join([f"{block}:", f"$ {command}", *lines, "--- but the page shows", *expected]), pytrace=False)
        told = at + 1 < len(shown) and shown[at + 1][0] == "echo $?"
        assert status == 0 or told, f"{command}: exit status {status}, which the page does not show with `echo $?`"
