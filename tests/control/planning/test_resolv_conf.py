"""resolv.conf(5) as text, and from a file."""

import os
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pasta_py.control.planning import resolv_conf


def test_nameservers_keep_their_order_and_lose_duplicates() -> None:
    text = "nameserver 192.0.2.53\nnameserver 2001:db8::53\nnameserver 192.0.2.53\nnameserver 127.0.0.53\n"
    assert [str(a) for a in resolv_conf.parse(text).nameservers] == ["192.0.2.53", "2001:db8::53", "127.0.0.53"]


def test_a_scope_stays_with_its_nameserver() -> None:
    assert resolv_conf.parse("nameserver fe80::1%eth0").nameservers == (ip_address("fe80::1%eth0"),)


@pytest.mark.parametrize(
    ("text", "search"),
    [
        ("search a.example b.example\n", ("a.example", "b.example")),
        ("domain a.example b.example\n", ("a.example",)),
        ("search a.example\ndomain b.example\n", ("b.example",)),
        ("domain b.example\nsearch a.example.\n", ("a.example",)),
        ("search .\n", ()),
        ("search\n", ()),
        ("# search a.example\n; search b.example\n", ()),
    ],
)
def test_the_last_of_domain_and_search_wins(text: str, search: tuple[str, ...]) -> None:
    assert resolv_conf.parse(text).search == search


@pytest.mark.parametrize(
    "line", ["nameserver", "nameserver x", "nameserver 1.2.3.4.5", "nameservers 1.2.3.4", "options ndots:5"]
)
def test_a_line_that_names_no_server_is_left_out(line: str) -> None:
    assert resolv_conf.parse(line + "\nnameserver 192.0.2.1\n").nameservers == (ip_address("192.0.2.1"),)


@given(st.text())
def test_any_text_parses(text: str) -> None:
    found = resolv_conf.parse(text)
    assert all(found.search) and len(set(found.nameservers)) == len(found.nameservers)


def test_a_file_that_is_not_there_says_nothing(tmp_path: Path) -> None:
    assert resolv_conf.read(str(tmp_path / "none")) == resolv_conf.Resolv()


def test_bytes_that_are_not_utf_8_do_not_hide_the_other_lines(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_bytes(b"search \xff\xfe\nnameserver 192.0.2.1\n")
    assert resolv_conf.read(str(file)).nameservers == (ip_address("192.0.2.1"),)


@pytest.mark.timeout(20)
def test_what_is_no_file_is_empty_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path, Path("/dev/null")):
        assert resolv_conf.read(str(path)) == resolv_conf.Resolv()


# ---- a namespace's own ----

HOSTS_OWN = "# of the host\nnameserver 127.0.0.53\noptions edns0 trust-ad ndots:2\nsearch lan.example\n"


def _lines(view: resolv_conf.View, host: str) -> list[str]:
    return view.text(host).splitlines()[1:]


def test_the_forwarder_takes_the_place_of_nameservers_out_of_reach_and_the_rest_stays() -> None:
    view = resolv_conf.View(forwarder="169.254.1.1")
    assert _lines(view, HOSTS_OWN) == ["nameserver 169.254.1.1", "options edns0 trust-ad ndots:2", "search lan.example"]
    assert _lines(view, "") == ["nameserver 169.254.1.1"]


def test_nameservers_that_come_within_reach_are_named_themselves() -> None:
    host = "nameserver 127.0.0.53\nnameserver 192.0.2.53\n"
    assert _lines(resolv_conf.View(forwarder="169.254.1.1"), host) == host.splitlines()
    assert _lines(resolv_conf.View(forwarder="169.254.1.1", taken=("192.0.2.53",)), host) == ["nameserver 169.254.1.1"]
    assert _lines(resolv_conf.View(forwarder="169.254.1.1", versions=(6,)), host) == ["nameserver 169.254.1.1"]


def test_a_link_local_nameserver_is_in_reach_on_an_interface_of_the_same_name() -> None:
    server = ip_address("fe80::53%eth0")
    assert resolv_conf.View(ifname="eth0").reaches(server) and not resolv_conf.View(ifname="tap0").reaches(server)
    assert not resolv_conf.View().reaches(ip_address("::1")) and not resolv_conf.View().reaches(ip_address("0.0.0.0"))


def test_nameservers_and_domains_given_replace_the_hosts_and_the_trust_in_these() -> None:
    view = resolv_conf.View(from_user=("9.9.9.9", "2620:fe::9"), search=("a.example", "b.example"))
    wanted = ["nameserver 9.9.9.9", "nameserver 2620:fe::9", "search a.example b.example", "options edns0 ndots:2"]
    assert _lines(view, HOSTS_OWN) == wanted
    none = _lines(resolv_conf.View(search=()), "domain lan.example\n" + HOSTS_OWN)
    assert none == ["search .", "nameserver 127.0.0.53", "options edns0 trust-ad ndots:2"]


@given(st.text(alphabet=st.characters(blacklist_categories=("Cs",))))
def test_any_text_of_the_host_makes_a_text_with_the_nameserver_wanted(host: str) -> None:
    assert resolv_conf.parse(resolv_conf.View(from_user=("9.9.9.9",)).text(host)).nameservers == (ip_address("9.9.9.9"),)
