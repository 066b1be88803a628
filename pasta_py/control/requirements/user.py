"""What this user may: IDs for containers, ping sockets, low ports, descriptors."""

import os
import pwd
import resource
import shutil
import socket
import stat

from pasta_py import defaults
from pasta_py.control.requirements.finding import LIMITED, Finding, fine, wrong
from pasta_py.control.requirements.settings import Cause, low_port, raised, sysctl, text_of

_IDS = 65536  # what images take for granted
_FIRST_ID = 100000  # as useradd(8) begins
_PING = "net.ipv4.ping_group_range"
_ALL_GROUPS = "'0 2147483647'"
_INITIAL_UID_MAP = ["0", "0", "4294967295"]  # user_namespaces(7): every ID, as itself
_ENOUGH_DESCRIPTORS = 4096
_PACKAGES = {  # ID or ID_LIKE of os-release(5): what installs newuidmap
    "debian": "apt-get install uidmap",
    "ubuntu": "apt-get install uidmap",
    "fedora": "dnf install shadow-utils",
    "rhel": "dnf install shadow-utils",
    "suse": "zypper install shadow",
    "arch": "pacman -S shadow",
    "alpine": "apk add shadow-subids",
}


def check(*, containers: bool) -> list[Finding]:
    """`containers`: there is a program that runs containers as this user."""
    found = _subordinate_ids() if containers and os.geteuid() else []
    return [*found, _ping(), _ports(), _descriptors()]


def name() -> str:
    """Of this user; the number where there is no name."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _subordinate_ids() -> list[Finding]:
    found = []
    check = "IDs of containers"
    source = _source_of_ids()
    short = [path for path in ("/etc/subuid", "/etc/subgid") if _count(path) < _IDS]
    if source != "files":
        found.append(fine(check, f"subordinate IDs come from {source} (nsswitch.conf)"))
    elif short:
        first = max(_FIRST_ID, *map(_first_free, ("/etc/subuid", "/etc/subgid")))
        ids = f"{first}-{first + _IDS - 1}"
        words = f"{' and '.join(short)} {'give' if len(short) > 1 else 'gives'} {name()} fewer than {_IDS} IDs"
        found.append(wrong(check, Cause(text=words, remedy=f"sudo usermod --add-subuids {ids} --add-subgids {ids} {name()}")))
    else:
        found.append(fine(check, f"{_count('/etc/subuid')} in /etc/subuid, {_count('/etc/subgid')} in /etc/subgid"))
    return [*found, *filter(None, map(_mapper, ("newuidmap", "newgidmap")))]


def _source_of_ids() -> str:
    for line in (text_of("/etc/nsswitch.conf") or "").splitlines():
        word, _, rest = line.partition(":")
        if word.strip() == "subid" and rest.split():
            return rest.split()[0]
    return "files"


def _ranges(path: str) -> list[tuple[str, int, int]]:
    ranges = []
    for line in (text_of(path) or "").splitlines():
        words = line.split(":")
        if len(words) == 3 and words[1].isdecimal() and words[2].isdecimal():
            ranges.append((words[0], int(words[1]), int(words[2])))
    return ranges


def _count(path: str) -> int:
    return sum(count for owner, _first, count in _ranges(path) if owner in (name(), str(os.geteuid())))


def _first_free(path: str) -> int:
    return max((first + count for _owner, first, count in _ranges(path)), default=0)


def _mapper(program: str) -> Finding | None:
    """None: it is there, and may do its work."""
    path = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/bin:/bin")
    if path is None:
        how = next((_PACKAGES[word] for word in _distribution() if word in _PACKAGES), _PACKAGES["debian"])
        text = f"there is no {program}, which containers need for their IDs"
        return wrong(program, Cause(text=text, remedy=f"sudo {how}"))
    status = os.stat(path)
    if status.st_mode & stat.S_ISUID and status.st_uid == 0 or "security.capability" in os.listxattr(path):
        return None
    capability = "cap_setuid" if program == "newuidmap" else "cap_setgid"
    text = f"{path} has neither the set-user-ID bit nor {capability}"
    return wrong(program, Cause(text=text, remedy=f"sudo chmod u+s {path}"))


def _distribution() -> list[str]:
    """The names of the distribution, then of those that it is like (os-release(5))."""
    lines = [line.partition("=") for line in (text_of("/etc/os-release") or "").splitlines()]
    return [word for wanted in ("ID", "ID_LIKE") for key, _, value in lines if key == wanted for word in value.strip("\"'").split()]


def _ping() -> Finding:
    check, allowed = "ping", (text_of(f"/proc/sys/{_PING.replace('.', '/')}") or "").split()
    if not _is_real_root():
        try:
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP).close()
            return fine(check, "this user may make ping sockets, so the guest's pings leave the host")
        except OSError:
            group = os.getegid()
    else:
        group = defaults.RUNAS_ID
        if len(allowed) == 2 and int(allowed[0]) <= group <= int(allowed[1]):
            return fine(check, "ping sockets are allowed, so the guest's pings leave the host")
    text = f"{_PING} is '{' '.join(allowed)}', without group {group}, so the guest's pings get no answer"
    return wrong(check, Cause(text=text, remedy=raised(_PING, _ALL_GROUPS)), LIMITED)


def _is_real_root() -> bool:
    """Root outside of any user namespace: the worker that it starts is another user (worker/sandbox.py)."""
    return os.geteuid() == 0 and (text_of("/proc/self/uid_map") or "").split() == _INITIAL_UID_MAP


def _ports() -> Finding:
    first = sysctl("net.ipv4.ip_unprivileged_port_start")
    if not first or not os.geteuid():
        return fine("ports", "all can be forwarded")
    cause = low_port(first, 80)
    return fine("ports", f"from {first} on they can be forwarded; {cause}")


def _descriptors() -> Finding:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard == resource.RLIM_INFINITY or hard >= _ENOUGH_DESCRIPTORS:
        return fine("descriptors", "no limit" if hard == resource.RLIM_INFINITY else f"at most {hard}, one for each connection")
    text = f"ulimit -Hn is {hard}: the guest has no more connections than that"
    remedy = f"echo '{name()} hard nofile 65536' | sudo tee -a /etc/security/limits.conf"
    return wrong("descriptors", Cause(text=text, remedy=remedy), LIMITED)
