"""slirp4netns: what its callers rely on, ours beside the real one: command lines, addresses, API, the beginning and the end."""

import contextlib
import json
import os
import re
import signal
import socket
from typing import Any

import pytest
from lab import REMOTE4, Guest, Lab, cmdline, wait_until
from slirp import API, GATEWAY, GATEWAY6, GUEST4, NAMES, connected, path, start

MAC = "02:00:00:00:00:01"
EUI = "::ff:fe00:1"
NOBODY = "99999999"  # no process has this number

# Command lines that end at once, and for those that are wrong what both print about it.
COMMAND_LINES: "tuple[tuple[str, str | None], ...]" = (
    ("", None),
    ("1", None),
    ("-c", None),
    ("--help", None),
    ("-h 1", None),
    ("-v", None),
    ("--conf -v", None),
    ("-cv", None),
    ("--version --bogus", None),
    ("--bogus 1 tap0", "unrecognized option '--bogus'"),
    (f"{NOBODY} tap0 -c --bogus", "unrecognized option '--bogus'"),
    ("-z 1 tap0", "invalid option -- 'z'"),
    ("-m", "option requires an argument -- 'm'"),
    ("--mtu", "option '--mtu' requires an argument"),
    ("--configure=yes 1 tap0", "option '--configure' doesn't allow an argument"),
    ("--enable 1 tap0", "possibilities: '--enable-ipv6' '--enable-sandbox' '--enable-seccomp'"),
    ("-m 0 1 tap0", "MTU must be a positive integer (< 65522)"),
    ("-m 65522 1 tap0", "MTU must be a positive integer (< 65522)"),
    ("-m 1500x 1 tap0", "MTU must be a positive integer (< 65522)"),
    ("-e x 1 tap0", "exit-fd must be a non-negative integer"),
    ("-r -5 1 tap0", "ready-fd must be a non-negative integer"),
    ("--cidr 10.0.2.1/24 1 tap0", "CIDR needs to be a network address like 10.0.2.0/24, not like 10.0.2.1"),
    ("--cidr 10.0.2.0/26 1 tap0", "prefix length needs to be 1-25"),
    ("--cidr 0.0.0.0/0 1 tap0", "prefix length needs to be 1-25"),
    ("--cidr 10.0.2.0 1 tap0", "invalid CIDR: 10.0.2.0"),
    ("--cidr 2001::/64 1 tap0", "invalid CIDR: 2001::/64"),
    ("--netns-type=foo 1 tap0", None),
    ("--netns-type=path /nonexistent tap0", "No such file or directory"),
    ("--userns-path=/nonexistent --netns-type=path /proc/self/ns/net tap0", "/nonexistent"),
    ("--target-type=foo 1 tap0", '--target-type must be either "netns" or "bess"'),
    (f"--macaddress {MAC} 1 tap0", None),
    (f"--outbound-addr no/name {NOBODY} tap0", "valid ipv4 address or interface name"),
    ("-c abc tap0", "PID must be a positive integer"),
    ("-c 12x tap0", "PID must be a positive integer"),
    ("-c 0 tap0", "PID must be a positive integer"),
    (f"-c {NOBODY} tap0", f"/proc/{NOBODY}/ns/net: No such file or directory"),
    (f"{NOBODY} tap0 extra", "No such file or directory"),
)
# Probed as substrings of --help by podman, rootlesskit and Docker's dockerd-rootless.sh.
PROBED = (
    "--cidr", "--disable-host-loopback", "--mtu", "--enable-sandbox", "--enable-seccomp", "--enable-ipv6", "--netns-type",
    "--userns-path", "--outbound-addr", "--outbound-addr6", "--api-socket", "--disable-dns", "--macaddress",
)  # fmt: skip

ADD = {"proto": "tcp", "host_addr": "0.0.0.0", "host_port": 8080, "guest_addr": GUEST4, "guest_port": 80}


def add(**changes: object) -> dict[str, object]:
    arguments = {name: value for name, value in {**ADD, **changes}.items() if value is not None}
    return {"execute": "add_hostfwd", "arguments": arguments}


