"""slirp4netns's API and command line with anything in them, on a worker of ours: answers and errors, and nothing left over."""

import json
import os
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lone_worker import Remote, pair, ready, worker

from pasta_py.control.slirp4netns import options as slirp_options
from pasta_py.control.slirp4netns.api import MAX_REQUEST_BYTES, HostForwards
from pasta_py.errors import UsageError

ODD = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.lists(st.integers(), max_size=2))
ADDRESSES = st.sampled_from(["127.0.0.1", "127.0.0.2", "0.0.0.0", "", "::", "198.51.100.1", "1.2.3", "127.0.0.1 "])
ARGUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "proto": st.sampled_from(["tcp", "udp", "sctp"]) | ODD,
        "host_addr": ADDRESSES | ODD,
        "host_port": st.integers(40000, 40004) | ODD,
        "guest_addr": ADDRESSES | ODD,
        "guest_port": st.integers(1, 65535) | ODD,
        "id": st.integers(1, 30) | ODD,
    },
)
GOOD = st.fixed_dictionaries(
    {
        "proto": st.sampled_from(["tcp", "udp"]),
        "host_addr": st.sampled_from(["127.0.0.1", "127.0.0.2", "0.0.0.0"]),
        "host_port": st.integers(40000, 40004),
        "guest_port": st.just(80),
    }
)
REQUESTS = st.one_of(
    GOOD.map(lambda arguments: json.dumps({"execute": "add_hostfwd", "arguments": arguments}).encode()),
    st.integers(1, 4).map(lambda number: json.dumps({"execute": "remove_hostfwd", "arguments": {"id": number}}).encode()),
    st.binary(max_size=60),
    st.fixed_dictionaries(
        {"execute": st.sampled_from(["add_hostfwd", "add_hostfwd", "remove_hostfwd", "list_hostfwd"]) | ODD},
        optional={"arguments": ARGUMENTS | ODD},
    ).map(lambda request: json.dumps(request).encode()),
)


@pytest.fixture(scope="module")
def remote() -> Iterator[Remote]:
    guest, tap = pair()
    with guest, tap, worker() as control:
        pid = ready(control, tap, changing=True)
        remote = Remote(control)
        remote.pid = pid
        yield remote


def sockets(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(REQUESTS, max_size=12))
def test_every_request_has_an_answer(remote: Remote, requests: list[bytes]) -> None:
    before = sockets(remote.pid)
    forwards = HostForwards(remote, IPv4Address("10.0.2.100"))
    for request in requests:
        answer = json.loads(forwards.answer(request))
        assert set(answer) in ({"return"}, {"entries", "return"}, {"error"})
        if "error" in answer:
            assert answer["error"]["desc"].startswith("bad request: ")
    entries = json.loads(forwards.answer(b'{"execute":"list_hostfwd"}'))["entries"]
    assert sockets(remote.pid) - before == len(entries)
    for entry in entries:
        assert 1 <= entry["host_port"] <= 65535
        IPv4Address(entry["host_addr"]), IPv4Address(entry["guest_addr"])
        remove = {"execute": "remove_hostfwd", "arguments": {"id": entry["id"]}}
        assert json.loads(forwards.answer(json.dumps(remove).encode())) == {"return": {}}
    assert sockets(remote.pid) == before


def test_a_request_of_the_limit_is_too_large(remote: Remote) -> None:
    forwards = HostForwards(remote, IPv4Address("10.0.2.100"))
    request = b'{"execute":"list_hostfwd"}'
    assert b"entries" in forwards.answer(request.ljust(MAX_REQUEST_BYTES - 1))
    assert b"too large message" in forwards.answer(request.ljust(MAX_REQUEST_BYTES))


WORDS = st.one_of(
    st.sampled_from([f"--{long}" for _short, long, _value, _help in slirp_options.TABLE]),
    st.sampled_from(["-c", "-6", "-m", "-m9000", "-r3", "-e", "4", "--", "-", "4711", "tap0", "10.0.2.0/24", "path", "--m"]),
    st.text(max_size=12),
)


@settings(max_examples=400)
@given(st.lists(WORDS, max_size=8))
def test_any_words_are_options_or_refused(words: list[str]) -> None:
    try:
        asked = slirp_options.parse(words)
    except UsageError as error:
        assert str(error)
        return
    assert asked.action in ("run", "help", "version")
    if asked.action == "run":
        assert asked.target and (not asked.tapname or asked.target_type in ("pid", "path"))
        assert 0 < asked.mtu <= slirp_options.MAX_MTU


@pytest.mark.parametrize("name", ["a%d", "a b", "a:b", "..", "\u00e4" * 8])
def test_a_name_that_no_interface_can_have_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="TAPNAME"):
        slirp_options.parse(["1", name])
    alternative = name * 8 if len(name) == 8 else name  # there an alternative name will do, of 127 bytes
    with pytest.raises(UsageError, match="--outbound-addr"):
        slirp_options.parse(["--outbound-addr", alternative, "1", "tap0"])
