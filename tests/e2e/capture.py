"""What tshark, an independent reader, says about a capture."""

from lab import Space

FIELDS = (
    "frame.time_epoch",
    "frame.len",
    "frame.cap_len",
    "ip.src",
    "ipv6.src",
    "tcp.srcport",
    "tcp.dstport",
    "tcp.len",
    "tcp.window_size",
    "tcp.flags.reset",
    "ip.checksum.status",
    "tcp.checksum.status",
    "udp.checksum.status",
    "icmpv6.checksum.status",
    "icmp.checksum.status",
    "_ws.malformed",
    "tcp.analysis.retransmission",
    "tcp.analysis.lost_segment",
    "tcp.analysis.ack_lost_segment",
)
CHECKSUMS = [name for name in FIELDS if name.endswith("checksum.status")]
# Said in a guest before a transfer that assert_smooth judges: its kernel repeats what is not acknowledged, and asks at a closed
# window, after 10 s and not after 0.2, which a busy machine may take. What is lost is repeated, or asked for, all the same.
# Linux before 6.11 has no such setting.
PATIENT = "f=/proc/sys/net/ipv4/tcp_rto_min_us; [ ! -e $f ] || echo 10000000 >$f"
ZERO_WINDOW_S = 5  # a window whose opening is not told stays closed until the sender asks
BAD, GOOD = "0", "1"  # tshark's names for a checksum's state
NEVER = ("_ws.malformed", "tcp.analysis.retransmission", "tcp.analysis.lost_segment", "tcp.analysis.ack_lost_segment")

Frame = dict[str, str]


def fields(space: Space, path: str, names: tuple[str, ...], only: str = "", timeout: float = 120) -> list[Frame]:
    """The named fields of each frame of a capture (of those that pass the display filter `only`)."""
    # Random bytes are no protocol, whatever port the kernel chose; nor is a gigabyte reassembled for HTTP.
    options = ["-d", "tcp.port==1-65535,data", "-d", "udp.port==1-65535,data"]
    options += [word for name in ("ip", "tcp", "udp") for word in ("-o", f"{name}.check_checksum:TRUE")]
    wanted = [word for name in names for word in ("-e", name)]
    chosen = ["-Y", only] if only else []
    done = space.run("tshark", "-n", "-r", path, *options, *chosen, "-T", "fields", *wanted, timeout=timeout)
    return [dict(zip(names, line.split("\t"), strict=True)) for line in done.stdout.splitlines()]


def frames(space: Space, path: str, timeout: float = 120) -> list[Frame]:
    """Each frame of the capture with FIELDS."""
    return fields(space, path, FIELDS, timeout=timeout)


def assert_sound(found: list[Frame]) -> None:
    """No malformed frame, no bad checksum, no cut frame; at least one checksum was really verified.

    What an ICMP error of the guest quotes is not judged: its kernel quotes a datagram as it was given to it, and that may have a
    checksum which is not finished yet.
    """
    assert found, "the capture is empty"
    verified = 0
    for number, frame in enumerate(found, 1):
        quotes = frame["icmp.checksum.status"] or frame["icmpv6.checksum.status"]
        judged = [name for name in CHECKSUMS if not quotes or name not in ("tcp.checksum.status", "udp.checksum.status")]
        wrong = [name for name in judged if BAD in frame[name].split(",")]
        assert not wrong and not frame["_ws.malformed"], f"frame {number}: {wrong or 'malformed'}: {frame}"
        assert frame["frame.len"] == frame["frame.cap_len"], f"frame {number} is cut short: {frame}"
        verified += any(GOOD in frame[name].split(",") for name in CHECKSUMS)
    assert verified, "tshark verified no checksum at all"


def assert_smooth(found: list[Frame]) -> None:
    """No retransmission, no segment missing from the capture, no window closed until somebody asks. See PATIENT."""
    closed: dict[tuple[str, str, str], float] = {}
    for number, frame in enumerate(found, 1):
        events = [name for name in NEVER if frame[name]]
        assert not events, f"frame {number}: {events}: {frame}"
        if not frame["tcp.window_size"] or frame["tcp.flags.reset"] in ("1", "True"):
            continue
        sender = (frame["ip.src"] or frame["ipv6.src"], frame["tcp.srcport"], frame["tcp.dstport"])
        now = float(frame["frame.time_epoch"])
        if frame["tcp.window_size"] == "0":
            closed.setdefault(sender, now)
        elif sender in closed:
            duration = now - closed.pop(sender)
            assert duration <= ZERO_WINDOW_S, (
                f"{sender} kept its window closed for {duration:.3f} s until frame {number}"
            )
    assert not closed, f"a window was still closed at the end: {closed}"


def payload(found: list[Frame], port: int) -> tuple[int, int]:
    """TCP payload bytes in all frames (from, to) a port."""
    sent = sum(int(f["tcp.len"]) for f in found if f["tcp.srcport"] == str(port))
    received = sum(int(f["tcp.len"]) for f in found if f["tcp.dstport"] == str(port))
    return sent, received