LIST: dict[str, object] = {"execute": "list_hostfwd"}
# In this order, to one socket: later answers depend on earlier ones.
REQUESTS: "tuple[dict[str, object] | str, ...]" = (
    LIST,
    add(),
    add(),
    add(proto="udp"),
    add(proto="udp"),
    add(host_addr="", guest_addr="", host_port=8081),
    add(host_addr=None, guest_addr=None, host_port=8082),
    add(host_addr="127.0.0.1", guest_addr="10.0.2.7", host_port=8083),
    add(proto="sctp"),
    add(host_addr="::"),
    add(host_addr="x"),
    add(guest_addr="x"),
    add(host_port=0),
    add(host_port="80"),
    add(host_port=None),
    add(guest_port=0),
    add(guest_port="x"),
    add(host_addr="198.51.100.77"),
    add(host_port=80),
    add(host_port=8085.7),
    LIST,
    {"execute": "remove_hostfwd", "arguments": {"id": 1}},
    {"execute": "remove_hostfwd", "arguments": {"id": 1}},
    {"execute": "remove_hostfwd", "arguments": {"id": "2"}},
    {"execute": "remove_hostfwd"},
    LIST,
    add(),
    {"execute": "x"},
    {"execute": 5},
    {},
    "[]",
    "1",
    "{",
    "",
    "nonsense",
    '{"execute":"list_hostfwd"} and more',
    "x" * 4095,
    "x" * 4096,
    {"execute": "list_hostfwd", "arguments": "x"},
    LIST,
)


@pytest.mark.parametrize(("words", "expected"), COMMAND_LINES)
def test_command_lines_end_the_same(lab: Lab, words: str, expected: str | None) -> None:
    said = {}
    for name in NAMES:
        done = lab.host.run(path(name), *words.split(), check=False)
        said[name] = (done.returncode, done.stderr)
    assert said["ours"][0] == said["real"][0]
    if expected:
        assert all(expected in error for _status, error in said.values()), said
    if said["ours"][0]:
        assert said["ours"][1].startswith(("slirp4netns: ", "Usage: ")), said


def test_an_mtu_that_is_refused_is_told_with_those_that_are_taken(lab: Lab) -> None:
    said = {}
    for name in NAMES:
        with lab.stray() as guest:
            refused = lab.host.run(path(name), "-c", "--mtu=67", lab.inner_pid(guest.pid), "tap0", check=False)
        assert refused.returncode == 1, name
        said[name] = refused.stderr
    accepted = re.search(r"MTU 67 .* expected (\d+) to (\d+)", said["ours"])
    assert accepted, said
    for mtu in accepted.groups():
        for name in NAMES:
            with connected(lab, name, "-c", f"--mtu={mtu}") as (guest, _running):
                assert seen(guest)["mtu"] == int(mtu), name


def test_a_loopback_that_the_guest_reaches_is_warned_of(lab: Lab) -> None:
    """Where it is not closed, both name the address that leads there."""
    for name in NAMES:
        for option, addresses in (("-c", {GATEWAY}), ("--cidr=10.9.0.0/24", {"10.9.0.2"}), ("--disable-host-loopback", set())):
            with connected(lab, name, option) as (_guest, running):
                warnings = [line for line in str(running.end()["out"]).splitlines() if line.startswith("WARNING: ")]
            assert {word for line in warnings for word in re.findall(r"as ([\d.]+\d)", line)} == addresses, (name, warnings)
            assert all("127.0.0.1:*" in line and "--disable-host-loopback" in line for line in warnings)
    with connected(lab, "ours", "-6") as (_guest, running):
        assert f"[::1]:* as {GATEWAY6}" in str(running.end()["out"])


@pytest.mark.parametrize("options", [("-c",), ("--cidr=10.9.0.0/25", "--mtu=9000")], ids=" ".join)
def test_what_the_guest_may_use_is_told_as_by_the_original(lab: Lab, options: tuple[str, ...]) -> None:
    facts = []
    for name in ("ours", "sid"):
        with connected(lab, name, *options) as (_guest, running):
            lines = str(running.end()["out"]).splitlines()
        facts.append([re.split(r":\s+", line) for line in lines if line.startswith("* ")])
    assert facts[0] == facts[1] and len(facts[1]) == 8


