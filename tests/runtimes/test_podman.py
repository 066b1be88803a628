"""Rootless podman with our `pasta`: what its users do, on a real machine."""

import contextlib
import json
import os
import select
import subprocess
from collections.abc import Iterator

import pages
import pytest
from machine import HOST, OURS, PASST, REMOTE, Machine, root_directory, wait_until

PASTA_PY = OURS + "-py"
HTTPD = ("httpd", "-f", "-p", "80", "-h", "/www")


@pytest.fixture
def web(machine: Machine) -> "Iterator[None]":
    """A web server on the remote machine, port 8000."""
    with machine.serving("busybox", "httpd", "-f", "-p", "8000", "-h", "/opt", remote=True):
        yield


def get(machine: Machine, url: str, remote: bool = False) -> str:
    """What curl makes of it, asked on the host or on the remote machine; "" for a failure."""
    asked = ("curl", "-sS", "-m", "20", url)
    done = machine.root_run("ip", "netns", "exec", "remote", *asked, check=False) if remote else machine.run(*asked, check=False)
    return done.stdout.strip()


def test_run_has_the_hosts_network(machine: Machine, web: None) -> None:
    """Addresses and routes of the host, usable at once, and what podman itself adds to hosts and resolv.conf."""
    # Without its path, ip is busybox's.
    command = "/bin/ip -j addr; echo; /bin/ip -j route; echo; cat /etc/resolv.conf"
    shown = machine.podman("run", "--rm", "base", "sh", "-c", command)
    addresses, routes, *resolv = filter(None, shown.splitlines())
    (link,) = [link for link in json.loads(addresses) if link["ifname"] == "eth0"]
    found = [address for address in link["addr_info"] if address["scope"] == "global"]
    assert sorted(address["local"] for address in found) == sorted(HOST.values())
    assert not [address for address in found if address.get("tentative")]
    assert [route for route in json.loads(routes) if route["dst"] == "default"][0]["gateway"] == REMOTE[4]
    assert resolv[0] == "nameserver 169.254.1.1"
    for address in (REMOTE[4], f"[{REMOTE[6]}]"):
        url = f"http://{address}:8000/"
        machine.podman("run", "--rm", "base", "curl", "-sS", "-m", "20", "-o", "/dev/null", url)


def test_names_are_resolved(machine: Machine) -> None:
    """By way of 169.254.1.1, which podman gives to the container and to us, from the host's nameserver."""
    names = ("-A", "/some.example/192.0.2.77", "-A", "/some.example/2001:db8::77")
    with machine.serving("dnsmasq", "-k", "-u", "root", "-R", *names, remote=True):
        assert "192.0.2.77" in machine.podman("run", "--rm", "base", "nslookup", "some.example")


@pytest.mark.parametrize(
    ("publish", "asked", "refused"),
    [
        ("8080:80", ["127.0.0.1:8080", "[::1]:8080", "192.0.2.1:8080", "[2001:db8::1]:8080"], ["127.0.0.1:8081"]),
        ("127.0.0.1:8080:80", ["127.0.0.1:8080"], ["192.0.2.1:8080", "[::1]:8080"]),
        ("[::1]:8080:80", ["[::1]:8080"], ["127.0.0.1:8080", "[2001:db8::1]:8080"]),
        ("192.0.2.1:8080:80", ["192.0.2.1:8080"], ["127.0.0.1:8080"]),
        ("[2001:db8::1]:8080:80", ["[2001:db8::1]:8080"], ["[::1]:8080"]),
        ("[::]:8080:80", ["[::1]:8080", "[2001:db8::1]:8080"], ["127.0.0.1:8080", "192.0.2.1:8080"]),
        ("8079-8081:79-81", ["127.0.0.1:8080"], ["127.0.0.1:8082"]),
    ],
)
def test_published_ports(machine: Machine, publish: str, asked: list[str], refused: list[str]) -> None:
    machine.podman("run", "-d", "-p", publish, "base", *HTTPD)
    for where in asked:
        wait_until(lambda url=f"http://{where}/": get(machine, url) == "hello", 5, f"{where} answers")
        if not where.startswith(("127", "[::1]")):
            assert get(machine, f"http://{where}/", remote=True) == "hello"
    for where in refused:
        assert get(machine, f"http://{where}/") == ""


def test_ps_shows_the_options_that_podman_has_passed(machine: Machine) -> None:
    machine.podman("run", "-d", "-p", "8080:80", "base", *HTTPD)
    (shown,) = {line.strip() for line in machine.processes(OURS)}
    assert shown.startswith(f"{OURS} --config-net -t 8080-8080:80-80 ") and " --netns /run/user/1000/netns/" in shown


