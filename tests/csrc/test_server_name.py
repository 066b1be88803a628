"""wire/server_name: which server a ClientHello or a request names, against a model that reads the whole at once."""

from __future__ import annotations

import re

import internals
import pytest
from client_hello import (
    GREASE,
    chromium,
    extension,
    firefox,
    handshake,
    large,
    openssl,
    recorded,
    records,
    request,
    server_name,
    vector,
)
from hypothesis import example, given
from hypothesis import strategies as st

module = internals.build()
ffi, lib = module.ffi, module.lib
MORE, FOUND, NONE, WRONG = lib.SERVER_NAME_MORE, lib.SERVER_NAME_FOUND, lib.SERVER_NAME_NONE, lib.SERVER_NAME_WRONG
NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
#: A part of a hello each test splits; a hello of 17 KB at every byte would take a minute.
ALL_HELLOS = {
    "chromium": chromium("a.test"), "firefox": firefox("A.Test"), "openssl": openssl("a.test"),
    "chromium 156": recorded("chromium-156"), "firefox 153": recorded("firefox-153"),
}  # fmt: skip
names = st.lists(st.text("abz09-_", min_size=1, max_size=9), min_size=1, max_size=4).map(".".join)


def asked(function: object, data: bytes) -> tuple[int, str]:
    out, exact = ffi.new("struct server_name *"), ffi.new("uint8_t[]", max(len(data), 1))
    ffi.memmove(exact, data, len(data))
    found = function(exact, len(data), out)  # type: ignore[operator]
    return found, ffi.buffer(out.text, out.len)[:].decode() if found == FOUND else ""


def hello(data: bytes) -> tuple[int, str]:
    return asked(lib.server_name_in_hello, data)


def http(data: bytes) -> tuple[int, str]:
    return asked(lib.server_name_in_request, data)


# ---- TLS ----


@pytest.mark.parametrize("client", ALL_HELLOS)
def test_a_hello_is_read_once_its_last_byte_is_there(client: str) -> None:
    data = ALL_HELLOS[client]
    assert all(hello(data[:size])[0] == MORE for size in range(len(data)))
    assert hello(data) == hello(data + b"early data") == (FOUND, "a.test")


@pytest.mark.parametrize("size", [1, 2, 3, 100, 511])
def test_a_hello_in_many_records_names_the_same(size: int) -> None:
    data = records(handshake(extension(GREASE, b"") + server_name("a.test")), size)
    assert all(hello(data[:end])[0] == MORE for end in range(len(data)))
    assert hello(data) == (FOUND, "a.test")


def test_a_hello_of_17_kilobytes_has_two_records() -> None:
    data = large("a.test")
    assert len(data) > 17 << 10
    assert all(hello(data[:size])[0] == MORE for size in range(0, len(data), 97))
    assert hello(data) == (FOUND, "a.test")


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (records(handshake(None)), NONE),
        (records(handshake(b"")), NONE),
        (records(handshake(extension(GREASE, b""))), NONE),
        (records(handshake(server_name("192.0.2.1."))), FOUND),
        (records(handshake(server_name("[2001:db8::1]"))), NONE),
        (records(handshake(server_name(b"a\0.test"))), NONE),
        (records(handshake(server_name("a..test"))), NONE),
        (records(handshake(server_name(".a.test"))), NONE),
        (records(handshake(server_name("b\u00fc.test"))), NONE),
        (records(handshake(server_name("a" * 253))), FOUND),
        (records(handshake(server_name("a" * 254))), NONE),
        (records(handshake(server_name("a" * 255))), WRONG),
        (records(handshake(server_name("a.test") + server_name("b.test"))), WRONG),
        (records(handshake(extension(0, vector(2, 2 * (b"\0" + vector(2, b"a.test")))))), WRONG),
        (records(handshake(extension(0, vector(2, b"\1" + vector(2, b"a.test"))))), WRONG),
        (records(handshake(extension(0, b""))), WRONG),
        (records(handshake(server_name("a.test"), session=bytes(33))), WRONG),
        (records(handshake(server_name("a.test")[:-1])), WRONG),
        (records(b"\2" + handshake(server_name("a.test"))[1:]), WRONG),
        (b"\x16\x03\x01\0\0", WRONG),
        (b"\x16\x03\x01\xff\xff", WRONG),
        (b"\x17", WRONG), (b"\x16\x02", WRONG), (b"GET / HTTP/1.1\r\n", WRONG), (b"SSH-2.0-OpenSSH_10\r\n", WRONG),
        (records(handshake(server_name("a.test"))[:40])[:-1] + b"\0" + b"\x15\x03\x01\0\x02\1\0", WRONG),
    ],
)  # fmt: skip
def test_what_is_no_hello_or_names_nothing(data: bytes, found: int) -> None:
    assert hello(data)[0] == found


