"""Run a command in a network of its own, and use what it prints.

The address that `map_host_loopback` names leads to the host's loopback, so the command reaches the server that listens there.
"""

import http.server
import sys
import threading

import pasta_py

HOST = "192.0.2.200"
FETCH = "import sys, urllib.request; sys.stdout.write(urllib.request.urlopen(sys.argv[1]).read().decode())"


class Hello(http.server.BaseHTTPRequestHandler):
    """Answers every request with one line."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello from the host\n")

    def log_message(self, *_words: object) -> None:
        pass


def main() -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), Hello) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        fetch = [sys.executable, "-c", FETCH, f"http://{HOST}:{server.server_port}/"]
        done = pasta_py.run(fetch, map_host_loopback=HOST, capture_output=True, text=True, check=True)
        server.shutdown()
    print(done.stdout, end="")


if __name__ == "__main__":
    main()
