"""Closing what a process has inherited."""

import posix as os  # lean imports: docs/architecture.md

_MAX_FD = 1 << 20


def close_from(first: int, keep: "set[int] | None" = None) -> None:
    """Close all descriptors from `first` on, but for those in `keep`.

    Only the open ones, which /proc lists (proc_pid_fd(5)). os.closerange() would make a system call for each number where the
    interpreter was built for a C library without close_range(2) (musl, and glibc before 2.34): a million calls take 0.2 s.
    """
    try:
        found = sorted(map(int, os.listdir("/proc/self/fd")))
    except OSError:  # no /proc
        kept = sorted(fd for fd in keep or () if fd >= first)
        for low, high in zip([first, *(fd + 1 for fd in kept)], [*kept, _MAX_FD], strict=True):
            os.closerange(low, high)
        return
    for fd in found:
        if fd >= first and not (keep and fd in keep):
            os.closerange(fd, fd + 1)  # no error for the one by which /proc was read
