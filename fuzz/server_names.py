"""`server_names.py`: writes the first inputs of the targets client_hello and http_host: hellos and requests of clients.

The first byte of an input says where it is cut (targets/named.h).
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests" / "csrc"))

import client_hello as make  # noqa: E402

INPUTS = {
    "client_hello": {
        "chromium": make.chromium("a.test"), "firefox": make.firefox("a.test"), "openssl": make.openssl("a.test"),
        "pieces": make.records(make.handshake(make.server_name("a.test")), 7), "nameless": make.records(make.handshake(b"")),
    },
    "http_host": {
        "plain": make.request("a.test"), "port": make.request("a.test:80"), "absolute": make.request("a.test", target="http://a.test/"),
        "twice": make.request("a.test", more="Host: b.test\r\n"),
    },
}  # fmt: skip

if __name__ == "__main__":
    for target, inputs in INPUTS.items():
        (HERE / "corpus" / target).mkdir(exist_ok=True)
        for name, data in inputs.items():
            (HERE / "corpus" / target / name).write_bytes(b"\x80" + data)
