"""--sandbox with the real program: what is closed to a command that is not trusted, its root included."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import BIG, GATEWAY4, HERE, HOST4, PATIENCE_S, PROGRAMS, REMOTE4, UID, Guest, Lab, Script, program, tool
from servers import nginx

RUNTIME = f"/run/user/{UID}"
#: Where services of a host listen.
SOCKETS = (
    f"{RUNTIME}/podman/podman.sock", f"{RUNTIME}/docker.sock", f"{RUNTIME}/systemd/private", f"{RUNTIME}/pasta-py/1.sock",
    "/run/dbus/system_bus_socket", "/run/nscd/socket", "/run/systemd/resolve/io.systemd.Resolve", "/run/podman/podman.sock",
    "/var/run/docker.sock",
)  # fmt: skip
INDEX, PUBLIC4 = "packages.example.org", "8.8.8.8"  # a global address: a name leads to no other


def kept(*more: object) -> list[str]:
    """What the tests themselves need, where it lies below /tmp."""
    needed = (tool(), program(), sys.prefix, sys.base_prefix, HERE.parents[1], *more)
    directories = (path if path.is_dir() else path.parent for path in map(Path, map(str, needed)))
    return [word for path in directories for word in ("--sandbox-keep", str(path))]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as made:
        made.remote.setup(f"addr add {PUBLIC4}/32 dev lo")
        nginx(made)
        made.remote.run("sh", "-c", f"mkdir -p {BIG}/www; echo it works >{BIG}/www/index.html")
        made.host.run("sh", "-ec", f"mkdir -m 711 /run/user; mkdir -m 700 {RUNTIME}; chmod 777 /run {RUNTIME}", caps=True)
        made.host.run("mkdir", "-p", *{str(Path(path).parent) for path in SOCKETS})
        (made.directory / "secret").write_text("secret")
        os.chmod(made.directory / "secret", 0o644)
        yield made


def run(lab: Lab, *words: object, options: tuple[object, ...] = (), check: bool = True) -> subprocess.CompletedProcess[str]:
    """A command under --sandbox; it may use what the lab has beside the directories that are covered."""
    line = [program("pasta-py"), "--sandbox", *kept(), *options, "--", *words]
    return lab.host.run("env", "--chdir=/", f"XDG_RUNTIME_DIR={RUNTIME}", *line, check=check)


def connect(lab: Lab, *paths: str, options: tuple[object, ...] = ()) -> dict[str, str]:
    return dict(json.loads(run(lab, sys.executable, PROGRAMS / "unix_sockets.py", "connect", *paths, options=options).stdout))


@pytest.mark.option("--sandbox")
@pytest.mark.option("--sandbox-keep")
def test_no_unix_socket_of_the_host_is_reached_but_one_that_is_kept(lab: Lab) -> None:
    ways = [*SOCKETS, f"{lab.directory}/X0", "@abstract"]
    listening = lab.host.start("unix_sockets.py", "listen", *ways)
    script = ("unix_sockets.py", "connect", *ways)
    assert set(lab.host.script(*script).values()) == {"connected"}
    with lab.guest("-t", "none", "-u", "none") as guest:  # without --sandbox only the network namespace closes something
        assert guest.script(*script) == {path: "ECONNREFUSED" if path == "@abstract" else "connected" for path in ways}
    assert connect(lab, *ways) == {path: "ECONNREFUSED" if path == "@abstract" else "ENOENT" for path in ways}
    one = connect(lab, *ways, options=("--sandbox-keep", SOCKETS[0]))
    assert [path for path in ways if one[path] == "connected"] == [SOCKETS[0]]
    listening.result()


def test_programs_find_neither_bus_nor_agent(lab: Lab) -> None:
    """dbus-daemon and ssh-agent themselves, with the environment in which a desktop has them."""
    bus, agent = f"{RUNTIME}/bus", f"{lab.directory}/agent.sock"
    servers = [
        lab.host.popen("dbus-daemon", "--session", "--nofork", f"--address=unix:path={bus}", "--print-address"),
        lab.host.popen("ssh-agent", "-D", "-a", agent),
    ]
    for server in servers:
        assert server.stdout and server.stdout.readline()
    ask_bus = "dbus-send --session --dest=org.freedesktop.DBus --print-reply / org.freedesktop.DBus.ListNames"
    command = f"export DBUS_SESSION_BUS_ADDRESS=unix:path={bus} SSH_AUTH_SOCK={agent}; {ask_bus}; ssh-add -l; echo agent $?"
    outside = lab.host.run("sh", "-c", command)
    assert "org.freedesktop.DBus" in outside.stdout and "agent 1" in outside.stdout  # it has no keys
    inside = run(lab, "sh", "-c", command)
    assert "org.freedesktop" not in inside.stdout and "agent 2" in inside.stdout and "No such file" in inside.stderr
    for server in servers:
        server.terminate()
        server.wait(PATIENCE_S)


ATTEMPTS = (
    "umount /tmp", "umount -l /tmp", "umount /run", "umount /proc", "mount --move /tmp /mnt",
    "mount --bind / /mnt; cat /mnt$SECRET", "mount --rbind / /mnt; umount -l /mnt/tmp; cat /mnt$SECRET",
    "mount -o remount,bind,ro /tmp", "unshare -m umount /tmp", "unshare -Urm umount /tmp",
    "unshare -Urm sh -c 'mount --rbind / /mnt; umount /mnt/tmp; cat /mnt$SECRET'",
    "cd /tmp/..; cat ./$SECRET", "cat /proc/1/root$SECRET", "nsenter -t 1 -m cat $SECRET",
    "cd /; mkdir -p /tmp/new/old && mount -t tmpfs none /tmp/new && mkdir /tmp/new/old && pivot_root /tmp/new /tmp/new/old; "
    "umount /old/tmp; cat /old$SECRET",
    "rmdir /tmp", "mv /tmp /tmp2", "mount -t proc none /mnt; cat /mnt/1/root$SECRET",
    "for p in /proc/[0-9]*; do cat $p/root$SECRET $p/cwd$SECRET; done",
)  # fmt: skip


def test_the_commands_root_cannot_take_off_what_covers_the_host(lab: Lab) -> None:
    secret = f"{lab.directory}/secret"
    assert lab.host.run("cat", secret).stdout == "secret"
    each = "; ".join(f"( SECRET={secret}; {attempt} ); cat {secret}" for attempt in ATTEMPTS)
    done = run(lab, "sh", "-c", f"id -u; {each}", check=False)
    assert done.stdout == "0\n", done.stdout
    attempts = done.stderr.count("umount:")
    assert attempts >= 8, done.stderr  # the programs are there, and the kernel refused them


def test_directories_are_empty_and_can_be_used(lab: Lab) -> None:
    script = f"ls -A /tmp /run/user/{UID}; stat -c %a /tmp {RUNTIME}; echo x >/tmp/x && echo x >$XDG_RUNTIME_DIR/x && cat /tmp/x"
    line = ["env", "--chdir=/", f"XDG_RUNTIME_DIR={RUNTIME}", program("pasta-py"), "--sandbox", "--", "sh", "-c", script]
    if not str(program()).startswith("/tmp/"):
        assert lab.host.run(*line).stdout == f"/run/user/{UID}:\n\n/tmp:\n1777\n700\nx\n"
    (lab.directory / "tree").mkdir(exist_ok=True)
    (lab.directory / "tree" / "file").write_text("here")
    os.chmod(lab.directory / "tree", 0o777)
    tree = f"{lab.directory}/tree"
    done = run(lab, "sh", "-c", f"cat {tree}/file; ls -A {lab.directory}; echo >{tree}/made", options=("--sandbox-keep", tree))
    assert done.stdout == "heretree\n" and (lab.directory / "tree" / "made").exists()


def test_a_present_directory_that_is_covered_refuses_the_start(lab: Lab) -> None:
    """Or `..` would lead out. Given with --sandbox-keep the command starts in it."""
    line = (program("pasta-py"), "--sandbox", *kept())
    done = lab.host.run(*line, "--", "pwd", check=False)
    assert done.returncode == 1 and f"--sandbox covers the present directory, {lab.directory}:" in done.stderr
    done = lab.host.run(*line, "--sandbox-keep", ".", "--", "sh", "-c", "pwd; cat secret; ls ../..")
    assert done.stdout.startswith(f"{lab.directory}\nsecret") and "tmp" in done.stdout.split()
    missing = lab.host.run(*line, "--sandbox-keep", "/tmp/not-there", "--", "true", check=False)
    assert missing.returncode == 1 and "--sandbox-keep '/tmp/not-there': " in missing.stderr


def test_the_host_s_loopback_and_names_are_closed_and_a_rule_opens_one_place(lab: Lab) -> None:
    server = lab.host.start("answer.py", "name", "127.0.0.1", 5678, "loopback")
    asks = [["tcp", address, 5678] for address in (GATEWAY4, HOST4, "127.0.0.1")]
    for options, open_ in (((), []), (("--allow", f"{REMOTE4}:80"), [REMOTE4])):
        with lab.guest("--sandbox", *kept(), "--sandbox-keep", lab.directory, *options, entry="pasta-py") as guest:
            got = json.loads(guest.run(sys.executable, PROGRAMS / "denied.py", input=json.dumps(asks)).stdout)["results"]
            curl = guest.run("curl", "-s", "-m", "20", f"http://{REMOTE4}/", check=False)
            assert "answered" not in [what for what, _ in got] and (curl.stdout == "it works\n") is bool(open_)
            assert "EDE: 15" in guest.run("dig", "+tries=1", "+time=20", "example.org").stdout
    server.result()


def test_no_multicast_leaves_whatever_the_rules_say(lab: Lab) -> None:
    say = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'sandboxed?', ('239.1.1.1', 9999))"
    for options, passes in ((("--sandbox", *kept(), "--sandbox-keep", lab.directory), False), ((), True)):
        with lab.guest(*options, "--allow", "@multicast", entry="pasta-py") as guest:
            seen = Script(lab.remote.popen(sys.executable, PROGRAMS / "reach.py", "watch", "eth0", caps=True))
            guest.run(sys.executable, "-c", say)
            guest.run("curl", "-s", "-m", "20", f"http://{REMOTE4}/", check=False)  # is answered after that has been judged
            assert any(b"sandboxed?".hex() in packet for packet in seen.result()["first"]) is passes  # type: ignore[attr-defined]


def test_a_joined_guest_has_its_network_confined_and_a_line_that_says_what_is_not(lab: Lab) -> None:
    with lab.stray() as guest:
        line = (program("pasta-py"), "-f", "--sandbox", lab.inner_pid(guest.pid))
        process = lab.host.popen(*line)
        assert process.stderr
        said = ""
        while "--sandbox" not in said:
            said = process.stderr.readline()
            assert said, "it ended"
        assert "its files, and UNIX sockets among them, stay as they are" in said
        lab.host.run("true")
        assert reached(guest) == "refused"
        process.terminate()
        process.wait(PATIENCE_S)


def reached(guest: Guest) -> str:
    curl = f"until ip route | grep -q default; do sleep 0.05; done; curl -s -m 20 http://{REMOTE4}/; echo $?"
    return {"7": "refused"}.get(guest.run("sh", "-c", curl).stdout.split()[-1], "reached")


def test_the_readme_s_example_installs_a_package(lab: Lab, tmp_path: Path) -> None:
    """pip over TLS. What the package's code tries beside that fails."""
    served = lab.directory / "served"
    (served / "simple" / "demo").mkdir(parents=True)
    wheel = "demo-1.0-py3-none-any.whl"
    with zipfile.ZipFile(served / "simple" / "demo" / wheel, "w") as archive:
        archive.writestr("demo.py", "x = 1\n")
        archive.writestr("demo-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n")
        archive.writestr("demo-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("demo-1.0.dist-info/RECORD", "")
    (served / "simple" / "demo" / "index.html").write_text(f'<a href="{wheel}">{wheel}</a>')
    lab.remote.run("cp", "-r", f"{served}/simple", f"{BIG}/www/")
    ca = tls(lab)
    names = ("dnsmasq", "-k", "-C", "/dev/null", "--no-resolv", "--no-hosts", f"--listen-address={REMOTE4}", "--bind-interfaces")
    lab.remote.serve(*names, f"--address=/{INDEX}/{PUBLIC4}", port=53, proto="udp", caps=True)
    lab.resolv(f"nameserver {REMOTE4}\n")
    example = next(line for line in (HERE.parents[1] / "README.md").read_text().splitlines() if "--sandbox --allow" in line)
    words = shlex.split(example.partition("#")[0])
    assert words[: words.index("--") + 1] == ["pasta-py", "--sandbox", "--allow", f"{INDEX}:443", "--"]
    assert words[words.index("--") + 1 :][:2] == ["pip", "install"]
    pip = [sys.executable, "-m", *words[words.index("--") + 1 :], "--no-cache-dir", "--target", f"{lab.directory}/got"]
    options = ("--allow", f"{INDEX}:443", "--sandbox-keep", lab.directory)
    done = lab.host.run("env", f"PIP_CERT={ca}", program("pasta-py"), "--sandbox", *kept(), *options, "--", *pip, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (lab.directory / "got" / "demo.py").exists() and "denied" not in done.stderr


def tls(lab: Lab) -> Path:
    """nginx in the remote at port 443, with a certificate for INDEX; the certificate's path."""
    key, certificate = lab.directory / "key.pem", lab.directory / "cert.pem"
    new = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    lab.host.run(*new, "-subj", f"/CN={INDEX}", "-addext", f"subjectAltName=DNS:{INDEX}", "-keyout", key, "-out", certificate)
    conf = lab.directory / "tls.conf"
    conf.write_text(
        f"daemon off; master_process off; user root root; pid {BIG}/tls.pid; error_log {lab.directory}/tls.log;\n"
        "events { worker_connections 64; }\nhttp { access_log off; "
        f"client_body_temp_path {BIG}/b1; proxy_temp_path {BIG}/b2; fastcgi_temp_path {BIG}/b3; uwsgi_temp_path {BIG}/b4; "
        f"scgi_temp_path {BIG}/b5; server {{ listen 443 ssl; ssl_certificate {certificate}; ssl_certificate_key {key}; "
        f"root {BIG}/www; index index.html; }} }}\n"
    )
    lab.remote.serve("nginx", "-c", conf, "-p", lab.directory, "-e", f"{lab.directory}/tls.log", port=443)
    return certificate