ASK = """
import socket, sys
sock = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(float(sys.argv[3]))
sock.connect((sys.argv[1], int(sys.argv[2])))
sock.send(b"datagram")
print(sock.recv(100).decode(), end="")
"""


def echoed(machine: Machine, where: str, remote: bool = False, wait: float = 1) -> str:
    """What comes back for one datagram to ADDRESS:PORT; "" for silence for so many seconds, or a refusal."""
    prefix = ("ip", "netns", "exec", "remote") if remote else ()
    address, _, port = where.rpartition(":")
    command = ("/opt/pasta-py/bin/python3", "-IS", "-c", ASK, address.strip("[]"), port, wait)
    return machine.run(*prefix, *command, root=remote, check=False).stdout


@pytest.mark.parametrize(
    ("publish", "asked", "silent"),
    [
        ("5300:53/udp", ["127.0.0.1:5300", "[::1]:5300", "192.0.2.1:5300", "[2001:db8::1]:5300"], ["127.0.0.1:5301"]),
        ("127.0.0.1:5300:53/udp", ["127.0.0.1:5300"], ["192.0.2.1:5300", "[::1]:5300"]),
        ("[::1]:5300:53/udp", ["[::1]:5300"], ["127.0.0.1:5300", "[2001:db8::1]:5300"]),
        ("192.0.2.1:5300:53/udp", ["192.0.2.1:5300"], ["127.0.0.1:5300"]),
        ("5299-5301:52-54/udp", ["192.0.2.1:5300", "[::1]:5300"], ["192.0.2.1:5302"]),
    ],
)
def test_published_udp(machine: Machine, publish: str, asked: list[str], silent: list[str]) -> None:
    server = ("socat", "UDP6-RECVFROM:53,fork,ipv6only=0", "EXEC:cat")
    machine.podman("run", "-d", "-p", publish, "base", *server)
    wait_until(lambda: echoed(machine, asked[0]), 5, "the server answers")
    for where in asked:
        remote = not where.startswith(("127", "[::1]"))
        assert echoed(machine, where, wait=20) == "datagram", where
        assert not remote or echoed(machine, where, remote, wait=20) == "datagram", where
    for where in silent:
        assert echoed(machine, where) == "", where


def test_the_clients_address_reaches_nginx(machine: Machine) -> None:
    name = machine.podman("run", "-d", "-p", "8080:80", "base", "nginx")
    for family, url in ((4, f"http://{HOST[4]}:8080/"), (6, f"http://[{HOST[6]}]:8080/")):
        wait_until(lambda url=url: get(machine, url, remote=True) == "hello", 5, "nginx answers")
        line = f"{REMOTE[family]} - - "  # nginx writes it when it has answered
        wait_until(lambda line=line: line in machine.podman("logs", name), 5, "nginx's log has the client's address")


def test_exec_stop_and_rm(machine: Machine) -> None:
    name = machine.podman("run", "-d", "--init", "-p", "8080:80", "base", *HTTPD)
    wait_until(lambda: get(machine, "http://127.0.0.1:8080/") == "hello", 5, "it answers")
    assert machine.podman("exec", name, "curl", "-sS", "http://127.0.0.1/") == "hello"
    machine.podman("stop", "-t", "1", name)
    wait_until(lambda: not machine.processes("/opt/pasta-py/"), 1.5, "pasta is gone after stop")
    machine.podman("start", name)
    wait_until(lambda: get(machine, "http://127.0.0.1:8080/") == "hello", 5, "it answers again")
    machine.podman("rm", "-f", "-t", "0", name)
    wait_until(lambda: not machine.processes("/opt/pasta-py/"), 1.5, "pasta is gone after rm")


def test_a_pod(machine: Machine) -> None:
    """Two containers, one network: the second asks the first over loopback."""
    machine.podman("pod", "create", "--name", "pod", "-p", "8080:80")
    machine.podman("run", "-d", "--pod", "pod", "base", *HTTPD)
    asked = ("run", "--rm", "--pod", "pod", "base", "sh", "-c", "until curl -sS http://127.0.0.1/; do sleep 0.1; done")
    assert machine.podman(*asked) == "hello"
    assert get(machine, f"http://{HOST[4]}:8080/", remote=True) == "hello"


