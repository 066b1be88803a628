"""Why a kernel refuses a namespace: which limit, setting, filter or security module does."""

import errno
import posix as os  # lean imports: docs/architecture.md

from pasta_py.control.requirements.settings import Cause, raised, sysctl, text_of

#: The kinds of namespaces that a command gets, in the order in which they are tried, with the word in the name of their limit.
LIMITS = {"user": "user", "network": "net", "mount": "mnt", "IPC": "ipc", "UTS": "uts", "PID": "pid"}
_ENOUGH = 15000
_APPARMOR = "kernel.apparmor_restrict_unprivileged_userns"
_DEBIAN = "kernel.unprivileged_userns_clone"
_SELINUX = "/sys/fs/selinux"
_FILTER = "a filter on system calls (seccomp), as of a container or a service,"
_UNFILTERED = "start the container with --security-opt seccomp=unconfined, or the service with RestrictNamespaces=no"
NO_PROC = Cause(text="there is no /proc", remedy="mount -t proc proc /proc")


def cause(kind: str, number: int, *, filtered: bool = False) -> Cause:
    """Why a namespace of this kind, a key of LIMITS, was refused with this errno; it is read in the same user namespace.

    `filtered`: unshare(2) is refused even if it has nothing to do, which only a filter on system calls does.
    """
    if number == errno.ENOSPC:
        return _limit(kind)
    if number == errno.EINVAL:
        remedy = "start one that is built with CONFIG_NAMESPACES=y and CONFIG_USER_NS=y"
        return Cause(text=f"this kernel has no {kind} namespaces", remedy=remedy)
    if number == errno.ENOENT:
        return NO_PROC
    return _forbidden(kind, filtered=filtered)


def _limit(kind: str) -> Cause:
    setting = f"user.max_{LIMITS[kind]}_namespaces"
    limit = sysctl(setting)
    if limit == 0:
        return Cause(text=f"{setting} is 0", remedy=raised(setting, _ENOUGH))
    used = f"{setting} is used up ({limit} here; outside of a container the limit may be lower)"
    return Cause(text=used, remedy=raised(setting, max(_ENOUGH, 2 * (limit or 0))))


def _forbidden(kind: str, *, filtered: bool) -> Cause:
    if filtered:
        return Cause(text=f"{_FILTER} forbids unshare(2)", remedy=_UNFILTERED)
    if sysctl(_DEBIAN) == 0:
        return Cause(text=f"{_DEBIAN} is 0", remedy=raised(_DEBIAN, 1))
    if sysctl(_APPARMOR) == 1:
        text = f"{_APPARMOR} is 1, and no AppArmor profile of this program has the rule `userns,`"
        return Cause(text=text, remedy=raised(_APPARMOR, 0))
    if _selinux_boolean("deny_userns"):
        return Cause(text="SELinux forbids it (the boolean deny_userns is on)", remedy="sudo setsebool -P deny_userns off")
    if text_of(f"{_SELINUX}/enforce") == "1" and "unconfined" not in (text_of("/proc/self/attr/current") or ""):
        return Cause(text="SELinux (enforcing) seems to forbid it", remedy="sudo ausearch -m avc -ts recent | audit2why")
    if _has_filter():
        return Cause(text=f"{_FILTER} seems to forbid it", remedy=_UNFILTERED)
    if kind == "user" and not _is_mapped():
        text = f"this user namespace has no user with the UID {os.geteuid()} of this process"
        return Cause(text=text, remedy="start it as a user that /proc/self/uid_map names")
    if kind == "user" and _in_chroot():
        text = "this is a chroot, where the kernel makes no user namespace"
        return Cause(text=text, remedy="enter it with unshare -m and pivot_root")
    text = f"this user or this container may make no {kind} namespace"
    return Cause(text=text, remedy="see user_namespaces(7), or ask who runs this machine")


def _selinux_boolean(name: str) -> bool:
    """The present value of a boolean; the file has it and the pending one."""
    return (text_of(f"{_SELINUX}/booleans/{name}") or "").startswith("1")


def _has_filter() -> bool:
    status = text_of("/proc/self/status") or ""
    return any(line.split() == ["Seccomp:", "2"] for line in status.splitlines())


def _in_chroot() -> bool:
    """The root of a chroot is, in most cases, no mount: the list of mounts lacks it."""
    mounts = text_of("/proc/self/mountinfo")
    return bool(mounts) and not any(line.split()[4] == "/" for line in (mounts or "").splitlines())


def _is_mapped() -> bool:
    """Whether this process's user exists in its user namespace."""
    lines = (text_of("/proc/self/uid_map") or "").splitlines()
    ranges = [tuple(map(int, line.split())) for line in lines]
    return not ranges or any(inside <= os.geteuid() < inside + count for inside, _outside, count in ranges)
