"""Prints the addresses in a namespace, one a line: for the Python API, whose caller may have threads and so cannot fork."""

import sys

from pasta_py.control.commandline import options
from pasta_py.control.guest import namespaces
from pasta_py.control.netlink import links_addresses_routes as rtnl
from pasta_py.control.netlink.exchange import Netlink
from pasta_py.errors import PastaError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pasta_py import worker_protocol


def main() -> None:
    """`pasta-addresses PID`, or `--netns PATH [--userns PATH]`; exit status 1 and a line on standard error if it cannot."""

    def job() -> "tuple[worker_protocol.Value, list[int]]":
        with Netlink() as kernel:
            return tuple(str(a.interface) for a in rtnl.addresses(kernel) if a.scope == rtnl.RT_SCOPE_UNIVERSE), []

    try:
        parsed = options.parse(sys.argv[1:], "pasta")
        if parsed.pid is not None:
            guest = namespaces.by_pid(parsed.pid, netns_only=False, watch=False)
        else:
            guest = namespaces.by_path(parsed.netns, userns=parsed.userns, watch=False)
        found, _ = namespaces.call_inside(guest, job)
        assert isinstance(found, tuple)
        print(*found, sep="\n")
    except PastaError as error:
        sys.exit(f"pasta: {error}")
