"""The guest's own keepalive times decide how long its connections outlive a silent peer, as on the host itself."""

import re

import pytest
from lab import HOSTS, REMOTES, Lab, Script, Space, wait_until

PORT = 7600
IMPATIENT, PATIENT = (2, 1, 3), (1, 1, 60)  # idle time, interval, count: an end after 5 s, and after a minute
CUT_OFF = f"""
table inet outage {{
    chain input {{
        type filter hook input priority filter;
        tcp sport {PORT}-{PORT + 99} drop
        tcp dport {PORT}-{PORT + 99} drop
    }}
}}
"""


class Connection:
    """Between `space` and the remote; the probing end is the one in `space`, which is also the one that connects, or listens."""

    def __init__(self, lab: Lab, space: Space, role: str, family: int, port: int, times: tuple[int, int, int]) -> None:
        self.space, self.port = space, port
        remote, host = REMOTES[family], HOSTS[family]
        if role == "connect":
            self.other = lab.remote.start("keepalive.py", "listen", remote, port)
            self.end = space.start("keepalive.py", "connect", remote, port, *times)
        else:
            self.end = space.start("keepalive.py", "listen", "0.0.0.0" if family == 4 else "::", port, *times)
            self.other = lab.remote.start("keepalive.py", "connect", host, port)

    def unanswered(self) -> int:
        """How many probes in a row have had no answer, by the kernel of `space`; -1 while nothing is known."""
        filter = f"( sport = :{self.port} or dport = :{self.port} )"
        found = re.search(r"timer:\(keepalive,[^,]*,(\d+)\)", self.space.run("ss", "-tnoH", "state", "established", filter).stdout)
        return int(found[1]) if found else -1

    def running(self) -> bool:
        return self.end.process.poll() is None

    def ended(self) -> object:
        return Script.finished(self.end.process)["ended"]


@pytest.mark.parametrize("family", [4, 6])
def test_an_outage_ends_the_connections_that_it_would_end_on_the_host_and_no_others(lab: Lab, family: int) -> None:
    """The host's own count of one is nothing to the guest: it would end every connection after its first lost probe."""
    lab.host.sysctl(ipv4__tcp_keepalive_probes=1)
    shown = [PORT + 2, PORT + 3]
    with lab.guest("-t", ",".join(map(str, shown))) as guest:
        impatient = [
            Connection(lab, guest, "connect", family, PORT, IMPATIENT),
            Connection(lab, lab.host, "connect", family, PORT + 1, IMPATIENT),
            Connection(lab, guest, "listen", family, PORT + 2, IMPATIENT),
        ]
        patient = [
            Connection(lab, guest, "listen", family, PORT + 3, PATIENT),
            Connection(lab, guest, "connect", family, PORT + 4, PATIENT),
            Connection(lab, lab.host, "connect", family, PORT + 5, PATIENT),
        ]
        assert all(c.running() for c in impatient + patient)
        lab.remote.run("nft", "-f", "-", input=CUT_OFF, caps=True)
        try:
            wait_until(lambda: not any(c.running() for c in impatient), 6, "impatient ends have given up")
            assert [c.ended() for c in impatient] == ["ETIMEDOUT"] * len(impatient)
            wait_until(lambda: all(c.unanswered() >= 6 for c in patient), 7, "patient ends get no answers")
        finally:
            lab.remote.run("nft", "delete", "table", "inet", "outage", caps=True)
        wait_until(lambda: all(c.unanswered() == 0 for c in patient), 2, "patient ends get answers again")
        assert [c.end.result() for c in patient] == [{"ended": "answer"}] * len(patient)
