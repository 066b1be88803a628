#!/bin/sh
# An AF_UNIX SOCK_SEQPACKET socket reports ECONNRESET before the peer's last message, a SOCK_STREAM socket after it.
#
# Seen:     Linux 6.18.
# Input:    a socket pair; A sends "unread"; B sends "last" and closes with "unread" still in its queue; A receives three times.
# Expected: the same order for both: "last", ECONNRESET, end of file. unix(7), recv(2) and POSIX (recv) know no difference between the
#           two types here, and a caller takes ECONNRESET for the end of a connection.
# Observed: SOCK_STREAM as expected. SOCK_SEQPACKET: ECONNRESET, "last", end of file: a caller that closes at the error loses a
#           message that has arrived whole. With sendmsg() in place of the first recv(): EPIPE on SOCK_STREAM, and the order of what A
#           receives stays; ECONNRESET on SOCK_SEQPACKET, and then recv() gives "last" and end of file without an error.
#
# Needs python3. Exit status 0: it is still so.
set -eu
uname -sr
exec python3 - <<'PY'
import errno
import socket


def left_behind(kind):
    """The end A of a pair whose end B has sent a last message and closed without reading A's."""
    a, b = socket.socketpair(socket.AF_UNIX, kind)
    a.send(b"unread")
    b.send(b"last")
    b.close()
    return a


def outcome(call, *arguments):
    try:
        return call(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]


seen = {}
for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
    with left_behind(kind) as a:
        received = [outcome(a.recv, 100) for _ in range(3)]
    with left_behind(kind) as a:
        after_send = [outcome(a.sendmsg, [b"more"]), *[outcome(a.recv, 100) for _ in range(3)]]
    seen[kind.name] = (received, after_send)
    print(f"{kind.name}: recv {received}; sendmsg and recv {after_send}")
assert seen == {
    "SOCK_STREAM": ([b"last", "ECONNRESET", b""], ["EPIPE", b"last", "ECONNRESET", b""]),
    "SOCK_SEQPACKET": (["ECONNRESET", b"last", b""], ["ECONNRESET", b"last", b"", b""]),
}
PY