SLIRP = "-a,10.0.2.0,-n,24,-g,10.0.2.2,--dns-forward,10.0.2.3"


@pytest.mark.parametrize(
    ("network", "command", "wanted"),
    [
        ("pasta:--mtu,1500", "cat /sys/class/net/eth0/mtu", "1500"),
        (f"pasta:--ipv4-only,{SLIRP},-m,1500,--no-ndp,--no-dhcpv6,--no-dhcp", "ip -4 -o addr show eth0; ip -6 addr", "10.0.2.0/24"),
        (f"pasta:-I,tap0,--ipv4-only,{SLIRP},--no-ndp,--no-dhcpv6,--no-dhcp", "ip -o addr show tap0", "10.0.2.0/24"),
        ("pasta:-I,tap0", "ls /sys/class/net", "tap0"),
        ("pasta:-4", "ip -6 route; ip -o addr", HOST[4]),
        ("pasta:-i,eth0", "ip -o addr show eth0", HOST[6]),
    ],
)
def test_options_of_network_pasta(machine: Machine, network: str, command: str, wanted: str) -> None:
    """The recipes of podman-run(1)."""
    shown = machine.podman("run", "--rm", f"--network={network}", "base", "sh", "-c", command)
    assert wanted in shown
    if "4" in network.split(",")[0] or "--ipv4-only" in network:
        assert "2001:db8" not in shown


def test_map_gw_reaches_the_hosts_loopback(machine: Machine) -> None:
    """Off by default under podman, which adds --no-map-gw, and where it is asked for."""
    asked = ("base", "curl", "-sS", "-m", "20", f"http://{REMOTE[4]}:9000/")
    with machine.serving("busybox", "httpd", "-f", "-p", "127.0.0.1:9000", "-h", "/opt"):
        for off in ((), ("--network=pasta:--no-map-gw",)):
            assert machine.run("podman", "run", "--rm", *off, *asked, check=False).returncode
        done = machine.run("podman", "run", "--rm", "--network=pasta:--map-gw", *asked, check=False)
        assert "404" in done.stdout, done.stderr


def test_ports_of_the_host_on_the_containers_loopback(machine: Machine) -> None:
    """-T PORT, and -T auto."""
    with machine.serving("busybox", "httpd", "-f", "-p", "127.0.0.1:9000", "-h", "/opt"):
        for option in ("-T,9000", "-T,auto"):
            command = ("sh", "-c", "until curl -sS -m 20 http://127.0.0.1:9000/; do sleep 0.1; done")
            assert "404" in machine.podman("run", "--rm", f"--network=pasta:{option}", "base", *command)


def test_automatic_ports(machine: Machine) -> None:
    """-t auto and -u auto: the port follows the service."""
    servers = "httpd -f -p 8085 -h /www & exec socat UDP6-RECVFROM:8086,fork,ipv6only=0 EXEC:cat"
    machine.podman("run", "-d", "--network=pasta:-t,auto,-u,auto", "base", "sh", "-c", servers)
    wait_until(lambda: get(machine, "http://127.0.0.1:8085/") == "hello", 5, "the port of TCP follows the service")
    wait_until(lambda: echoed(machine, "192.0.2.1:8086", remote=True) == "datagram", 5, "that of UDP too")


def test_options_of_containers_conf(machine: Machine) -> None:
    """pasta_options of containers.conf come first: those of --network are added to them."""
    options = '[network]\npasta_options = ["-I", "tap7", "--mtu", "1400"]\n'
    machine.run("sh", "-c", "cat .config/containers/containers.conf - >with.conf", input=options)
    for more, mtu in (((), "1400"), (("--network=pasta:--mtu,1300",), "1300")):
        command = ("podman", "run", "--rm", *more, "base", "cat", "/sys/class/net/tap7/mtu")
        assert machine.run("env", "CONTAINERS_CONF=/home/user/with.conf", *command).stdout == f"{mtu}\n"


def test_the_documented_configuration(machine: Machine) -> None:
    text = pages.block("docs/podman.md", "[engine]")
    machine.run("sh", "-c", "cat >page.conf", input=text)
    with_page = ("env", "CONTAINERS_CONF_OVERRIDE=/home/user/page.conf", "podman")
    assert machine.run(*with_page, "info", "-f", "{{.Host.Pasta.Executable}}").stdout == f"{OURS}\n"
    machine.run(*with_page, "run", "-d", "base", *HTTPD)
    (shown,) = {line.strip() for line in machine.processes(OURS)}
    assert "--no-map-gw" not in shown, "podman adds it where --map-gw is not asked for"


