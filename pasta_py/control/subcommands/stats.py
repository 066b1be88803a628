"""pasta-py stats: the counters of an instance."""

import json
from typing import Annotated

import typer

from pasta_py.control.subcommands import command, instances
from pasta_py.control.subcommands.flows import INSTANCE
from pasta_py.control.subcommands.instances import plain, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

SUMMARY = "Show the counters of an instance. Names ending in _flows are what is open now, all others count from the start on."

#: What each counter of the core (csrc/core/counters.h) counts.
MEANINGS = {
    "tap_rx_frames": "frames that the guest sent",
    "tap_rx_bytes": "bytes of these frames",
    "tap_tx_frames": "frames that the guest got",
    "tap_tx_bytes": "bytes of these frames",
    "tap_tx_dropped": "frames lost: the guest did not take them",
    "vhost_messages": "messages of the virtual machine's program",
    "drop_malformed": "frames dropped: bad lengths or checksums",
    "drop_unsupported": "frames dropped: protocol not carried",
    "reassembled": "packets put together from fragments",
    "drop_fragment": "fragments that contradict each other",
    "drop_disabled": "frames dropped: as --no-udp, -4 want it",
    "drop_policy": "frames dropped: an address out of bounds",
    "drop_egress": "flows that a rule denied (--allow, --deny)",
    "drop_queries": "DNS queries over the rate for denied names",
    "drop_source": "frames dropped: impossible source address",
    "drop_rate": "packets over --rate-in or --rate-out",
    "punt_frames": "frames for pasta-py itself (ARP, DHCP, DNS)",
    "punt_dropped": "of these, dropped: too many a second",
    "shard_frames": "frames passed to another thread",
    "shard_sockets": "connections passed to another thread",
    "shard_dropped": "lost: the other thread was too busy",
    "tcp_flows": "TCP connections open now",
    "tcp_opened": "TCP connections opened",
    "tcp_refused": "TCP connections that failed",
    "tcp_limit": "not opened: no room or no descriptors",
    "tcp_displaced": "given up early, for newer connections",
    "tcp_rate_limit": "segments of no connection: too many a second",
    "tcp_resets_sent": "TCP resets that the guest got",
    "tcp_retransmits": "segments sent to the guest again",
    "tcp_out_of_order": "segments of the guest that came too early",
    "tcp_ooo_limit": "of these, dropped: no room to keep them",
    "tcp_challenges": "answers to suspicious segments (RFC 5961)",
    "tcp_backlog_bytes": "bytes that waited for the host's socket",
    "tcp_backlog_limit": "segments dropped: too much waited already",
    "udp_flows": "UDP flows open now",
    "udp_opened": "UDP flows opened",
    "udp_limit": "not opened: no room or no descriptors",
    "udp_rate_limit": "not opened: too many new ones a second",
    "udp_tx_errors": "datagrams that the host did not take",
    "udp_splice_flows": "local UDP flows open now",
    "udp_polled": "times that a busy socket was polled",
    "udp_unsolicited": "datagrams of senders not written to before",
    "splice_flows": "local TCP connections open now",
    "splice_opened": "local TCP connections opened",
    "splice_limit": "not opened: no room or no descriptors",
    "icmp_flows": "pings open now",
    "icmp_limit": "pings not sent: not allowed, or no room",
    "icmp_rate_limit": "pings dropped: too many a second",
    "icmp_unsolicited": "replies of others than the one asked",
    "icmp_errors_sent": "ICMP errors that the guest got",
}


def main(argv: "Sequence[str]") -> int:
    return command.run("stats", argv, stats, summary=SUMMARY)


def stats(
    instance: Annotated[str, typer.Argument(help=INSTANCE, show_default=False)] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object with all counters.")] = False,
    all_of_them: Annotated[bool, typer.Option("--all", help="Show those that are 0 too.")] = False,
) -> int:
    counters = instances.find(instance).ask("stats")["counters"]
    if as_json:
        print(json.dumps(counters))
        return 0
    rows = [[plain(name), str(value), MEANINGS.get(name, "")] for name, value in counters.items() if value or all_of_them]
    print(table(rows, frozenset((1,))) if rows else "all counters are 0\n", end="")
    return 0
