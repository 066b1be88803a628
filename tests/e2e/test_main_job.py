"""The main job: one command gets a network, as an ordinary user and as the mapped root of a user namespace."""

from lab import BIG, Lab, program


def test_smoke(lab: Lab) -> None:
    with lab.guest() as guest:
        print(guest.run("ip", "addr").stdout)
        guest.run("ping", "-c1", "-W1", "192.0.2.10")
        guest.run("ping", "-c1", "-W1", "2001:db8::10")
        print(lab.translator().descriptors(), lab.translator().rss_kib())