def test_the_documented_recipes(machine: Machine) -> None:
    """As they stand there, each for a container that ends at once."""
    recipes = pages.block("docs/podman.md", "# The container reaches")
    assert recipes.count("podman run") == recipes.count("IMAGE") > 5
    machine.run("sh", "-ec", recipes.replace("podman run", "podman run --rm").replace("IMAGE", "base true"), timeout=120)


def test_the_lines_of_the_readme(machine: Machine) -> None:
    """In the shell of a user whose podman starts passt's pasta, and who has our programs in the PATH."""
    machine.run("sh", "-c", "cat >others.conf", input='[engine]\nhelper_binaries_dir = ["/usr/bin", "/usr/lib/podman"]\n')
    paths = (f"PATH={os.path.dirname(OURS)}:/usr/bin:/bin", "CONTAINERS_CONF_OVERRIDE=/home/user/others.conf")
    shown = ("podman", "info", "--format", "{{.Host.Pasta.Executable}}")
    assert machine.run("env", *paths, *shown).stdout == f"{PASST}\n"
    lines = pages.block("README.md", "export CONTAINERS_HELPER_BINARY_DIR")
    lines = lines.replace("podman run", "podman run -d").replace("IMAGE", f"base {' '.join(HTTPD)}")
    assert machine.run("env", *paths, "sh", "-ec", lines, timeout=120).stdout.startswith(f"{OURS}\n")
    wait_until(lambda: get(machine, f"http://{HOST[4]}:8080/", remote=True) == "hello", 5, "the container answers")
    assert machine.processes(OURS)


def test_host_containers_internal(machine: Machine) -> None:
    """The host itself, though the container has its address."""
    with machine.serving("busybox", "httpd", "-f", "-p", "9000", "-h", "/opt"):
        shown = machine.podman("run", "--rm", "base", "curl", "-sS", "-m", "20", "http://host.containers.internal:9000/")
    assert "404" in shown


def test_a_network_of_its_own(machine: Machine, web: None) -> None:
    """Bridge, names, published ports, and the way out through the rootless namespace's one pasta."""
    machine.podman("network", "create", "net")
    try:
        machine.podman("run", "-d", "--network", "net", "--name", "server", "-p", "8080:80", "base", *HTTPD)
        patient = ("--retry", "20", "--retry-delay", "1", "--retry-all-errors")
        client = ("run", "--rm", "--network", "net", "base", "curl", "-sS", "-m", "50", *patient)
        assert machine.podman(*client, "http://server/") == "hello"
        assert "404" in machine.podman(*client, f"http://{REMOTE[4]}:8000/")
        for remote in (False, True):
            assert get(machine, f"http://{HOST[4]}:8080/", remote) == "hello"
        machine.podman("rm", "-fa", "-t", "0")
        wait_until(lambda: not machine.processes("/opt/pasta-py/"), 2, "pasta is gone with the last container")
    finally:
        machine.run("podman", "network", "rm", "-f", "net", check=False)


@pytest.mark.parametrize("program", ["podman", "buildah"])
def test_a_build_with_a_step_that_needs_the_network(machine: Machine, web: None, program: str) -> None:
    text = f"FROM base\\nRUN curl -sS -m 20 http://{REMOTE[4]}:8000/ >/fetched\\n"
    machine.run("sh", "-c", f"mkdir -p context && printf '{text}' >context/Containerfile")
    words = ("build", "-q", "-t", "made", "context") if program == "podman" else ("bud", "-q", "-t", "made", "context")
    machine.run(program, *words, timeout=120)
    assert "404" in machine.podman("run", "--rm", "made", "cat", "/fetched")
    wait_until(lambda: not machine.processes("/opt/pasta-py/"), 2.5, "pasta is gone after the build")


def test_kube_play(machine: Machine) -> None:
    manifest = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web"},
        "spec": {
            "containers": [
                {
                    "name": "server",
                    "image": "localhost/base:latest",
                    "imagePullPolicy": "Never",
                    "command": list(HTTPD),
                    "ports": [{"containerPort": 80, "hostPort": 8080}],
                }
            ]
        },
    }
    machine.run("sh", "-c", "cat >pod.yaml", input=json.dumps(manifest))
    machine.podman("kube", "play", "--network", "pasta", "pod.yaml")
    wait_until(lambda: get(machine, f"http://{HOST[4]}:8080/", remote=True) == "hello", 5, "the pod answers")
    machine.podman("kube", "down", "pod.yaml")


