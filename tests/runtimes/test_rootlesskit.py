"""rootlesskit with our `pasta`: a web server in its namespace, reached from outside."""

import pytest
from machine import HOST, Machine, end, wait_until
from test_podman import get

PORT = 8088


@pytest.mark.parametrize("options", [(), ("--disable-host-loopback",), ("--detach-netns", "--cgroupns")], ids=str)
def test_net_pasta(machine: Machine, options: tuple[str, ...]) -> None:
    """Its ports are automatic: --port-driver=implicit makes --tcp-ports=auto of it."""
    command = ["rootlesskit", "--net=pasta", "--port-driver=implicit", "--copy-up=/etc", *options]
    inside = ["busybox", "httpd", "-f", "-p", str(PORT), "-h", "/etc/skel"]
    if "--detach-netns" in options:
        inside = ["sh", "-c", 'exec nsenter -n"$ROOTLESSKIT_STATE_DIR/netns" ' + " ".join(inside)]
    process = machine.popen(*command, *inside)
    try:
        for where in ("127.0.0.1", HOST[4]):
            wait_until(lambda url=f"http://{where}:{PORT}/": "404" in get(machine, url), 10, f"{where} answers")
        assert "404" in get(machine, f"http://{HOST[4]}:{PORT}/", remote=True)
    finally:
        end(process)
        out, err = process.communicate(timeout=30)
    wait_until(lambda: not machine.processes("/opt/pasta-py/"), 2.5, f"pasta is gone with rootlesskit; it said {out} {err}")