def test_an_interface_that_the_host_lacks_is_told_by_the_name_that_was_given(lab: Lab) -> None:
    with lab.stray() as guest:
        words = (path("ours"), "-c", "--outbound-addr", "nosuch0", lab.inner_pid(guest.pid), "tap0")
        refused = lab.host.run(*words, check=False)
    assert refused.returncode == 1 and "no interface 'nosuch0'" in refused.stderr and "outbound-if" not in refused.stderr


def test_help_names_every_option(lab: Lab) -> None:
    text = {name: lab.host.run(path(name), "--help").stdout for name in NAMES}
    options = set(re.findall(r"(?m)^(?:-\w, )?(--[\w-]+)", text["real"]))
    assert len(options) > 15
    assert [option for option in (*options, *PROBED) if option not in text["ours"]] == []


@pytest.mark.parametrize("option", ["-v", "--version"])
def test_version_has_the_lines_of_the_original(lab: Lab, option: str) -> None:
    said = {name: lab.host.run(path(name), option).stdout.splitlines() for name in (*NAMES, "sid")}
    for lines in said.values():
        assert re.fullmatch(r"slirp4netns version \d+\.\d+\.\d+", lines[0])
        assert all(re.fullmatch(r"[\w-]+: \S+", line) for line in lines[1:])
    names = {name: [line.split(":")[0] for line in lines[1:]] for name, lines in said.items()}
    assert names["ours"] == [*names["sid"], "pasta-py"] and names["real"] == names["sid"]
    interface = {name: line for name, lines in said.items() for line in lines if line.startswith("SLIRP_CONFIG_VERSION_MAX: ")}
    assert said["ours"][0] == said["sid"][0] and interface["ours"] == interface["sid"]


def seen(guest: Guest) -> dict[str, Any]:
    """What --configure has made, as far as it is of both."""
    links = {link["ifname"]: link for link in json.loads(guest.run("ip", "-j", "addr").stdout)}
    tap = links["tap0"]
    four = [{k: a.get(k) for k in ("local", "prefixlen", "broadcast", "scope")} for a in tap["addr_info"] if a["family"] == "inet"]
    six = [f"{a['local']}/{a['prefixlen']}" for a in tap["addr_info"] if a["family"] == "inet6" and a["scope"] == "global"]
    routes = [
        [(r["dst"], r.get("gateway"), r["dev"]) for r in json.loads(guest.run("ip", f"-{version}", "-j", "route").stdout)]
        for version in (4, 6)
    ]
    return {
        "lo": "UP" in links["lo"]["flags"],
        "up": "UP" in tap["flags"],
        "mtu": tap["mtu"],
        "mac": tap["address"] if tap["address"] == MAC else "another",
        "addresses": (four, six),
        "routes": (routes[0], [route for route in routes[1] if "fe80::/64" not in route]),
    }


@pytest.mark.parametrize(
    "options",
    [
        ("-c",),
        ("-c", "--mtu=65520", "--macaddress", MAC),
        ("--configure", "-m9000", "--cidr=172.16.0.0/12", "--enable-sandbox", "--enable-seccomp"),
        ("-c", "--cidr", "192.168.5.128/25"),
        ("-c", "-6", f"--macaddress={MAC}"),
    ],
    ids=" ".join,
)
def test_the_namespace_is_configured_the_same(lab: Lab, options: tuple[str, ...]) -> None:
    """The real one leaves IPv6 to its advertisements, so that it takes a while; ours has it when it says that it is ready."""
    found = {}
    for name in NAMES:
        with connected(lab, name, *options) as (guest, _running):
            if name == "real" and "-6" in options:
                wait_until(lambda inner=guest: "default" in inner.run("ip", "-6", "route").stdout, 10, "it is advertised")  # type: ignore[misc]
            found[name] = seen(guest)
    assert found["ours"] == found["real"]
    if "-6" in options:
        assert found["ours"]["addresses"][1] == [f"fd00{EUI}/64"]