def test_a_capture_read_with_tshark(machine: Machine, web: None) -> None:
    options = "--network=pasta:--pcap,/tmp/traffic.pcap"
    machine.podman("run", "--rm", options, "base", "curl", "-sS", "-o", "/dev/null", f"http://{REMOTE[4]}:8000/x")
    wait_until(lambda: not machine.processes("/opt/pasta-py/"), 2, "pasta is gone, and the file complete")
    capture = machine.root / "tmp" / "traffic.pcap"
    tshark = ["tshark", "-r", str(capture), "-Y", "http.request", "-T", "fields", "-e", "ip.src", "-e", "http.request.uri"]
    done = subprocess.run(tshark, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == [HOST[4], "/x"]


def test_a_live_capture_through_a_fifo(machine: Machine, web: None) -> None:
    """tshark has the frames while the container still runs."""
    machine.run("mkfifo", "live")
    script = f"curl -sS -o /dev/null http://{REMOTE[4]}:8000/live; sleep 300"
    container = machine.popen("podman", "run", "--rm", "--network=pasta:--pcap,/home/user/live", "base", "sh", "-c", script)
    fifo = root_directory() / "home" / "user" / "live"  # through the machine's /proc/PID/root dumpcap may not go
    tshark = ["tshark", "-l", "-i", str(fifo), "-Y", "http.request", "-T", "fields", "-e", "http.request.uri"]
    reader = subprocess.Popen(tshark, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert reader.stdout is not None
        readable, _, _ = select.select([reader.stdout], [], [], 60)
        assert readable and reader.stdout.readline() == "/live\n"
        assert container.poll() is None
    finally:
        machine.podman("rm", "-fa", "-t", "0")
        container.communicate(timeout=30)
        reader.communicate(timeout=30)  # the capture's end is the reader's


def test_ps_has_the_names_of_containers_and_pods(machine: Machine) -> None:
    machine.podman("run", "-d", "--name", "web", "base", "sleep", "300")
    machine.podman("pod", "create", "--name", "pair", "-p", "8080:80")
    machine.podman("run", "-d", "--pod", "pair", "base", *HTTPD)
    found = [json.loads(line) for line in machine.run(PASTA_PY, "ps", "--json").stdout.splitlines()]
    assert sorted(each["shown"] for each in found) == ["container web", "pod pair"]
    assert all(each["serves"].startswith("/run/user/1000/netns/") for each in found)
    assert "  container web\n" in machine.run(PASTA_PY, "ps").stdout
    for name in ("web", "pair"):
        assert "tap_rx_frames" in json.loads(machine.run(PASTA_PY, "stats", name, "--json").stdout)
    machine.podman("rm", "-f", "-t", "0", "web")
    wait_until(lambda: "web" not in machine.run(PASTA_PY, "ps").stdout, 2, "it goes with its container")


def test_ps_has_the_name_of_a_container_whose_graph_root_is_at_another_place(machine: Machine) -> None:
    elsewhere = ("podman", "--root", "/home/user/else where/root", "--runroot", "/tmp/else")
    machine.run(*elsewhere, "import", "-q", "/image.tar", "base", timeout=120)
    try:
        machine.run(*elsewhere, "run", "-d", "--name", "far", "base", "sleep", "300")
        assert "  container far\n" in machine.run(PASTA_PY, "ps").stdout
    finally:
        machine.run(*elsewhere, "rm", "-fa", "-t", "0", check=False)
        machine.run(*elsewhere, "system", "reset", "-f", check=False)


@pytest.mark.parametrize(
    "reader", ["tshark -l -n -i - -Y http.request -T fields -e http.request.uri", "tcpdump -l -n -A -r - tcp[13]&8!=0"]
)
def test_a_capture_of_a_running_container_is_read_as_it_comes(machine: Machine, web: None, reader: str) -> None:
    asks = f"while true; do curl -sS -o /dev/null http://{REMOTE[4]}:8000/again; sleep 0.1; done"
    machine.podman("run", "-d", "--name", "asks", "base", "sh", "-c", asks)
    words = (PASTA_PY, "capture", "--instance", "asks", "-w", "-")  # without a filter: this machine has no libpcap
    capture = machine.popen(*words, text=False)
    shown = subprocess.Popen(reader.split(), stdin=capture.stdout, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert capture.stdout is not None and shown.stdout is not None
        capture.stdout.close()
        for _ in range(3):
            while "/again" not in (line := shown.stdout.readline()):
                assert line, "the reader has ended"
        assert machine.podman("inspect", "-f", "{{.State.Running}}", "asks") == "true"
    finally:
        shown.kill()
        shown.communicate()
    _, said = capture.communicate(timeout=60)  # its next frame finds no reader
    assert b" frames written, " in said and capture.returncode == 0, said


def test_the_documented_unit_is_one_that_quadlet_takes(machine: Machine) -> None:
    put = "mkdir -p .config/containers/systemd && cat >.config/containers/systemd/web.container"
    machine.run("sh", "-c", put, input=pages.block("docs/podman.md", "[Container]"))
    service = machine.run("/usr/libexec/podman/quadlet", "-user", "-dryrun").stdout
    (command,) = [line for line in service.splitlines() if line.startswith("ExecStart=")]
    assert " pasta:-t,%%eth0/8080:80 " in command  # which systemd takes for %eth0


def test_publishing_on_one_device(machine: Machine) -> None:
    machine.podman("run", "-d", "--network=pasta:-t,%eth0/8080:80", "base", *HTTPD)
    wait_until(lambda: get(machine, f"http://{HOST[4]}:8080/", remote=True) == "hello", 5, "the remote is answered")
    assert get(machine, "http://127.0.0.1:8080/") == ""


def test_errors_as_podman_shows_them(machine: Machine) -> None:
    """One line of ours behind podman's own: what failed, and what to do."""
    with machine.serving("busybox", "httpd", "-f", "-p", "8080"):
        done = machine.run("podman", "run", "--rm", "-p", "8080:80", "base", "true", check=False)
    assert done.returncode
    assert "pasta failed with exit code 1" in done.stderr
    assert "Couldn't listen on host TCP port 8080" in done.stderr and "Address already in use" in done.stderr
    done = machine.run("podman", "run", "--rm", "--network=pasta:--no-such", "base", "true", check=False)
    assert "unrecognized option '--no-such'" in done.stderr


def storm(machine: Machine) -> list[float]:
    """Seconds that each of ten containers took, started and removed at the same time."""
    script = (
        "for i in $(seq 10); do (s=$(date +%s%N); podman run --rm base true || echo failed; e=$(date +%s%N); "
        "echo $(((e - s) / 1000))) & done; wait"
    )
    words = machine.run("sh", "-c", script, timeout=120).stdout.split()
    assert len(words) == 10 and "failed" not in words, words
    return [int(word) / 1e6 for word in words]


def test_containers_ten_at_a_time_leave_nothing(machine: Machine) -> None:
    """No process, namespace, mount, pidfile or other file of ours; times per start beside passt's, in turns."""
    count = 200 if os.environ.get("PASTA_LONG") else 20

    def left() -> tuple[list[str], str, int, str]:
        # podman mounts the namespaces in a mount namespace of its own.
        mounts = machine.podman("unshare", "grep", "-c", "netns", "/proc/mounts", check=False)
        namespaces = machine.root_run("lsns", "-n", "-t", "net").stdout.splitlines()
        looked_for = ("-path", "*netns*", "-o", "-name", "*pasta*", "-o", "-name", "*.pid")
        files = machine.run("find", "/run/user/1000", "/tmp", *looked_for).stdout
        return machine.processes("/opt/pasta-py/", "/usr/bin/pasta"), mounts, len(namespaces), "\n".join(sorted(files.split()))

    # The first container also leaves what podman makes once.
    machine.podman("run", "--rm", "base", "true")
    wait_until(lambda: not machine.processes("/opt/pasta-py/"), 2, "pasta is gone")
    before = left()
    machine.podman("run", "-d", "--name", "seen", "base", "sleep", "600")
    for now, then in zip(left(), before, strict=True):
        assert now != then, "what a running container has would not be seen"
    machine.podman("rm", "-f", "-t", "0", "seen")
    took: dict[str, list[float]] = {OURS: [], PASST: []}
    try:
        for _ in range(count // 10):
            for program in (OURS, PASST):
                machine.helper(program)
                took[program] += storm(machine)
    finally:
        machine.helper(OURS)
    with contextlib.suppress(AssertionError):
        wait_until(lambda: left() == before, 2, "nothing is left")
    assert left() == before
    medians = {program: sorted(times)[len(times) // 2] for program, times in took.items()}
    print(f"\n{count} containers, ten at a time, median seconds each: ours {medians[OURS]:.2f}, passt {medians[PASST]:.2f}")
    assert medians[OURS] < 3 * medians[PASST]
