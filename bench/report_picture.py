"""docs/report.png: the page of `pasta-py --report`, of a session that really runs here, as Chromium shows it.

    python -m bench.report_picture [FILE]     default: docs/report.png

The session is that of a build, against servers in namespaces of its own, with addresses for documentation (RFC 5737) and a
nameserver. Needs Chromium (Debian package chromium).
"""

import http.server
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from .top_picture import HERE, NAMESERVER, in_namespaces, staged

WIDTH, HEIGHT = 1100, 1370
#: What the build asks: name, address, and the sizes in bytes of the files, several of which come at once. No size: none listens.
SERVERS = (
    ("deb.example.org", "198.51.100.10", (160_000, 9_000_000, 48_000)),
    ("index.example.org", "198.51.100.20", (30_000, 41_000, 22_000, 75_000, 18_000)),
    ("files.example.org", "198.51.100.21", (1_900_000, 3_400_000, 310_000, 12_000_000, 88_000)),
    ("registry.example.net", "198.51.100.34", (600_000, 2_500_000, 140_000)),
    ("mirror.example.com", "203.0.113.40", ()),
    ("telemetry.example.net", "203.0.113.9", (400,)),
)
DENIED = "203.0.113.9"
PORT = 80


class Answer(http.server.BaseHTTPRequestHandler):
    """GET /N is answered with N bytes."""

    def do_GET(self) -> None:
        size = int(self.path[1:])
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        self.wfile.write(bytes(size))

    def log_message(self, *_arguments: object) -> None:
        pass


def script() -> str:
    """The build: twice one server after the other, all files of a server at once; what fails does not end it."""
    fetch = "curl --silent --parallel --limit-rate 3M 2>/dev/null"
    lines = [[f"-o /dev/null http://{name}/{size}" for size in sizes or (1,)] for name, _address, sizes in SERVERS]
    return "".join(f"{fetch} {' '.join(files)}\n" for files in lines * 2) + "exit 0\n"


def build(directory: Path) -> None:
    for _name, address, sizes in SERVERS:
        if sizes:
            server = http.server.ThreadingHTTPServer((address, PORT), Answer)
            threading.Thread(target=server.serve_forever, daemon=True).start()
    (directory / "build.sh").write_text(script())
    report = ["--quiet", "--dns-host", NAMESERVER, "--deny", DENIED, "--report", f"{directory}/report.html"]
    command = [str(Path(sys.executable).parent / "pasta-py"), *report, "--", "sh", "build.sh"]
    subprocess.run(command, cwd=directory, check=True)


def main() -> int:
    if sys.argv[1:2] == ["inside"]:
        directory = Path(sys.argv[2])
        return staged(directory, {name: address for name, address, _sizes in SERVERS}, build)
    target = Path(sys.argv[1] if len(sys.argv) > 1 else HERE.parent / "docs" / "report.png")
    browser = shutil.which("chromium")
    if not browser:
        print("report_picture: no chromium in the PATH: install it (Debian: chromium)", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="pasta-report-") as directory:
        in_namespaces("bench.report_picture", directory)
        words = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={WIDTH},{HEIGHT}"]
        page = Path(directory, "report.html").as_uri()
        subprocess.run([browser, *words, f"--screenshot={target}", page], check=True, capture_output=True)
    print(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
