"""Why /dev/net/tun cannot be opened."""

import errno
import posix as os  # lean imports: docs/architecture.md

from pasta_py.control.requirements.settings import Cause, exists, in_container, text_of

DEVICE = "/dev/net/tun"
_DRIVER = "/sys/class/misc/tun"
_MAJOR_MINOR = (10, 200)  # Linux Documentation/admin-guide/devices.txt
_ST_NODEV = 4  # statvfs(3)
_GIVE = f"start the container with --device {DEVICE}"
_MAKE = f"sudo mkdir -p /dev/net && sudo mknod -m 666 {DEVICE} c 10 200"
#: TUNSETIFF gets ENOTTY, or the numbers of the device are not those of tun.
OTHER = Cause(text="it is another device", remedy=f"sudo rm {DEVICE} && {_MAKE}")


def cause(number: int) -> Cause | None:
    """Why the kernel said this errno when the device was opened, or asked for a tap; None: nothing is known about it."""
    if number in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return _missing(number)
    if number == errno.ENOTTY:
        return OTHER
    if number == errno.EPERM:
        return Cause(text="this container has no right to the device", remedy=_GIVE)
    if number == errno.EACCES:
        return _closed()
    return None


def _missing(number: int) -> Cause:
    loaded = exists(_DRIVER)
    if in_container() and (loaded or number == errno.ENOENT):
        return Cause(text="this container lacks the device", remedy=_GIVE)
    if number == errno.ENOENT and loaded:
        return Cause(text="the kernel has the driver, but the device is missing", remedy=_MAKE)
    return Cause(text="the kernel's driver tun is not loaded", remedy="sudo modprobe tun")


def _closed() -> Cause:
    try:
        status, filesystem = os.stat(DEVICE), os.statvfs(DEVICE)
    except OSError:
        return Cause(text="this user may not look into /dev/net", remedy="sudo chmod 755 /dev/net")
    if filesystem.f_flag & _ST_NODEV:
        return Cause(text="it is on a file system without devices (nodev)", remedy="sudo mount -o remount,dev /dev")
    if status.st_mode & 0o006 != 0o006:
        text = f"its mode is {status.st_mode & 0o777:03o}, so this user may not open it"
        return Cause(text=text, remedy=f"sudo chmod 666 {DEVICE}")
    if text_of("/sys/fs/selinux/enforce") == "1":
        return Cause(text="SELinux (enforcing) seems to forbid it", remedy="sudo setsebool -P container_use_devices on")
    return Cause(text="a security module or the file system forbids it", remedy=_GIVE if in_container() else _MAKE)


def is_tun(path: str = DEVICE) -> bool:
    """Whether the path is the device, by its numbers."""
    number = os.stat(path).st_rdev
    return (os.major(number), os.minor(number)) == _MAJOR_MINOR
