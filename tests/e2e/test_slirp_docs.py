"""The session in docs/slirp4netns.md, as it stands there."""

import contextlib
import re
from pathlib import Path

import pages
from lab import PATIENCE_S, Lab, wait_until
from slirp import NAMES, path


def test_the_documented_session(lab: Lab) -> None:
    commands = pages.block("docs/slirp4netns.md", "unshare ")
    web = lab.remote.serve("python3", "-m", "http.server", "80", port=80)
    for name in NAMES:
        where = f"{lab.directory}/{name}"
        script = f"mkdir {where} && cd {where} && PATH={path(name).rpartition('/')[0]}:$PATH\nset -ex\n{commands}\n"
        done = lab.host.run("sh", "-c", script, timeout=240, check=False)
        assert done.returncode == 0, done
        assert '{"return":{"id":1}}' in done.stdout and '"host_port":8080' in done.stdout
        assert done.stdout.endswith('{"return":{}}\n')
        assert re.search(r"10\.0\.2\.100/24 .*tap0", done.stdout) and " mtu 65520 " in done.stdout
        assert "Directory listing" in (lab.directory / name / "page").read_text()
        assert "slirp.sock" in (lab.directory / name / "listing").read_text()
    web.kill()
    web.wait()
    wait_until(lambda: not left(lab), PATIENCE_S, "the session has ended all that it has started")


def left(lab: Lab) -> list[str]:
    """Command lines of the session's processes."""
    found = []
    for pid in lab.descendants():
        with contextlib.suppress(OSError):
            found.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode())
    return [line for line in found if re.search("http.server|slirp4netns|sleep 60", line)]