def model(data: bytes) -> tuple[int, str]:
    """The extensions of a hello in whole records, read by slices."""
    stream, at = b"", 0
    while at < len(data):
        size = int.from_bytes(data[at + 3 : at + 5], "big")
        stream, at = stream + data[at + 5 : at + 5 + size], at + 5 + size
    rest, names = stream[4 + 34 :], []
    for size in (1, 2, 1):
        rest = rest[size + int.from_bytes(rest[:size], "big") :]
    rest = rest[2:]
    while rest:
        kind, size = int.from_bytes(rest[:2], "big"), int.from_bytes(rest[2:4], "big")
        if kind == 0:
            names.append(rest[9 : 4 + size].decode().lower())
        rest = rest[4 + size :]
    if len(names) != 1:
        return (WRONG, "") if names else (NONE, "")
    name = names[0].removesuffix(".")
    return (FOUND, name) if NAME.fullmatch(name) and len(name) < 254 else (NONE, "")


extensions = st.lists(
    st.one_of(
        names.map(server_name), names.map(lambda name: server_name(name.upper() + ".")),
        st.builds(extension, st.integers(1, 65535), st.binary(max_size=40)),
    ), max_size=6,
).map(b"".join)  # fmt: skip


@given(extensions, st.binary(max_size=32), st.integers(1, 200))
@example(server_name("a.test") + server_name("a.test"), b"", 7)
def test_a_hello_names_what_the_model_says_however_it_is_split(parts: bytes, session: bytes, size: int) -> None:
    data = records(handshake(parts, session=session), size)
    assert hello(data) == model(data)
    assert hello(data[:-1])[0] in (MORE, model(data)[0])
    assert model(data)[0] == WRONG or hello(data[:-1])[0] == MORE


@given(st.data())
def test_no_bytes_name_what_is_no_name(data: st.DataObject) -> None:
    base = bytearray(data.draw(st.sampled_from([*ALL_HELLOS.values(), request("a.test")])))
    for _ in range(data.draw(st.integers(0, 4))):
        base[data.draw(st.integers(0, len(base) - 1))] = data.draw(st.integers(0, 255))
    for found, name in (hello(bytes(base)), http(bytes(base))):
        assert found != FOUND or (NAME.fullmatch(name) and len(name) <= 253)


# ---- HTTP ----


@pytest.mark.parametrize(
    "data",
    [
        request("a.test"), request("A.Test:80"), request("a.test."), request(" \ta.test\t "),
        request("a.test", target="http://a.test/x"), request("a.test", target="HTTP://a.test:80?x"),
        request("a.test", target="*", method="OPTIONS"), b"GET / HTTP/1.0\r\nhOsT:a.test\r\n\r\n",
    ],
)  # fmt: skip
def test_a_request_is_read_once_its_head_is_there(data: bytes) -> None:
    assert all(http(data[:size])[0] == MORE for size in range(len(data)))
    assert http(data) == http(data + b"body") == (FOUND, "a.test")


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", NONE), (request(""), NONE), (request("[::1]:80"), NONE), (request("a.test:x"), NONE),
        (request("u@a.test"), NONE), (request("a.test, b.test"), NONE),
        (request("a.test", more="Host: b.test\r\n"), WRONG), (request("a.test", more="HOST: a.test\r\n"), WRONG),
        (request("a.test", more="X: 1\r\n folded\r\n"), WRONG), (request("a.test", more="X : 1\r\n"), WRONG),
        (request("a.test", more="X\r\n"), WRONG), (request("a.test", more="X: 1\nHost: b.test\r\n"), WRONG),
        (request("a.test", more="X: 1\rHost: b.test\r\n"), WRONG), (request("a.test", more="X: \0\r\n"), WRONG),
        (request("a.test", target="http://b.test/"), WRONG), (request("a.test", target="https://a.test/"), WRONG),
        (request("a.test:80", target="a.test:80", method="CONNECT"), WRONG), (request("a.test", target=""), WRONG),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", WRONG), (b"GET /\r\n", WRONG), (b"GET / HTTP/1.10\r\n", WRONG),
        (b"\r\n", WRONG), (b"SSH-2.0-OpenSSH_10\r\n", WRONG), (b"\x16\x03\x01", WRONG), (b"\0", WRONG), (b"A" * 40, WRONG),
    ],
)  # fmt: skip
def test_what_is_no_request_or_names_nothing(data: bytes, found: int) -> None:
    assert http(data)[0] == found


@given(names, st.lists(st.tuples(st.text("abcX-", min_size=1, max_size=6), st.text("abc :;=", max_size=9)), max_size=4))
def test_a_request_names_its_host_among_any_fields(name: str, fields: list[tuple[str, str]]) -> None:
    data = request(name, more="".join(f"{field}:{value}\r\n" for field, value in fields))
    assert http(data) == (FOUND, name)
    assert all(http(data[:size])[0] == MORE for size in range(len(data)))
