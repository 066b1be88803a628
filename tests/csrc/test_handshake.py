"""core/handshake: what is said to an inspector or a proxy, and answers cut anywhere."""

from __future__ import annotations

import base64
import errno
import ipaddress
import struct

import internals
import pytest
from guest import mapped
from hypothesis import given
from hypothesis import strategies as st

module = internals.build()
ffi, lib = module.ffi, module.lib
PROXY_V2, SOCKS5, HTTP = lib.HANDSHAKE_PROXY_V2, lib.HANDSHAKE_SOCKS5, lib.HANDSHAKE_HTTP
GOES_ON, DONE, REFUSED = lib.HANDSHAKE_GOES_ON, lib.HANDSHAKE_DONE, lib.HANDSHAKE_REFUSED
GUEST4, DEST4, GUEST6, DEST6 = "10.0.2.15", "198.51.100.7", "fd00::15", "2001:db8::7"
ADDRESSES = (ipaddress.ip_address(DEST4).packed, ipaddress.ip_address(DEST6).packed)
BEHIND = b"220 the server's own bytes\r\n"


class Talk:
    """One handshake, and what we have said."""

    def __init__(
        self, kind: int, dest: str = DEST4, name: bytes = b"", user: bytes = b"", password: bytes = b""
    ) -> None:
        self.kept = ffi.new("char[]", name)
        guest = GUEST6 if ":" in dest else GUEST4
        ends = ffi.new("struct handshake_ends *", {"name": self.kept, "name_len": len(name)})
        ends.to.addr.b, ends.to.port = mapped(dest), 443
        source = getattr(ends, "from")
        source.addr.b, source.port = mapped(guest), 40000
        auth = ffi.new("struct handshake_auth *", {"user_len": len(user), "password_len": len(password)})
        auth.user[0 : len(user)], auth.password[0 : len(password)] = user, password
        self.it = ffi.new("struct handshake *")
        self.said = b""
        lib.handshake_begin(self.it, kind, ends, auth)
        self.say()

    def say(self, most: int = 1 << 16) -> None:
        length = ffi.new("uint32_t *")
        while lib.handshake_says(self.it, length) and length[0]:
            part = min(length[0], most)
            self.said += ffi.buffer(lib.handshake_says(self.it, length), part)[:]
            lib.handshake_sent(self.it, part)

    def hear(self, answer: bytes, cuts: list[int] | None = None) -> bytes:
        """Gives it the answer in pieces; what it has not taken. What is not taken comes again, with more, as from a socket."""
        bounds = [*sorted({cut % (len(answer) + 1) for cut in cuts or []}), len(answer)]
        at = 0
        for bound in bounds:
            while self.it.state == GOES_ON and at < bound:
                at += lib.handshake_take(self.it, answer[at:bound], bound - at)
                self.say()
        return answer[at:]


@pytest.mark.parametrize(("dest", "guest", "family"), [(DEST4, GUEST4, 0x11), (DEST6, GUEST6, 0x21)])
def test_a_proxy_header_has_both_ends(dest: str, guest: str, family: int) -> None:
    talk = Talk(PROXY_V2, dest)
    both = ipaddress.ip_address(guest).packed + ipaddress.ip_address(dest).packed
    body = both + struct.pack("!HH", 40000, 443)
    assert talk.said == b"\r\n\r\n\0\r\nQUIT\n" + bytes((0x21, family)) + struct.pack("!H", len(body)) + body
    assert talk.it.state == DONE


SOCKS_ADDRESS = st.one_of(
    st.binary(min_size=4, max_size=4).map(lambda a: b"\1" + a),
    st.binary(min_size=16, max_size=16).map(lambda a: b"\4" + a),
    st.binary(max_size=253).map(lambda a: b"\3" + bytes((len(a),)) + a),
)


@given(
    bound=SOCKS_ADDRESS, port=st.binary(min_size=2, max_size=2), asks=st.booleans(), cuts=st.lists(st.integers(0, 400))
)
def test_a_socks_answer_may_be_cut_anywhere(bound: bytes, port: bytes, asks: bool, cuts: list[int]) -> None:
    talk = Talk(SOCKS5, name=b"a.test", user=b"me", password=b"pass")
    answer = (b"\5\2\1\0" if asks else b"\5\0") + b"\5\0\0" + bound + port
    assert talk.hear(answer + BEHIND, cuts) == BEHIND and talk.it.state == DONE
    login = b"\1\2me\4pass" if asks else b""
    assert talk.said == b"\5\2\0\2" + login + b"\5\1\0\3\6a.test\1\xbb"


@pytest.mark.parametrize(("dest", "kind"), [(DEST4, b"\1"), (DEST6, b"\4")])
def test_socks_without_a_name_gets_the_address(dest: str, kind: bytes) -> None:
    talk = Talk(SOCKS5, dest)
    talk.hear(b"\5\0")
    assert talk.said == b"\5\1\0" + b"\5\1\0" + kind + ipaddress.ip_address(dest).packed + b"\1\xbb"


@pytest.mark.parametrize(("reply", "error"), [
    (1, errno.ECONNREFUSED), (2, errno.ECONNREFUSED), (3, errno.ENETUNREACH), (4, errno.EHOSTUNREACH), (5, errno.ECONNREFUSED),
    (6, errno.EHOSTUNREACH), (7, errno.ECONNREFUSED), (8, errno.ECONNREFUSED), (255, errno.ECONNREFUSED),
])  # fmt: skip
def test_a_socks_reply_becomes_the_error_of_a_direct_connection(reply: int, error: int) -> None:
    talk = Talk(SOCKS5)
    talk.hear(b"\5\0\5" + bytes((reply,)) + b"\0\1" + bytes(6))
    assert (talk.it.state, talk.it.code, lib.handshake_error(talk.it)) == (REFUSED, reply, error)


