"""The main job: one command gets a network, as an ordinary user and as the mapped root of a user namespace."""

import json
from collections.abc import Iterator

import pytest
from capture import PATIENT, assert_smooth, assert_sound, frames, payload
from lab import BIG, REMOTES, Lab, program, wait_until
from servers import make_file, nginx

SIZE = 20_000_000
RSS_KIB = 14 * 1024
URLS = {4: f"http://{REMOTES[4]}/big.bin", 6: f"http://[{REMOTES[6]}]/big.bin"}


@pytest.fixture(scope="module", params=["user", "mapped-root"])
def served(request: pytest.FixtureRequest) -> Iterator[tuple[Lab, str]]:
    """A host, once of an ordinary user, once of root in a user namespace; and what its remote serves."""
    with Lab(mapped_root=request.param == "mapped-root") as lab:
        wanted = "0" if request.param == "mapped-root" else str(lab.uid)
        assert lab.host.run("id", "-u").stdout.strip() == wanted
        capable = lab.host.run("grep", "CapEff", "/proc/self/status").stdout.split()[1]
        assert (int(capable, 16) != 0) == (request.param == "mapped-root")
        nginx(lab)
        yield lab, make_file(lab, "www/big.bin", SIZE)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("suffix", ["pcap", "pcapng"])
def test_pasta_py_runs_curl(served: tuple[Lab, str], suffix: str, family: int) -> None:
    lab, digest = served
    capture = f"{BIG}/main.{suffix}"
    script = f"{PATIENT}; curl -sf {URLS[family]} | sha256sum; exit 42"
    done = lab.host.run(program("pasta-py"), "--pcap", capture, "--", "sh", "-c", script, check=False)
    assert done.returncode == 42, done.stderr
    assert done.stdout.split()[0] == digest
    found = frames(lab.host, capture)
    lab.host.run("rm", capture)
    assert_sound(found)
    assert_smooth(found)
    assert payload(found, 80)[0] >= SIZE


def test_the_capture_has_nanoseconds_and_the_frames_as_they_were(served: tuple[Lab, str]) -> None:
    """Frames larger than the MTU are what tap offloads exchange, so they are what the capture holds."""
    lab, _ = served
    capture = f"{BIG}/times.pcap"
    lab.host.run(program("pasta-py"), "--mtu", 1500, "--pcap", capture, "--", "curl", "-sf", "-o", "/dev/null", URLS[4])
    found = frames(lab.host, capture)
    lab.host.run("rm", capture)
    times = [frame["frame.time_epoch"] for frame in found]
    assert sum(not t.endswith("000") for t in times) > len(times) / 2
    assert times == sorted(times)
    assert max(int(frame["frame.len"]) for frame in found) > 1514


def test_the_capture_is_readable_while_it_grows(served: tuple[Lab, str]) -> None:
    lab, _ = served
    capture = f"{BIG}/live.pcap"
    with lab.guest("--pcap", capture) as guest:
        guest.run("ping", "-c2", "-i0.2", "-W20", REMOTES[4])

        def pings() -> int:
            return sum(frame["icmp.checksum.status"] != "" for frame in frames(lab.host, capture))

        wait_until(lambda: pings() == 4, 0.3, "both pings and their answers")
        assert_sound(frames(lab.host, capture))
    lab.host.run("rm", capture)


@pytest.mark.parametrize("entry", ["pasta", "pasta-py"])
def test_the_guest_is_its_own_root_and_nobody_outside(served: tuple[Lab, str], entry: str) -> None:
    lab, _ = served
    files = "/proc/sys/net/ipv4/ping_group_range /proc/self/setgroups"
    script = f"id -u; id -g; hostname; cat {files}; echo $$; ls /proc | grep -c '^[0-9]'"
    lines = lab.host.run(program(entry), "--", "sh", "-c", script).stdout.split("\n")
    assert lines[:2] == ["0", "0"]
    assert lines[2] == "pasta-lab"
    assert lines[3].split() == ["0", "0"]
    assert lines[4] == "deny"
    assert int(lines[5]) < 10 and int(lines[6]) < 10, "a PID namespace with its own /proc"


def test_namespaces_are_new_but_for_what_is_shared(served: tuple[Lab, str]) -> None:
    lab, _ = served
    kinds = ("user", "net", "ipc", "uts", "mnt", "pid")
    links = [f"/proc/self/ns/{kind}" for kind in kinds]
    outside = lab.host.run("readlink", *links).stdout.split()
    inside = lab.host.run(program(), "--", "readlink", *links).stdout.split()
    assert not set(outside) & set(inside)
    shared = lab.host.run(program(), "--no-pidns", "--", "readlink", "/proc/self/ns/pid").stdout.split()
    assert shared == outside[-1:]


def test_no_duplicate_address_detection_and_the_link_is_up(served: tuple[Lab, str]) -> None:
    lab, _ = served
    done = lab.host.run(program("pasta-py"), "--", "ip", "-j", "addr", "show", "dev", "eth0")
    (link,) = json.loads(done.stdout)
    assert link["mtu"] == 65520 and "UP" in link["flags"]
    assert not [info for info in link["addr_info"] if info.get("tentative")]


@pytest.mark.option("--no-config-net")
def test_without_config_net_the_interface_is_left_alone(served: tuple[Lab, str]) -> None:
    lab, _ = served
    for command in ((program("pasta-py"), "--no-config-net"), (program("pasta"),)):
        (link,) = json.loads(lab.host.run(*command, "--", "ip", "-j", "addr", "show", "dev", "eth0").stdout)
        assert "UP" not in link["flags"] and link["addr_info"] == []


@pytest.mark.parametrize("options", [(), ("-t", "8200-8300")], ids=["plain", "ports"])
@pytest.mark.unsanitized
def test_the_worker_is_small(served: tuple[Lab, str], options: tuple[str, ...]) -> None:
    lab, _ = served
    with lab.guest(*options) as guest:
        for family in (4, 6):
            guest.run("curl", "-sf", "-o", "/dev/null", URLS[family])
        guest.run("ping", "-c1", "-W20", REMOTES[4])
        assert lab.translator().rss_kib() <= RSS_KIB
