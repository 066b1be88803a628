"""resolv.conf(5) as text, and from a file."""

from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pasta_py.control import resolv


def test_nameservers_keep_their_order_and_lose_duplicates() -> None:
    text = "nameserver 192.0.2.53\nnameserver 2001:db8::53\nnameserver 192.0.2.53\nnameserver 127.0.0.53\n"
    assert [str(a) for a in resolv.parse(text).nameservers] == ["192.0.2.53", "2001:db8::53", "127.0.0.53"]


def test_a_scope_stays_with_its_nameserver() -> None:
    assert resolv.parse("nameserver fe80::1%eth0").nameservers == (ip_address("fe80::1%eth0"),)


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
    assert resolv.parse(text).search == search


@pytest.mark.parametrize(
    "line", ["nameserver", "nameserver x", "nameserver 1.2.3.4.5", "nameservers 1.2.3.4", "options ndots:5"]
)
def test_a_line_that_names_no_server_is_left_out(line: str) -> None:
    assert resolv.parse(line + "\nnameserver 192.0.2.1\n").nameservers == (ip_address("192.0.2.1"),)


@given(st.text())
def test_any_text_parses(text: str) -> None:
    found = resolv.parse(text)
    assert all(found.search) and len(set(found.nameservers)) == len(found.nameservers)


def test_a_file_that_is_not_there_says_nothing(tmp_path: Path) -> None:
    assert resolv.read(str(tmp_path / "none")) == resolv.Resolv()


def test_bytes_that_are_not_utf_8_do_not_hide_the_other_lines(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_bytes(b"search \xff\xfe\nnameserver 192.0.2.1\n")
    assert resolv.read(str(file)).nameservers == (ip_address("192.0.2.1"),)