def test_without_configure_the_namespace_is_left_alone(lab: Lab) -> None:
    for name in NAMES:
        with connected(lab, name) as (guest, _running):
            links = {link["ifname"]: link for link in json.loads(guest.run("ip", "-j", "addr").stdout)}
            assert set(links) == {"lo", "tap0"}
            assert not any("UP" in link["flags"] or link["addr_info"] for link in links.values())


def comparable(answer: dict[str, object]) -> dict[str, object]:
    """Without what differs on purpose: the reason of a refusal, and the entries that the manual has under "return"."""
    if "entries" in answer:
        return {"entries": answer["entries"]}
    text = json.dumps(answer)
    return dict(json.loads(re.sub(r"(slirp_add_hostfwd failed)[^\"]*", r"\1", text)))


def test_the_api_answers_the_same(lab: Lab) -> None:
    answers: dict[str, list[dict[str, object]]] = {}
    for name in NAMES:
        with connected(lab, name, "-c", "-a", API) as (_guest, running):
            answers[name] = [running.api(request) for request in REQUESTS]
    for request, ours, real in zip(REQUESTS, answers["ours"], answers["real"], strict=True):
        assert comparable(ours) == comparable(real), request
    listed = answers["ours"][-1]
    assert listed["return"] == {"entries": listed["entries"]}
    assert len(listed["entries"]) == 6  # type: ignore[arg-type]


def test_what_ends_the_real_one_or_is_misunderstood_is_refused(lab: Lab) -> None:
    bad = {"": "no execute found", "proto": "add_hostfwd: bad arguments.proto", "host_port": "add_hostfwd: bad arguments.host_port"}
    with connected(lab, "ours", "-c", "-a", API) as (_guest, running):
        for request, what in (
            ({"execute": "add_hostfwd"}, "proto"),
            ({"execute": "add_hostfwd", "arguments": {"host_port": 1}}, "proto"),
            (add(host_port=70000), "host_port"),
            (add(host_port=-1), "host_port"),
            (add(host_port=1e400), "host_port"),
            (add(host_port=True), "host_port"),
        ):
            assert running.api(request) == {"error": {"desc": f"bad request: {bad[what]}"}}, request
        assert running.api("[" * 4000) == {"error": {"desc": "bad request: cannot parse JSON"}}
        refused = running.api(add(host_port=80))["error"]
        assert str(refused).endswith("slirp_add_hostfwd failed: Permission denied'}")
        assert running.api(LIST)["entries"] == []


def test_a_client_that_is_slow_keeps_nobody_waiting(lab: Lab) -> None:
    """Also: a request may come in pieces, need not be followed by the end of the stream, and no answer need be taken."""
    with contextlib.ExitStack() as stack, connected(lab, "ours", "-c", "-a", API) as (_guest, running):
        where = str(lab.outer(f"{lab.directory}/{API}"))
        idle = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(100)]
        for sock in idle:
            sock.connect(where)
        slow = idle[-1]
        slow.sendall(b'{"execute":')
        assert running.api(LIST)["entries"] == []
        slow.sendall(b'"list_hostfwd"}')
        slow.settimeout(30)
        assert json.loads(slow.recv(4096))["entries"] == []
        for sock in idle[:50]:
            sock.close()
        for sock in idle[50:99]:
            sock.settimeout(30)
            assert b"cannot parse JSON" in sock.recv(4096)
        assert running.api(LIST)["entries"] == []


def test_the_socket_listens_when_it_is_ready(lab: Lab) -> None:
    """And takes the place of a file that another one has left."""
    (lab.directory / API).write_text("")
    with connected(lab, "ours", "-c", "-a", API) as (_guest, running):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(lab.outer(f"{lab.directory}/{API}")))
        assert running.api(LIST)["entries"] == []


