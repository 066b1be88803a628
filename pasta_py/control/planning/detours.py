"""--redirect and --proxy: from the options to what the core gets.

`into` reads the file of --proxy-auth-file and resolves the proxy's name; the rest is pure.
"""

from pasta_py.control.commandline import egress_rule
from pasta_py.control.ip import ip_address, packed
from pasta_py.control.planning import egress_encode, egress_groups
from pasta_py.errors import HostError, UsageError, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pasta_py.control.commandline.options import Options
    from pasta_py.control.planning.host import HostSnapshot
    from pasta_py.control.planning.plan import Plan

_NOWHERE = bytes(19)
_AUTH_BYTES = 255  # of user and of password (RFC 1929, 2)


def into(plan: "Plan", options: "Options", host: "HostSnapshot") -> "Plan":
    """The plan with what the core needs to send connections elsewhere. HostError: the proxy's name or file cannot be read."""
    proxy = options.proxy
    rules = [each.rule for each in options.redirects]
    targets = [_target(each.address, each.port, each.kind) for each in options.redirects]
    direct = list(options.no_proxy)
    if proxy:  # the host's own addresses lead nowhere from the proxy
        direct.append(egress_rule.parse("@host", allow=False))
    rules += direct
    targets += [_NOWHERE] * len(direct)
    targets.append(_target(_address(proxy.host, proxy.text), proxy.port, proxy.kind) if proxy else _NOWHERE)
    policy = egress_encode.encode(
        egress_encode.Policy(
            rules=egress_rule.joined(list(rules)),
            allow_others=bool(proxy),
            names=egress_encode.ALL_NAMES,
            groups=tuple(egress_groups.groups(host, plan.worker)),
            nat64=egress_groups.nat64(),
        )
    )
    texts = [f"redirect: {each.text}" for each in options.redirects]
    if proxy:
        apart = ", ".join(map(str, options.no_proxy))
        texts.append(f"proxy: {proxy.text}{f', but not for {apart}' if apart else ''}")
    user, password = credentials(options.proxy_auth_file) if options.proxy_auth_file else (b"", b"")
    worker = plan.worker.replace(detours=policy, detour_targets=b"".join(targets), detour_texts=tuple(texts))
    changed: Plan = plan.replace(worker=worker.replace(proxy_user=user, proxy_password=password))
    return changed


def _target(address: bytes, port: int, kind: int) -> bytes:
    return address + port.to_bytes(2, "big") + bytes((kind,))


def _address(host: str, text: str) -> bytes:
    """The first address of the proxy's name, 16 bytes."""
    try:
        return packed(ip_address(host))
    except ValueError:
        pass
    import _socket

    try:
        found = _socket.getaddrinfo(host, None, 0, _socket.SOCK_STREAM)
    except OSError as error:
        raise HostError(f"--proxy {text}: the name {host} is not known: {error.strerror}") from None
    return packed(ip_address(str(found[0][4][0]).partition("%")[0]))


def credentials(path: str) -> "tuple[bytes, bytes]":
    try:
        with open(path, "rb") as file:
            line = file.read(4 * _AUTH_BYTES).split(b"\n")[0].removesuffix(b"\r")
    except OSError as error:
        raise HostError(f"--proxy-auth-file {path!r}: {reason(error, 'give a file that can be read')}") from None
    user, colon, password = line.partition(b":")
    if not (colon and 0 < len(user) <= _AUTH_BYTES and len(password) <= _AUTH_BYTES):
        raise UsageError(f"--proxy-auth-file {path!r}: expected one line USER:PASSWORD, each of {_AUTH_BYTES} bytes at most")
    return user, password
