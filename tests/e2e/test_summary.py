"""What the program says at its start: what was set up, to those who have not asked for quiet; and that it is true."""

import json
from collections.abc import Iterator

import pytest
import sid
from lab import GATEWAY4, GATEWAY6, HOST4, HOST6, NO_PORTS, REMOTE4, Lab, program, remote_addresses, wait_until, wire

ENTRIES = ("pasta", "pasta-py")
MAC = "9a:55:9a:55:9a:55"
FORWARDED = ("-t", "8080:80", "-u", "127.0.0.1/5353", "-T", "5432", "-U", "none")
#: All that passt's pasta of October 2026 says about the same start.
FACTS = ("eth0", MAC, f"{HOST4}/24", GATEWAY4, HOST6, GATEWAY6, REMOTE4, "example.org")
PORTS = ("namespace: TCP [*]:8080  =>  80", "namespace: UDP [127.0.0.1]:5353  =>  5353", "host: TCP [*]%lo:5432  =>  5432")


@pytest.fixture(scope="module")
def ipv4_lab() -> Iterator[Lab]:
    """A host with IPv4 alone, as most are."""

    def ipv4_only(lab: Lab) -> None:
        wire(lab)
        remote_addresses(lab)
        lab.host.setup(f"addr add {HOST4}/24 dev eth0\nroute add default via {GATEWAY4}")

    with Lab(ipv4_only) as made:
        yield made


def attached(lab: Lab, entry: str, *options: object) -> tuple[str, list[dict[str, object]]]:
    """What it says as it joins a namespace, and the interface that is there afterwards, as of `ip -j addr`."""
    with lab.stray() as guest:
        done = lab.host.run(program(entry), *options, lab.inner_pid(guest.pid))
        assert done.stdout == ""
        links = [link for link in json.loads(guest.run("ip", "-j", "addr").stdout) if link["ifname"] != "lo"]
    wait_until(lambda: not lab.translators(), 3, "it goes with the namespace")
    return done.stderr, links


def addresses(link: dict[str, object]) -> list[str]:
    return [each["local"] for each in link["addr_info"] if each["scope"] == "global"]  # type: ignore[attr-defined]


@pytest.mark.option("--no-config-net")
def test_pasta_py_configures_what_it_joins(lab: Lab) -> None:
    """`pasta` leaves it to the guest, as passt's does."""
    (link,) = attached(lab, "pasta-py", "-q")[1]
    assert "UP" in link["flags"] and addresses(link) == [HOST4, HOST6]  # type: ignore[operator]
    for entry, options in (("pasta", ("-q",)), ("pasta-py", ("-q", "--no-config-net"))):
        (bare,) = attached(lab, entry, *options)[1]
        assert "UP" not in bare["flags"] and bare["addr_info"] == []  # type: ignore[operator]


@pytest.mark.parametrize("entry", ENTRIES)
def test_what_was_set_up_is_told(lab: Lab, entry: str) -> None:
    lab.resolv(f"nameserver {REMOTE4}\nsearch example.org\n")
    said, _ = attached(lab, entry, *FORWARDED)
    lab.resolv("")
    lines = said.splitlines()
    assert all(line.startswith(f"{entry}: ") for line in lines)
    assert not [fact for fact in FACTS if fact not in said]
    assert not [port for port in PORTS if f"{entry}: ports to the {port}" not in lines]
    (loopback,) = [line for line in lines if "the host's loopback: " in line]
    assert GATEWAY4 in loopback and GATEWAY6 in loopback
    assert ("not configured" in said) == (entry == "pasta")


@pytest.mark.option("--quiet")
@pytest.mark.parametrize("entry", ENTRIES)
def test_who_asks_for_quiet_or_runs_a_command_is_told_nothing(lab: Lab, entry: str) -> None:
    lab.resolv("nameserver 192.0.2.53\n")  # pasta-py warns of none
    assert attached(lab, entry, "-q", *NO_PORTS)[0] == ""
    assert lab.host.run(program(entry), *NO_PORTS, "--", "true").stderr == ""


@pytest.mark.option("--debug")
def test_debug_tells_it_of_a_command_too(lab: Lab) -> None:
    said = lab.host.run(program("pasta-py"), "-d", *NO_PORTS, "--", "true").stderr
    assert "pasta-py: interface: eth0, from the host's eth0, MTU 65520, configured\n" in said


def test_a_host_with_one_family_is_no_warning(ipv4_lab: Lab) -> None:
    """Each start would have it. passt's pasta says so where it says everything."""
    ipv4_lab.resolv("nameserver 192.0.2.53\n")
    assert attached(ipv4_lab, "pasta", "-q")[0] == ""
    assert ipv4_lab.host.run(program("pasta-py"), "--", "true").stderr == ""
    said, _ = attached(ipv4_lab, "pasta")
    assert "local mode" in said and "warning" not in said


def test_the_missing_family_is_local_whether_an_interface_is_named_or_not(ipv4_lab: Lab) -> None:
    """The routes are those that passt's pasta sets with -i and without."""
    script = "ip -j route; echo; ip -j -6 route"
    shown = []
    for options in ((), ("-i", "eth0")):
        out = ipv4_lab.host.run(program(), "--config-net", *options, "--", "sh", "-c", script).stdout
        shown.append([json.loads(line) for line in out.splitlines() if line])
    assert shown[0] == shown[1]
    assert [route["gateway"] for route in shown[0][1] if route["dst"] == "default"] == ["fe80::1"]


@pytest.mark.option("--log-file")
@pytest.mark.parametrize("whose", ["ours", "passt's"])
def test_a_log_file_begins_with_what_was_told(lab: Lab, whose: str) -> None:
    """The version, which passt's has too, stands there whatever is asked for; what was set up, unless with -q."""
    pasta = program() if whose == "ours" else sid.program("passt", "pasta")
    version = lab.host.run(pasta, "--version").stdout.split("\n")[0]
    path = lab.directory / "start.log"
    lab.resolv(f"nameserver {REMOTE4}\n")
    for options in ((), ("-q",)):
        with lab.stray() as guest:
            told = lab.host.run(pasta, *options, *NO_PORTS, "-l", path, lab.inner_pid(guest.pid)).stderr
            first, *lines = path.read_text().splitlines()
        wait_until(lambda: not lab.translators(), 3, "it goes with the namespace")
        path.unlink()
        assert version in first
        assert all(each in "\n".join(lines) for each in (HOST4, GATEWAY4, HOST6, REMOTE4)) is (options == ())
        assert [line.split("info:", 1)[1].strip() for line in lines] == [
            line.removeprefix("pasta: ").strip() for line in told.splitlines()
        ]
    lab.resolv("")
