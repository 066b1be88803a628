"""Write SIZE bytes that never repeat to PATH; print their SHA-256 as JSON."""

import hashlib
import json
import os
import sys

path, size = sys.argv[1], int(sys.argv[2])
digest = hashlib.sha256()
block = os.urandom(1 << 20)
with open(path, "wb") as out:
    for index in range(0, size, len(block)):
        piece = (index.to_bytes(8, "big") + block[8:])[: size - index]
        digest.update(piece)
        out.write(piece)
print(json.dumps({"sha256": digest.hexdigest()}))