@pytest.mark.parametrize("answer", [
    b"\4\0", b"\5\1", b"\5\2", b"\5\xff", b"HTTP/1.1 400", b"\5\0\4\0\0\1", b"\5\0\5\0\1\1\0", b"\5\0\5\0\0\2\0",
    b"\5\0\5\0\0\3\xff",
])  # fmt: skip
def test_what_is_no_socks_answer_is_a_refusal(answer: bytes) -> None:
    talk = Talk(SOCKS5)
    talk.hear(answer + bytes(300))
    assert talk.it.state == REFUSED and lib.handshake_error(talk.it) == errno.ECONNREFUSED


@pytest.mark.parametrize("answer", [b"\5\2\1\1", b"\5\2\5\0", b"\5\xff"])
def test_a_login_that_fails_is_a_refusal(answer: bytes) -> None:
    talk = Talk(SOCKS5, user=b"me", password=b"no")
    talk.hear(answer)
    assert talk.it.state == REFUSED


FIELDS = st.lists(
    st.binary(min_size=1, max_size=60).map(lambda b: b.replace(b"\n", b"-").replace(b"\r", b"-")), max_size=8
)


@given(interim=st.lists(st.sampled_from([100, 102, 103, 199]), max_size=2), status=st.integers(200, 299),
       reason=st.sampled_from([b"", b" ", b" Connection established"]), fields=FIELDS,
       end=st.sampled_from([b"\n", b"\r\n"]), cuts=st.lists(st.integers(0, 700)))  # fmt: skip
def test_an_http_answer_may_be_cut_anywhere(
    interim: list[int], status: int, reason: bytes, fields: list[bytes], end: bytes, cuts: list[int]
) -> None:
    talk = Talk(HTTP, name=b"a.test", user=b"me", password=b"pass")
    head = reason + end + b"".join(field + end for field in fields) + end
    answer = b"".join(b"HTTP/1.1 %d" % code + head for code in [*interim, status])
    assert talk.hear(answer + BEHIND, cuts) == BEHIND and talk.it.state == DONE
    login = base64.b64encode(b"me:pass")
    assert (
        talk.said
        == b"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\nProxy-Authorization: Basic " + login + b"\r\n\r\n"
    )


@given(user=st.binary(min_size=1, max_size=255), password=st.binary(max_size=255))
def test_all_credentials_have_room(user: bytes, password: bytes) -> None:
    name = b".".join([b"a" * 63, b"b" * 63, b"c" * 63, b"d" * 61])
    talk = Talk(HTTP, name=name, user=user, password=password)
    assert base64.b64encode(user + b":" + password) in talk.said and talk.said.endswith(b"\r\n\r\n")
    socks = Talk(SOCKS5, name=name, user=user, password=password)
    socks.hear(b"\5\2\1\0")
    assert name + b"\1\xbb" == socks.said[-len(name) - 2 :]


@pytest.mark.parametrize("name", [b"a\r\nX: y", b"a b.test", b"A.test", b"a\0.test", b"a:1@b"])
def test_a_name_that_no_host_has_is_not_said(name: bytes) -> None:
    assert Talk(HTTP, name=name).said.startswith(f"CONNECT {DEST4}:443 HTTP/1.1\r\n".encode())
    assert Talk(HTTP, DEST6, name=name).said.startswith(f"CONNECT [{DEST6}]:443 HTTP/1.1\r\n".encode())


@pytest.mark.parametrize(("status", "error"), [(403, errno.ECONNREFUSED), (407, errno.ECONNREFUSED), (503, errno.ECONNREFUSED),
                                               (504, errno.EHOSTUNREACH), (101, errno.ECONNREFUSED)])  # fmt: skip
def test_an_http_status_becomes_the_error_of_a_direct_connection(status: int, error: int) -> None:
    talk = Talk(HTTP)
    talk.hear(b"HTTP/1.0 %d No\r\n\r\n" % status)
    assert (talk.it.state, talk.it.code, lib.handshake_error(talk.it)) == (REFUSED, status, error)


def test_an_interim_answer_is_not_the_answer() -> None:
    talk = Talk(HTTP)
    talk.hear(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n")
    assert talk.it.state == GOES_ON
    talk.hear(b"HTTP/1.1 403 No\r\n\r\n")
    assert (talk.it.state, talk.it.code) == (REFUSED, 403)
    endless = Talk(HTTP)
    endless.hear(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)
    assert (endless.it.state, endless.it.code) == (REFUSED, 0)


@pytest.mark.parametrize("answer", [b"HTTP/2 200 \r\n", b"http/1.1 200\r\n", b"HTTP/1.1 20\r\n", b"HTTP/1.1 2000\r\n", b"\5\0",
                                    b"SSH-2.0", b"HTTP/1.1 099\r\n",
                                    b"HTTP/1.1  200\r\n", b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 3000])  # fmt: skip
def test_what_is_no_http_answer_is_a_refusal(answer: bytes) -> None:
    talk = Talk(HTTP)
    talk.hear(answer)
    assert talk.it.state == REFUSED and lib.handshake_error(talk.it) == errno.ECONNREFUSED


@given(kind=st.sampled_from([SOCKS5, HTTP]), answer=st.binary(max_size=600), cuts=st.lists(st.integers(0, 600)))
def test_any_answer_ends_or_goes_on(kind: int, answer: bytes, cuts: list[int]) -> None:
    whole, cut = Talk(kind), Talk(kind)
    assert whole.hear(answer) == cut.hear(answer, cuts)
    assert (whole.it.state, whole.it.code, whole.said) == (cut.it.state, cut.it.code, cut.said)