@pytest.mark.parametrize(
    ("name", "how", "status"),
    [
        *((name, "close", 0) for name in NAMES),
        ("ours", "write", 0),  # as the manual says; the real one waits for the end of a pipe alone
        *((name, f"kill {int(signal.SIGTERM)}", -signal.SIGTERM) for name in NAMES),
    ],
)
def test_it_ends(lab: Lab, name: str, how: str, status: int) -> None:
    with connected(lab, name, "-c") as (_guest, running):
        assert running.end(how)["status"] == status
        wait_until(lambda: not lab.translators(), 3, "nothing holds the tap any more")


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_name_of_the_tap_is_the_kernels_choice(lab: Lab, name: str) -> None:
    with lab.stray() as guest:
        running = start(lab, name, lab.inner_pid(guest.pid), "")
        assert running.ready == "1" and guest.interface() == "tap0"
        running.end()


def test_it_ends_with_its_tap(lab: Lab) -> None:
    """The real one takes a whole CPU from then on."""
    with lab.stray() as guest:
        running = start(lab, "ours", "-c", lab.inner_pid(guest.pid), "tap0")
        assert running.ready == "1"
        guest.run("ip", "link", "del", "tap0")
        ended = running.end("wait")
        assert ended["status"] == 0 and "the tap is gone" in str(ended["err"])
        wait_until(lambda: not lab.translators(), 3, "nothing holds the tap any more")


def test_it_does_not_end_with_the_process_alone(lab: Lab) -> None:
    """The namespace may have others: its callers end it by its exit descriptor."""
    with lab.stray() as guest:
        other = guest.popen("sleep", "31.7")
        running = start(lab, "ours", "-c", lab.inner_pid(guest.pid), "tap0")
        left = lab.descendant(lambda pid: cmdline(pid) == ["sleep", "31.7"], "the other one")
        os.kill(guest.pid, signal.SIGKILL)
        wait_until(lambda: not cmdline(guest.pid), 5, "the process has ended")
        left_behind = Guest(lab, guest.process, left)
        wait_until(lambda: left_behind.run("ping", "-c1", "-W1", REMOTE4, check=False).returncode == 0, 5, "it still works")
        assert running.end()["status"] == 0
        other.kill()


def test_neither_process_outlives_the_other(lab: Lab) -> None:
    with connected(lab, "ours", "-c") as (_guest, running):
        running.end(f"kill {int(signal.SIGKILL)}")
        wait_until(lambda: not lab.translators(), 3, "the worker ends with the program")
    with connected(lab, "ours", "-c") as (_guest, running):
        os.kill(lab.translator().pid, signal.SIGKILL)
        ended = running.end("wait")
        assert ended["status"] == 1 and "the worker process ended by signal 9" in str(ended["err"])


def test_it_leaves_no_dead_children(lab: Lab) -> None:
    """What was started for splices and automatic ports, of which there are none here, ends at once."""
    with connected(lab, "ours", "-c"):
        wait_until(lambda: "Z" not in lab.host.run("ps", "-e", "-o", "stat=").stdout, 3, "there is no zombie")


@pytest.mark.parametrize("mtu", ["67", "1"])
def test_an_mtu_the_kernel_refuses_is_told(lab: Lab, mtu: str) -> None:
    for name in NAMES:
        with lab.stray() as guest:
            running = start(lab, name, "-c", "-m", mtu, lab.inner_pid(guest.pid), "tap0")
            assert running.ready == ""
            assert running.end("wait")["status"] == 1


def test_an_api_socket_that_cannot_be_is_told_before_it_is_ready(lab: Lab) -> None:
    for name in NAMES:
        with lab.stray() as guest:
            running = start(lab, name, "-c", "-a", "/nonexistent/api.sock", lab.inner_pid(guest.pid), "tap0")
            assert running.ready == ""
            ended = running.end("wait")
            assert ended["status"] == 1 and "No such file or directory" in str(ended["err"])


def test_a_second_one_on_the_same_tap_is_refused(lab: Lab) -> None:
    for name in NAMES:
        with connected(lab, name, "-c") as (guest, _running):
            second = start(lab, name, "-c", lab.inner_pid(guest.pid), "tap0")
            assert second.ready == ""
            ended = second.end("wait")
            assert ended["status"] == 1 and "Device or resource busy" in str(ended["err"])
