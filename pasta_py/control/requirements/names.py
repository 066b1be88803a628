"""Where this machine looks names up: /etc/resolv.conf, and whether anything listens where it points."""

import os
import sys

from pasta_py.control.ip import IPv4Address, IPv6Address
from pasta_py.control.planning import resolv_conf
from pasta_py.control.requirements.finding import Finding, fine, wrong
from pasta_py.control.requirements.settings import Cause, text_of

_CHECK = "names"
_STUB = "127.0.0.53"  # systemd-resolved's
_LIBC = IPv4Address("127.0.0.1")  # libc's nameserver where none is named (resolv.conf(5))
_PORT = 53
_WRITE = f"echo 'nameserver ADDRESS' | sudo tee -a {resolv_conf.PATH}"
_SERVICES = {"systemd/resolve": "systemd-resolved", "NetworkManager": "NetworkManager", "resolvconf": "resolvconf"}


def check() -> Finding:
    path = resolv_conf.PATH
    if not os.path.exists(path):
        return wrong(_CHECK, _missing(path)) if not _listens(_LIBC) else fine(_CHECK, f"no {path}: they are asked at {_LIBC}")
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        return wrong(_CHECK, Cause(text=f"{path}: {error.strerror}", remedy=f"sudo chmod 644 {path}"))
    servers = resolv_conf.read(path).nameservers
    if not servers:
        if _listens(_LIBC):
            return fine(_CHECK, f"{path} names no nameserver: they are asked at {_LIBC}")
        return wrong(_CHECK, Cause(text=f"{path} names no nameserver, and nothing listens at {_LIBC}", remedy=_WRITE))
    local = [server for server in servers if server.is_loopback]
    if len(local) < len(servers):
        return fine(_CHECK, f"{path} names {', '.join(map(str, servers))}")
    if not any(map(_listens, local)):
        text = f"nothing listens at {local[0]}, port 53, where {path} sends all names"
        return wrong(_CHECK, Cause(text=text, remedy=f"sudo systemctl restart {_service(str(local[0]), path)}"))
    kind = "systemd-resolved's stub" if str(local[0]) == _STUB else "a resolver of this machine"
    return fine(_CHECK, f"{path} names {local[0]} ({kind}); pasta-py forwards to it, pasta does with --dns-forward")


def _missing(path: str) -> Cause:
    if not os.path.islink(path):
        return Cause(text=f"there is no {path}, and nothing listens at {_LIBC}", remedy=_WRITE)
    target = os.readlink(path)
    return Cause(text=f"{path} is a link to {target}, which is not there", remedy=f"sudo systemctl restart {_service('', target)}")


def _service(address: str, path: str) -> str:
    """The service that writes the file, or listens at the address."""
    if address == _STUB:
        return "systemd-resolved"
    target = os.path.realpath(path)
    return next((name for part, name in _SERVICES.items() if part in target), "systemd-resolved" if not address else "dnsmasq")


def _listens(address: IPv4Address | IPv6Address) -> bool:
    """Whether a UDP socket of this network namespace has port 53 of the address, or of all addresses (proc_pid_net(5))."""
    bits = 32 if address.version == 4 else 128
    wanted = {int(address), 0}
    for line in (text_of("/proc/net/udp" if address.version == 4 else "/proc/net/udp6") or "").splitlines()[1:]:
        place, _, port = line.split()[1].partition(":")
        words = [int(place[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, bits // 4, 8)]
        if int(port, 16) == _PORT and int.from_bytes(b"".join(words), "big") in wanted:
            return True
    return False
